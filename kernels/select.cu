// select_smallest, select_smallest_wide: keep the `keep` smallest survivors of each query and lower the query's threshold to the last.
//
// In:  SelectParams; counts[q] survivors of query q (u64 numbers, all different but for ~0, which stands for nothing).
// Out: if counts[q] >= keep: the buffer's first `keep` numbers are the smallest ones, in any order,
//      counts[q] = keep, thresholds[q] = the largest kept key. Else nothing changes: all survivors are kept so far.
//      If counts[q] > cap, survivors were lost: overflows[q] |= OVERFLOW_SURVIVORS, and the result is only good for going on safely.
// Grid (n_queries), block 256 (many queries), 1024 (_wide: few queries, or long buffers). The numbers stay in L2.
//
// Two numbers, one query with 16,384 survivors: bytes 131 kB * (1 + 2..8 digits + 1), all from L2; operations 16 k a pass.
#include "radix_select.h"

template <u32 THREADS>
__device__ __forceinline__ void select_of_query(const SelectParams& p, RadixShared<THREADS>& s, u32& kept) {
    const u32 query = blockIdx.x, tid = threadIdx.x, lane = tid & 31;
    u64* numbers = p.survivors + (size_t)query * p.cap;
    u32 n = p.counts[query];
    const float threshold = p.thresholds[query];
    if (tid == 0) kept = 0;
    __syncthreads(); // everyone has read counts and thresholds before thread 0 writes them
    if (n > p.cap) {
        if (tid == 0) p.overflows[query] |= OVERFLOW_SURVIVORS;
        n = p.cap;
    }
    const bool settled = n == p.keep && threshold < __uint_as_float(0x7F800000u);
    if (n < p.keep || settled) {
        if (tid == 0) p.counts[query] = n;
        return;
    }
    // Several ~0 are not told apart by any digit: then shift ends at 0 with all of them taken, which the count below puts right.
    const RadixCut cut = radix_cut<THREADS>([&](u32 i) { return numbers[i]; }, n, p.keep, s);

    // Compaction in place, in any order. A block of numbers is read before it is written to; and as no more are kept than
    // were read, what the next blocks hold is not touched yet.
    u64 last = 0;
    for (u32 base = 0; base < n; base += THREADS) {
        const u32 i = base + tid;
        const u64 x = i < n ? numbers[i] : ~0ull;
        const bool take = i < n && x != ~0ull && cut.takes(x);
        const u32 ballot = __ballot_sync(0xFFFFFFFFu, take);
        __syncthreads();
        u32 place = 0;
        if (lane == 0 && ballot != 0) place = atomicAdd(&kept, (u32)__popc(ballot));
        place = __shfl_sync(0xFFFFFFFFu, place, 0);
        if (take) {
            numbers[place + __popc(ballot & ((1u << lane) - 1))] = x;
            last = max(last, x);
        }
    }
    last = block_reduce<THREADS>(last, true, s.scratch);
    if (tid == 0) {
        // Fewer than `keep` if the rest were ~0: then every survivor is kept, and the next may be anything.
        p.counts[query] = kept;
        if (kept == p.keep) p.thresholds[query] = from_ordered_bits((u32)(last >> 32));
    }
}

extern "C" __global__ void __launch_bounds__(256) select_smallest(const __grid_constant__ SelectParams p) {
    __shared__ RadixShared<256> s;
    __shared__ u32 kept;
    select_of_query<256>(p, s, kept);
}

extern "C" __global__ void __launch_bounds__(1024) select_smallest_wide(const __grid_constant__ SelectParams p) {
    __shared__ RadixShared<1024> s;
    __shared__ u32 kept;
    select_of_query<1024>(p, s, kept);
}
