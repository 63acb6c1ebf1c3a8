-- Access method omen: handler and operator classes.

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

CREATE FUNCTION omen_vector_l1_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_vector_l1_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_vector_l1_support(internal) IS 'internal function of access method omen';

-- pgvector has had this operator since 0.7.
DO $omen$ BEGIN
IF pg_catalog.to_regoperator('<+>(vector,vector)') IS NOT NULL THEN

CREATE OPERATOR CLASS vector_l1_ops
	FOR TYPE vector USING omen AS
	OPERATOR 1 <+> (vector, vector) FOR ORDER BY float_ops,
	FUNCTION 1 (vector, vector) omen_vector_l1_support(internal);
COMMENT ON OPERATOR CLASS vector_l1_ops USING omen IS 'order by taxicab distance';
COMMENT ON OPERATOR FAMILY vector_l1_ops USING omen IS 'order by taxicab distance';

END IF;
END $omen$;
