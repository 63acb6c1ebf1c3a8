-- COPY in text, CSV and binary; the binary form byte by byte; bad binary input.

SELECT vector_send('[1,-2,0.5]'), vector_send('[-0]'), length(vector_send(array_fill(1, ARRAY[16000])::vector));
SELECT vector_send('[3.4028235e38,1e-45,0.1]');

CREATE TABLE vp (id int, v vector(3), w vector);
INSERT INTO vp VALUES (1, '[0,0,0]', '[1]'), (2, '[1.5,-2.25,3e38]', '[1e-45,-0]'), (3, NULL, NULL), (4, '[0.1,0.2,0.3]', array_fill(2, ARRAY[16000])::vector);
COPY (SELECT id, v, CASE WHEN vector_dims(w) < 9 THEN w END FROM vp ORDER BY id) TO stdout;
COPY (SELECT id, v FROM vp ORDER BY id) TO stdout (FORMAT csv);
COPY vp (id, v) FROM stdin (FORMAT csv);
5,"[ 1, 2 ,3]"
6,
\.
SELECT id, v FROM vp WHERE id > 4 ORDER BY id;

-- a binary file there and back; files lie in the server's data directory
SELECT current_setting('data_directory') || '/vector_copy.bin' AS file \gset
COPY vp TO :'file' (FORMAT binary);
CREATE TABLE vq (LIKE vp);
COPY vq FROM :'file' (FORMAT binary);
SELECT count(*), count(p.v), count(q.w), bool_and(p.v IS NOT DISTINCT FROM q.v AND p.w IS NOT DISTINCT FROM q.w) AS same,
       bool_and(vector_send(p.w) IS NOT DISTINCT FROM vector_send(q.w)) AS same_bytes
  FROM vp p FULL JOIN vq q USING (id);
TRUNCATE vq;

-- one row with one vector of these bytes (dim, unused, coordinates), as a file in COPY's binary format
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
  EXECUTE format('COPY vq (%I) FROM %L (FORMAT binary)', target, file);
  RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
  RETURN state || ' / ' || message;
END $$;
SELECT what, pg_temp.receive(:'file', bytes) FROM (VALUES
  (1, 'one coordinate', '\x000100003f800000'::bytea), (2, 'smallest, minus zero', '\x0002000000000001' || '\x80000000'::bytea),
  (3, 'empty', ''), (4, 'half a header', '\x0001'), (5, 'odd header', '\x000100'), (6, 'no coordinates', '\x00010000'), (7, 'cut short', '\x000200003f800000'),
  (8, 'cut within', '\x000100003f80'), (9, 'too long', '\x000100003f80000000'), (10, 'dimension 0', '\x00000000'), (11, 'dimension 16001', '\x3e810000'),
  (12, 'dimension 32768', '\x80000000'), (13, 'dimension 65535', '\xffff0000'), (14, 'dimension 16000, no data', '\x3e800000'),
  (15, 'unused set', '\x000100013f800000'), (16, 'unused 65535', '\x0001ffff3f800000'), (17, 'NaN', '\x000100007fc00000'), (18, 'signalling NaN', '\x000100007f800001'),
  (19, 'infinity', '\x000200003f8000007f800000'), (20, 'minus infinity', '\x00010000ff800000'), (21, 'text', '[1,2,3]'), (22, 'garbage', '\xdeadbeefcafe'),
  (23, 'NaN before it is cut short', '\x000200007fc00000'), (24, 'unused set, cut short', '\x00020001')) x (n, what, bytes)
  ORDER BY n;
SELECT w FROM vq ORDER BY w;
SELECT pg_temp.receive(:'file', '\x000200003f8000003f800000', 'v') AS two_for_three, pg_temp.receive(:'file', '\x000300003f8000004000000040400000', 'v') AS three;
SELECT v FROM vq WHERE v IS NOT NULL;
-- the message itself, with its context
SELECT pg_temp.make_file(:'file', '\x000100007fc00000');
COPY vq (w) FROM :'file' (FORMAT binary);
-- leave an empty file
COPY (SELECT 1 WHERE false) TO :'file';
DROP TABLE vp, vq;
