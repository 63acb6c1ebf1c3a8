-- avg and sum of halfvecs, and the functions behind them.

SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::halfvec, '[3,5,7]']) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::halfvec, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::halfvec[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL, NULL]::halfvec[]) v;
SELECT avg(v) FILTER (WHERE n > 1), sum(v) FILTER (WHERE n > 2) FROM unnest(ARRAY['[1]'::halfvec, '[4]', '[6]']) WITH ORDINALITY x (v, n);
-- avg adds in double precision: neither f16 nor f32 would do; sum rounds each step
SELECT avg(v), sum(v) FROM unnest(ARRAY['[2048]'::halfvec, '[1]', '[1]']) v;
SELECT avg(v) FROM unnest(ARRAY['[65504]'::halfvec, '[65504]']) v;

-- groups, windows, DISTINCT
CREATE TABLE ha (g int, v halfvec(2));
INSERT INTO ha SELECT i % 3, ARRAY[i, -i]::halfvec FROM generate_series(1, 12) i;
INSERT INTO ha VALUES (9, NULL);
SELECT g, avg(v), sum(v), count(v) FROM ha GROUP BY g ORDER BY g;
SELECT DISTINCT g, sum(v) OVER w, avg(v) OVER w FROM ha WINDOW w AS (PARTITION BY g) ORDER BY g;
SELECT v, avg(v) OVER (ORDER BY v) AS running FROM ha WHERE g = 1 ORDER BY v;
SELECT avg(DISTINCT v) FROM (SELECT v FROM ha UNION ALL SELECT v FROM ha WHERE g = 0) x;
SELECT avg(v), sum(v) FROM ha GROUP BY GROUPING SETS ((), (g)) ORDER BY 1;
DROP TABLE ha;

-- in parallel
CREATE TABLE ha (v halfvec(3));
INSERT INTO ha SELECT ARRAY[i % 1000, i % 2, 1]::halfvec FROM generate_series(1, 2000) i;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(v) FROM ha;
SELECT avg(v) FROM ha;
SELECT sum(v) FROM (SELECT v FROM ha ORDER BY v LIMIT 100) x;
EXPLAIN (COSTS OFF) SELECT sum(subvector(v, 2, 2)) FROM ha;
-- exact in f16 in any order
SELECT sum(subvector(v, 2, 2)) FROM ha;
-- workers without rows
SELECT avg(v), sum(v) FROM ha WHERE v = '[999,1,1]';
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
DROP TABLE ha;

-- the functions by themselves leave their arguments alone
SELECT halfvec_accum('{0}', '[1,2,3]'), halfvec_accum('{1,1,2,3}', '[1,2,3]');
SELECT halfvec_accum(s, '[1]') AS once, halfvec_accum(s, '[1]') AS again, s FROM (VALUES ('{2,5}'::float8[])) x (s);
SELECT halfvec_combine('{1,2}', '{3,4}'), halfvec_combine('{0}', '{2,5}'), halfvec_combine('{2,5}', '{0}');
SELECT halfvec_avg('{2,2,4,6}'), halfvec_avg('{0}') IS NULL AS no_rows, halfvec_avg('{0,1}') IS NULL AS no_rows_either;

-- bad input
SELECT avg(v) FROM unnest(ARRAY['[1,2]'::halfvec, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[1,2]'::halfvec, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[65504]'::halfvec, '[65504]']) v;
SELECT halfvec_avg('{2,131040}');
SELECT halfvec_avg('{1,1e300}');
SELECT halfvec_avg('{1,70000}');
SELECT halfvec_avg('{1}');
SELECT halfvec_avg('{}');
SELECT halfvec_avg('{{2,2,4,6}}');
SELECT halfvec_avg('{NULL,2}');
SELECT halfvec_avg('{1,NaN}');
SELECT halfvec_avg(array_agg(n)) FROM generate_series(1, 16002) n;
SELECT halfvec_accum('{}', '[1]');
SELECT halfvec_accum('{{0}}', '[1]');
SELECT halfvec_accum('{NULL}', '[1]');
SELECT halfvec_accum('{0,0}', '[1,2,3]');
SELECT halfvec_combine('{1,2}', '{3,4,5}');
SELECT halfvec_combine('{1,2}', '{{3,4}}');
SELECT halfvec_combine('{1,1.7e308}', '{1,1.7e308}');
SELECT halfvec_combine('{0}', (SELECT array_agg(n) FROM generate_series(1, 16002) n));
SELECT halfvec_combine((SELECT array_agg(n) FROM generate_series(1, 16002) n), '{0}');
