-- Distances of bit strings.

SELECT hamming_distance('111', '111'), hamming_distance('111', '110'), hamming_distance('111', '100'), hamming_distance('111', '000');
SELECT hamming_distance('10101010101010101010', '01010101010101010101'), B'111' <~> B'001' AS op, hamming_distance(B'', B'') AS empty;
SELECT jaccard_distance('1111', '1111'), jaccard_distance('1111', '1110'), jaccard_distance('1111', '1100'), jaccard_distance('1111', '1000'), jaccard_distance('1111', '0000');
SELECT jaccard_distance('1100', '1000'), B'1100' <%> B'0110' AS op, jaccard_distance('0000', '0000') AS none_set, jaccard_distance(B'', B'') AS empty;
SELECT hamming_distance(repeat('1', 100000)::bit(100000), repeat('01', 50000)::bit(100000)), jaccard_distance(repeat('1', 100000)::bit(100000), repeat('01', 50000)::bit(100000));
SELECT B'101' <~> B'011'::bit varying AS varying, '[1,-1,1]'::vector::text IS NOT NULL AND binary_quantize('[1,-1,1]'::vector) <~> binary_quantize('[1,1,-1]'::halfvec) = 2 AS quantized;

-- every length around a word agrees with counting in text
SELECT bool_and((a <~> b) = h) AS hamming, bool_and((a <%> b) = CASE WHEN b_and = 0 THEN 1 ELSE 1 - b_and::float8 / b_or END) AS jaccard, count(*)
  FROM (SELECT string_agg(x, '' ORDER BY i)::varbit AS a, string_agg(y, '' ORDER BY i)::varbit AS b, sum((x <> y)::int) AS h,
               sum((x = '1' AND y = '1')::int) AS b_and, sum((x = '1' OR y = '1')::int) AS b_or
          FROM (SELECT n, i, (sin(i * n) > 0.3)::int::text AS x, (cos(i * 1.7 + n) > 0)::int::text AS y FROM generate_series(1, 200) n, generate_series(1, n) i) c GROUP BY n) d;

-- of different lengths
SELECT hamming_distance('111', '00');
SELECT jaccard_distance('111', '00');
SELECT B'1' <~> B'';
SELECT B'11111111' <%> B'111111110';

-- NULL in, NULL out
SELECT NULL::bit(3) <~> B'111' AS hamming, B'111' <%> NULL AS jaccard;

-- nearest first without an index; every way a value may be stored
CREATE TABLE bf (id int, v bit(3));
INSERT INTO bf VALUES (1, B'000'), (2, B'100'), (3, NULL), (4, B'111'), (5, B'101');
SELECT id, v <~> B'111' AS hamming FROM bf ORDER BY v <~> B'111', id;
SELECT id, v <%> B'111' AS jaccard FROM bf ORDER BY v <%> B'111', id;
CREATE TABLE bs (id int, v bit varying);
INSERT INTO bs SELECT n, repeat('1', n)::varbit FROM unnest(ARRAY[1, 8, 900, 1000, 1100, 64000, 640000]) n;
ALTER TABLE bs ALTER COLUMN v SET STORAGE EXTERNAL;
INSERT INTO bs SELECT -n, repeat('1', n)::varbit FROM unnest(ARRAY[1, 1000, 64000, 640000]) n;
SELECT id, v <~> ~v AS hamming, v <%> v AS jaccard FROM bs ORDER BY id;
SELECT oprname, oprcom::regoperator, oprrest, oprjoin FROM pg_operator WHERE oprname IN ('<~>', '<%>') AND oprleft = 'bit'::regtype ORDER BY 1;
DROP TABLE bf, bs;
