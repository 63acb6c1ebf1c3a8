-- Searches of many queries.

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
