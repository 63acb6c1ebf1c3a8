// plan_count, plan_items, plan_scatter, plan_one: which lists meet which queries, list by list, for both rounds of a search.
//
// In:  PlanParams: the lists of each query, nearest first; the first n_first[q] belong to round 0, the others to round 1.
// Out: per round: group (query numbers by list), pairs (the pairs' numbers, query * probes + place), items and their number.
//      A round that would have more than max_items gets none, and `overflow` is set.
// plan_count: any grid, block 256, a thread per pair; plan_items: grid (2), block 1024; plan_scatter: any grid, block 256, a thread per pair
// and a warp per list. plan_one, for one query, does the work of all three: grid (2), block 1024.
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

__device__ __forceinline__ u32 items_of(u32 n_pairs, u32 n_slots, u32 tile, u32 width) {
    return (n_pairs + width - 1) / width * ((n_slots + tile - 1) / tile);
}

extern "C" __global__ void __launch_bounds__(1024) plan_items(const __grid_constant__ PlanParams p) {
    __shared__ u64 scratch[32];
    __shared__ u64 carried; // pairs in the low half, items in the high one
    const u32 round = blockIdx.x, tid = threadIdx.x;
    const size_t first_list = (size_t)round * p.n_lists;
    if (tid == 0) carried = 0;
    __syncthreads();
    for (u32 base = 0; base < p.n_lists; base += 1024) {
        const u32 list = base + tid;
        const u32 n_pairs = list < p.n_lists ? p.list_pairs[first_list + list] : 0;
        const u32 n_items = n_pairs > 0 ? items_of(n_pairs, p.slots[list].n_slots, p.tile_rows[round], p.width[round]) : 0;
        const u64 mine = ((u64)n_items << 32) | n_pairs, upto = plan_scan(mine, scratch), before = carried + upto - mine;
        if (list < p.n_lists) {
            p.starts[first_list + list] = (u32)before;
            p.item_starts[first_list + list] = (u32)(before >> 32);
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

// The items of one list and round, written by a warp together: lists that many queries visit have many.
__device__ __forceinline__ void write_items(const PlanParams& p, u32 round, u32 list, u32 n_pairs, u32 first_query, u32 first_item) {
    const u32 tile = p.tile_rows[round], width = p.width[round];
    const ListSlots slots = p.slots[list];
    const u32 n_groups = (n_pairs + width - 1) / width, n_items = items_of(n_pairs, slots.n_slots, tile, width);
    ScanItem* items = p.items + (size_t)round * p.max_items + first_item;
    for (u32 i = threadIdx.x & 31; i < n_items && first_item + i < p.max_items; i += 32) {
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

// All of it for one query, whose lists make one pair each: a block a round.
extern "C" __global__ void __launch_bounds__(1024) plan_one(const __grid_constant__ PlanParams p) {
    __shared__ u64 scratch[32];
    __shared__ u32 carried;
    const u32 round = blockIdx.x, tid = threadIdx.x, first_pair = round * p.probes;
    if (tid == 0) carried = 0;
    __syncthreads();
    for (u32 base = 0; base < p.probes; base += 1024) {
        const u32 place = base + tid;
        const bool mine = place < p.probes && round_of(p, place) == round;
        const u32 list = mine ? p.lists[place] : 0;
        const ListSlots slots = mine ? p.slots[list] : ListSlots{0, 0};
        const u32 n_items = mine ? items_of(1, slots.n_slots, p.tile_rows[round], p.width[round]) : 0;
        const u32 upto = (u32)plan_scan(n_items, scratch), first_item = carried + upto - n_items;
        if (place < p.probes) {
            p.group[first_pair + place] = 0;
            p.pairs[first_pair + place] = place;
        }
        const u32 tile = p.tile_rows[round];
        for (u32 i = 0; i < n_items && first_item + i < p.max_items; ++i) {
            const ScanItem item = {slots.first_slot + i * tile, i * tile, first_pair + place, (unsigned short)min(tile, slots.n_slots - i * tile), 1};
            p.items[(size_t)round * p.max_items + first_item + i] = item;
        }
        __syncthreads();
        if (tid == 1023) carried += upto;
        __syncthreads();
    }
    if (tid == 0) {
        const bool fits = carried <= p.max_items;
        p.n_items[round] = fits ? carried : 0;
        if (!fits) *p.overflow = 1;
    }
}

extern "C" __global__ void __launch_bounds__(256) plan_scatter(const __grid_constant__ PlanParams p) {
    const u32 n_pairs = p.n_queries * p.probes, n_threads = gridDim.x * blockDim.x, thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (u32 pair = thread; pair < n_pairs; pair += n_threads) {
        const u32 round = round_of(p, pair);
        if (round == 2) continue;
        const u32 at = round * n_pairs + p.starts[(size_t)round * p.n_lists + p.lists[pair]] + p.pair_at[pair];
        p.group[at] = pair / p.probes;
        p.pairs[at] = pair;
    }
    for (u32 i = thread / 32; i < 2 * p.n_lists; i += n_threads / 32) {
        const u32 round = i / p.n_lists, list = i % p.n_lists, pairs = p.list_pairs[i];
        if (pairs > 0) write_items(p, round, list, pairs, round * n_pairs + p.starts[i], p.item_starts[i]);
    }
}
