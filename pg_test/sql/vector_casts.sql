-- Casts between vector and arrays.

-- from arrays: explicit, with and without a dimension
SELECT ARRAY[1,2,3]::vector, ARRAY[1.5,2.25,-3]::vector, ARRAY[1,2,3]::real[]::vector, ARRAY[1,2,3]::float8[]::vector, ARRAY[1,2,3]::numeric[]::vector;
SELECT '{1,2,3}'::real[]::vector(3), '{1,2,3}'::int[]::vector(3), '{1,2,3}'::float8[]::vector(3), '{1,2,3}'::numeric[]::vector(3);
-- rounding to f32
SELECT '{16777217,-2147483648,2147483647}'::int[]::vector, '{0.1,16777217,1e-46,-1e-46}'::float8[]::vector,
       '{0.1,16777217,123456789012345678901234567890,-1e-40}'::numeric[]::vector;
SELECT '[5:7]={1,2,3}'::int[]::vector AS lower_bound;
-- a null bitmap without nulls
SELECT array_remove(ARRAY[1,NULL,3], NULL)::vector, (ARRAY[NULL,4.5,5]::real[])[2:3]::vector;

-- to array
SELECT '[1,2.5,-3]'::vector::real[], array_dims('[1,2.5,-3]'::vector::real[]), pg_typeof('[1]'::vector::real[]);
CREATE FUNCTION pg_temp.second(real[]) RETURNS real LANGUAGE sql AS 'SELECT $1[2]';
SELECT pg_temp.second('[0.1,1e20]'::vector) AS implicit, array_length('[1,2]'::vector::real[], 1), ('[7,8]'::vector::real[])[2];
SELECT v::real[]::vector = v AS round_trip FROM (SELECT '[0.1,1e-45,-3.4028235e38,-0]'::vector AS v) x;

-- assignment casts apply in INSERT and UPDATE, with the column's dimension
CREATE TABLE vc (i int, v vector(2));
INSERT INTO vc VALUES (1, ARRAY[1,2]), (2, ARRAY[1.5,2.5]), (3, ARRAY[1,2]::real[]), (4, ARRAY[1,2]::float8[]);
UPDATE vc SET v = ARRAY[9,9] WHERE i = 1;
INSERT INTO vc VALUES (5, ARRAY[1,2,3]);
SELECT * FROM vc ORDER BY i;
DROP TABLE vc;

-- not implicit: an array is no vector by itself
\set VERBOSITY sqlstate
SELECT vector_dims(ARRAY[1,2]);
SELECT '[1,2]'::vector <-> ARRAY[1,2]::real[];
\set VERBOSITY default
SELECT ARRAY[1,2,3] = ARRAY[1,2,3] AS arrays_still_compare, '[1,2]'::vector <-> '{1,2}'::real[]::vector AS cast;

-- bad arrays
SELECT '{NULL}'::real[]::vector;
SELECT '{1,NULL}'::numeric[]::vector;
SELECT '{NaN}'::real[]::vector;
SELECT '{NaN}'::numeric[]::vector;
SELECT '{1,Infinity}'::float8[]::vector;
SELECT '{-Infinity}'::real[]::vector;
SELECT '{4e38,-4e38}'::float8[]::vector;
SELECT '{1e39}'::numeric[]::vector;
SELECT '{1e-46}'::numeric[]::vector;
SELECT '{}'::real[]::vector;
SELECT '{{1}}'::real[]::vector;
SELECT '{1,2,3}'::real[]::vector(2);
SELECT array_agg(n)::vector FROM generate_series(1, 16001) n;
SELECT array_to_vector(array_agg(n), 16001, false) FROM generate_series(1, 16001) n;
SELECT vector_dims(array_agg(n)::vector) FROM generate_series(1, 16000) n;
