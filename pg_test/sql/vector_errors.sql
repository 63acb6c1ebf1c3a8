-- Every error of the type: SQLSTATE, message, detail. "ok" would be a missing check.

CREATE FUNCTION pg_temp.report(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text; detail text; hint text;
BEGIN
  EXECUTE query;
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' / ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;

-- text
SELECT literal, pg_temp.report(format('SELECT %L::vector', literal)) FROM unnest(ARRAY[
  '', ' ', '[', '[ ', ']', '[]', '[ ]', '[,', '[,]', '[1', '[1,', '[1,]', '[,1]', '[1,,3]', '[1, ,3]', '[1 2]', '1,2,3', '{1,2}', '(1)',
  '[1]2', '[1]]', '[1],', '[[1]]', '[1;2]', '[1a]', '[1e]', '[1e+]', '[.]', '[-]', '[+-1]', '[- 1]', '[1_0]', '[0x]', '[0x1g]', '[hello,1]', '[true]', '[null]',
  '[é]', '[１]', '["1"]', '[1,2', '[nan', 'null']) literal;
SELECT literal, pg_temp.report(format('SELECT %L::vector', literal)) FROM unnest(ARRAY[
  '[NaN]', '[1,nan]', '[-NaN]', '[nan(1)]', '[inf]', '[-inf]', '[+INF]', '[Infinity,1]', '[1,-infinity]', '[4e38,1]', '[-4e38]', '[1,1e999]', '[3.4028236e38]',
  '[0x1p200]', '[1e99999999999999999999]']) literal;
SELECT pg_temp.report($$SELECT ('[1' || repeat(',1', 15999) || ']')::vector$$) AS d16000, pg_temp.report($$SELECT ('[1' || repeat(',1', 16000) || ']')::vector$$) AS d16001,
       left(pg_temp.report($$SELECT ('[' || repeat(',', 20000))::vector$$), 60) AS commas, left(pg_temp.report($$SELECT ('[' || repeat('1', 100000))::vector$$), 60) AS digits;

-- dimensions: none is wrong by accident of the other
SELECT query, pg_temp.report('SELECT ' || query) FROM unnest(ARRAY[
  $$'[1,2,3]'::vector(2)$$, $$'[1]'::vector(2)$$, $$'[1,2,3]'::vector(0)$$, $$'[1]'::vector(16001)$$, $$'[1]'::vector(2147483647)$$, $$'[1]'::vector(1,1)$$,
  $$'[1,2]'::vector <-> '[3]'$$, $$'[1,2]'::vector <#> '[3]'$$, $$'[1,2]'::vector <=> '[3]'$$, $$'[1,2]'::vector <+> '[3]'$$,
  $$l2_distance('[1]'::vector, '[1,2]')$$, $$inner_product('[1]'::vector, '[1,2]')$$, $$cosine_distance('[1]'::vector, '[1,2]')$$, $$l1_distance('[1]'::vector, '[1,2]')$$,
  $$vector_l2_squared_distance('[1]', '[1,2]')$$, $$vector_negative_inner_product('[1]', '[1,2]')$$, $$vector_spherical_distance('[1]', '[1,2]')$$,
  $$'[1,2]'::vector + '[3]'$$, $$'[1,2]'::vector - '[3]'$$, $$'[1,2]'::vector * '[3]'$$,
  $$array_fill(0, ARRAY[16000])::vector || '[1]'$$, $$array_fill(0, ARRAY[15999])::vector || '[1]'$$, $$array_fill(1, ARRAY[16001])::vector$$,
  $$subvector('[1,2,3]'::vector, 1, 0)$$, $$subvector('[1,2,3]'::vector, 3, -1)$$, $$subvector('[1,2,3]'::vector, -1, 2)$$, $$subvector('[1,2,3]'::vector, 4, 1)$$,
  $$subvector('[1,2,3]'::vector, 2147483647, 10)$$, $$subvector('[1,2,3]'::vector, -2147483648, 2147483647)$$, $$subvector('[1,2,3]'::vector, 1, -2147483648)$$]) query;

-- range
SELECT query, pg_temp.report('SELECT ' || query) FROM unnest(ARRAY[
  $$'[3e38]'::vector + '[3e38]'$$, $$'[-3e38]'::vector - '[3e38]'$$, $$'[1e37]'::vector * '[1e37]'$$, $$'[1,1e-37]'::vector * '[1,1e-37]'$$,
  $$'{1e39}'::numeric[]::vector$$, $$'{1e39}'::float8[]::vector$$, $$'{NULL}'::int[]::vector$$, $$'{{1},{2}}'::int[]::vector$$, $$'{}'::int[]::vector$$,
  $$vector_avg('{}')$$, $$vector_accum('{NULL}', '[1]')$$, $$vector_combine('{}', '{0}')$$]) query;

-- an error in the middle of many rows leaves nothing behind, and the session goes on
CREATE TABLE ve (v vector(2));
INSERT INTO ve SELECT CASE WHEN i = 500 THEN '[1]' ELSE '[1,2]' END::vector FROM generate_series(1, 1000) i;
SELECT count(*) FROM ve;
COPY ve FROM stdin;
[1,2]
\N
[1,oops]
\.
SELECT count(*) FROM ve;
DO $$ BEGIN FOR i IN 1..2000 LOOP BEGIN PERFORM '[1,x]'::vector; EXCEPTION WHEN invalid_text_representation THEN NULL; END; END LOOP; END $$;
SELECT '[1,2]'::vector AS alive;
DROP TABLE ve;
