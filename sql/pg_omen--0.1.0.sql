-- pg_omen 0.1.0: install script, written by hand.
--
--   1  type vector: shell, input and output
--   2  functions on vectors
--   3  functions behind operators and aggregates
--   4  aggregates
--   5  casts
--   6  operators
--   7  btree operator class
--   8  access method omen: handler, operator classes, status functions
--
-- Sections 1 to 7 declare what pgvector 0.8 declares for its vector type, under the same names and with the same
-- properties, so that drivers and object mappers find what they look for.

\echo Use "CREATE EXTENSION pg_omen" to load this file. \quit

-- 1  type vector: shell, input and output ---------------------------------------------------------------------------

CREATE TYPE vector;

CREATE FUNCTION vector_in(cstring, oid, integer) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_in(cstring, oid, integer) IS 'input of vector';

CREATE FUNCTION vector_out(vector) RETURNS cstring
	AS 'MODULE_PATHNAME', 'vector_out_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_out(vector) IS 'output of vector';

CREATE FUNCTION vector_typmod_in(cstring[]) RETURNS integer
	AS 'MODULE_PATHNAME', 'vector_typmod_in_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_typmod_in(cstring[]) IS 'type modifier input of vector: the dimension';

CREATE FUNCTION vector_recv(internal, oid, integer) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_recv_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_recv(internal, oid, integer) IS 'binary input of vector';

CREATE FUNCTION vector_send(vector) RETURNS bytea
	AS 'MODULE_PATHNAME', 'vector_send_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_send(vector) IS 'binary output of vector';

CREATE TYPE vector (
	INPUT     = vector_in,
	OUTPUT    = vector_out,
	TYPMOD_IN = vector_typmod_in,
	RECEIVE   = vector_recv,
	SEND      = vector_send,
	ALIGNMENT = int4,
	STORAGE   = external
);
COMMENT ON TYPE vector IS 'vector of single-precision numbers, 1 to 16,000 dimensions';

-- 2  functions on vectors -------------------------------------------------------------------------------------------

CREATE FUNCTION l2_distance(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'l2_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l2_distance(vector, vector) IS 'Euclidean distance';

CREATE FUNCTION inner_product(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION inner_product(vector, vector) IS 'inner product';

CREATE FUNCTION cosine_distance(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'cosine_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cosine_distance(vector, vector) IS 'cosine distance: 1 - cosine of the angle; NaN for a zero vector';

CREATE FUNCTION l1_distance(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'l1_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l1_distance(vector, vector) IS 'taxicab distance';

CREATE FUNCTION vector_dims(vector) RETURNS integer
	AS 'MODULE_PATHNAME', 'vector_dims_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_dims(vector) IS 'number of dimensions';

CREATE FUNCTION vector_norm(vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'vector_norm_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_norm(vector) IS 'Euclidean norm';

CREATE FUNCTION l2_normalize(vector) RETURNS vector
	AS 'MODULE_PATHNAME', 'l2_normalize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l2_normalize(vector) IS 'vector divided by its Euclidean norm; zero stays zero';

CREATE FUNCTION binary_quantize(vector) RETURNS bit
	AS 'MODULE_PATHNAME', 'binary_quantize_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION binary_quantize(vector) IS 'one bit per dimension: set where positive';

CREATE FUNCTION subvector(vector, integer, integer) RETURNS vector
	AS 'MODULE_PATHNAME', 'subvector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION subvector(vector, integer, integer) IS 'part of a vector: start (from 1), number of dimensions';

-- 3  functions behind operators and aggregates ----------------------------------------------------------------------

CREATE FUNCTION vector_add(vector, vector) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_add_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_add(vector, vector) IS 'implementation of + operator';

CREATE FUNCTION vector_sub(vector, vector) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_sub_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_sub(vector, vector) IS 'implementation of - operator';

CREATE FUNCTION vector_mul(vector, vector) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_mul_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_mul(vector, vector) IS 'implementation of * operator';

CREATE FUNCTION vector_concat(vector, vector) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_concat_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_concat(vector, vector) IS 'implementation of || operator';

CREATE FUNCTION vector_lt(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_lt_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_lt(vector, vector) IS 'implementation of < operator';

CREATE FUNCTION vector_le(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_le_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_le(vector, vector) IS 'implementation of <= operator';

CREATE FUNCTION vector_eq(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_eq_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_eq(vector, vector) IS 'implementation of = operator';

CREATE FUNCTION vector_ne(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_ne_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_ne(vector, vector) IS 'implementation of <> operator';

CREATE FUNCTION vector_ge(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_ge_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_ge(vector, vector) IS 'implementation of >= operator';

CREATE FUNCTION vector_gt(vector, vector) RETURNS boolean
	AS 'MODULE_PATHNAME', 'vector_gt_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_gt(vector, vector) IS 'implementation of > operator';

CREATE FUNCTION vector_cmp(vector, vector) RETURNS integer
	AS 'MODULE_PATHNAME', 'vector_cmp_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_cmp(vector, vector) IS 'comparison for btree: -1, 0 or 1';

CREATE FUNCTION vector_l2_squared_distance(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'vector_l2_squared_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_l2_squared_distance(vector, vector) IS 'squared Euclidean distance';

CREATE FUNCTION vector_negative_inner_product(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'vector_negative_inner_product_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_negative_inner_product(vector, vector) IS 'negative inner product';

CREATE FUNCTION vector_spherical_distance(vector, vector) RETURNS double precision
	AS 'MODULE_PATHNAME', 'vector_spherical_distance_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_spherical_distance(vector, vector) IS 'angle between unit vectors, divided by pi';

CREATE FUNCTION vector_accum(double precision[], vector) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'vector_accum_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_accum(double precision[], vector) IS 'transition function of avg(vector)';

CREATE FUNCTION vector_avg(double precision[]) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_avg_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_avg(double precision[]) IS 'final function of avg(vector)';

CREATE FUNCTION vector_combine(double precision[], double precision[]) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'vector_combine_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_combine(double precision[], double precision[]) IS 'combine function of avg(vector)';

-- 4  aggregates ----------------------------------------------------------------------------------------------------

CREATE AGGREGATE avg(vector) (
	SFUNC = vector_accum,
	STYPE = double precision[],
	FINALFUNC = vector_avg,
	COMBINEFUNC = vector_combine,
	INITCOND = '{0}',
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE avg(vector) IS 'mean of all vectors, each dimension by itself';

CREATE AGGREGATE sum(vector) (
	SFUNC = vector_add,
	STYPE = vector,
	COMBINEFUNC = vector_add,
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE sum(vector) IS 'sum of all vectors, each dimension by itself';

-- 5  casts ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION vector(vector, integer, boolean) RETURNS vector
	AS 'MODULE_PATHNAME', 'vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector(vector, integer, boolean) IS 'check the dimension of a vector against its type modifier';

CREATE FUNCTION array_to_vector(integer[], integer, boolean) RETURNS vector
	AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_vector(integer[], integer, boolean) IS 'convert integer array to vector';

CREATE FUNCTION array_to_vector(real[], integer, boolean) RETURNS vector
	AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_vector(real[], integer, boolean) IS 'convert real array to vector';

CREATE FUNCTION array_to_vector(double precision[], integer, boolean) RETURNS vector
	AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_vector(double precision[], integer, boolean) IS 'convert double precision array to vector';

CREATE FUNCTION array_to_vector(numeric[], integer, boolean) RETURNS vector
	AS 'MODULE_PATHNAME', 'array_to_vector_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_vector(numeric[], integer, boolean) IS 'convert numeric array to vector';

CREATE FUNCTION vector_to_float4(vector, integer, boolean) RETURNS real[]
	AS 'MODULE_PATHNAME', 'vector_to_float4_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION vector_to_float4(vector, integer, boolean) IS 'convert vector to real array';

CREATE CAST (vector AS vector)
	WITH FUNCTION vector(vector, integer, boolean) AS IMPLICIT;
COMMENT ON CAST (vector AS vector) IS 'check the dimension';

CREATE CAST (vector AS real[])
	WITH FUNCTION vector_to_float4(vector, integer, boolean) AS IMPLICIT;
COMMENT ON CAST (vector AS real[]) IS 'vector to array';

CREATE CAST (integer[] AS vector)
	WITH FUNCTION array_to_vector(integer[], integer, boolean) AS ASSIGNMENT;
COMMENT ON CAST (integer[] AS vector) IS 'array to vector';

CREATE CAST (real[] AS vector)
	WITH FUNCTION array_to_vector(real[], integer, boolean) AS ASSIGNMENT;
COMMENT ON CAST (real[] AS vector) IS 'array to vector';

CREATE CAST (double precision[] AS vector)
	WITH FUNCTION array_to_vector(double precision[], integer, boolean) AS ASSIGNMENT;
COMMENT ON CAST (double precision[] AS vector) IS 'array to vector';

CREATE CAST (numeric[] AS vector)
	WITH FUNCTION array_to_vector(numeric[], integer, boolean) AS ASSIGNMENT;
COMMENT ON CAST (numeric[] AS vector) IS 'array to vector';

-- 6  operators -----------------------------------------------------------------------------------------------------

CREATE OPERATOR <-> (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = l2_distance,
	COMMUTATOR = '<->'
);
COMMENT ON OPERATOR <-> (vector, vector) IS 'Euclidean distance';

CREATE OPERATOR <#> (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_negative_inner_product,
	COMMUTATOR = '<#>'
);
COMMENT ON OPERATOR <#> (vector, vector) IS 'negative inner product';

CREATE OPERATOR <=> (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = cosine_distance,
	COMMUTATOR = '<=>'
);
COMMENT ON OPERATOR <=> (vector, vector) IS 'cosine distance';

CREATE OPERATOR <+> (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = l1_distance,
	COMMUTATOR = '<+>'
);
COMMENT ON OPERATOR <+> (vector, vector) IS 'taxicab distance';

CREATE OPERATOR + (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_add,
	COMMUTATOR = +
);
COMMENT ON OPERATOR + (vector, vector) IS 'add';

CREATE OPERATOR - (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_sub
);
COMMENT ON OPERATOR - (vector, vector) IS 'subtract';

CREATE OPERATOR * (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_mul,
	COMMUTATOR = *
);
COMMENT ON OPERATOR * (vector, vector) IS 'multiply, each dimension by itself';

CREATE OPERATOR || (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_concat
);
COMMENT ON OPERATOR || (vector, vector) IS 'concatenate';

CREATE OPERATOR < (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_lt,
	COMMUTATOR = >, NEGATOR = >=,
	RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR < (vector, vector) IS 'less than';

CREATE OPERATOR <= (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_le,
	COMMUTATOR = >=, NEGATOR = >,
	RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR <= (vector, vector) IS 'less than or equal';

CREATE OPERATOR = (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_eq,
	COMMUTATOR = =, NEGATOR = <>,
	RESTRICT = eqsel, JOIN = eqjoinsel
);
COMMENT ON OPERATOR = (vector, vector) IS 'equal';

CREATE OPERATOR <> (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_ne,
	COMMUTATOR = <>, NEGATOR = =,
	RESTRICT = eqsel, JOIN = eqjoinsel
);
COMMENT ON OPERATOR <> (vector, vector) IS 'not equal';

CREATE OPERATOR >= (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_ge,
	COMMUTATOR = <=, NEGATOR = <,
	RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR >= (vector, vector) IS 'greater than or equal';

CREATE OPERATOR > (
	LEFTARG = vector, RIGHTARG = vector, PROCEDURE = vector_gt,
	COMMUTATOR = <, NEGATOR = <=,
	RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR > (vector, vector) IS 'greater than';

-- 7  btree operator class ------------------------------------------------------------------------------------------

CREATE OPERATOR CLASS vector_ops
	DEFAULT FOR TYPE vector USING btree AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 1 vector_cmp(vector, vector);
COMMENT ON OPERATOR CLASS vector_ops USING btree IS 'order by the first dimension that differs, else the shorter first';
COMMENT ON OPERATOR FAMILY vector_ops USING btree IS 'order by the first dimension that differs, else the shorter first';

-- 8  access method omen: handler, operator classes, search of many queries, hot tiers, status, checks -----------------

CREATE FUNCTION omen_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME', 'omen_handler_wrapper' LANGUAGE C;
COMMENT ON FUNCTION omen_handler(internal) IS 'handler of access method omen';

CREATE ACCESS METHOD omen TYPE INDEX HANDLER omen_handler;
COMMENT ON ACCESS METHOD omen IS 'nearest neighbours of vectors, on GPU and CPU';

-- Tell the access method type and metric of an operator class.

CREATE FUNCTION omen_vector_l2_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_vector_l2_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_vector_l2_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_vector_ip_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_vector_ip_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_vector_ip_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_vector_cosine_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_vector_cosine_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_vector_cosine_support(internal) IS 'internal function of access method omen';

CREATE OPERATOR CLASS vector_l2_ops
	DEFAULT FOR TYPE vector USING omen AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) omen_vector_l2_support(internal);
COMMENT ON OPERATOR CLASS vector_l2_ops USING omen IS 'order by Euclidean distance';
COMMENT ON OPERATOR FAMILY vector_l2_ops USING omen IS 'order by Euclidean distance';

CREATE OPERATOR CLASS vector_ip_ops
	FOR TYPE vector USING omen AS
	OPERATOR 1 <#> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) omen_vector_ip_support(internal);
COMMENT ON OPERATOR CLASS vector_ip_ops USING omen IS 'order by negative inner product';
COMMENT ON OPERATOR FAMILY vector_ip_ops USING omen IS 'order by negative inner product';

CREATE OPERATOR CLASS vector_cosine_ops
	FOR TYPE vector USING omen AS
	OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) omen_vector_cosine_support(internal);
COMMENT ON OPERATOR CLASS vector_cosine_ops USING omen IS 'order by cosine distance';
COMMENT ON OPERATOR FAMILY vector_cosine_ops USING omen IS 'order by cosine distance';

CREATE FUNCTION omen_search(
	index regclass,
	queries vector[],
	k integer,
	probes integer DEFAULT NULL,
	OUT query_no integer,
	OUT ctid tid,
	OUT distance double precision
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_search_wrapper' LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION omen_search(regclass, vector[], integer, integer) IS 'the nearest rows of many queries';

CREATE FUNCTION omen_load(index regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'omen_load_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_load(regclass) IS 'loads an omen index into this session''s GPU; bytes there';

CREATE FUNCTION omen_evict(index regclass DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'omen_evict_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_evict(regclass) IS 'frees the GPU memory of an omen index, or of all, in this session; bytes freed';

CREATE FUNCTION omen_gpu_status(
	OUT device integer,
	OUT name text,
	OUT compute_capability text,
	OUT arch text,
	OUT driver_version text,
	OUT memory_total bigint,
	OUT memory_used bigint,
	OUT hot_tier_bytes bigint,
	OUT hot_tiers bigint,
	OUT searches bigint,
	OUT fallbacks bigint,
	OUT state text,
	OUT reason text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_gpu_status_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_gpu_status() IS 'the GPUs of this machine, and what this session has on them';

CREATE FUNCTION omen_stat_get_gpu(
	OUT pid integer,
	OUT state text,
	OUT device integer,
	OUT up_since timestamptz,
	OUT starts bigint,
	OUT batches bigint,
	OUT searches bigint,
	OUT max_batch bigint,
	OUT queued bigint,
	OUT queue_slots bigint,
	OUT queue_slots_used bigint,
	OUT busy_us bigint,
	OUT device_us bigint,
	OUT refused bigint,
	OUT abandoned bigint,
	OUT timeouts bigint,
	OUT failed_batches bigint,
	OUT loads bigint,
	OUT refreshes bigint,
	OUT loaders bigint,
	OUT loaders_refused bigint,
	OUT failed_loads bigint,
	OUT hot_tiers bigint,
	OUT hot_bytes bigint,
	OUT mappings bigint,
	OUT retired_bytes bigint,
	OUT breaker text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_stat_get_gpu_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_stat_get_gpu() IS 'the shared GPU service since the server was started; no row without it';

CREATE VIEW omen_stat_gpu AS
	SELECT *, round(searches::numeric / NULLIF(batches, 0), 2) AS mean_batch FROM omen_stat_get_gpu();
COMMENT ON VIEW omen_stat_gpu IS 'the shared GPU service since the server was started; no row without it';
REVOKE ALL ON FUNCTION omen_stat_get_gpu() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION omen_stat_get_gpu() TO pg_monitor;
GRANT SELECT ON omen_stat_gpu TO pg_monitor;

CREATE FUNCTION omen_stat_get_gpu_fallbacks(OUT reason text, OUT fallbacks bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_stat_get_gpu_fallbacks_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_stat_get_gpu_fallbacks() IS 'rounds that the CPU answered in place of the shared GPU service, by reason';

CREATE VIEW omen_stat_gpu_fallbacks AS
	SELECT * FROM omen_stat_get_gpu_fallbacks();
COMMENT ON VIEW omen_stat_gpu_fallbacks IS 'rounds that the CPU answered in place of the shared GPU service, by reason';
REVOKE ALL ON FUNCTION omen_stat_get_gpu_fallbacks() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION omen_stat_get_gpu_fallbacks() TO pg_monitor;
GRANT SELECT ON omen_stat_gpu_fallbacks TO pg_monitor;

CREATE FUNCTION omen_stat_get_index(
	index oid,
	OUT gpu_scans bigint,
	OUT cpu_scans bigint,
	OUT mixed_scans bigint,
	OUT fallbacks bigint,
	OUT search_calls bigint,
	OUT rows_returned bigint,
	OUT candidates bigint,
	OUT last_scan timestamptz,
	OUT hot boolean,
	OUT hot_bytes bigint,
	OUT hot_lists bigint,
	OUT stale_lists bigint,
	OUT loads bigint,
	OUT last_load timestamptz,
	OUT refreshes bigint
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_stat_get_index_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION omen_stat_get_index(oid) IS 'searches of an index by all sessions, and its hot tier in the shared GPU service; no row unless the library was preloaded';

-- Like pg_stat_all_indexes, for everyone to see.
CREATE VIEW omen_stat_index AS
	SELECT t.oid AS relid, i.oid AS indexrelid, n.nspname AS schemaname, t.relname, i.relname AS indexrelname,
		s.gpu_scans + s.cpu_scans + s.mixed_scans AS scans, s.*
	FROM pg_catalog.pg_index x
		JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
		JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
		JOIN pg_catalog.pg_am a ON a.oid = i.relam
		LEFT JOIN LATERAL omen_stat_get_index(i.oid) s ON true
	WHERE a.amname = 'omen' AND i.relkind = 'i';
COMMENT ON VIEW omen_stat_index IS 'searches of each omen index of the database by all sessions, and its hot tier in the shared GPU service';
GRANT SELECT ON omen_stat_index TO PUBLIC;

CREATE FUNCTION omen_stat_reset() RETURNS void
	AS 'MODULE_PATHNAME', 'omen_stat_reset_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_stat_reset() IS 'has the figures of omen_stat_gpu, omen_stat_gpu_fallbacks and omen_stat_index count from zero again';
REVOKE ALL ON FUNCTION omen_stat_reset() FROM PUBLIC;

CREATE FUNCTION omen_index_status(
	index regclass,
	OUT rows bigint,
	OUT lists integer,
	OUT dimension integer,
	OUT metric text,
	OUT format_version integer,
	OUT default_probes integer,
	OUT appended_rows bigint,
	OUT dead_rows bigint,
	OUT bytes bigint,
	OUT codes text,
	OUT built_at timestamptz,
	OUT rows_at_build bigint,
	OUT drift double precision,
	OUT calibration_queries integer,
	OUT hot_tier_bytes bigint,
	OUT hot_tier_state text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_index_status_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_index_status(regclass) IS 'what an omen index holds, on disk and on this session''s GPU';

CREATE FUNCTION omen_check(
	index regclass,
	heap_all_indexed boolean DEFAULT false,
	OUT pages bigint,
	OUT free_pages bigint,
	OUT leaked_pages bigint,
	OUT entries bigint,
	OUT appended_entries bigint,
	OUT dead_entries bigint,
	OUT rows_checked bigint,
	OUT complete boolean
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_check_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION omen_check(regclass, boolean) IS 'raises an error if an omen index is damaged, or lacks rows of its table';
REVOKE ALL ON FUNCTION omen_check(regclass, boolean) FROM PUBLIC;

CREATE FUNCTION omen_check_findings(
	index regclass,
	heap_all_indexed boolean DEFAULT false,
	OUT severity text,
	OUT list integer,
	OUT block bigint,
	OUT what text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_check_findings_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 10;
COMMENT ON FUNCTION omen_check_findings(regclass, boolean) IS 'what is wrong with an omen index: a row for each finding';
REVOKE ALL ON FUNCTION omen_check_findings(regclass, boolean) FROM PUBLIC;

CREATE FUNCTION omen_estimate_build(
	table_name regclass,
	column_name name,
	INOUT lists integer DEFAULT 0,
	OUT rows bigint,
	OUT engine text,
	OUT parallel_workers integer,
	OUT seconds double precision,
	OUT memory_bytes bigint,
	OUT device_bytes bigint,
	OUT index_bytes bigint,
	OUT wal_bytes bigint
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_estimate_build_wrapper' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION omen_estimate_build(regclass, name, integer) IS 'what it would take to build an omen index on a column';

CREATE FUNCTION omen_cpu_status(
	OUT simd text,
	OUT available text,
	OUT threads integer,
	OUT note text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_cpu_status_wrapper' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION omen_cpu_status() IS 'the instructions that searches on the CPU use';

CREATE FUNCTION omen_last_scan(
	OUT index regclass,
	OUT queries bigint,
	OUT engine text,
	OUT lists integer,
	OUT probes integer,
	OUT k bigint,
	OUT rounds bigint,
	OUT rows_returned bigint,
	OUT candidates bigint,
	OUT reranked bigint,
	OUT late bigint,
	OUT restarts bigint,
	OUT select_us bigint,
	OUT cpu_us bigint,
	OUT gpu_us bigint,
	OUT load_us bigint,
	OUT total_us bigint,
	OUT fallback_reason text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'omen_last_scan_wrapper' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION omen_last_scan() IS 'what the last search by an omen index in this session did';
