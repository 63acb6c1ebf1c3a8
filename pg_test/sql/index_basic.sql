-- The access method as a user first meets it.
SET client_min_messages = notice;
CREATE TABLE items (id int PRIMARY KEY, v vector(3));
INSERT INTO items SELECT i, ARRAY[i % 10, i / 10 % 10, i / 100]::real[]::vector FROM generate_series(0, 999) i;
CREATE INDEX items_l2 ON items USING omen (v vector_l2_ops) WITH (lists = 10);
SET enable_seqscan = off;
SET omen.probes = 10;

EXPLAIN (COSTS OFF) SELECT id FROM items ORDER BY v <-> '[3,4,5]' LIMIT 3;
SELECT id, v, v <-> '[3,4,5.25]' AS distance FROM items ORDER BY v <-> '[3,4,5.25]' LIMIT 2;
SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> '[3,4,5]') s;
SELECT id FROM items WHERE id % 100 = 7 ORDER BY v <-> '[7,0.4,5.1]' LIMIT 2;

-- Insert, update, delete are seen at once.
INSERT INTO items VALUES (1000, '[3,4,5.25]');
SELECT id FROM items ORDER BY v <-> '[3,4,5.25]' LIMIT 1;
UPDATE items SET v = '[30,40,50]' WHERE id = 1000;
SELECT id FROM items ORDER BY v <-> '[30,40,50]' LIMIT 1;
DELETE FROM items WHERE id = 1000;
SELECT id FROM items ORDER BY v <-> '[30,40,50]' LIMIT 1;
VACUUM items;
SELECT id FROM items ORDER BY v <-> '[30,40,50]' LIMIT 1;

-- The three metrics side by side.
CREATE INDEX items_ip ON items USING omen (v vector_ip_ops) WITH (lists = 10);
CREATE INDEX items_cosine ON items USING omen (v vector_cosine_ops) WITH (lists = 10);
EXPLAIN (COSTS OFF) SELECT id FROM items ORDER BY v <#> '[1,2,3]' LIMIT 1;
SELECT id, v <#> '[1,2,3]' AS distance FROM items ORDER BY v <#> '[1,2,3]' LIMIT 1;
EXPLAIN (COSTS OFF) SELECT id FROM items ORDER BY v <=> '[1,2,3]' LIMIT 1;
SELECT round((v <=> '[9,9,9]')::numeric, 6) AS distance FROM items ORDER BY v <=> '[9,9,9]' LIMIT 1;

-- NULL: as a row it is not in the index, as a query it orders nothing.
INSERT INTO items VALUES (1001, NULL);
SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> '[3,4,5]') s;
SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> NULL LIMIT 5) s;

-- Settings.
SHOW omen.probes;
RESET omen.probes;
SHOW omen.probes;
SHOW omen.recall;
SHOW omen.engine;
SHOW omen.iterative_scan;
SET omen.engine = 'cpu';
SET omen.enable_scan = off;
SET enable_seqscan = on;
EXPLAIN (COSTS OFF) SELECT id FROM items ORDER BY v <=> '[1,2,3]' LIMIT 1;
DROP TABLE items;
