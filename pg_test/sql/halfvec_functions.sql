-- Functions and operators on halfvecs.

-- arithmetic
SELECT '[1,2,3]'::halfvec + '[4,5,6]' AS add, '[1,2,3]'::halfvec - '[4,5,6]' AS sub,
       '[1,2,3]'::halfvec * '[4,5,6]' AS mul, '[1,2,3]'::halfvec || '[4,5]' AS concat;
SELECT '[0.1]'::halfvec + '[0.2]' AS add, '[0.3]'::halfvec - '[0.1]' AS sub, '[0.1]'::halfvec * '[3]' AS mul;
SELECT '[0,-0,6e-8]'::halfvec * '[5,1,0]' AS zero_is_no_underflow, '[65504,65504]'::halfvec + '[15,-15]' AS nearly_overflow,
       '[6e-8]'::halfvec * '[0.50048828125]' AS nearly_underflow;
-- more coordinates than are computed at a time
SELECT sum.v = array_agg_v AS add, mul.v = array_mul_v AS mul FROM
  (SELECT array_agg(i)::halfvec + array_agg(2 * i)::halfvec AS v, array_agg(3 * i)::halfvec AS array_agg_v FROM generate_series(1, 333) i) sum,
  (SELECT array_agg(i % 40)::halfvec * array_agg(i % 7)::halfvec AS v, array_agg((i % 40) * (i % 7))::halfvec AS array_mul_v FROM generate_series(1, 333) i) mul;

-- distances, dimensions below and above a SIMD register
SELECT l2_distance('[0,0]'::halfvec, '[3,4]'), '[0,0]'::halfvec <-> '[0,1]' AS op, l2_distance('[65504]'::halfvec, '[-65504]') AS far;
SELECT l2_distance('[1,1,1,1,1,1,1,1,1]'::halfvec, '[1,1,1,1,1,1,1,4,5]');
SELECT inner_product('[1,2]'::halfvec, '[3,4]'), '[1,2]'::halfvec <#> '[3,4]' AS op, inner_product('[65504]'::halfvec, '[65504]') AS large;
SELECT inner_product('[1,1,1,1,1,1,1,1,1]'::halfvec, '[1,2,3,4,5,6,7,8,9]');
SELECT l1_distance('[0,0]'::halfvec, '[3,4]'), '[0,0]'::halfvec <+> '[0,-1]' AS op, l1_distance('[65504]'::halfvec, '[-65504]') AS far;
SELECT l1_distance('[1,2,3,4,5,6,7,8,9]'::halfvec, '[0,3,2,5,4,7,6,9,8]');
SELECT cosine_distance('[1,2]'::halfvec, '[2,4]') AS same, cosine_distance('[1,0]'::halfvec, '[0,2]') AS right_angle,
       '[1,1]'::halfvec <=> '[-1,-1]' AS opposite, '[3,4]'::halfvec <=> '[4,3]' AS some;
-- no angle with a zero vector; the square of the smallest number is one
SELECT cosine_distance('[1,2]'::halfvec, '[0,0]') AS zero, cosine_distance('[65504]'::halfvec, '[65504]') AS large,
       cosine_distance('[6e-8]'::halfvec, '[6e-8]') AS small;
-- kept within 0 and 2
SELECT cosine_distance('[1,1]'::halfvec, '[1.1,1.1]'), cosine_distance('[1,1]'::halfvec, '[-1.1,-1.1]');
SELECT halfvec_l2_squared_distance('[0,0]', '[3,4]'), halfvec_negative_inner_product('[1,2]', '[3,4]');
SELECT halfvec_spherical_distance('[1,0]', '[0,1]') AS right_angle, halfvec_spherical_distance('[1,0]', '[1,0]') AS same,
       halfvec_spherical_distance('[1,0]', '[-2,0]') AS clamped, round(halfvec_spherical_distance('[1,0]', '[0.5,0.8660254]')::numeric, 6) AS third;

-- each length up to four registers and one more agrees with a sum in double precision
SELECT bool_and(abs((a <-> b) - l2) <= 1e-6 * l2) AS l2, bool_and(abs((a <+> b) - l1) <= 1e-6 * l1) AS l1,
       bool_and(abs((a <#> b) + ip) <= 1e-6 * ip_abs) AS ip,
       bool_and(abs((a <=> b) - (1 - ip / sqrt(aa * bb))) <= 2e-6) AS cosine, count(*)
  FROM (SELECT dim, array_agg(x ORDER BY i)::halfvec AS a, array_agg(y ORDER BY i)::halfvec AS b,
               sqrt(sum((x - y) ^ 2)) AS l2, sum(abs(x - y)) AS l1, sum(x * y) AS ip, sum(abs(x * y)) AS ip_abs,
               sum(x * x) AS aa, sum(y * y) AS bb
          FROM (SELECT dim, i, (round((sin(i * dim) * 1024)::numeric) / 1024)::float8 AS x, (round((cos(i * 1.7 + dim) * 1024)::numeric) / 1024)::float8 AS y
                  FROM generate_series(1, 130) dim, generate_series(1, dim) i) c GROUP BY dim) d;

-- measures
SELECT vector_dims('[1,2,3]'::halfvec), l2_norm('[3,4]'::halfvec), l2_norm('[0,0]'::halfvec), l2_norm('[-2]'::halfvec), l2_norm('[30000,40000]'::halfvec);
SELECT round(l2_norm('[1,1,1,1,1,1,1,1,1,1]'::halfvec)::numeric, 12);
SELECT l2_normalize('[3,4]'::halfvec), l2_normalize('[0,0.1]'::halfvec), l2_normalize('[0,0]'::halfvec), l2_normalize('[-65504]'::halfvec),
       l2_normalize('[6e-8,0]'::halfvec), l2_normalize('[1,1]'::halfvec), l2_normalize('[65504,6e-8]'::halfvec);

-- bits: set where positive
SELECT binary_quantize('[1,0,-1]'::halfvec), binary_quantize('[-0,6e-8]'::halfvec);
SELECT binary_quantize('[0,0.1,-0.2,-0.3,0.4,0.5,0.6,-0.7,0.8,-0.9,1]'::halfvec);
SELECT binary_quantize('[1,2,3,-4,5,6,-7,8,1,-2,-3,4,5,-6,7,8,-1,2,3]'::halfvec);
SELECT length(binary_quantize(array_fill(1, ARRAY[16000])::halfvec)), binary_quantize('[1,-1]'::halfvec)::varbit, binary_quantize('[1,-1,1]'::halfvec)::bit(5);

-- parts: from 1, what lies outside is left out
SELECT subvector('[1,2,3,4,5]'::halfvec, 1, 3), subvector('[1,2,3,4,5]'::halfvec, 3, 2), subvector('[1,2,3,4,5]'::halfvec, 5, 1);
SELECT subvector('[1,2,3,4,5]'::halfvec, -1, 3), subvector('[1,2,3,4,5]'::halfvec, 3, 9), subvector('[1,2,3,4,5]'::halfvec, 0, 2147483647);
SELECT subvector('[1,2,3,4,5]'::halfvec, 3, 2147483647), subvector('[1,2,3,4,5]'::halfvec, -2147483644, 2147483647);

-- NULL in, NULL out
SELECT NULL::halfvec <-> '[1]' AS l2, '[1]'::halfvec <=> NULL AS cosine, '[1]'::halfvec + NULL AS add, vector_dims(NULL::halfvec) AS dims,
       subvector('[1]'::halfvec, NULL, 1) AS part, l2_normalize(NULL::halfvec) AS unit;

-- nearest first without an index
CREATE TABLE hf (id int, v halfvec(3));
INSERT INTO hf VALUES (1, '[1,2,3]'), (2, '[4,5,6]'), (3, NULL), (4, '[0,0,0]'), (5, '[-1,-2,-3]');
SELECT id, v <-> '[1,1,1]' AS l2 FROM hf ORDER BY v <-> '[1,1,1]', id;
SELECT id, v <#> '[1,1,1]' AS neg_ip FROM hf ORDER BY v <#> '[1,1,1]', id;
SELECT id, round((v <=> '[1,1,1]')::numeric, 6) AS cosine FROM hf ORDER BY v <=> '[1,1,1]', id;
SELECT id, v <+> '[1,1,1]' AS l1 FROM hf ORDER BY v <+> '[1,1,1]', id;
DROP TABLE hf;
