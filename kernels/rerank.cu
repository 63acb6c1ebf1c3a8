// rerank_selected: tight keys of the selected survivors, by direct differences (no cancellation).
//
// In:  RerankParams; counts[q] <= keep survivors of query q (slots in the low halves).
// Out: out[q, i] for i < counts[q]: tight key, slot, tid. L2, Cosine: max(0, ||q - h|| (1 - 2g) - (err + q_err));
//      NegIp: -<q, h> - err ||q|| (1 + 2g), as omen_ivf's bound.rs. NaN becomes 0 or -inf. Sums run in 32 lanes or more.
// Grid (n_queries, ceil(keep / 8)), block 256: one warp per survivor, its lanes split the dimensions. pitch % 32 == 0.
//
// Two numbers, 256 queries x 74 survivors x 768: bytes 29 MB (10 us at 3 TB/s); operations 3 per byte / 2.
#include "params.h"

extern "C" __global__ void __launch_bounds__(256) rerank_selected(const __grid_constant__ RerankParams p) {
    const u32 query = blockIdx.x, lane = threadIdx.x & 31;
    const u32 i = blockIdx.y * 8 + (threadIdx.x >> 5);
    if (i >= min(p.counts[query], p.keep)) return;
    const u32 slot = (u32)p.survivors[(size_t)query * p.cap + i];
    const u32 pitch = p.tier.pitch;
    const __half* row = p.tier.rows + (size_t)slot * pitch;
    const float* q = p.queries + (size_t)query * pitch;
    const bool by_dot = p.tier.metric == METRIC_NEG_IP;

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
    if (lane != 0) return;

    const QueryConsts consts = p.consts[query];
    const float err = p.tier.err[slot];
    float key;
    if (by_dot) {
        key = -sum - err * consts.norm;
        key = key == key ? key : __uint_as_float(0xFF800000u);
    } else {
        key = sqrtf(sum) * p.tight_scale - (err + consts.err);
        key = key > 0.0f ? key : 0.0f;
    }
    const u64 tid = p.tier.tids[slot];
    RerankOut out;
    out.key = key;
    out.slot = slot;
    out.tid_block = (u32)tid;
    out.tid_offset = (u32)(tid >> 32);
    p.out[(size_t)query * p.keep + i] = out;
}
