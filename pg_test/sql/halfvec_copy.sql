-- COPY in text, CSV and binary; the binary form byte by byte; bad binary input.

SELECT halfvec_send('[1,-2,0.5]'), halfvec_send('[-0]'), length(halfvec_send(array_fill(1, ARRAY[16000])::halfvec));
SELECT halfvec_send('[65504,6e-8,0.1]');

CREATE TABLE hp (id int, v halfvec(3), w halfvec);
INSERT INTO hp VALUES (1, '[0,0,0]', '[1]'), (2, '[1.5,-2.25,65504]', '[6e-8,-0]'), (3, NULL, NULL), (4, '[0.1,0.2,0.3]', array_fill(2, ARRAY[16000])::halfvec);
COPY (SELECT id, v, CASE WHEN vector_dims(w) < 9 THEN w END FROM hp ORDER BY id) TO stdout;
COPY (SELECT id, v FROM hp ORDER BY id) TO stdout (FORMAT csv);
COPY hp (id, v) FROM stdin (FORMAT csv);
5,"[ 1, 2 ,3]"
6,
\.
SELECT id, v FROM hp WHERE id > 4 ORDER BY id;

-- a binary file there and back; files lie in the server's data directory
SELECT current_setting('data_directory') || '/halfvec_copy.bin' AS file \gset
COPY hp TO :'file' (FORMAT binary);
CREATE TABLE hq (LIKE hp);
COPY hq FROM :'file' (FORMAT binary);
SELECT count(*), count(p.v), count(q.w), bool_and(p.v IS NOT DISTINCT FROM q.v AND p.w IS NOT DISTINCT FROM q.w) AS same,
       bool_and(halfvec_send(p.w) IS NOT DISTINCT FROM halfvec_send(q.w)) AS same_bytes
  FROM hp p FULL JOIN hq q USING (id);
TRUNCATE hq;

-- one row with one halfvec of these bytes (dim, unused, coordinates), as a file in COPY's binary format
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
  EXECUTE format('COPY hq (%I) FROM %L (FORMAT binary)', target, file);
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
  RETURN state || ' / ' || message;
END $$;
SELECT what, pg_temp.receive(:'file', bytes) FROM (VALUES
  (1, 'one coordinate', '\x000100003c00'::bytea), (2, 'smallest, minus zero', '\x0002000000018000'), (3, 'empty', ''), (4, 'half a header', '\x0001'),
  (5, 'odd header', '\x000100'), (6, 'no coordinates', '\x00010000'), (7, 'cut short', '\x000200003c00'), (8, 'cut within', '\x000100003c'),
  (9, 'too long', '\x000100003c0000'), (10, 'dimension 0', '\x00000000'), (11, 'dimension 16001', '\x3e810000'), (12, 'dimension 32768', '\x80000000'),
  (13, 'dimension 65535', '\xffff0000'), (14, 'dimension 16000, no data', '\x3e800000'), (15, 'unused set', '\x000100013c00'), (16, 'unused 65535', '\x0001ffff3c00'),
  (17, 'NaN', '\x000100007e00'), (18, 'signalling NaN', '\x000100007c01'), (19, 'infinity', '\x000200003c007c00'), (20, 'minus infinity', '\x00010000fc00'),
  (21, 'text', '[1,2,3]'), (22, 'garbage', '\xdeadbeefcafe'), (23, 'NaN before it is cut short', '\x000200007e00'), (24, 'unused set, cut short', '\x00020001')) x (n, what, bytes)
  ORDER BY n;
SELECT w FROM hq ORDER BY w;
SELECT pg_temp.receive(:'file', '\x000200003c003c00', 'v') AS two_for_three, pg_temp.receive(:'file', '\x000300003c0040004200', 'v') AS three;
SELECT v FROM hq WHERE v IS NOT NULL;
-- the message itself, with its context
SELECT pg_temp.make_file(:'file', '\x000100007e00');
COPY hq (w) FROM :'file' (FORMAT binary);
-- leave an empty file
COPY (SELECT 1 WHERE false) TO :'file';
DROP TABLE hp, hq;
