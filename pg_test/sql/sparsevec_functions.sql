-- Functions and operators on sparsevecs.

-- distances: elements in both, in the first alone, in the second alone, none
SELECT l2_distance('{}/2'::sparsevec, '{1:3,2:4}/2'), '{}/2'::sparsevec <-> '{2:1}/2' AS op, l2_distance('{1:3e38}/1'::sparsevec, '{1:-3e38}/1') AS overflow;
SELECT l2_distance('{1:1,3:2}/5'::sparsevec, '{2:-2,3:4,5:4}/5'), '{1:1,3:2}/5'::sparsevec <-> '{1:1,3:2}/5' AS same;
SELECT inner_product('{1:1,2:2}/2'::sparsevec, '{1:3,2:4}/2'), '{1:1,2:2}/2'::sparsevec <#> '{1:3,2:4}/2' AS op, inner_product('{1:3e38}/1'::sparsevec, '{1:3e38}/1') AS overflow;
SELECT inner_product('{1:1,3:5,9:1}/9'::sparsevec, '{2:7,3:2,8:1}/9'), inner_product('{1:1}/2'::sparsevec, '{2:1}/2') AS apart, '{}/2'::sparsevec <#> '{}/2' AS none;
SELECT l1_distance('{}/2'::sparsevec, '{1:3,2:-4}/2'), '{1:1,3:-2}/5'::sparsevec <+> '{2:-2,3:4,5:4}/5' AS op, l1_distance('{1:3e38}/1'::sparsevec, '{1:-3e38}/1') AS overflow;
SELECT cosine_distance('{1:1,2:2}/2'::sparsevec, '{1:2,2:4}/2') AS same, cosine_distance('{1:1}/2'::sparsevec, '{2:2}/2') AS right_angle,
       '{1:1,2:1}/2'::sparsevec <=> '{1:-1,2:-1}/2' AS opposite, '{1:3,2:4}/2'::sparsevec <=> '{1:4,2:3}/2' AS some;
-- no angle: a zero vector, or a square that overflows or underflows f32
SELECT cosine_distance('{1:1}/2'::sparsevec, '{}/2') AS zero, cosine_distance('{1:3e38}/1'::sparsevec, '{1:3e38}/1') AS overflow,
       cosine_distance('{1:1e-30}/1'::sparsevec, '{1:1e-30}/1') AS underflow;
-- kept within 0 and 2
SELECT cosine_distance('{1:1,2:1}/2'::sparsevec, '{1:1.1,2:1.1}/2'), cosine_distance('{1:1,2:1}/2'::sparsevec, '{1:-1.1,2:-1.1}/2');
SELECT sparsevec_l2_squared_distance('{}/2', '{1:3,2:4}/2'), sparsevec_negative_inner_product('{1:1,2:2}/2', '{1:3,2:4}/2');
SELECT '{1:1,1000000000:2}/1000000000'::sparsevec <-> '{999999999:2,1000000000:2}/1000000000' AS wide;

-- the same as those of the vectors with zeros
SELECT bool_and(abs((a <-> b) - (a::sparsevec <-> b::sparsevec)) <= 1e-6 * (a <-> b)) AS l2,
       bool_and(abs((a <+> b) - (a::sparsevec <+> b::sparsevec)) <= 1e-6 * (a <+> b)) AS l1,
       bool_and(abs((a <#> b) - (a::sparsevec <#> b::sparsevec)) <= 1e-5) AS ip,
       bool_and((a <=> b) = 'NaN' AND (a::sparsevec <=> b::sparsevec) = 'NaN' OR abs((a <=> b) - (a::sparsevec <=> b::sparsevec)) <= 2e-6) AS cosine,
       bool_and(abs(vector_norm(a) - l2_norm(a::sparsevec)) <= 1e-12 * vector_norm(a)) AS norm, count(*)
  FROM (SELECT array_agg(CASE WHEN i * 7919 % share = 0 THEN sin(i * dim) ELSE 0 END::real ORDER BY i)::vector AS a,
               array_agg(CASE WHEN i * 104729 % 3 = 0 THEN cos(i * 1.7 + dim) ELSE 0 END::real ORDER BY i)::vector AS b
          FROM generate_series(1, 60) dim, generate_series(1, dim) i, generate_series(1, 5) share GROUP BY dim, share) x;

-- measures
SELECT l2_norm('{1:3,2:4}/2'::sparsevec), l2_norm('{}/2'::sparsevec), l2_norm('{2:-2}/2'::sparsevec), l2_norm('{1:3e37,9:4e37}/9'::sparsevec)::real;
SELECT l2_normalize('{1:3,2:4}/2'::sparsevec), l2_normalize('{9:0.1}/9'::sparsevec), l2_normalize('{}/2'::sparsevec), l2_normalize('{1:-3e38}/1'::sparsevec),
       l2_normalize('{1:1e-45}/3'::sparsevec);
-- what becomes zero is left out
SELECT l2_normalize('{1:1e-45,2:3e38,4:1,5:1e-8}/5'::sparsevec);

-- NULL in, NULL out
SELECT NULL::sparsevec <-> '{}/1' AS l2, '{}/1'::sparsevec <=> NULL AS cosine, l2_norm(NULL::sparsevec) AS norm, l2_normalize(NULL::sparsevec) AS unit;

-- nearest first without an index
CREATE TABLE sf (id int, v sparsevec(3));
INSERT INTO sf VALUES (1, '{1:1,2:2,3:3}/3'), (2, '{1:4,2:5,3:6}/3'), (3, NULL), (4, '{}/3'), (5, '{1:-1,2:-2,3:-3}/3');
SELECT id, v <-> '{1:1,2:1,3:1}/3' AS l2 FROM sf ORDER BY v <-> '{1:1,2:1,3:1}/3', id;
SELECT id, v <#> '{1:1,2:1,3:1}/3' AS neg_ip FROM sf ORDER BY v <#> '{1:1,2:1,3:1}/3', id;
SELECT id, round((v <=> '{1:1,2:1,3:1}/3')::numeric, 6) AS cosine FROM sf ORDER BY v <=> '{1:1,2:1,3:1}/3', id;
SELECT id, v <+> '{1:1,2:1,3:1}/3' AS l1 FROM sf ORDER BY v <+> '{1:1,2:1,3:1}/3', id;
DROP TABLE sf;
