-- The type vector: text form, type modifier, storage forms, NULL.

-- text form: white space, number formats, shortest output
SELECT '[1,2,3]'::vector;
SELECT '[-1,-2,-3]'::vector;
SELECT '[1.,.5,+2,-.25e1,1E3,0e9]'::vector;
SELECT E' \t[ 1,\n2\r,\x0b3\f] '::vector;
SELECT '[1.23456]'::vector, '[0.1,0.2,0.30000001]'::vector, '[16777217,123456789]'::vector;
SELECT '[1e20,-1e20,1e-20,1234567.8,0.0001,0.00001,999999,1000000]'::vector;
SELECT '[3.4028235e38,1.1754944e-38,1.5e-45,1e-46,-1e-46,-0]'::vector;
SELECT '[0x1p3,0x.8,-0X1F]'::vector;
-- the decimal just above a tie of f32 must not be rounded twice
SELECT '[16777217.000000001,1.00000005960464477539062500001,1.000000059604644775390625]'::vector;
SET extra_float_digits = 0;
SELECT '[0.1,0.30000001]'::vector;
RESET extra_float_digits;

-- type modifier
SELECT '[1,2,3]'::vector(3);
SELECT '[1,2,3]'::vector(3)::vector(2);
SELECT '[1,2,3]'::vector(2);
SELECT '[1,2,3]'::vector(0);
SELECT '[1,2,3]'::vector(-1);
SELECT '[1,2,3]'::vector(16001);
SELECT '[1,2,3]'::vector(3, 2);
SELECT '[1,2,3]'::vector('a');
SELECT vector_dims('[1]'::vector(1)), '[1]'::vector(16000);
CREATE TABLE vt (id int, v vector(3), w vector);
SELECT attname, atttypmod, format_type(atttypid, atttypmod), attstorage, attalign
  FROM pg_attribute WHERE attrelid = 'vt'::regclass AND attnum > 1 ORDER BY attnum;

-- rows: dimension check, mixed dimensions without a modifier, NULL, default
INSERT INTO vt VALUES (1, '[1,2,3]', '[1]'), (2, NULL, NULL), (3, '[0,0,0]', '[1,2]');
INSERT INTO vt VALUES (4, '[1,2]', '[1]');
INSERT INTO vt VALUES (4, '[]', '[1]');
UPDATE vt SET v = w WHERE id = 3;
ALTER TABLE vt ADD COLUMN u vector(2) DEFAULT '[7,8]';
SELECT * FROM vt ORDER BY id;
SELECT id FROM vt WHERE v IS NULL;
ALTER TABLE vt ALTER COLUMN v TYPE vector(2);
ALTER TABLE vt ALTER COLUMN v TYPE vector;
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'vt'::regclass AND attname = 'v';

-- arrays of vectors
SELECT unnest('{"[1,2,3]","[4,5,6]"}'::vector[]);
SELECT '{"[1,2,3]"}'::vector(2)[];

-- every way a value may be stored: short header, plain, compressed, out of line
CREATE TABLE vs (id int, v vector);
INSERT INTO vs SELECT d, array_fill(1.5::real, ARRAY[d])::vector FROM unnest(ARRAY[1, 2, 29, 30, 31, 500, 3000, 16000]) d;
ALTER TABLE vs ALTER COLUMN v SET STORAGE EXTENDED;
INSERT INTO vs SELECT -d, array_fill(1.5::real, ARRAY[d])::vector FROM unnest(ARRAY[1, 500, 3000, 16000]) d;
SELECT id, vector_dims(v) = abs(id) AS dims, pg_column_size(v) < 4 * abs(id) AS compressed,
       v = array_fill(1.5::real, ARRAY[abs(id)])::vector AS same, v <-> v AS l2, inner_product(v, v) / 2.25 AS ip
  FROM vs ORDER BY id;
SELECT id, vector_dims((v || v)) FROM vs WHERE abs(id) <= 3000 ORDER BY id;
DROP TABLE vt, vs;

-- the limit
SELECT vector_dims(array_fill(1, ARRAY[16000])::vector), length(array_fill(1, ARRAY[16000])::vector::text);
SELECT vector_dims(array_fill(1, ARRAY[16000])::vector::text::vector);
SELECT ('[1' || repeat(',1', 16000) || ']')::vector;
