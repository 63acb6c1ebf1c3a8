// rerank_selected: tight keys of the selected survivors.
//
// In:  RerankParams; counts[q] <= keep survivors of query q (slots in the low halves).
// Out: out[q, i] for i < counts[q], in the survivors' order.
// Grid (n_queries, ceil(keep / 8)), block 256: one warp per survivor, its lanes split the dimensions. pitch % 32 == 0.
//
// Two numbers, 256 queries x 74 survivors x 768: bytes 29 MB (10 us at 3 TB/s); operations 3 per byte / 2.
#include "tight_key.h"

extern "C" __global__ void __launch_bounds__(256) rerank_selected(const __grid_constant__ RerankParams p) {
    const u32 query = blockIdx.x, i = blockIdx.y * 8 + (threadIdx.x >> 5);
    if (i >= min(p.counts[query], p.keep)) return;
    const u32 slot = (u32)p.survivors[(size_t)query * p.cap + i];
    const float sum = tight_sum(p.tier, query_of(p, query), slot);
    if ((threadIdx.x & 31) == 0) p.out[(size_t)query * p.keep + i] = tight_bounds(p, p.consts[query], slot, sum);
}
