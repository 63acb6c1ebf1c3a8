-- avg and sum of vectors, and the functions behind them.

SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]']) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::vector, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::vector[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL, NULL]::vector[]) v;
SELECT avg(v) FILTER (WHERE n > 1), sum(v) FILTER (WHERE n > 2) FROM unnest(ARRAY['[1]'::vector, '[4]', '[6]']) WITH ORDINALITY x (v, n);
-- avg adds in double precision: f32 would lose the small ones
SELECT avg(v) FROM unnest(ARRAY['[16777216]'::vector, '[1]', '[1]', '[16777214]']) v;
SELECT avg(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;

-- groups, windows, DISTINCT
CREATE TABLE va (g int, v vector(2));
INSERT INTO va SELECT i % 3, ARRAY[i, -i]::vector FROM generate_series(1, 12) i;
INSERT INTO va VALUES (9, NULL);
SELECT g, avg(v), sum(v), count(v) FROM va GROUP BY g ORDER BY g;
SELECT DISTINCT g, sum(v) OVER w, avg(v) OVER w FROM va WINDOW w AS (PARTITION BY g) ORDER BY g;
SELECT v, avg(v) OVER (ORDER BY v) AS running FROM va WHERE g = 1 ORDER BY v;
SELECT avg(DISTINCT v) FROM (SELECT v FROM va UNION ALL SELECT v FROM va WHERE g = 0) x;
SELECT avg(v), sum(v) FROM va GROUP BY GROUPING SETS ((), (g)) ORDER BY 1;
DROP TABLE va;

-- in parallel
CREATE TABLE va (v vector(3));
INSERT INTO va SELECT ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 20000) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(v) FROM va;
SELECT avg(v) FROM va;
SELECT sum(v) FROM (SELECT v FROM va ORDER BY v LIMIT 1000) x;
EXPLAIN (COSTS OFF) SELECT sum(subvector(v, 2, 2)) FROM va;
-- exact in f32 in any order
SELECT sum(subvector(v, 2, 2)) FROM va;
-- workers without rows
SELECT avg(v), sum(v) FROM va WHERE v = '[20000,1,1]';
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
DROP TABLE va;

-- the functions by themselves leave their arguments alone
SELECT vector_accum('{0}', '[1,2,3]'), vector_accum('{1,1,2,3}', '[1,2,3]');
SELECT vector_accum(s, '[1]') AS once, vector_accum(s, '[1]') AS again, s FROM (VALUES ('{2,5}'::float8[])) x (s);
SELECT vector_combine('{1,2}', '{3,4}'), vector_combine('{0}', '{2,5}'), vector_combine('{2,5}', '{0}');
SELECT vector_avg('{2,2,4,6}'), vector_avg('{0}') IS NULL AS no_rows, vector_avg('{0,1}') IS NULL AS no_rows_either;

-- bad input
SELECT avg(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[1,2]'::vector, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[3e38]'::vector, '[3e38]']) v;
SELECT vector_avg('{1}');
SELECT vector_avg('{}');
SELECT vector_avg('{{2,2,4,6}}');
SELECT vector_avg('{NULL,2}');
SELECT vector_avg('{1,NaN}');
SELECT vector_avg(array_agg(n)) FROM generate_series(1, 16002) n;
SELECT vector_accum('{}', '[1]');
SELECT vector_accum('{{0}}', '[1]');
SELECT vector_accum('{NULL}', '[1]');
SELECT vector_accum('{0,0}', '[1,2,3]');
SELECT vector_combine('{1,2}', '{3,4,5}');
SELECT vector_combine('{1,2}', '{{3,4}}');
SELECT vector_combine('{1,1.7e308}', '{1,1.7e308}');
SELECT vector_combine('{0}', (SELECT array_agg(n) FROM generate_series(1, 16002) n));
SELECT vector_combine((SELECT array_agg(n) FROM generate_series(1, 16002) n), '{0}');
