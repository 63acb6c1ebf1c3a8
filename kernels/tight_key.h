// The tight key and the ceiling of an entry, by direct differences (no cancellation). Included by rerank.cu and finish.cu.
//
// L2, Cosine: max(0, ||q - h|| (1 - 2g) - (err + q_err)) and ||q - h|| (1 + 2g) + (err + q_err), rounded up; NegIp: -<q, h> -+ err ||q|| (1 + 2g);
// as omen_ivf's bound.rs, where both are proven. NaN becomes 0 or -inf, and +inf. Sums run in 32 lanes or more.
#pragma once
#include "params.h"

// Called by a whole warp: the sum of the squared differences, or of the products; all lanes get it.
__device__ __forceinline__ float tight_sum(const TierView& tier, const float* q, u32 slot) {
    const u32 lane = threadIdx.x & 31, pitch = tier.pitch;
    const __half* row = tier.rows + (size_t)slot * pitch;
    const bool by_dot = tier.metric == METRIC_NEG_IP;
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
            sum = by_dot ? fmaf(qs[2 * w], h.x, sum) : fmaf(dx, dx, sum);
            sum = by_dot ? fmaf(qs[2 * w + 1], h.y, sum) : fmaf(dy, dy, sum);
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
    if (p.tier.metric == METRIC_NEG_IP) {
        const float width = err * consts.norm;
        found.key = -sum - width;
        found.ceiling = width - sum;
        if (!(found.key == found.key)) found.key = __uint_as_float(0xFF800000u);
    } else {
        const float radius = err + consts.err, root = sqrtf(sum);
        found.key = root * p.tight_scale - radius;
        if (!(found.key > 0.0f)) found.key = 0.0f;
        // A unit in the last place for each of the two sums and the product.
        found.ceiling = __fadd_ru(__fmul_ru(root, p.wide_scale), __fadd_ru(err, consts.err));
    }
    if (!(found.ceiling == found.ceiling)) found.ceiling = __uint_as_float(0x7F800000u);
    found.tid_block = (u32)tid;
    found.tid_offset = (u32)(tid >> 32);
    found.slot = slot;
    return found;
}
