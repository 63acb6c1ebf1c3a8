-- Comparison operators and the btree operator class: the order of the vectors with zeros.

SELECT op, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, sparsevec_cmp(a, b) AS cmp, vector_cmp(a::vector, b::vector) AS dense
  FROM (VALUES ('same', '{1:1,3:3}/3'::sparsevec, '{1:1,3:3}/3'::sparsevec), ('later coordinate', '{1:1,3:3}/3', '{1:1,3:4}/3'), ('first decides', '{1:2}/3', '{1:1,2:9,3:9}/3'),
               ('zero against positive', '{2:1}/3', '{1:1,2:1}/3'), ('zero against negative', '{2:1}/3', '{1:-1,2:1}/3'), ('positive against zero', '{1:1,2:1}/3', '{2:1}/3'),
               ('negative against zero', '{1:-1,2:1}/3', '{2:1}/3'), ('more elements', '{1:1}/3', '{1:1,3:1}/3'), ('more, negative', '{1:1}/3', '{1:1,3:-1}/3'), ('fewer', '{1:1,3:1}/3', '{1:1}/3'),
               ('prefix', '{1:1}/2', '{1:1}/3'), ('longer', '{1:1}/3', '{1:1}/2'), ('element beyond the other', '{1:1,3:9}/3', '{1:1}/2'), ('negative element beyond', '{1:1,3:-9}/3', '{1:1}/2'),
               ('beyond, the other way', '{1:1}/2', '{1:1,3:-9}/3'), ('nothing', '{}/1', '{}/1'), ('nothing, shorter', '{}/1', '{}/2')) x (op, a, b);
-- every pair of small ones
WITH v AS (SELECT array_agg(x ORDER BY i)::vector AS v FROM generate_series(1, 3) dim, generate_series(0, 26) n, LATERAL (SELECT i, n / (3 ^ (i - 1))::int % 3 - 1 AS x FROM generate_series(1, dim) i) c
             WHERE n < 3 ^ dim GROUP BY dim, n)
SELECT count(*), bool_and(sparsevec_cmp(a.v, b.v) = vector_cmp(a.v, b.v)) AS same_order FROM v a, v b;

CREATE TABLE sb (id int, v sparsevec(3));
INSERT INTO sb VALUES (1, '{}/3'), (2, '{1:1,2:2,3:3}/3'), (3, '{1:1,2:1,3:1}/3'), (4, NULL), (5, '{1:1,2:2,3:3}/3'), (6, '{1:-1,2:5,3:5}/3'), (7, '{3:-1}/3');

-- sort, group, join, without and with an index
SELECT id, v FROM sb ORDER BY v, id;
SELECT id, v FROM sb ORDER BY v DESC NULLS LAST, id;
SELECT v, count(*) FROM sb GROUP BY v ORDER BY v;
SELECT count(DISTINCT v) FROM sb;
SELECT a.id, b.id FROM sb a JOIN sb b ON a.v = b.v AND a.id < b.id;
CREATE INDEX sb_v ON sb (v);
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM sb WHERE v = '{1:1,2:2,3:3}/3' ORDER BY id;
SELECT id FROM sb WHERE v = '{1:1,2:2,3:3}/3' ORDER BY id;
SELECT id FROM sb WHERE v >= '{}/3' AND v < '{1:1,2:2,3:3}/3' ORDER BY id;
SELECT id FROM sb WHERE v IS NULL;
EXPLAIN (COSTS OFF) SELECT v FROM sb ORDER BY v;
SELECT v FROM sb ORDER BY v;
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT opcname, opcdefault FROM pg_opclass WHERE opcintype = 'sparsevec'::regtype AND opcmethod = (SELECT oid FROM pg_am WHERE amname = 'btree');
SELECT amvalidate(oid) FROM pg_opclass WHERE opcintype = 'sparsevec'::regtype AND opcname = 'sparsevec_ops';

-- a unique index
CREATE UNIQUE INDEX sb_unique ON sb (v);
DELETE FROM sb WHERE id = 5;
CREATE UNIQUE INDEX sb_unique ON sb (v);
INSERT INTO sb VALUES (8, '{1:1,2:1,3:1}/3');
INSERT INTO sb VALUES (8, '{1:1,2:1,3:1}/3') ON CONFLICT (v) DO UPDATE SET id = 88 RETURNING id;
DROP TABLE sb;
