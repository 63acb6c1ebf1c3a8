-- Functions and operators on vectors.

-- arithmetic
SELECT '[1,2,3]'::vector + '[4,5,6]' AS add, '[1,2,3]'::vector - '[4,5,6]' AS sub,
       '[1,2,3]'::vector * '[4,5,6]' AS mul, '[1,2,3]'::vector || '[4,5]' AS concat;
SELECT '[0.1]'::vector + '[0.2]' AS add, '[0.3]'::vector - '[0.1]' AS sub, '[0.1]'::vector * '[3]' AS mul;
SELECT '[0,-0,1e-30]'::vector * '[5,1,0]' AS zero_is_no_underflow;

-- distances, dimensions below and above a SIMD register
SELECT l2_distance('[0,0]'::vector, '[3,4]'), '[0,0]'::vector <-> '[0,1]' AS op, l2_distance('[3e38]'::vector, '[-3e38]') AS overflow;
SELECT l2_distance('[1,1,1,1,1,1,1,1,1]'::vector, '[1,1,1,1,1,1,1,4,5]');
SELECT inner_product('[1,2]'::vector, '[3,4]'), '[1,2]'::vector <#> '[3,4]' AS op, inner_product('[3e38]'::vector, '[3e38]') AS overflow;
SELECT inner_product('[1,1,1,1,1,1,1,1,1]'::vector, '[1,2,3,4,5,6,7,8,9]');
SELECT l1_distance('[0,0]'::vector, '[3,4]'), '[0,0]'::vector <+> '[0,-1]' AS op, l1_distance('[3e38]'::vector, '[-3e38]') AS overflow;
SELECT l1_distance('[1,2,3,4,5,6,7,8,9]'::vector, '[0,3,2,5,4,7,6,9,8]');
SELECT cosine_distance('[1,2]'::vector, '[2,4]') AS same, cosine_distance('[1,0]'::vector, '[0,2]') AS right_angle,
       '[1,1]'::vector <=> '[-1,-1]' AS opposite, '[3,4]'::vector <=> '[4,3]' AS some;
-- no angle: a zero vector, or a square that overflows or underflows f32
SELECT cosine_distance('[1,2]'::vector, '[0,0]') AS zero, cosine_distance('[3e38]'::vector, '[3e38]') AS overflow,
       cosine_distance('[1e-30]'::vector, '[1e-30]') AS underflow;
-- kept within 0 and 2
SELECT cosine_distance('[1,1]'::vector, '[1.1,1.1]'), cosine_distance('[1,1]'::vector, '[-1.1,-1.1]');
SELECT min(d) >= 0 AND max(d) <= 2 AS in_range FROM (
  SELECT cosine_distance(v, (v * array_fill(s, ARRAY[vector_dims(v)])::vector)) AS d
    FROM (SELECT array_agg(sin(i * n)::real)::vector AS v FROM generate_series(1, 40) n, generate_series(1, 37) i GROUP BY n) x,
         unnest(ARRAY[-3.1, -0.7, 0.3, 1.9]) s) y;
SELECT vector_l2_squared_distance('[0,0]', '[3,4]'), vector_negative_inner_product('[1,2]', '[3,4]');
SELECT vector_spherical_distance('[1,0]', '[0,1]') AS right_angle, vector_spherical_distance('[1,0]', '[1,0]') AS same,
       vector_spherical_distance('[1,0]', '[-2,0]') AS clamped, round(vector_spherical_distance('[1,0]', '[0.5,0.8660254]')::numeric, 6) AS third;

-- each length up to four registers and one more agrees with a sum in double precision
SELECT bool_and(abs((a <-> b) - l2) <= 1e-6 * l2) AS l2, bool_and(abs((a <+> b) - l1) <= 1e-6 * l1) AS l1,
       bool_and(abs((a <#> b) + ip) <= 1e-6 * ip_abs) AS ip,
       bool_and(abs((a <=> b) - (1 - ip / sqrt(aa * bb))) <= 2e-6) AS cosine, count(*)
  FROM (SELECT dim, array_agg(x ORDER BY i)::vector AS a, array_agg(y ORDER BY i)::vector AS b,
               sqrt(sum((x - y) ^ 2)) AS l2, sum(abs(x - y)) AS l1, sum(x * y) AS ip, sum(abs(x * y)) AS ip_abs,
               sum(x * x) AS aa, sum(y * y) AS bb
          FROM (SELECT dim, i, sin(i * dim)::real::float8 AS x, cos(i * 1.7 + dim)::real::float8 AS y
                  FROM generate_series(1, 130) dim, generate_series(1, dim) i) c GROUP BY dim) d;

-- measures
SELECT vector_dims('[1,2,3]'::vector), vector_norm('[3,4]'), vector_norm('[0,0]'), vector_norm('[-2]'), vector_norm('[3e37,4e37]')::real;
SELECT round(vector_norm('[1,1,1,1,1,1,1,1,1,1]')::numeric, 12);
SELECT l2_normalize('[3,4]'::vector), l2_normalize('[0,0.1]'::vector), l2_normalize('[0,0]'::vector), l2_normalize('[-3e38]'::vector),
       l2_normalize('[1e-45,0]'::vector);

-- bits: set where positive
SELECT binary_quantize('[1,0,-1]'::vector), binary_quantize('[-0,1e-45]'::vector);
SELECT binary_quantize('[0,0.1,-0.2,-0.3,0.4,0.5,0.6,-0.7,0.8,-0.9,1]'::vector);
SELECT binary_quantize('[1,2,3,-4,5,6,-7,8,1,-2,-3,4,5,-6,7,8,-1,2,3]'::vector);
SELECT length(binary_quantize(array_fill(1, ARRAY[16000])::vector)), binary_quantize('[1,-1]'::vector)::varbit, binary_quantize('[1,-1,1]'::vector)::bit(5);

-- parts: from 1, what lies outside is left out
SELECT subvector('[1,2,3,4,5]'::vector, 1, 3), subvector('[1,2,3,4,5]'::vector, 3, 2), subvector('[1,2,3,4,5]'::vector, 5, 1);
SELECT subvector('[1,2,3,4,5]'::vector, -1, 3), subvector('[1,2,3,4,5]'::vector, 3, 9), subvector('[1,2,3,4,5]'::vector, 0, 2147483647);
SELECT subvector('[1,2,3,4,5]'::vector, 3, 2147483647), subvector('[1,2,3,4,5]'::vector, -2147483644, 2147483647);

-- NULL in, NULL out
SELECT NULL::vector <-> '[1]' AS l2, '[1]'::vector <=> NULL AS cosine, '[1]'::vector + NULL AS add, vector_dims(NULL::vector) AS dims,
       subvector('[1]'::vector, NULL, 1) AS part, l2_normalize(NULL::vector) AS unit;

-- nearest first without an index
CREATE TABLE vf (id int, v vector(3));
INSERT INTO vf VALUES (1, '[1,2,3]'), (2, '[4,5,6]'), (3, NULL), (4, '[0,0,0]'), (5, '[-1,-2,-3]');
SELECT id, v <-> '[1,1,1]' AS l2 FROM vf ORDER BY v <-> '[1,1,1]', id;
SELECT id, v <#> '[1,1,1]' AS neg_ip FROM vf ORDER BY v <#> '[1,1,1]', id;
SELECT id, round((v <=> '[1,1,1]')::numeric, 6) AS cosine FROM vf ORDER BY v <=> '[1,1,1]', id;
SELECT id, v <+> '[1,1,1]' AS l1 FROM vf ORDER BY v <+> '[1,1,1]', id;
DROP TABLE vf;
