-- Aggregates of no rows where workers have states to combine: NULL. (pgvector 0.8.6 fails here; 0.8.7 does not.)

SELECT vector_combine('{0}', '{0}'), halfvec_combine('{0}', '{0}');
CREATE TABLE an (v vector(3), h halfvec(3));
INSERT INTO an SELECT ARRAY[i, i % 7, 1]::vector, ARRAY[i % 1000, i % 7, 1]::halfvec FROM generate_series(1, 20000) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(v), sum(v), avg(h), sum(h) FROM an WHERE v = '[0,0,0]';
SELECT avg(v), sum(v), avg(h), sum(h) FROM an WHERE v = '[0,0,0]';
DROP TABLE an;
