// finish_selected: tight keys of the selected survivors, sorted: a query's answer.
//
// In:  RerankParams; counts[q] <= keep survivors of query q (slots in the low halves), the table of them fits shared memory; thresholds, overflows.
// Out: out[q, i], i < heads[q].count <= k, ascending by (key, tid): those with keys up to the frontier, perhaps in the host's memory.
//      heads[q].frontier: entries not among them have keys of at least this: the threshold, which is +inf if none was left out, or the
//      key of the first that found no room among the k.
// Grid (n_queries), block 512: one warp per survivor at a time. Dynamic shared memory: 16 bytes for each of sort_width survivors.
//
// Two numbers, 10,000 queries x 74 survivors x 768: bytes 1.1 GB (0.38 ms at 3 TB/s); operations 3 per byte / 2.
#include "bitonic_sort.h"
#include "tight_key.h"

#define FINISH_THREADS 512

// (key, tid) in one order.
__device__ __forceinline__ bool finish_less(const Found& a, const Found& b) {
    const u32 ka = ordered_bits(a.key), kb = ordered_bits(b.key);
    if (ka != kb) return ka < kb;
    return a.tid_block != b.tid_block ? a.tid_block < b.tid_block : a.tid_offset < b.tid_offset;
}

extern "C" __global__ void __launch_bounds__(FINISH_THREADS) finish_selected(const __grid_constant__ RerankParams p) {
    Found* found = reinterpret_cast<Found*>(dynamic_shared);
    __shared__ u32 n_within;
    const u32 query = blockIdx.x, lane = threadIdx.x & 31;
    const u32 n = min(p.counts[query], p.keep);
    u32 width = 2;
    while (width < n) width <<= 1;
    const float infinity = __uint_as_float(0x7F800000u);
    const Found none = {infinity, infinity, 0xFFFFFFFFu, 0xFFFFFFFFu};
    const QueryConsts consts = p.consts[query];
    if (threadIdx.x == 0) n_within = 0;
    for (u32 i = n + threadIdx.x; i < width; i += FINISH_THREADS) found[i] = none;
    for (u32 i = threadIdx.x >> 5; i < n; i += FINISH_THREADS / 32) {
        const u64 survivor = p.survivors[(size_t)query * p.cap + i];
        if (survivor == ~0ull) { // stands for nothing
            if (lane == 0) found[i] = none;
            continue;
        }
        const float sum = tight_sum(p.tier, p.queries + (size_t)query * p.tier.pitch, (u32)survivor);
        if (lane == 0) found[i] = tight_bounds(p, consts, (u32)survivor, sum);
    }
    bitonic_sort(
        width, [&](u32 a, u32 b) { return finish_less(found[a], found[b]); },
        [&](u32 a, u32 b) {
            const Found x = found[a];
            found[a] = found[b];
            found[b] = x;
        });

    const float threshold = p.thresholds[query];
    for (u32 i = threadIdx.x; i < n; i += FINISH_THREADS) {
        const bool within = found[i].tid_block != 0xFFFFFFFFu && found[i].key <= threshold;
        if (within) atomicAdd(&n_within, 1u);
        if (within && i < p.k) p.out[(size_t)query * p.k + i] = found[i];
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    FoundHead head;
    head.count = min(n_within, p.k);
    head.frontier = n_within > p.k ? found[p.k].key : threshold;
    head.overflow = p.overflows[query];
    head.reserved = 0;
    p.heads[query] = head;
}
