-- pg_omen: install script of the version that pg_omen.control names, put together from sql/install/*.sql by tools/build.sh.
--
-- 10 to 40 declare what pgvector 0.8 declares for its types, under the same names and with the same properties, so that
-- drivers and object mappers find what they look for. Where pgvector is installed they declare nothing: its types serve.

\echo Use "CREATE EXTENSION pg_omen" to load this file. \quit

-- pgvector's types, operators and functions are found by name in what follows, wherever it is installed. Until the script ends.
SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', pg_catalog.current_setting('search_path'), pg_catalog.quote_ident(n.nspname)), true)
	FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
	WHERE e.extname = 'vector';

CREATE FUNCTION omen_depend_on_pgvector() RETURNS void
	AS 'MODULE_PATHNAME', 'omen_depend_on_pgvector_wrapper' LANGUAGE C VOLATILE;
SELECT omen_depend_on_pgvector();
DROP FUNCTION omen_depend_on_pgvector();
