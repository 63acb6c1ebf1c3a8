// plan_count, plan_items, plan_scatter: which lists meet which queries, list by list, for both rounds of a search.
//
// In:  PlanParams: the lists of each query, nearest first; the first n_first[q] belong to round 0, the others to round 1.
// Out: per round: group (query numbers by list), pairs (the pairs' numbers, query * probes + place), items and their number.
//      A round that would have more than max_items gets none, and `overflow` is set.
// plan_count: any grid, block 256, a thread per pair; plan_items: grid (2), block 1024; plan_scatter as plan_count.
//
// Two numbers, 10,000 queries x 128 lists: bytes 1.28 M pairs * 24 (10 us); operations: one atomic in L2 per pair.
#include "params.h"

// The round of a pair, or 2 if it is in none.
__device__ __forceinline__ u32 round_of(const PlanParams& p, u32 pair) {
    const u32 query = pair / p.probes, place = pair % p.probes;
    return place < p.n_first[query] ? 0 : place < p.n_probes[query] ? 1 : 2;
}

extern "C" __global__ void __launch_bounds__(256) plan_count(const __grid_constant__ PlanParams p) {
    const u32 n_pairs = p.n_queries * p.probes;
    for (u32 pair = blockIdx.x * blockDim.x + threadIdx.x; pair < n_pairs; pair += gridDim.x * blockDim.x) {
        const u32 round = round_of(p, pair);
        if (round < 2) p.pair_at[pair] = atomicAdd(p.list_pairs + (size_t)round * p.n_lists + p.lists[pair], 1u);
    }
}

// Inclusive scan over the block, of two numbers at once: in the low and the high half.
__device__ __forceinline__ u64 plan_scan(u64 x, u64* scratch) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (u32 offset = 1; offset < 32; offset <<= 1) {
        const u64 other = __shfl_up_sync(0xFFFFFFFFu, x, offset);
        if (lane >= offset) x += other;
    }
    __syncthreads();
    if (lane == 31) scratch[warp] = x;
    __syncthreads();
    if (warp == 0) {
        u64 sum = scratch[lane];
#pragma unroll
        for (u32 offset = 1; offset < 32; offset <<= 1) {
            const u64 other = __shfl_up_sync(0xFFFFFFFFu, sum, offset);
            if (lane >= offset) sum += other;
        }
        scratch[lane] = sum;
    }
    __syncthreads();
    return warp == 0 ? x : x + scratch[warp - 1];
}

// The items of one list: written by a warp together, as lists that many queries visit have many.
__device__ __forceinline__ void plan_list(ScanItem* items, u32 room, u32 n_items, u32 n_groups, const ListSlots& slots, u32 first_query,
                                          u32 n_pairs, u32 tile, u32 width) {
    for (u32 i = threadIdx.x & 31; i < n_items && i < room; i += 32) {
        // The queries of a row tile follow each other, so that its rows come from L2 after the first.
        const u32 row = i / n_groups * tile, query = i % n_groups * width;
        ScanItem item;
        item.first_slot = slots.first_slot + row;
        item.first_row = row;
        item.first_query = first_query + query;
        item.n_rows = (unsigned short)min(tile, slots.n_slots - row);
        item.n_queries = (unsigned short)min(width, n_pairs - query);
        items[i] = item;
    }
}

extern "C" __global__ void __launch_bounds__(1024) plan_items(const __grid_constant__ PlanParams p) {
    __shared__ u64 scratch[32];
    __shared__ u64 carried; // pairs in the low half, items in the high one
    const u32 round = blockIdx.x, tid = threadIdx.x;
    const u32 tile = p.tile_rows[round], width = p.width[round];
    const u32* counts = p.list_pairs + (size_t)round * p.n_lists;
    u32* starts = p.starts + (size_t)round * p.n_lists;
    ScanItem* items = p.items + (size_t)round * p.max_items;
    const u32 first_pair = round * p.n_queries * p.probes; // of this round's half of group
    if (tid == 0) carried = 0;
    __syncthreads();
    for (u32 base = 0; base < p.n_lists; base += 1024) {
        const u32 list = base + tid;
        const u32 n_pairs = list < p.n_lists ? counts[list] : 0;
        ListSlots slots = {0, 0};
        if (n_pairs > 0) slots = p.slots[list];
        const u32 n_groups = (n_pairs + width - 1) / width, n_items = n_groups * ((slots.n_slots + tile - 1) / tile);
        const u64 upto = plan_scan(((u64)n_items << 32) | n_pairs, scratch);
        const u64 before = carried + upto - (((u64)n_items << 32) | n_pairs);
        const u32 pairs_before = (u32)before, items_before = (u32)(before >> 32);
        if (list < p.n_lists) starts[list] = pairs_before;
        u32 busy = __ballot_sync(0xFFFFFFFFu, n_items > 0 && items_before < p.max_items);
        while (busy != 0) {
            const u32 lane = __ffs(busy) - 1;
            busy &= busy - 1;
            const auto of_lane = [&](u32 x) { return __shfl_sync(0xFFFFFFFFu, x, lane); };
            const u32 at = of_lane(items_before);
            const ListSlots theirs = {of_lane(slots.first_slot), of_lane(slots.n_slots)};
            const u32 their_items = of_lane(n_items), their_groups = of_lane(n_groups);
            const u32 their_first = first_pair + of_lane(pairs_before), their_pairs = of_lane(n_pairs);
            plan_list(items + at, p.max_items - at, their_items, their_groups, theirs, their_first, their_pairs, tile, width);
        }
        __syncthreads();
        if (tid == 1023) carried += upto;
        __syncthreads();
    }
    if (tid == 0) {
        const u32 n_items = (u32)(carried >> 32);
        const bool fits = n_items <= p.max_items;
        p.n_items[round] = fits ? n_items : 0;
        if (!fits) *p.overflow = 1;
    }
}

extern "C" __global__ void __launch_bounds__(256) plan_scatter(const __grid_constant__ PlanParams p) {
    const u32 n_pairs = p.n_queries * p.probes;
    for (u32 pair = blockIdx.x * blockDim.x + threadIdx.x; pair < n_pairs; pair += gridDim.x * blockDim.x) {
        const u32 round = round_of(p, pair);
        if (round == 2) continue;
        const u32 at = round * n_pairs + p.starts[(size_t)round * p.n_lists + p.lists[pair]] + p.pair_at[pair];
        p.group[at] = pair / p.probes;
        p.pairs[at] = pair;
    }
}
