// select_probes, select_probes_wide: the lists each query visits, nearest first, and those of its first round.
//
// In:  ProbeParams: ranks of all centroids (scan kernels, SCAN_RANK).
// Out: lists[q, 0 .. probes] nearest first, ties by list number; n_probes[q] of them lie within `spread` of the nearest; the first
//      n_first[q] have at least first_rows rows (or are all there are) and at most cap, unless one alone has more: then the query
//      overflows. places: rows before each list of the first round; counts[q]: rows of the first round.
// Grid (n_queries), block 256, or 1024 (_wide) for few queries, dynamic shared memory sort_width * 8 + (ranks_in_shared ? n_lists * 4 : 0).
//
// Two numbers, 10,000 queries x 4,096 lists: bytes 164 MB (55 us at 3 TB/s); operations 4 passes over shared memory.
#include "bitonic_sort.h"
#include "radix_select.h"

template <u32 THREADS>
__device__ __forceinline__ void probes_of_query(const ProbeParams& p, RadixShared<THREADS>& radix, u32& n_sorted, u32& within) {
    u64* sorted = reinterpret_cast<u64*>(dynamic_shared); // [sort_width], then the ranks
    const u32 query = blockIdx.x, tid = threadIdx.x;
    const float* ranks = p.ranks + (size_t)query * p.n_lists;
    if (p.ranks_in_shared) {
        float* copy = reinterpret_cast<float*>(sorted + p.sort_width);
        for (u32 i = tid; i < p.n_lists; i += THREADS) copy[i] = ranks[i];
        ranks = copy;
    }
    if (tid == 0) n_sorted = within = 0;
    for (u32 i = tid; i < p.sort_width; i += THREADS) sorted[i] = ~0ull;
    __syncthreads();
    const auto number = [&](u32 list) { return ((u64)ordered_bits(ranks[list]) << 32) | list; };
    const RadixCut cut = radix_cut<THREADS>(number, p.n_lists, p.probes, radix);
    for (u32 i = tid; i < p.n_lists; i += THREADS) {
        const u64 x = number(i);
        if (cut.takes(x)) sorted[atomicAdd(&n_sorted, 1u)] = x;
    }
    bitonic_sort(
        p.sort_width, [&](u32 a, u32 b) { return sorted[a] < sorted[b]; },
        [&](u32 a, u32 b) {
            const u64 x = sorted[a];
            sorted[a] = sorted[b];
            sorted[b] = x;
        });

    const QueryConsts consts = p.consts[query];
    const bool by_ip = p.metric == METRIC_NEG_IP;
    const float nearest = from_ordered_bits((u32)(sorted[0] >> 32));
    const size_t base = (size_t)query * p.probes;
    u32 mine = 0;
    for (u32 i = tid; i < p.probes; i += THREADS) {
        const float rank = from_ordered_bits((u32)(sorted[i] >> 32));
        const u32 list = (u32)sorted[i];
        const float farther = by_ip ? (rank - nearest) / fmaxf(consts.norm_up, 1.17549435e-38f) : sqrtf(rank) - sqrtf(nearest);
        mine += farther <= p.spread || i == 0;
        p.lists[base + i] = list;
        // Lowered by what rounding may have added (loose_key.h): bounds of entries start here.
        const float list_norm_sq = p.list_norms[list];
        const float slack = consts.slack * sqrtf(list_norm_sq) * 1.000001f;
        p.adds[base + i] = rank - (by_ip ? slack : fmaf(4.76837158203125e-7f, consts.norm_sq + list_norm_sq, slack));
        const float l2sq = by_ip ? consts.norm_sq + list_norm_sq + 2.0f * rank : rank;
        p.distances[base + i] = sqrtf(fmaxf(l2sq, 0.0f));
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) mine += __shfl_xor_sync(0xFFFFFFFFu, mine, offset);
    if ((tid & 31) == 0) atomicAdd(&within, mine);
    __syncthreads();
    if (tid >= 32) return;

    // One warp: rows of the first round, list by list until there are enough.
    const u32 n_probes = within;
    u32 rows = 0, n_first = 0;
    bool going = true;
    for (u32 first = 0; going && first < n_probes; first += 32) {
        const u32 i = first + tid;
        const u32 here = i < n_probes ? p.list_rows[(u32)sorted[i]] : 0;
        u32 upto = here;
#pragma unroll
        for (u32 offset = 1; offset < 32; offset <<= 1) {
            const u32 other = __shfl_up_sync(0xFFFFFFFFu, upto, offset);
            if (tid >= offset) upto += other;
        }
        const u32 before = rows + upto - here;
        // Rows before and with a list only grow along the lists: those taken are the first ones.
        const bool take = i < n_probes && (i == 0 || (before < p.first_rows && before + here <= p.cap));
        if (take) p.places[base + i] = before;
        const u32 taken = __ballot_sync(0xFFFFFFFFu, take);
        const u32 n = __popc(taken);
        if (n > 0) rows = __shfl_sync(0xFFFFFFFFu, before + here, n - 1);
        n_first += n;
        going = n == 32;
    }
    if (tid == 0) {
        p.n_probes[query] = n_probes;
        p.n_first[query] = n_first;
        p.counts[query] = min(rows, p.cap);
        if (rows > p.cap) p.overflows[query] |= OVERFLOW_SURVIVORS;
    }
}

extern "C" __global__ void __launch_bounds__(256) select_probes(const __grid_constant__ ProbeParams p) {
    __shared__ RadixShared<256> radix;
    __shared__ u32 n_sorted, within;
    probes_of_query<256>(p, radix, n_sorted, within);
}

extern "C" __global__ void __launch_bounds__(1024) select_probes_wide(const __grid_constant__ ProbeParams p) {
    __shared__ RadixShared<1024> radix;
    __shared__ u32 n_sorted, within;
    probes_of_query<1024>(p, radix, n_sorted, within);
}
