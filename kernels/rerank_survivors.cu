// rerank_survivors: replaces the bounds of a query's survivors by tight keys, by direct differences (no cancellation).
//
// In:  RerankSurvivorsParams; survivors base[q] .. min(counts[q], cap) of each query, slots in the low halves.
// Out: the same survivors in place as (tight key, slot); key as rerank_selected. What names no slot (~0) stays as it is.
// Grid (n_queries, any), block 256: one warp per survivor, striding over the query's; its lanes split the dimensions. pitch % 32 == 0.
//
// Two numbers, 256 queries x 500 survivors x 768: bytes 197 MB (66 us at 3 TB/s); operations 3 per 2 bytes (295 M, 6 us at 50 T/s).
#include "params.h"

#define RERANK_PIECES 4 // pieces of 256 dimensions whose loads are in flight together

extern "C" __global__ void __launch_bounds__(256) rerank_survivors(const __grid_constant__ RerankSurvivorsParams p) {
    const u32 query = blockIdx.x, lane = threadIdx.x & 31;
    const u32 first = p.base ? p.base[query] : 0, count = min(p.counts[query], p.cap);
    const bool by_dot = p.metric == METRIC_NEG_IP;
    const float* q = p.queries + (size_t)query * p.pitch;
    u64* survivors = p.survivors + (size_t)query * p.cap;
    // 64 bits: first and stride may both be near 2^32.
    for (u64 i = (u64)first + blockIdx.y * 8 + (threadIdx.x >> 5); i < count; i += gridDim.y * 8) {
        const u32 slot = (u32)survivors[i];
        if (slot >= p.n_slots) continue;
        const __half* row = p.rows + (size_t)slot * p.pitch;
        float sum = 0.0f;
        for (u32 base = lane * 8; base < p.pitch; base += RERANK_PIECES * 256) {
            uint4 packed[RERANK_PIECES];
#pragma unroll
            for (int s = 0; s < RERANK_PIECES; ++s) {
                packed[s] = make_uint4(0, 0, 0, 0);
                if (base + s * 256 < p.pitch) packed[s] = __ldg(reinterpret_cast<const uint4*>(row + base + s * 256));
            }
#pragma unroll
            for (int s = 0; s < RERANK_PIECES; ++s) {
                if (base + s * 256 >= p.pitch) break;
                const float4* coordinates = reinterpret_cast<const float4*>(q + base + s * 256);
                const float4 q0 = __ldg(coordinates), q1 = __ldg(coordinates + 1);
                const float qs[8] = {q0.x, q0.y, q0.z, q0.w, q1.x, q1.y, q1.z, q1.w};
                const u32 words[4] = {packed[s].x, packed[s].y, packed[s].z, packed[s].w};
#pragma unroll
                for (int w = 0; w < 4; ++w) {
                    const float2 h = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
                    const float dx = qs[2 * w] - h.x, dy = qs[2 * w + 1] - h.y;
                    sum = by_dot ? fmaf(qs[2 * w], h.x, sum) : fmaf(dx, dx, sum);
                    sum = by_dot ? fmaf(qs[2 * w + 1], h.y, sum) : fmaf(dy, dy, sum);
                }
            }
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
        if (lane != 0) continue;

        const QueryConsts consts = p.consts[query];
        const float err = p.err[slot];
        float key;
        if (by_dot) {
            key = -sum - err * consts.norm;
            key = key == key ? key : __uint_as_float(0xFF800000u);
        } else {
            key = sqrtf(sum) * p.tight_scale - (err + consts.err);
            key = key > 0.0f ? key : 0.0f;
        }
        survivors[i] = ((u64)ordered_bits(key) << 32) | slot;
    }
}
