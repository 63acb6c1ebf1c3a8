-- Casts between sparsevec, vector, halfvec and arrays.

-- from arrays: explicit, with and without a dimension; zeros are left out
SELECT ARRAY[1,0,3]::sparsevec, ARRAY[1.5,0,-3]::sparsevec, ARRAY[0,0]::real[]::sparsevec, ARRAY[0,2,-0.0]::float8[]::sparsevec, ARRAY[1,0,3]::numeric[]::sparsevec;
SELECT '{1,2,0}'::real[]::sparsevec(3), '{1,2,0}'::int[]::sparsevec(3), '{1,2,0}'::float8[]::sparsevec(3), '{1,2,0}'::numeric[]::sparsevec(3);
-- rounding to f32; what becomes zero is left out
SELECT '{16777217,0,-2147483648,2147483647}'::int[]::sparsevec, '{0.1,16777217,1e-46,-1e-46,1e-45}'::float8[]::sparsevec,
       '{0.1,16777217,123456789012345678901234567890,-1e-40,0.000}'::numeric[]::sparsevec;
SELECT '[5:7]={1,0,3}'::int[]::sparsevec AS lower_bound;
SELECT array_remove(ARRAY[1,NULL,3], NULL)::sparsevec, (ARRAY[NULL,4.5,0]::real[])[2:3]::sparsevec;

-- to and from vector and halfvec
SELECT '[1,0,-2.5]'::vector::sparsevec, '{1:1,3:-2.5}/4'::sparsevec::vector, '[-0,0]'::vector::sparsevec, '{}/2'::sparsevec::vector;
SELECT '[1,0,-2.5]'::halfvec::sparsevec, '{1:1,3:-2.5}/4'::sparsevec::halfvec, '[-0,6e-8]'::halfvec::sparsevec, '{1:0.1,2:1e-9}/2'::sparsevec::halfvec;
SELECT '[1,0]'::vector::sparsevec(2), '[1,0]'::halfvec::sparsevec(2), '{1:1}/2'::sparsevec::vector(2), '{1:1}/2'::sparsevec::halfvec(2);
SELECT v::vector::sparsevec = v AS through_vector, v::halfvec::sparsevec = v AS through_halfvec FROM (SELECT '{2:0.5,5:-65504}/9'::sparsevec AS v) x;
SELECT '[1,0]'::vector::sparsevec(3);
SELECT '[1,0]'::halfvec::sparsevec(3);
SELECT '{1:1}/2'::sparsevec::vector(3);
SELECT '{1:1}/2'::sparsevec::halfvec(3);
SELECT '{}/16001'::sparsevec::vector;
SELECT '{}/16001'::sparsevec::halfvec;
SELECT '{}/16001'::sparsevec::vector(3);
SELECT '{2:65520}/3'::sparsevec::halfvec;
SELECT '{1:1,2:-1e20}/3'::sparsevec::halfvec;
SELECT vector_dims('{16000:1}/16000'::sparsevec::vector), vector_dims('{16000:1}/16000'::sparsevec::halfvec);

-- a vector or a halfvec may stand where a sparsevec is wanted
CREATE FUNCTION pg_temp.sparse(sparsevec) RETURNS sparsevec LANGUAGE sql AS 'SELECT $1';
SELECT pg_temp.sparse('[0,0.1]'::vector), pg_temp.sparse('[0,2]'::halfvec), '{1:1}/2'::sparsevec <-> '[1,2]'::vector AS l2, '[0,2]'::halfvec <+> '{1:1}/2'::sparsevec AS l1;

-- assignment casts apply in INSERT and UPDATE, with the column's dimension
CREATE TABLE sc (i int, v sparsevec(2));
INSERT INTO sc VALUES (1, ARRAY[1,0]), (2, ARRAY[0,2.5]), (3, ARRAY[1,2]::real[]), (4, ARRAY[0,0]::float8[]), (5, '[0.5,0]'::vector), (6, '[0,0.5]'::halfvec);
UPDATE sc SET v = ARRAY[9,0] WHERE i = 1;
INSERT INTO sc VALUES (7, ARRAY[1,2,3]);
INSERT INTO sc VALUES (7, '[1,2,3]'::vector);
SELECT * FROM sc ORDER BY i;
CREATE TABLE sd (i int, v vector(2), h halfvec(2));
INSERT INTO sd SELECT i, v, v FROM sc;
SELECT * FROM sd ORDER BY i;
DROP TABLE sc, sd;

-- not implicit, or not at all
CREATE FUNCTION pg_temp.dense(vector) RETURNS vector LANGUAGE sql AS 'SELECT $1';
\set VERBOSITY sqlstate
SELECT pg_temp.dense('{}/1'::sparsevec);
SELECT pg_temp.sparse(ARRAY[1,2]);
SELECT '{}/1'::sparsevec::real[];
\set VERBOSITY default

-- bad arrays
SELECT '{NULL}'::real[]::sparsevec;
SELECT '{1,NULL}'::numeric[]::sparsevec;
SELECT '{0,NaN}'::real[]::sparsevec;
SELECT '{NaN}'::numeric[]::sparsevec;
SELECT '{1,Infinity}'::float8[]::sparsevec;
SELECT '{-Infinity,0}'::real[]::sparsevec;
SELECT '{4e38,-4e38}'::float8[]::sparsevec;
SELECT '{1e39}'::numeric[]::sparsevec;
SELECT '{}'::real[]::sparsevec;
SELECT '{{1}}'::real[]::sparsevec;
SELECT '{1,2,3}'::real[]::sparsevec(2);
SELECT array_fill(1, ARRAY[16001])::sparsevec;
SELECT array_fill('NaN'::real, ARRAY[16001])::sparsevec;
SELECT (array_fill(0, ARRAY[100000]) || 7)::sparsevec, (array_fill(1, ARRAY[16000]) || array_fill(0, ARRAY[5]))::sparsevec::text LIKE '%,16000:1}/16005' AS most;
