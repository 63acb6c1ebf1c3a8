// Sorting in shared memory by a block. Included by probes.cu and finish.cu.
#pragma once
#include "params.h"

// Sorts `width` items (a power of two) by `less`, exchanging them with `swap`; ends with a barrier. Batcher's bitonic network.
template <typename Less, typename Swap>
__device__ __forceinline__ void bitonic_sort(u32 width, const Less& less, const Swap& swap) {
    for (u32 run = 2; run <= width; run <<= 1) {
        for (u32 step = run >> 1; step > 0; step >>= 1) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < width / 2; i += blockDim.x) {
                const u32 a = 2 * i - (i & (step - 1)), b = a + step;
                const bool ascending = (a & run) == 0;
                if (ascending ? less(b, a) : less(a, b)) swap(a, b);
            }
        }
    }
    __syncthreads();
}
