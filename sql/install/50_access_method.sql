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

-- The classes below are of types and operators that pgvector has had since 0.7. The functions are there in any case.

CREATE FUNCTION omen_vector_l1_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_vector_l1_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_vector_l1_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_halfvec_l2_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_halfvec_l2_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_halfvec_l2_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_halfvec_ip_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_halfvec_ip_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_halfvec_ip_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_halfvec_cosine_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_halfvec_cosine_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_halfvec_cosine_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_halfvec_l1_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_halfvec_l1_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_halfvec_l1_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_bit_hamming_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_bit_hamming_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_bit_hamming_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_bit_jaccard_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_bit_jaccard_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_bit_jaccard_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_sparsevec_l2_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_sparsevec_l2_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_sparsevec_l2_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_sparsevec_ip_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_sparsevec_ip_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_sparsevec_ip_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_sparsevec_cosine_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_sparsevec_cosine_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_sparsevec_cosine_support(internal) IS 'internal function of access method omen';

CREATE FUNCTION omen_sparsevec_l1_support(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'omen_sparsevec_l1_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION omen_sparsevec_l1_support(internal) IS 'internal function of access method omen';

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

DO $omen$ BEGIN
IF pg_catalog.to_regtype('halfvec') IS NOT NULL THEN

CREATE OPERATOR CLASS halfvec_l2_ops
	DEFAULT FOR TYPE halfvec USING omen AS
	OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) omen_halfvec_l2_support(internal);
COMMENT ON OPERATOR CLASS halfvec_l2_ops USING omen IS 'order by Euclidean distance';
COMMENT ON OPERATOR FAMILY halfvec_l2_ops USING omen IS 'order by Euclidean distance';

CREATE OPERATOR CLASS halfvec_ip_ops
	FOR TYPE halfvec USING omen AS
	OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) omen_halfvec_ip_support(internal);
COMMENT ON OPERATOR CLASS halfvec_ip_ops USING omen IS 'order by negative inner product';
COMMENT ON OPERATOR FAMILY halfvec_ip_ops USING omen IS 'order by negative inner product';

CREATE OPERATOR CLASS halfvec_cosine_ops
	FOR TYPE halfvec USING omen AS
	OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) omen_halfvec_cosine_support(internal);
COMMENT ON OPERATOR CLASS halfvec_cosine_ops USING omen IS 'order by cosine distance';
COMMENT ON OPERATOR FAMILY halfvec_cosine_ops USING omen IS 'order by cosine distance';

CREATE OPERATOR CLASS halfvec_l1_ops
	FOR TYPE halfvec USING omen AS
	OPERATOR 1 <+> (halfvec, halfvec) FOR ORDER BY float_ops,
	FUNCTION 1 (halfvec, halfvec) omen_halfvec_l1_support(internal);
COMMENT ON OPERATOR CLASS halfvec_l1_ops USING omen IS 'order by taxicab distance';
COMMENT ON OPERATOR FAMILY halfvec_l1_ops USING omen IS 'order by taxicab distance';

END IF;
END $omen$;

DO $omen$ BEGIN
IF pg_catalog.to_regoperator('<~>(bit,bit)') IS NOT NULL THEN

CREATE OPERATOR CLASS bit_hamming_ops
	DEFAULT FOR TYPE bit USING omen AS
	OPERATOR 1 <~> (bit, bit) FOR ORDER BY float_ops,
	FUNCTION 1 (bit, bit) omen_bit_hamming_support(internal);
COMMENT ON OPERATOR CLASS bit_hamming_ops USING omen IS 'order by number of bits that differ';
COMMENT ON OPERATOR FAMILY bit_hamming_ops USING omen IS 'order by number of bits that differ';

CREATE OPERATOR CLASS bit_jaccard_ops
	FOR TYPE bit USING omen AS
	OPERATOR 1 <%> (bit, bit) FOR ORDER BY float_ops,
	FUNCTION 1 (bit, bit) omen_bit_jaccard_support(internal);
COMMENT ON OPERATOR CLASS bit_jaccard_ops USING omen IS 'order by Jaccard distance';
COMMENT ON OPERATOR FAMILY bit_jaccard_ops USING omen IS 'order by Jaccard distance';

END IF;
END $omen$;

DO $omen$ BEGIN
IF pg_catalog.to_regtype('sparsevec') IS NOT NULL THEN

CREATE OPERATOR CLASS sparsevec_l2_ops
	DEFAULT FOR TYPE sparsevec USING omen AS
	OPERATOR 1 <-> (sparsevec, sparsevec) FOR ORDER BY float_ops,
	FUNCTION 1 (sparsevec, sparsevec) omen_sparsevec_l2_support(internal);
COMMENT ON OPERATOR CLASS sparsevec_l2_ops USING omen IS 'order by Euclidean distance';
COMMENT ON OPERATOR FAMILY sparsevec_l2_ops USING omen IS 'order by Euclidean distance';

CREATE OPERATOR CLASS sparsevec_ip_ops
	FOR TYPE sparsevec USING omen AS
	OPERATOR 1 <#> (sparsevec, sparsevec) FOR ORDER BY float_ops,
	FUNCTION 1 (sparsevec, sparsevec) omen_sparsevec_ip_support(internal);
COMMENT ON OPERATOR CLASS sparsevec_ip_ops USING omen IS 'order by negative inner product';
COMMENT ON OPERATOR FAMILY sparsevec_ip_ops USING omen IS 'order by negative inner product';

CREATE OPERATOR CLASS sparsevec_cosine_ops
	FOR TYPE sparsevec USING omen AS
	OPERATOR 1 <=> (sparsevec, sparsevec) FOR ORDER BY float_ops,
	FUNCTION 1 (sparsevec, sparsevec) omen_sparsevec_cosine_support(internal);
COMMENT ON OPERATOR CLASS sparsevec_cosine_ops USING omen IS 'order by cosine distance';
COMMENT ON OPERATOR FAMILY sparsevec_cosine_ops USING omen IS 'order by cosine distance';

CREATE OPERATOR CLASS sparsevec_l1_ops
	FOR TYPE sparsevec USING omen AS
	OPERATOR 1 <+> (sparsevec, sparsevec) FOR ORDER BY float_ops,
	FUNCTION 1 (sparsevec, sparsevec) omen_sparsevec_l1_support(internal);
COMMENT ON OPERATOR CLASS sparsevec_l1_ops USING omen IS 'order by taxicab distance';
COMMENT ON OPERATOR FAMILY sparsevec_l1_ops USING omen IS 'order by taxicab distance';

END IF;
END $omen$;

-- What has the names of pgvector's operators and types in the schema that the extension goes to comes first on the path. Nobody's but pgvector's are to be in an index.
DO $omen$
DECLARE
	strange pg_catalog.text;
BEGIN
SELECT p.amopopr::pg_catalog.regoperator INTO strange
	FROM pg_catalog.pg_amop p JOIN pg_catalog.pg_am a ON a.oid = p.amopmethod
	WHERE a.amname = 'omen' AND EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'vector') AND NOT EXISTS (
		SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
		WHERE d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND d.objid = p.amopopr
			AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' AND e.extname = 'vector')
	LIMIT 1;
IF strange IS NOT NULL THEN
	RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = pg_catalog.format('operator %s hides pgvector''s', strange),
		HINT = 'Drop it, or create the extension in another schema.';
END IF;
END $omen$;
