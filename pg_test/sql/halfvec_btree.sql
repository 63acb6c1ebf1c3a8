-- Comparison operators and the btree operator class.

SELECT op, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, halfvec_cmp(a, b) AS cmp
  FROM (VALUES ('same', '[1,2,3]'::halfvec, '[1,2,3]'::halfvec), ('later coordinate', '[1,2,3]', '[1,2,4]'), ('first decides', '[2,0]', '[1,9,9]'),
               ('prefix', '[1,2]', '[1,2,3]'), ('longer', '[1,2,3]', '[1,2]'), ('signed zero', '[0,1]', '[-0,1]')) x (op, a, b);

CREATE TABLE hb (id int, v halfvec(3));
INSERT INTO hb VALUES (1, '[0,0,0]'), (2, '[1,2,3]'), (3, '[1,1,1]'), (4, NULL), (5, '[1,2,3]'), (6, '[-1,5,5]');

-- sort, group, join, without and with an index
SELECT id, v FROM hb ORDER BY v, id;
SELECT id, v FROM hb ORDER BY v DESC NULLS LAST, id;
SELECT v, count(*) FROM hb GROUP BY v ORDER BY v;
SELECT count(DISTINCT v) FROM hb;
SELECT a.id, b.id FROM hb a JOIN hb b ON a.v = b.v AND a.id < b.id;
CREATE INDEX hb_v ON hb (v);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hb WHERE v = '[1,2,3]' ORDER BY id;
SELECT id FROM hb WHERE v = '[1,2,3]' ORDER BY id;
SELECT id FROM hb WHERE v >= '[0,0,0]' AND v < '[1,2,3]' ORDER BY id;
SELECT id FROM hb WHERE v > '[1,1,1]' ORDER BY id;
SELECT id FROM hb WHERE v IS NULL;
EXPLAIN (COSTS OFF) SELECT v FROM hb ORDER BY v;
SELECT v FROM hb ORDER BY v;
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT opcname, opcdefault FROM pg_opclass WHERE opcintype = 'halfvec'::regtype AND opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree');
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'halfvec'::regtype AND opcname = 'halfvec_ops';

-- a unique index; a primary key
CREATE UNIQUE INDEX hb_unique ON hb (v);
DELETE FROM hb WHERE id = 5;
CREATE UNIQUE INDEX hb_unique ON hb (v);
INSERT INTO hb VALUES (7, '[1,1,1]');
INSERT INTO hb VALUES (7, '[1,1,1]') ON CONFLICT (v) DO UPDATE SET id = 77 RETURNING id;
DROP TABLE hb;

-- a large sort keeps the order of the first difference, also for halfvecs stored out of line
CREATE TABLE hb (id int, v halfvec);
INSERT INTO hb SELECT i, (array_fill(0, ARRAY[1400]) || ARRAY[(i * 7919) % 1000])::halfvec FROM generate_series(1, 1000) i;
SELECT bool_and(ordered) FROM (SELECT (id * 7919) % 1000 > lag((id * 7919) % 1000, 1, -1) OVER (ORDER BY v) AS ordered FROM hb) x;
DROP TABLE hb;
