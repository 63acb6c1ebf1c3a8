-- COPY in text, CSV and binary; the binary form byte by byte; bad binary input.

SELECT sparsevec_send('{1:1,3:-2,5:0.5}/5'), sparsevec_send('{}/1000000000'), length(sparsevec_send(array_fill(1, ARRAY[16000])::sparsevec));
SELECT sparsevec_send('{2:3.4028235e38,7:1e-45,258:0.1}/66051');

CREATE TABLE sp (id int, v sparsevec(3), w sparsevec);
INSERT INTO sp VALUES (1, '{}/3', '{1:1}/1'), (2, '{1:1.5,2:-2.25,3:3e38}/3', '{9:1e-45}/1000000000'), (3, NULL, NULL), (4, '{3:0.1}/3', array_fill(2, ARRAY[16000])::sparsevec);
COPY (SELECT id, v, CASE WHEN length(w::text) < 99 THEN w END FROM sp ORDER BY id) TO stdout;
COPY (SELECT id, v FROM sp ORDER BY id) TO stdout (FORMAT csv);
COPY sp (id, v) FROM stdin (FORMAT csv);
5,"{ 3: 2 ,1:1} / 3"
6,
\.
SELECT id, v FROM sp WHERE id > 4 ORDER BY id;

-- a binary file there and back; files lie in the server's data directory
SELECT current_setting('data_directory') || '/sparsevec_copy.bin' AS file \gset
COPY sp TO :'file' (FORMAT binary);
CREATE TABLE sq (LIKE sp);
COPY sq FROM :'file' (FORMAT binary);
SELECT count(*), count(p.v), count(q.w), bool_and(p.v IS NOT DISTINCT FROM q.v AND p.w IS NOT DISTINCT FROM q.w) AS same,
       bool_and(sparsevec_send(p.w) IS NOT DISTINCT FROM sparsevec_send(q.w)) AS same_bytes
  FROM sp p FULL JOIN sq q USING (id);
TRUNCATE sq;

-- one row with one sparsevec of these bytes (dim, nnz, unused, indices from 0, values), as a file in COPY's binary format
CREATE FUNCTION pg_temp.make_file(file text, field bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  large_object oid := lo_from_bytea(0, '\x5047434f50590aff0d0a00' || '\x0000000000000000'::bytea || '\x0001'::bytea
                                      || int4send(length(field)) || field || '\xffff'::bytea);
BEGIN
  PERFORM lo_export(large_object, file);
  PERFORM lo_unlink(large_object);
END $$;
CREATE FUNCTION pg_temp.receive(file text, field bytea, target text DEFAULT 'w') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  state text; message text;
BEGIN
  PERFORM pg_temp.make_file(file, field);
  EXECUTE format('COPY sq (%I) FROM %L (FORMAT binary)', target, file);
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
  RETURN state || ' / ' || message;
END $$;
SELECT what, pg_temp.receive(:'file', bytes) FROM (VALUES
  (1, 'one element', '\x000000050000000100000000000000003f800000'::bytea),
  (2, 'two elements, the last index', '\x00000005000000020000000000000000000000043f800000c0000000'),
  (3, 'no element', '\x000000050000000000000000'),
  (4, 'smallest value', '\x0000000100000001000000000000000000000001'),
  (5, 'most dimensions', '\x3b9aca0000000001000000003b9ac9ff3f800000'),
  (6, 'empty', '\x'),
  (7, 'half a header', '\x00000005'),
  (8, 'odd header', '\x0000000500000000000000'),
  (9, 'cut before indices', '\x000000050000000100000000'),
  (10, 'cut before values', '\x00000005000000010000000000000000'),
  (11, 'cut within', '\x000000050000000100000000000000003f80'),
  (12, 'too long', '\x00000005000000000000000000000007'),
  (13, 'dimension 0', '\x000000000000000000000000'),
  (14, 'dimension -1', '\xffffffff0000000000000000'),
  (15, 'dimension 1000000001', '\x3b9aca010000000000000000'),
  (16, '-1 elements', '\x00000005ffffffff00000000'),
  (17, '16001 elements', '\x00004e2000003e8100000000'),
  (18, '6 elements of 5', '\x000000050000000600000000'),
  (19, '16000 elements, no data', '\x00003e8000003e8000000000'),
  (20, 'unused set', '\x000000050000000100000001000000003f800000'),
  (21, 'unused -1', '\x0000000500000000ffffffff'),
  (22, 'index -1', '\x000000050000000100000000ffffffff3f800000'),
  (23, 'index 5 of 5', '\x000000050000000100000000000000053f800000'),
  (24, 'not ascending', '\x00000005000000020000000000000002000000013f8000003f800000'),
  (25, 'twice the same', '\x00000005000000020000000000000002000000023f8000003f800000'),
  (26, 'wrong index before it is cut short', '\x00000005000000030000000000000007'),
  (27, 'out of bounds, not ascending', '\x00000005000000020000000000000002ffffffff3f8000003f800000'),
  (28, 'NaN', '\x000000050000000100000000000000007fc00000'),
  (29, 'infinity', '\x000000050000000100000000000000007f800000'),
  (30, 'minus infinity', '\x00000005000000010000000000000000ff800000'),
  (31, 'zero', '\x0000000500000001000000000000000000000000'),
  (32, 'minus zero', '\x0000000500000001000000000000000080000000'),
  (33, 'NaN before it is cut short', '\x00000005000000020000000000000000000000017fc00000'),
  (34, 'zero before it is cut short', '\x000000050000000200000000000000000000000100000000'),
  (35, 'unused set, cut short', '\x00000005000000020000000900000000'),
  (36, 'text', '{1:1}/5'),
  (37, 'garbage', '\xdeadbeefcafedeadbeefcafe')) x (n, what, bytes)
  ORDER BY n;
SELECT w FROM sq ORDER BY w;
SELECT pg_temp.receive(:'file', '\x000000020000000100000000000000003f800000', 'v') AS two_for_three, pg_temp.receive(:'file', '\x00000003000000020000000000000000000000023f80000040400000', 'v') AS three,
       pg_temp.receive(:'file', '\x00000002000000010000000700000000', 'v') AS two_for_three_unused_set;
SELECT v FROM sq WHERE v IS NOT NULL;
-- the message itself, with its context
SELECT pg_temp.make_file(:'file', '\x000000050000000100000000000000007fc00000');
COPY sq (w) FROM :'file' (FORMAT binary);
-- leave an empty file
COPY (SELECT 1 WHERE false) TO :'file';
DROP TABLE sp, sq;
