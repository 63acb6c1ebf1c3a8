// The tight key and the ceiling of an entry, by direct differences (no cancellation). Included by rerank.cu and finish.cu.
//
// L2, Cosine: max(0, ||q - h|| (1 - 2g) - (err + q_err)) and ||q - h|| (1 + 2g) + (err + q_err), rounded up; L1: the same of sums of magnitudes;
// NegIp: -<q, h> -+ err ||q|| (1 + 2g); strings of bits: bit_distance.h; as omen_ivf's bound.rs, where both are proven. NaN becomes 0 or -inf, and +inf. Sums run in 32 lanes or more.
#pragma once
#include "bit_distance.h"

// A query as rows are compared to it.
__device__ __forceinline__ const float* query_of(const RerankParams& p, u32 query) {
    return p.queries + (size_t)query * (is_of_bits(p.tier.metric) ? p.tier.pitch / 2 : p.tier.pitch);
}

// Called by a whole warp: how many bits differ; all lanes get it.
__device__ __forceinline__ float differing_sum(const TierView& tier, const float* q, u32 slot) {
    const u32 n_chunks = tier.pitch / 8;
    const uint4* row = reinterpret_cast<const uint4*>(tier.rows) + (size_t)slot * n_chunks;
    const uint4* query = reinterpret_cast<const uint4*>(q);
    u32 sum = 0;
    for (u32 c = threadIdx.x & 31; c < n_chunks; c += 32) sum += differing_bits(__ldg(row + c), __ldg(query + c));
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    return (float)sum;
}

// Called by a whole warp: the sum of the squared differences, of the differences' magnitudes (L1), of the products (NegIp), or of the bits that
// differ; all lanes get it.
__device__ __forceinline__ float tight_sum(const TierView& tier, const float* q, u32 slot) {
    if (is_of_bits(tier.metric)) return differing_sum(tier, q, slot);
    const u32 lane = threadIdx.x & 31, pitch = tier.pitch;
    const __half* row = tier.rows + (size_t)slot * pitch;
    const bool by_dot = tier.metric == METRIC_NEG_IP, by_l1 = tier.metric == METRIC_L1;
    float sum = 0.0f;
    for (u32 k = lane * 8; k < pitch; k += 256) {
        const uint4 packed = __ldg(reinterpret_cast<const uint4*>(row + k));
        const u32 words[4] = {packed.x, packed.y, packed.z, packed.w};
        const float4 q0 = __ldg(reinterpret_cast<const float4*>(q + k)), q1 = __ldg(reinterpret_cast<const float4*>(q + k + 4));
        const float qs[8] = {q0.x, q0.y, q0.z, q0.w, q1.x, q1.y, q1.z, q1.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float2 h = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
            const float dx = qs[2 * w] - h.x, dy = qs[2 * w + 1] - h.y;
            // |d| times 1, or d times d: one FMA either way.
            sum = by_dot ? fmaf(qs[2 * w], h.x, sum) : fmaf(by_l1 ? fabsf(dx) : dx, by_l1 ? 1.0f : dx, sum);
            sum = by_dot ? fmaf(qs[2 * w + 1], h.y, sum) : fmaf(by_l1 ? fabsf(dy) : dy, by_l1 ? 1.0f : dy, sum);
        }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
    return sum;
}

__device__ __forceinline__ Found tight_bounds(const RerankParams& p, const QueryConsts& consts, u32 slot, float sum) {
    const float err = p.tier.err[slot];
    const u64 tid = p.tier.tids[slot];
    Found found;
    if (is_of_bits(p.tier.metric)) {
        const float distance = bit_distance(p.tier.metric, (u32)sum, consts.norm, p.tier.norm_sq[slot]);
        found.key = bit_key(p.tier.metric, distance);
        found.ceiling = bit_ceiling(p.tier.metric, distance);
    } else if (p.tier.metric == METRIC_NEG_IP) {
        const float width = err * consts.norm;
        found.key = -sum - width;
        found.ceiling = width - sum;
        if (!(found.key == found.key)) found.key = __uint_as_float(0xFF800000u);
    } else {
        const float radius = err + consts.err, distance = p.tier.metric == METRIC_L1 ? sum : sqrtf(sum);
        found.key = distance * p.tight_scale - radius;
        if (!(found.key > 0.0f)) found.key = 0.0f;
        // A unit in the last place for each of the two sums and the product.
        found.ceiling = __fadd_ru(__fmul_ru(distance, p.wide_scale), __fadd_ru(err, consts.err));
    }
    if (!(found.ceiling == found.ceiling)) found.ceiling = __uint_as_float(0x7F800000u);
    found.tid_block = (u32)tid;
    found.tid_offset = (u32)(tid >> 32);
    found.slot = slot;
    return found;
}
