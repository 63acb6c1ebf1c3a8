// finish_selected: tight keys of the selected survivors, sorted: a query's answer.
//
// In:  RerankParams; counts[q] <= keep survivors of query q (slots in the low halves), the table of them fits shared memory; thresholds, overflows.
// Out: out[q, i], i < heads[q].count <= k, ascending by (key, tid): those with keys up to the frontier, perhaps in the host's memory.
//      heads[q].frontier: entries not among them have keys of at least this: the threshold, which is +inf if none was left out, or the
//      key of the first that found no room among the k.
// Grid (n_queries), block 512 (few queries) or fewer: one warp per survivor at a time. Dynamic shared memory: 28 bytes for each survivor,
// their number rounded up to a power of two.
//
// Two numbers, 10,000 queries x 74 survivors x 768: bytes 1.1 GB (0.38 ms at 3 TB/s); operations 3 per byte / 2.
#include "bitonic_sort.h"
#include "tight_key.h"

// (key, tid) in one order.
__device__ __forceinline__ bool finish_less(const Found* found, u64 a, u64 b) {
    if ((a >> 32) != (b >> 32) || a == b) return a < b;
    if (b == ~0ull) return true;
    const Found &x = found[(u32)a], &y = found[(u32)b];
    return x.tid_block != y.tid_block ? x.tid_block < y.tid_block : x.tid_offset < y.tid_offset;
}

extern "C" __global__ void __launch_bounds__(512) finish_selected(const __grid_constant__ RerankParams p) {
    __shared__ u32 n_within;
    const u32 query = blockIdx.x, lane = threadIdx.x & 31;
    const u32 n = min(p.counts[query], p.keep);
    u32 width = 2;
    while (width < n) width <<= 1;
    u64* order = reinterpret_cast<u64*>(dynamic_shared); // [width] ordered key << 32 | number, or ~0
    Found* found = reinterpret_cast<Found*>(order + width);
    const QueryConsts consts = p.consts[query];
    if (threadIdx.x == 0) n_within = 0;
    for (u32 i = n + threadIdx.x; i < width; i += blockDim.x) order[i] = ~0ull;
    for (u32 i = threadIdx.x >> 5; i < n; i += blockDim.x / 32) {
        const u64 survivor = p.survivors[(size_t)query * p.cap + i];
        if (survivor == ~0ull) { // stands for nothing
            if (lane == 0) order[i] = ~0ull;
            continue;
        }
        const float sum = tight_sum(p.tier, query_of(p, query), (u32)survivor);
        if (lane == 0) {
            found[i] = tight_bounds(p, consts, (u32)survivor, sum);
            order[i] = ((u64)ordered_bits(found[i].key) << 32) | i;
        }
    }
    bitonic_sort(
        width, [&](u32 a, u32 b) { return finish_less(found, order[a], order[b]); },
        [&](u32 a, u32 b) {
            const u64 x = order[a];
            order[a] = order[b];
            order[b] = x;
        });

    const float threshold = p.thresholds[query];
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        const u64 x = order[i];
        if (x == ~0ull) continue;
        const Found f = found[(u32)x];
        if (f.key > threshold) continue;
        atomicAdd(&n_within, 1u);
        if (i < p.k) p.out[(size_t)query * p.k + i] = f;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    FoundHead head;
    head.count = min(n_within, p.k);
    head.frontier = n_within > p.k ? found[(u32)order[p.k]].key : threshold;
    head.overflow = p.overflows[query];
    head.reserved = 0;
    p.heads[query] = head;
}
