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
SELECT literal, pg_temp.report(format('SELECT %L::sparsevec', literal)) FROM unnest(ARRAY[
  '', ' ', '{', '{ ', '}', '{}', '{}/', '{}/ ', '{}/a', '{} 5', '{1}/5', '{1:}/5', '{:1}/5', '{1:1', '{1:1,', '{1:1,}/5', '{,1:1}/5', '{1:1,,2:2}/5', '{1:1 2:2}/5', '{1:1}5', '{1:1}',
  '1:1/5', '[1:1]/5', '[1,2]', '{1:1}/5a', '{1:1}/5.5', '{1:1}/5/5', '{1:1}}/5', '{{1:1}}/5', '{1:1;2:2}/5', '{1:1a}/5', '{1:1e}/5', '{1:.}/5', '{1:-}/5', '{1:+-1}/5', '{1:- 1}/5',
  '{- 1:1}/5', '{1.5:1}/5', '{a:1}/5', '{0x1:1}/5', '{1:1}/0x5', '{1:1_0}/5', '{1:0x}/5', '{1::1}/5', '{1:1:1}/5', '{é:1}/5', '{1:é}/5', '{"1":1}/5', '{1:1}/', '{1:1}/-', 'null']) literal;
-- numbers, below as well as above
SELECT literal, pg_temp.report(format('SELECT %L::sparsevec', literal)) FROM unnest(ARRAY[
  '{1:NaN}/1', '{1:-NaN}/1', '{1:nan(1)}/1', '{1:inf}/1', '{1:-inf}/1', '{1:+INF}/1', '{1:Infinity}/1', '{1:4e38}/1', '{1:-4e38}/1', '{1:1e999}/1', '{1:3.4028236e38}/1', '{1:0x1p200}/1',
  '{1:1e-46}/1', '{1:-1e-46}/1', '{1:0.0000000000000000000000000000000000000000000000000001}/1', '{1:1e-99999999999999999999}/1', '{1:0x1p-200}/1', '{1:0x.8p-149}/1', '{1:7e-46}/1', '{1:8e-46}/1',
  '{1:0e-400}/1', '{1:0x0p-400}/1', '{1:-0.0e400}/1']) literal;
-- indices and dimensions
SELECT literal, pg_temp.report(format('SELECT %L::sparsevec', literal)) FROM unnest(ARRAY[
  '{0:1}/5', '{6:1}/5', '{-1:1}/5', '{1:1,1:2}/5', '{3:1,2:1,3:1}/5', '{9:1,1:1,1:1}/5', '{9:1,1:1,0:1}/5', '{2147483647:1}/5', '{2147483648:1}/5', '{-2147483648:1}/5', '{-2147483649:1}/5',
  '{99999999999999999999:1}/5', '{-99999999999999999999:1}/5', '{}/0', '{}/-1', '{1:1}/-1', '{}/1000000001', '{}/2147483648', '{}/99999999999999999999', '{}/-99999999999999999999', '{9:1}/0']) literal;
SELECT pg_temp.report($$SELECT ('{1:1' || repeat(',2:0', 16000) || '}/5')::sparsevec$$) AS elements, left(pg_temp.report($$SELECT ('{' || repeat(',', 15999))::sparsevec$$), 60) AS commas,
       pg_temp.report($$SELECT ('{' || repeat(',', 16000))::sparsevec$$) AS more_commas, left(pg_temp.report($$SELECT ('{' || repeat('1', 100000))::sparsevec$$), 60) AS digits;

-- dimensions: none is wrong by accident of the other
SELECT query, pg_temp.report('SELECT ' || query) FROM unnest(ARRAY[
  $$'{}/3'::sparsevec(2)$$, $$'{}/1'::sparsevec(2)$$, $$'{}/3'::sparsevec(0)$$, $$'{}/1'::sparsevec(1000000001)$$, $$'{}/1'::sparsevec(2147483647)$$, $$'{}/1'::sparsevec(1,1)$$,
  $$'{}/2'::sparsevec <-> '{}/1'$$, $$'{}/2'::sparsevec <#> '{}/1'$$, $$'{}/2'::sparsevec <=> '{}/1'$$, $$'{}/2'::sparsevec <+> '{}/1'$$,
  $$l2_distance('{}/1'::sparsevec, '{}/2')$$, $$inner_product('{}/1'::sparsevec, '{}/2')$$, $$cosine_distance('{}/1'::sparsevec, '{}/2')$$, $$l1_distance('{}/1'::sparsevec, '{}/2')$$,
  $$sparsevec_l2_squared_distance('{}/1', '{}/2')$$, $$sparsevec_negative_inner_product('{}/1', '{}/2')$$, $$'{}/1000000000'::sparsevec <-> '{}/1'$$,
  $$'{}/16001'::sparsevec::vector$$, $$'{}/16001'::sparsevec::halfvec$$, $$'{1:7e4}/1'::sparsevec::halfvec$$, $$array_fill(1, ARRAY[16001])::sparsevec$$,
  $$'{NULL}'::int[]::sparsevec$$, $$'{{1},{2}}'::int[]::sparsevec$$, $$'{}'::int[]::sparsevec$$, $$'{1e39}'::float8[]::sparsevec$$, $$'{NaN}'::float8[]::sparsevec$$,
  $$l2_normalize('[1]')$$]) query;

-- an error in the middle of many rows leaves nothing behind, and the session goes on
CREATE TABLE se (v sparsevec(2));
INSERT INTO se SELECT CASE WHEN i = 500 THEN '{}/1' ELSE '{1:1}/2' END::sparsevec FROM generate_series(1, 1000) i;
SELECT count(*) FROM se;
COPY se FROM stdin;
{1:1}/2
\N
{1:oops}/2
\.
SELECT count(*) FROM se;
DO $$ BEGIN FOR i IN 1..2000 LOOP BEGIN PERFORM '{1:x}/1'::sparsevec; EXCEPTION WHEN invalid_text_representation THEN NULL; END; END LOOP; END $$;
SELECT '{1:1}/2'::sparsevec AS alive;
DROP TABLE se;
