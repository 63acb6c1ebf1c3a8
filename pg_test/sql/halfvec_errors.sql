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
SELECT literal, pg_temp.report(format('SELECT %L::halfvec', literal)) FROM unnest(ARRAY[
  '', ' ', '[', '[ ', ']', '[]', '[ ]', '[,', '[,]', '[1', '[1,', '[1,]', '[,1]', '[1,,3]', '[1, ,3]', '[1 2]', '1,2,3', '{1,2}', '(1)',
  '[1]2', '[1]]', '[1],', '[[1]]', '[1;2]', '[1a]', '[1e]', '[1e+]', '[.]', '[-]', '[+-1]', '[- 1]', '[1_0]', '[0x]', '[0x1g]', '[hello,1]', '[true]', '[null]',
  '[é]', '[１]', '["1"]', '[1,2', '[nan', 'null']) literal;
SELECT literal, pg_temp.report(format('SELECT %L::halfvec', literal)) FROM unnest(ARRAY[
  '[NaN]', '[1,nan]', '[-NaN]', '[nan(1)]', '[inf]', '[-inf]', '[+INF]', '[Infinity,1]', '[1,-infinity]', '[4e38,1]', '[-4e38]', '[1,1e999]', '[65520]', '[-65520]', '[1,65519.9999]', '[1,1e5]', '[0x1p16]',
  '[0x1p200]', '[1e99999999999999999999]']) literal;
SELECT pg_temp.report($$SELECT ('[1' || repeat(',1', 15999) || ']')::halfvec$$) AS d16000, pg_temp.report($$SELECT ('[1' || repeat(',1', 16000) || ']')::halfvec$$) AS d16001,
       left(pg_temp.report($$SELECT ('[' || repeat(',', 20000))::halfvec$$), 60) AS commas, left(pg_temp.report($$SELECT ('[' || repeat('1', 100000))::halfvec$$), 60) AS digits;

-- dimensions: none is wrong by accident of the other
SELECT query, pg_temp.report('SELECT ' || query) FROM unnest(ARRAY[
  $$'[1,2,3]'::halfvec(2)$$, $$'[1]'::halfvec(2)$$, $$'[1,2,3]'::halfvec(0)$$, $$'[1]'::halfvec(16001)$$, $$'[1]'::halfvec(2147483647)$$, $$'[1]'::halfvec(1,1)$$,
  $$'[1,2]'::halfvec <-> '[3]'$$, $$'[1,2]'::halfvec <#> '[3]'$$, $$'[1,2]'::halfvec <=> '[3]'$$, $$'[1,2]'::halfvec <+> '[3]'$$,
  $$l2_distance('[1]'::halfvec, '[1,2]')$$, $$inner_product('[1]'::halfvec, '[1,2]')$$, $$cosine_distance('[1]'::halfvec, '[1,2]')$$, $$l1_distance('[1]'::halfvec, '[1,2]')$$,
  $$halfvec_l2_squared_distance('[1]', '[1,2]')$$, $$halfvec_negative_inner_product('[1]', '[1,2]')$$, $$halfvec_spherical_distance('[1]', '[1,2]')$$,
  $$'[1,2]'::halfvec + '[3]'$$, $$'[1,2]'::halfvec - '[3]'$$, $$'[1,2]'::halfvec * '[3]'$$,
  $$array_fill(0, ARRAY[16000])::halfvec || '[1]'$$, $$array_fill(0, ARRAY[15999])::halfvec || '[1]'$$, $$array_fill(1, ARRAY[16001])::halfvec$$,
  $$subvector('[1,2,3]'::halfvec, 1, 0)$$, $$subvector('[1,2,3]'::halfvec, 3, -1)$$, $$subvector('[1,2,3]'::halfvec, -1, 2)$$, $$subvector('[1,2,3]'::halfvec, 4, 1)$$,
  $$subvector('[1,2,3]'::halfvec, 2147483647, 10)$$, $$subvector('[1,2,3]'::halfvec, -2147483648, 2147483647)$$, $$subvector('[1,2,3]'::halfvec, 1, -2147483648)$$]) query;

-- range
SELECT query, pg_temp.report('SELECT ' || query) FROM unnest(ARRAY[
  $$'[65504]'::halfvec + '[16]'$$, $$'[-65504]'::halfvec - '[16]'$$, $$'[256]'::halfvec * '[256]'$$, $$'[1,6e-8]'::halfvec * '[1,0.5]'$$, $$'[1,-6e-8]'::halfvec * '[1,1e-3]'$$,
  $$'{1e39}'::numeric[]::halfvec$$, $$'{1e39}'::float8[]::halfvec$$, $$'{65520}'::float8[]::halfvec$$, $$'{-123456}'::int[]::halfvec$$, $$'{1e20}'::numeric[]::halfvec$$, $$'{1,NaN,65520}'::real[]::halfvec$$,
  $$'[1,65520.5]'::vector::halfvec$$, $$'[-1e38]'::vector::halfvec$$, $$'{NULL}'::int[]::halfvec$$, $$'{{1},{2}}'::int[]::halfvec$$, $$'{}'::int[]::halfvec$$,
  $$halfvec_avg('{}')$$, $$halfvec_accum('{NULL}', '[1]')$$, $$halfvec_combine('{}', '{0}')$$]) query;

-- an error in the middle of many rows leaves nothing behind, and the session goes on
CREATE TABLE he (v halfvec(2));
INSERT INTO he SELECT CASE WHEN i = 500 THEN '[1]' ELSE '[1,2]' END::halfvec FROM generate_series(1, 1000) i;
SELECT count(*) FROM he;
COPY he FROM stdin;
[1,2]
\N
[1,oops]
\.
SELECT count(*) FROM he;
DO $$ BEGIN FOR i IN 1..2000 LOOP BEGIN PERFORM '[1,x]'::halfvec; EXCEPTION WHEN invalid_text_representation THEN NULL; END; END LOOP; END $$;
SELECT '[1,2]'::halfvec AS alive;
DROP TABLE he;
