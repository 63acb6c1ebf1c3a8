-- Casts between halfvec, vector and arrays.

-- from arrays: explicit, with and without a dimension
SELECT ARRAY[1,2,3]::halfvec, ARRAY[1.5,2.25,-3]::halfvec, ARRAY[1,2,3]::real[]::halfvec, ARRAY[1,2,3]::float8[]::halfvec, ARRAY[1,2,3]::numeric[]::halfvec;
SELECT '{1,2,3}'::real[]::halfvec(3), '{1,2,3}'::int[]::halfvec(3), '{1,2,3}'::float8[]::halfvec(3), '{1,2,3}'::numeric[]::halfvec(3);
-- rounding: first to f32, then to half
SELECT '{2049,2051,-65519,65519}'::int[]::halfvec, '{0.1,2049,1e-8,-1e-8,1.00048828125000001}'::float8[]::halfvec,
       '{0.1,2051,1.000488281250001,-1e-40}'::numeric[]::halfvec;
SELECT '[5:7]={1,2,3}'::int[]::halfvec AS lower_bound;
-- a null bitmap without nulls
SELECT array_remove(ARRAY[1,NULL,3], NULL)::halfvec, (ARRAY[NULL,4.5,5]::real[])[2:3]::halfvec;

-- to and from vector
SELECT '[1,2.5,-3]'::halfvec::vector, '[0.1,1e-8,-0]'::vector::halfvec, '[1,2]'::vector::halfvec(2), '[1,2]'::halfvec::vector(2);
SELECT pg_typeof('[1]'::vector::halfvec), pg_typeof('[1]'::halfvec::vector);
SELECT v::vector::halfvec = v AS round_trip FROM (SELECT '[0.1,6e-8,-65504,-0]'::halfvec AS v) x;
SELECT '[1,2]'::vector::halfvec(3);
SELECT '[1,2]'::halfvec::vector(3);
SELECT '[1,2,65520]'::vector::halfvec;
SELECT '[1,2,-1e6]'::vector::halfvec;
SELECT '[3.4028235e38]'::vector::halfvec;
-- a vector may stand where a halfvec is wanted
CREATE FUNCTION pg_temp.half(halfvec) RETURNS halfvec LANGUAGE sql AS 'SELECT $1';
SELECT pg_temp.half('[0.1]'::vector), '[1,2]'::halfvec <-> '[4,6]'::vector AS half_and_vector, '[1,2]'::vector <-> '[4,6]'::halfvec AS vector_and_half;

-- to array
SELECT '[1,2.5,-3]'::halfvec::real[], array_dims('[1,2.5,-3]'::halfvec::real[]), pg_typeof('[1]'::halfvec::real[]);
SELECT array_length('[1,2]'::halfvec::real[], 1), ('[7,8]'::halfvec::real[])[2];
SELECT v::real[]::halfvec = v AS round_trip FROM (SELECT '[0.1,6e-8,-65504,-0]'::halfvec AS v) x;

-- assignment casts apply in INSERT and UPDATE, with the column's dimension
CREATE TABLE hc (i int, v halfvec(2));
INSERT INTO hc VALUES (1, ARRAY[1,2]), (2, ARRAY[1.5,2.5]), (3, ARRAY[1,2]::real[]), (4, ARRAY[1,2]::float8[]), (5, '[0.1,0.2]'::vector);
UPDATE hc SET v = ARRAY[9,9] WHERE i = 1;
INSERT INTO hc VALUES (6, ARRAY[1,2,3]);
INSERT INTO hc VALUES (6, '[1,2,3]'::vector);
SELECT * FROM hc ORDER BY i;
CREATE TABLE hd (i int, v vector(2), a real[]);
INSERT INTO hd SELECT i, v, v FROM hc;
SELECT * FROM hd ORDER BY i;
DROP TABLE hc, hd;

-- not implicit: an array is no halfvec by itself, nor the other way round
CREATE FUNCTION pg_temp.second(real[]) RETURNS real LANGUAGE sql AS 'SELECT $1[2]';
\set VERBOSITY sqlstate
SELECT pg_temp.second('[0.1,1e20]'::halfvec);
SELECT pg_temp.half(ARRAY[1,2]);
SELECT '[1,2]'::halfvec <-> ARRAY[1,2]::real[];
\set VERBOSITY default

-- bad arrays
SELECT '{NULL}'::real[]::halfvec;
SELECT '{1,NULL}'::numeric[]::halfvec;
SELECT '{NaN}'::real[]::halfvec;
SELECT '{NaN}'::numeric[]::halfvec;
SELECT '{1,Infinity}'::float8[]::halfvec;
SELECT '{-Infinity}'::real[]::halfvec;
SELECT '{4e38,-4e38}'::float8[]::halfvec;
SELECT '{65520}'::int[]::halfvec;
SELECT '{1,-65520.5}'::real[]::halfvec;
SELECT '{1e39}'::numeric[]::halfvec;
SELECT '{}'::real[]::halfvec;
SELECT '{{1}}'::real[]::halfvec;
SELECT '{1,2,3}'::real[]::halfvec(2);
SELECT array_agg(n)::halfvec FROM generate_series(1, 16001) n;
SELECT array_to_halfvec(array_agg(n), 16001, false) FROM generate_series(1, 16001) n;
SELECT vector_dims(array_agg(n)::halfvec) FROM generate_series(1, 16000) n;
