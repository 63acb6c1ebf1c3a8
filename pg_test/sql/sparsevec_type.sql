-- The type sparsevec: text form, order and zeros, type modifier, storage forms, NULL.

-- text form: white space, number formats, any order of the indices, zeros left out
SELECT '{1:1.5,3:-3.5}/5'::sparsevec;
SELECT '{3:3,1:1,2:-2}/3'::sparsevec;
SELECT '{}/5'::sparsevec, '{1:0,2:-0,3:0e9,4:0x0p1}/5'::sparsevec, ' { } / 7 '::sparsevec;
SELECT E' \t{ 1 :\n1.\r, 2\x0b:\f.5 ,+3:+2,00004:-.25e1}\n/\t 5 '::sparsevec;
SELECT '{1:1.23456,2:0.1,3:0.30000001,4:16777217,5:1e20,6:-1e-20,7:0x1p3,8:-0X1F}/+8'::sparsevec;
SELECT '{1:3.4028235e38,2:1.1754944e-38,3:1.5e-45,4:-1e-45}/4'::sparsevec;
SELECT '{1:16777217.000000001,2:1.00000005960464477539062500001,3:1.000000059604644775390625}/3'::sparsevec;
SELECT '{1000000000:1,1:2}/1000000000'::sparsevec, '{5:1}/0000000005'::sparsevec;
-- an index may be wrong where its value is zero
SELECT '{0:0,9:0,2:1,2:0}/2'::sparsevec;
SET extra_float_digits = 0;
SELECT '{1:0.1,2:0.30000001}/2'::sparsevec;
RESET extra_float_digits;

-- type modifier
SELECT '{1:1}/3'::sparsevec(3);
SELECT '{1:1}/3'::sparsevec(3)::sparsevec(2);
SELECT '{1:1}/3'::sparsevec(2);
SELECT '{4:1,0:1}/3'::sparsevec(2);
SELECT '{1:1}/3'::sparsevec(0);
SELECT '{1:1}/3'::sparsevec(-1);
SELECT '{1:1}/3'::sparsevec(1000000001);
SELECT '{1:1}/3'::sparsevec(3, 2);
SELECT '{1:1}/3'::sparsevec('a');
SELECT '{}/1000000000'::sparsevec(1000000000), '{1:1}/3'::sparsevec(1000000000);
CREATE TABLE st (id int, v sparsevec(3), w sparsevec);
SELECT attname, atttypmod, format_type(atttypid, atttypmod), attstorage, attalign
  FROM pg_attribute WHERE attrelid = 'st'::regclass AND attnum > 1 ORDER BY attnum;

-- rows: dimension check, mixed dimensions without a modifier, NULL, default
INSERT INTO st VALUES (1, '{1:1,3:3}/3', '{1:1}/1'), (2, NULL, NULL), (3, '{}/3', '{2:2}/2');
INSERT INTO st VALUES (4, '{1:1}/2', '{}/1');
INSERT INTO st VALUES (4, '{}/0', '{}/1');
UPDATE st SET v = w WHERE id = 3;
ALTER TABLE st ADD COLUMN u sparsevec(2) DEFAULT '{2:8}/2';
SELECT * FROM st ORDER BY id;
SELECT id FROM st WHERE v IS NULL;
ALTER TABLE st ALTER COLUMN v TYPE sparsevec(2);
ALTER TABLE st ALTER COLUMN v TYPE sparsevec;
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'st'::regclass AND attname = 'v';

-- arrays of sparsevecs
SELECT unnest('{"{1:1,2:2}/2","{}/4"}'::sparsevec[]);
SELECT '{"{1:1,2:2}/3"}'::sparsevec(2)[];

-- every way a value may be stored: short header, plain, compressed, out of line
CREATE FUNCTION pg_temp.ones(n int) RETURNS sparsevec LANGUAGE sql AS $$ SELECT array_fill(1.5::real, ARRAY[n])::sparsevec $$;
CREATE TABLE ss (id int, v sparsevec);
INSERT INTO ss SELECT n, pg_temp.ones(n) FROM unnest(ARRAY[1, 2, 13, 14, 15, 500, 3000, 16000]) n;
ALTER TABLE ss ALTER COLUMN v SET STORAGE EXTENDED;
INSERT INTO ss SELECT -n, pg_temp.ones(n) FROM unnest(ARRAY[1, 500, 3000, 16000]) n;
SELECT id, pg_column_size(v) < 8 * abs(id) AS compressed, v = pg_temp.ones(abs(id)) AS same, v <-> v AS l2, inner_product(v, v) / 2.25 AS ip
  FROM ss ORDER BY id;
DROP TABLE st, ss;

-- the limits: dimensions, elements that are not zero
SELECT length(array_fill(1, ARRAY[16000])::sparsevec::text), array_fill(1, ARRAY[16000])::sparsevec::text::sparsevec = array_fill(1, ARRAY[16000])::sparsevec AS same;
SELECT ('{1:1' || repeat(',2:0', 15999) || '}/2')::sparsevec;
SELECT ('{1:1' || repeat(',2:0', 16000) || '}/2')::sparsevec;
