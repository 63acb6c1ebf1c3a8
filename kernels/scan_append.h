// Appending survivors of a scan to their query's buffer. Included by the scan kernels.
#pragma once
#include "params.h"

// Called by a whole warp. Lanes of the same `peers` mask hold the same query; those with `pass` append (key, slot) to it,
// with one atomic a mask. Positions from cap on are counted but not written: the select kernel reports the overflow.
__device__ __forceinline__ void append_survivors(const ScanParams& p, u32 peers, bool pass, u32 query, float key, u32 slot) {
    const u32 all = __ballot_sync(0xFFFFFFFFu, pass);
    if (all == 0) return;
    const u32 lane = threadIdx.x & 31;
    const u32 mine = all & peers;
    const u32 leader = mine ? __ffs(mine) - 1 : lane;
    u32 base = 0;
    if (mine != 0 && lane == leader) base = atomicAdd(p.counts + query, __popc(mine));
    base = __shfl_sync(0xFFFFFFFFu, base, leader);
    if (!pass) return;
    const u32 position = base + __popc(mine & ((1u << lane) - 1));
    if (position < p.cap) {
        p.survivors[(size_t)query * p.cap + position] = ((u64)ordered_bits(key) << 32) | slot;
    }
}
