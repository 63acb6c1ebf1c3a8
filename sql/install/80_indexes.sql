-- Indexes: status, checks, estimates; the last search.

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
	OUT hot_tier_state text,
	OUT stored_as text
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
