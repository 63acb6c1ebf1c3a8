-- Many queries in one call.
CREATE TABLE items (id int PRIMARY KEY, v vector(3));
INSERT INTO items SELECT i, ARRAY[i % 10, i / 10 % 10, i / 100]::real[]::vector FROM generate_series(0, 999) i;
CREATE INDEX items_v ON items USING omen (v vector_l2_ops) WITH (lists = 10, hot = off);

SELECT query_no, id, round(distance::numeric, 2) AS distance
FROM omen_search('items_v', ARRAY['[3,4,5.25]', '[9,9,9.5]']::vector[], 2, 10) s JOIN items ON items.ctid = s.ctid
ORDER BY query_no, s.distance;

-- One query for each row of another table.
CREATE TABLE questions (name text, v vector(3));
INSERT INTO questions VALUES ('a', '[1,2,3]'), ('b', '[4.1,5,6]'), ('c', NULL);
SELECT name, id FROM questions q, LATERAL omen_search('items_v', ARRAY[q.v], 1, 10) s JOIN items ON items.ctid = s.ctid
WHERE q.v IS NOT NULL ORDER BY name;
SELECT name, id FROM (SELECT array_agg(name ORDER BY name) AS names, array_agg(v ORDER BY name) AS vs FROM questions WHERE v IS NOT NULL) q,
	omen_search('items_v', q.vs, 1, 10) s JOIN items ON items.ctid = s.ctid, LATERAL (SELECT q.names[s.query_no] AS name) n
ORDER BY name;

-- Nothing to do, and what cannot be done.
SELECT * FROM omen_search('items_v', '{}', 5);
SELECT * FROM omen_search('items_v', NULL, 5);
SELECT * FROM omen_search('items_v', ARRAY['[1,2,3]']::vector[], 0);
SELECT * FROM omen_search('items_v', ARRAY['[1,2,3]']::vector[], 5, 0);
SELECT * FROM omen_search('items_v', ARRAY['[1,2,3]', '[1,2]']::vector[], 5);
SELECT * FROM omen_search('items_v', ARRAY['[1,2,3]', NULL]::vector[], 5);
SELECT * FROM omen_search('items_v', ARRAY[ARRAY['[1,2,3]']]::vector[], 5);
SELECT * FROM omen_search('items_pkey', ARRAY['[1,2,3]']::vector[], 5);
SELECT omen_load('items_v');
SELECT omen_evict('items_v'), omen_evict();
ALTER INDEX items_v SET (hot = sometimes);
SET omen.gpu_devices = '0,x';
SET omen.gpu_devices = '0,0';
SET omen.gpu_devices = '0,2';
SHOW omen.gpu_devices;
DROP TABLE items, questions;
