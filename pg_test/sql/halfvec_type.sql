-- The type halfvec: text form, rounding, type modifier, storage forms, NULL.

-- text form: white space, number formats, the shortest decimal of the f32 that each half is
SELECT '[1,2,3]'::halfvec;
SELECT '[-1,-2,-3]'::halfvec;
SELECT '[1.,.5,+2,-.25e1,1E3,0e9]'::halfvec;
SELECT E' \t[ 1,\n2\r,\x0b3\f] '::halfvec;
SELECT '[1.23456]'::halfvec, '[0.1,0.2,0.30000001]'::halfvec, '[2047,2048,2049,2050,2051]'::halfvec;
SELECT '[65504,-65504,65519,-65519.99,1e-20,1234.8,0.0001,0.00001,9999,10000]'::halfvec;
SELECT '[0x1p3,0x.8,-0X1F,0x1.ffcp15]'::halfvec;
SET extra_float_digits = 0;
SELECT '[0.1,0.30000001]'::halfvec;
RESET extra_float_digits;

-- to the nearest half, of two the even one: around 1, around the smallest normal number, subnormal, down to zero
SELECT '[1.00048828125,1.00146484375,1.000488281251,1.00048828124]'::halfvec;
SELECT '[6.103515625e-05,6.097555160522461e-05,6.1005353927612305e-05,6.100535392761231e-05,6.1094760894775391e-05]'::halfvec;
SELECT '[5.9604644775390625e-08,2.98023223876953125e-08,2.980232238769532e-08,8.94069671630859375e-08,8.9406967163085936e-08,-2.9e-08,-0]'::halfvec;
SELECT halfvec_send('[2.98023223876953125e-08,-2.98023223876953125e-08,1e-45,-1e-45]');
-- first to f32, then to half: as C's strtof does
SELECT halfvec_send('[1.00048828125000001,1.0004882812500000000000001,65519.9999]');

-- type modifier
SELECT '[1,2,3]'::halfvec(3);
SELECT '[1,2,3]'::halfvec(3)::halfvec(2);
SELECT '[1,2,3]'::halfvec(2);
SELECT '[1,2,3]'::halfvec(0);
SELECT '[1,2,3]'::halfvec(-1);
SELECT '[1,2,3]'::halfvec(16001);
SELECT '[1,2,3]'::halfvec(3, 2);
SELECT '[1,2,3]'::halfvec('a');
SELECT vector_dims('[1]'::halfvec(1)), '[1]'::halfvec(16000);
CREATE TABLE ht (id int, v halfvec(3), w halfvec);
SELECT attname, atttypmod, format_type(atttypid, atttypmod), attstorage, attalign
  FROM pg_attribute WHERE attrelid = 'ht'::regclass AND attnum > 1 ORDER BY attnum;

-- rows: dimension check, mixed dimensions without a modifier, NULL, default
INSERT INTO ht VALUES (1, '[1,2,3]', '[1]'), (2, NULL, NULL), (3, '[0,0,0]', '[1,2]');
INSERT INTO ht VALUES (4, '[1,2]', '[1]');
INSERT INTO ht VALUES (4, '[]', '[1]');
UPDATE ht SET v = w WHERE id = 3;
ALTER TABLE ht ADD COLUMN u halfvec(2) DEFAULT '[7,8]';
SELECT * FROM ht ORDER BY id;
SELECT id FROM ht WHERE v IS NULL;
ALTER TABLE ht ALTER COLUMN v TYPE halfvec(2);
ALTER TABLE ht ALTER COLUMN v TYPE halfvec;
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'ht'::regclass AND attname = 'v';

-- arrays of halfvecs
SELECT unnest('{"[1,2,3]","[4,5,6]"}'::halfvec[]);
SELECT '{"[1,2,3]"}'::halfvec(2)[];

-- every way a value may be stored: short header, plain, compressed, out of line
CREATE TABLE hs (id int, v halfvec);
INSERT INTO hs SELECT d, array_fill(1.5::real, ARRAY[d])::halfvec FROM unnest(ARRAY[1, 2, 58, 59, 60, 61, 62, 500, 5000, 16000]) d;
ALTER TABLE hs ALTER COLUMN v SET STORAGE EXTENDED;
INSERT INTO hs SELECT -d, array_fill(1.5::real, ARRAY[d])::halfvec FROM unnest(ARRAY[1, 1500, 5000, 16000]) d;
SELECT id, vector_dims(v) = abs(id) AS dims, pg_column_size(v) < 2 * abs(id) AS compressed,
       v = array_fill(1.5::real, ARRAY[abs(id)])::halfvec AS same, v <-> v AS l2, inner_product(v, v) / 2.25 AS ip
  FROM hs ORDER BY id;
SELECT id, vector_dims((v || v)) FROM hs WHERE abs(id) <= 5000 ORDER BY id;
DROP TABLE ht, hs;

-- the limit
SELECT vector_dims(array_fill(1, ARRAY[16000])::halfvec), length(array_fill(1, ARRAY[16000])::halfvec::text);
SELECT vector_dims(array_fill(1, ARRAY[16000])::halfvec::text::halfvec);
SELECT ('[1' || repeat(',1', 16000) || ']')::halfvec;
