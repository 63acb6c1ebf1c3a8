// Selection of the smallest of many 64-bit numbers, all different, by a block: which numbers belong to them. Included by select.cu and
// probes.cu. Radix selection by digits of 8 bits below the common prefix (MSD first; the histogram of each digit takes one pass).
#pragma once
#include "params.h"

template <u32 THREADS>
struct RadixShared {
    u64 scratch[32];
    u32 histogram[256];
    u32 digit, below;
};

template <u32 THREADS>
__device__ __forceinline__ u64 block_reduce(u64 value, bool is_max, u64 (&scratch)[32]) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const u64 other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        value = is_max ? max(value, other) : min(value, other);
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    value = scratch[threadIdx.x & 31 & (THREADS / 32 - 1)]; // one number of each warp
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const u64 other = __shfl_xor_sync(0xFFFFFFFFu, value, offset);
        value = is_max ? max(value, other) : min(value, other);
    }
    return value;
}

// The `keep` smallest are those with (x >> shift) <= prefix, or all if shift is 64.
struct RadixCut {
    u64 prefix;
    u32 shift;

    __device__ __forceinline__ bool takes(u64 x) const { return shift == 64 || (x >> shift) <= prefix; }
};

// number(i), i < n: the numbers; 1 <= keep <= n. All threads get the result; ends with a barrier.
template <u32 THREADS, typename Number>
__device__ __forceinline__ RadixCut radix_cut(const Number& number, u32 n, u32 keep, RadixShared<THREADS>& s) {
    const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    u64 smallest = ~0ull, largest = 0;
    for (u32 i = tid; i < n; i += THREADS) {
        const u64 x = number(i);
        smallest = min(smallest, x);
        largest = max(largest, x);
    }
    smallest = block_reduce<THREADS>(smallest, false, s.scratch);
    largest = block_reduce<THREADS>(largest, true, s.scratch);

    // Invariant: the numbers with (x >> shift) < prefix are fewer than keep, those with <= prefix are at least keep;
    // `need` of those equal to prefix belong to the kept.
    u32 shift = 64 - min(__clzll((long long)(smallest ^ largest)), 63);
    u64 prefix = shift < 64 ? smallest >> shift : 0;
    u32 need = keep, equal = n;
    while (equal != need && shift > 0) {
        const u32 next = shift > 8 ? shift - 8 : 0;
        const u32 mask = (1u << (shift - next)) - 1;
        for (u32 i = tid; i < 256; i += THREADS) s.histogram[i] = 0;
        __syncthreads();
        for (u32 i = tid; i < n; i += THREADS) {
            const u64 x = number(i);
            if (shift == 64 || (x >> shift) == prefix) atomicAdd(&s.histogram[(u32)(x >> next) & mask], 1u);
        }
        __syncthreads();
        if (warp == 0) { // each lane sums 8 digits, then a scan over the lanes finds the digit that reaches `need`
            u32 sum = 0;
            for (u32 d = 0; d < 8; ++d) sum += s.histogram[lane * 8 + d];
            u32 upto = sum;
            for (u32 offset = 1; offset < 32; offset <<= 1) {
                const u32 other = __shfl_up_sync(0xFFFFFFFFu, upto, offset);
                if (lane >= offset) upto += other;
            }
            if (upto >= need && upto - sum < need) {
                u32 below = upto - sum, digit = lane * 8;
                while (below + s.histogram[digit] < need) below += s.histogram[digit++];
                s.digit = digit;
                s.below = below;
            }
        }
        __syncthreads();
        prefix = (shift == 64 ? 0 : prefix << (shift - next)) | s.digit;
        need -= s.below;
        equal = s.histogram[s.digit];
        shift = next;
        __syncthreads(); // before the histogram is cleared again
    }
    return {prefix, shift};
}
