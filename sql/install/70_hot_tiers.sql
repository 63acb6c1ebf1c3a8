-- Hot tiers by hand; what the GPUs, the shared service and searches did.

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
