-- Coming from pgvector: what its indexes would be here, and how the two compare.

CREATE FUNCTION omen_shadow_compare(
	index regclass,
	queries anyarray,
	k integer DEFAULT 10,
	exact boolean DEFAULT true,
	OUT compared regclass,
	OUT access_method text,
	OUT n_queries bigint,
	OUT rows bigint,
	OUT recall double precision,
	OUT same_rows double precision,
	OUT mean_ms double precision,
	OUT median_ms double precision,
	OUT p95_ms double precision,
	OUT max_ms double precision
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_shadow_compare_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 3;
COMMENT ON FUNCTION omen_shadow_compare(regclass, anyarray, integer, boolean) IS 'the same searches by an index, by those beside it, and by a sort of the table: rows and times';

-- The body is bound to what it names when it is created, so that the search path does not matter later. Nothing of the schema that the extension
-- goes to may be taken for what is PostgreSQL's: a function there with better fitting arguments would be.
DO $omen$
DECLARE
	ours CONSTANT name := (SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_omen');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE pg_catalog.format($migrate$
CREATE FUNCTION %1$I.omen_migrate(
	table_name regclass DEFAULT NULL,
	OUT table_with_index regclass,
	OUT index regclass,
	OUT access_method name,
	OUT index_bytes bigint,
	OUT sibling regclass,
	OUT statement text,
	OUT seconds double precision,
	OUT memory_bytes bigint,
	OUT omen_bytes bigint,
	OUT note text
) RETURNS SETOF record LANGUAGE sql STABLE PARALLEL RESTRICTED ROWS 20
BEGIN ATOMIC
	SELECT
		theirs.table_id::regclass, theirs.index_id::regclass, theirs.amname, pg_relation_size(theirs.index_id),
		(SELECT min(x.indexrelid)
			FROM pg_index x
				JOIN pg_class i ON i.oid = x.indexrelid
				JOIN pg_am a ON a.oid = i.relam AND a.amname = 'omen'
				JOIN pg_opclass c ON c.oid = x.indclass[0]
			WHERE x.indrelid = theirs.table_id AND x.indisvalid AND c.opcname = theirs.opcname
				AND pg_get_indexdef(x.indexrelid, 1, false) = theirs.key
				AND pg_get_expr(x.indpred, x.indrelid) IS NOT DISTINCT FROM theirs.predicate)::regclass,
		'CREATE INDEX ' || CASE WHEN theirs.relkind = 'i' THEN 'CONCURRENTLY ' ELSE '' END || quote_ident(theirs.relname || '_omen')
			|| ' ON ' || theirs.table_id::regclass::text || ' USING omen (' || theirs.key || ' ' || ours.name || ')'
			|| coalesce(' TABLESPACE ' || quote_ident(theirs.spcname), '') || coalesce(' WHERE ' || theirs.predicate, ''),
		estimate.figures[1], estimate.figures[2]::bigint, estimate.figures[3]::bigint,
		nullif(concat_ws('; ',
			CASE WHEN ours.name IS NULL THEN 'omen has no operator class ' || theirs.opcname END,
			CASE WHEN NOT theirs.indisvalid THEN 'the index is not valid' END,
			CASE WHEN theirs.relkind = 'I' THEN 'partitioned: build those of the partitions first, which this then takes' END,
			CASE WHEN theirs.relkind = 'i' AND theirs.attname IS NULL THEN 'not estimated: an expression' END,
			CASE WHEN theirs.relkind = 'i' AND theirs.predicate IS NOT NULL THEN 'not estimated: only some of the rows' END,
			CASE WHEN NOT theirs.is_readable THEN 'not estimated: rows of this table are hidden from you' END), '')
	FROM (
		SELECT x.indexrelid AS index_id, x.indrelid AS table_id, x.indisvalid, i.relname, i.relkind, a.amname, c.opcname, c.opcintype, s.spcname, col.attname,
			pg_get_indexdef(x.indexrelid, 1, false) AS key,
			pg_get_expr(x.indpred, x.indrelid) AS predicate,
			has_table_privilege(t.oid, 'SELECT') AND NOT row_security_active(t.oid) AND NOT pg_is_other_temp_schema(t.relnamespace)
				AND NOT (pg_is_in_recovery() AND t.relpersistence = 'u') AS is_readable,
			col.atttypmod > 0 OR c.opcintype = 'bit'::regtype AS has_dimension
		FROM pg_index x
			JOIN pg_class i ON i.oid = x.indexrelid AND (i.relkind = 'i' OR NOT i.relispartition)
			JOIN pg_am a ON a.oid = i.relam AND a.amname IN ('hnsw', 'ivfflat')
			JOIN pg_class t ON t.oid = x.indrelid
			JOIN pg_opclass c ON c.oid = x.indclass[0]
			LEFT JOIN pg_tablespace s ON s.oid = i.reltablespace
			LEFT JOIN pg_attribute col ON col.attrelid = x.indrelid AND col.attnum = x.indkey[0] AND col.attnum > 0
		WHERE omen_migrate.table_name IS NULL OR x.indrelid = omen_migrate.table_name
			OR x.indrelid IN (SELECT p.relid FROM pg_partition_tree(omen_migrate.table_name) p)
	) theirs
	LEFT JOIN LATERAL (
		SELECT CASE WHEN pg_opclass_is_visible(c.oid) THEN '' ELSE quote_ident(n.nspname) || '.' END || quote_ident(c.opcname) AS name
		FROM pg_opclass c
			JOIN pg_am a ON a.oid = c.opcmethod AND a.amname = 'omen'
			JOIN pg_namespace n ON n.oid = c.opcnamespace
		WHERE c.opcname = theirs.opcname AND c.opcintype = theirs.opcintype
		LIMIT 1
	) ours ON true
	CROSS JOIN LATERAL (
		-- What cannot be estimated is not asked for: that would be an error.
		SELECT CASE WHEN theirs.relkind = 'i' AND theirs.attname IS NOT NULL AND theirs.predicate IS NULL AND theirs.is_readable
				AND theirs.has_dimension AND ours.name IS NOT NULL
			THEN (SELECT ARRAY[e.seconds, e.memory_bytes::double precision, e.index_bytes::double precision]
				FROM %1$I.omen_estimate_build(theirs.table_id, theirs.attname) e)
			END AS figures
	) estimate
	-- A partitioned table's comes after those of its partitions.
	ORDER BY theirs.relkind = 'I', theirs.table_id::regclass::text, theirs.relname;
END
$migrate$, ours);
EXECUTE pg_catalog.format($comment$COMMENT ON FUNCTION %1$I.omen_migrate(regclass) IS 'the hnsw and ivfflat indexes of a table, or of all, with the statement that builds an omen index beside each'$comment$, ours);
END $omen$;
