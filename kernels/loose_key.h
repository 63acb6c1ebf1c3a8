// The loose key: a cheap lower bound of an entry's key, from the dot product <q, h> that tensor cores give; of L1 from the distance.
// Rust twin: crates/gpu/src/twin/scan.rs, loose_key(). Included by the scan kernels.
//
// L2, Cosine. Exactly, D^2 = ||q||^2 + ||h||^2 - 2 <q, h>, D = ||q - h||. We compute, in f32 with unit roundoff u = 2^-24,
//     s = ||q||^2 + ||h||^2     both terms rounded to nearest, and the sum:       error <= 2u s (1 + u)
//     dot                       computed with error <= E ||h||  (E: see below)
//     d2 = fma(-2, dot, s)      error <= u |d2|, and |d2| <= (||q|| + ||h||)^2 + .. <= 2 s (1 + ..): error <= 2.1u s
//     slack = fma(consts.slack, norm, 5u s rounded up to 2^-21 s)
// where consts.slack >= 2E and norm >= ||h|| (sqrt and product rounded: hence the factor 1 + 2^-22, 4u, over 2u). So
// d2 - slack <= D^2 before its own rounding, which adds at most u (2.1 s): 2u + 2.1u + 2.1u < 7u < 8u = 2^-21 is what
// the factor 2^-21 pays for; its own product's rounding is in the remaining 0.8u.
// This is where cancellation is paid: if D is small against ||q||, slack outweighs d2 and the bound is loose but valid.
// Then key = sqrt(max(0, d2 - slack)) (1 - 4g) - (err + q_err). The tight key of any engine is at least
// D (1 - g/2 - ..)(1 - 2g) - (err + q_err), less a few u D: 1.4 g D >= 33u D apart. So loose <= tight.
//
// NegIp. key = -dot - consts.slack ||h|| - err * norm_up with consts.slack >= E + (2g + 2^-21) ||q||: the tight key is
// -dot' - err q_norm (1 + 2g) with |dot' - <q, h>| <= g ||q|| ||h||, where q_norm >= ||q|| is what the caller gives; the other
// g and 2^-21 pay for the roundings of the sums here and there, and norm_up >= q_norm (1 + 4g) for those that scale with err.
//
// L1. The sum of |q - h| is computed as it stands, so that the loose key is the tight one with 1 - 4g in place of 1 - 2g. Of dim terms
// at most dim / 16 are added in a row here, and dim / 8 elsewhere, each addition off by at most u of the sum, and so is each difference. As g >=
// (dim / 8 + 24) u, sum_here (1 - 4g) <= D (1 + (dim / 16 + 18) u) (1 - 4g) is below D (1 - (dim / 8 + 10) u) (1 - 2g) <= sum_there (1 - 2g).
//
// E. hi + lo = scaled query up to a residual whose norm delta the host measures in f64. Products of halves are exact in
// f32. A tensor core adds the 16 products of a step and the accumulator with at least single precision, truncating:
// 17 terms, each off by at most 2u of the largest magnitude, which is at most ||q|| ||h||. Over pitch / 16 steps that is
// 17/16 pitch 2u, taken as (1.25 pitch + 32) 2^-23; FMA accumulation is well inside. E = that * ||q|| * 1.01 + delta.
#pragma once
#include "params.h"

// Norm of a stored vector, not below the true one.
__device__ __forceinline__ float norm_upper(float norm_sq) {
    return sqrtf(norm_sq) * (1.0f + 2.384185791015625e-7f);
}

// `slack_per_norm`: consts.slack, or consts.slack_high where only the high half took part (then the low half is part of delta).
__device__ __forceinline__ float loose_key(u32 metric, float loose_scale, const QueryConsts& q, float slack_per_norm, float dot,
                                           float norm_sq, float norm, float err) {
    const float slack = slack_per_norm * norm;
    if (metric == METRIC_NEG_IP) {
        const float key = -dot - slack - err * q.norm_up;
        // NaN (inf * 0 and the like) says nothing about the entry: no bound.
        return key == key ? key : __uint_as_float(0xFF800000u);
    }
    const float sum = q.norm_sq + norm_sq;
    const float d2 = fmaf(-2.0f, dot, sum) - fmaf(4.76837158203125e-7f, sum, slack);
    const float key = sqrtf(fmaxf(d2, 0.0f)) * loose_scale - (err + q.err);
    return key > 0.0f ? key : 0.0f; // NaN gives 0 as well
}

// `sum`: of the magnitudes of the differences.
__device__ __forceinline__ float loose_key_l1(float loose_scale, const QueryConsts& q, float sum, float err) {
    const float key = sum * loose_scale - (err + q.err);
    return key > 0.0f ? key : 0.0f; // NaN gives 0 as well
}
