// select_smallest: keeps the `keep` smallest survivors of each query and lowers the query's threshold to the last of them.
//
// In:  SelectParams; counts[q] survivors of query q (u64 numbers, all different: the low half is the slot).
// Out: if counts[q] >= keep: the buffer's first `keep` numbers are the smallest ones, in any order,
//      counts[q] = keep, thresholds[q] = the largest kept key. Else nothing changes: all survivors are kept so far.
//      If counts[q] > cap, survivors were lost: overflows[q] = 1, and the result is only good for going on safely.
// Grid (n_queries), block 1024. Radix selection by digits of 8 bits below the common prefix; the numbers stay in L2.
//
// Two numbers, one query with 16,384 survivors: bytes 131 kB * (1 + 2..8 digits + 1), all from L2; operations 16 k a pass.
#include "params.h"

#define SELECT_THREADS 1024

__device__ __forceinline__ u64 block_reduce_minmax(u64 value, bool is_max, u64* scratch) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const u64 other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        value = is_max ? max(value, other) : min(value, other);
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    value = scratch[threadIdx.x & 31]; // one number of each of the 32 warps
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const u64 other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        value = is_max ? max(value, other) : min(value, other);
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(SELECT_THREADS) select_smallest(const __grid_constant__ SelectParams p) {
    __shared__ u64 scratch[32];
    __shared__ u32 histogram[256];
    __shared__ u32 digit_found, below_found;
    __shared__ u32 kept;
    const u32 query = blockIdx.x, tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    u64* numbers = p.survivors + (size_t)query * p.cap;
    u32 n = p.counts[query];
    const float threshold = p.thresholds[query];
    if (tid == 0) kept = 0;
    __syncthreads(); // everyone has read counts and thresholds before thread 0 writes them
    if (n > p.cap) {
        if (tid == 0) p.overflows[query] = 1;
        n = p.cap;
    }
    const bool settled = n == p.keep && threshold < __uint_as_float(0x7F800000u);
    if (n < p.keep || settled) {
        if (tid == 0) p.counts[query] = n;
        return;
    }

    u64 smallest = ~0ull, largest = 0;
    for (u32 i = tid; i < n; i += SELECT_THREADS) {
        smallest = min(smallest, numbers[i]);
        largest = max(largest, numbers[i]);
    }
    smallest = block_reduce_minmax(smallest, false, scratch);
    largest = block_reduce_minmax(largest, true, scratch);

    // Invariant: the numbers with (x >> shift) < prefix are fewer than keep, those with <= prefix are at least keep;
    // `need` of those equal to prefix belong to the kept.
    u32 shift = 64 - min(__clzll((long long)(smallest ^ largest)), 63);
    u64 prefix = shift < 64 ? smallest >> shift : 0;
    u32 need = p.keep, equal = n;
    while (equal != need && shift > 0) {
        const u32 next = shift > 8 ? shift - 8 : 0;
        const u32 mask = (1u << (shift - next)) - 1;
        if (tid < 256) histogram[tid] = 0;
        __syncthreads();
        for (u32 i = tid; i < n; i += SELECT_THREADS) {
            const u64 x = numbers[i];
            if (shift == 64 || (x >> shift) == prefix) atomicAdd(&histogram[(u32)(x >> next) & mask], 1u);
        }
        __syncthreads();
        if (warp == 0) { // each lane sums 8 digits, then a scan over the lanes finds the digit that reaches `need`
            u32 sum = 0;
            for (u32 d = 0; d < 8; ++d) sum += histogram[lane * 8 + d];
            u32 upto = sum;
            for (u32 offset = 1; offset < 32; offset <<= 1) {
                const u32 other = __shfl_up_sync(0xFFFFFFFFu, upto, offset);
                if (lane >= offset) upto += other;
            }
            if (upto >= need && upto - sum < need) {
                u32 below = upto - sum, digit = lane * 8;
                while (below + histogram[digit] < need) below += histogram[digit++];
                digit_found = digit;
                below_found = below;
            }
        }
        __syncthreads();
        prefix = (shift == 64 ? 0 : prefix << (shift - next)) | digit_found;
        need -= below_found;
        equal = histogram[digit_found];
        shift = next;
        __syncthreads(); // before the histogram is cleared again
    }

    // Compaction in place, in any order. A block of numbers is read before it is written to; and as no more are kept than
    // were read, what the next blocks hold is not touched yet.
    u64 last = 0;
    for (u32 base = 0; base < n; base += SELECT_THREADS) {
        const u32 i = base + tid;
        const u64 x = i < n ? numbers[i] : ~0ull;
        const bool take = i < n && (shift == 64 || (x >> shift) <= prefix);
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
    last = block_reduce_minmax(last, true, scratch);
    if (tid == 0) {
        p.counts[query] = p.keep;
        p.thresholds[query] = from_ordered_bits((u32)(last >> 32));
    }
}
