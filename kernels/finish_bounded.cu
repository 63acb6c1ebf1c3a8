// finish_bounded: a query's answer from the survivors of a code scan: exact keys in order of the lower bounds, until those pass the k-th.
//
// In:  FinishBoundedParams; survivors [0, base[q]) of the first round, [base[q], counts[q]) of the code scan.
// Out: as finish_selected's. Survivors whose bound is beyond the k-th exact key are not looked at: the frontier says so.
//      More than bounds_width survivors below the k-th key: overflow.
// Grid (n_queries), block 512, dynamic shared memory bounds_width * 8 + best_width * 16. Rows come in chunks of BOUNDED_CHUNK, a warp a row.
//
// Two numbers, 1,024 queries x 200 rows x 768: bytes 315 MB (0.1 ms at 3 TB/s); operations: sorts in shared memory, some 60 steps of
// 512 comparisons for 1,000 survivors and 28 of 64 a chunk.
#include "bitonic_sort.h"
#include "radix_select.h"
#include "tight_key.h"

#define BOUNDED_THREADS 512u
#define BOUNDED_CHUNK 64u

__device__ __forceinline__ u32 power_of_two(u32 n) { return n <= 2 ? 2 : 1u << (32 - __clz(n - 1)); }

// (key, tid) in one order.
__device__ __forceinline__ bool found_less(const Found& a, const Found& b) {
    const u32 ka = ordered_bits(a.key), kb = ordered_bits(b.key);
    if (ka != kb) return ka < kb;
    return a.tid_block != b.tid_block ? a.tid_block < b.tid_block : a.tid_offset < b.tid_offset;
}

// Adds the rows of the numbers' slots to the best, which stay sorted; `n_best` of them count, at most k + 1.
__device__ __forceinline__ void add_rows(const FinishBoundedParams& p, const QueryConsts& consts, const u64* numbers, u32 n, Found* best,
                                         u32& n_best) {
    const float infinity = __uint_as_float(0x7F800000u);
    const Found none = {infinity, infinity, 0xFFFFFFFFu, 0xFFFFFFFFu};
    const u32 width = power_of_two(n_best + n), lane = threadIdx.x & 31;
    for (u32 i = threadIdx.x >> 5; i < n; i += BOUNDED_THREADS / 32) {
        const u64 number = numbers[i];
        const bool there = number != ~0ull; // else it stands for nothing
        const u32 slot = there ? (u32)number : 0;
        const float sum = tight_sum(p.tier, p.queries + (size_t)blockIdx.x * p.tier.pitch, slot);
        if (lane == 0) best[n_best + i] = there ? tight_bounds(p, consts, slot, sum) : none;
    }
    for (u32 i = n_best + n + threadIdx.x; i < width; i += BOUNDED_THREADS) best[i] = none;
    bitonic_sort(
        width, [&](u32 a, u32 b) { return found_less(best[a], best[b]); },
        [&](u32 a, u32 b) {
            const Found x = best[a];
            best[a] = best[b];
            best[b] = x;
        });
    n_best = min(n_best + n, p.k + 1);
}

extern "C" __global__ void __launch_bounds__(BOUNDED_THREADS) finish_bounded(const __grid_constant__ FinishBoundedParams p) {
    __shared__ RadixShared<BOUNDED_THREADS> radix;
    __shared__ u32 n_kept, n_within;
    u64* bounds = reinterpret_cast<u64*>(dynamic_shared);
    Found* best = reinterpret_cast<Found*>(bounds + p.bounds_width);
    const u32 query = blockIdx.x, tid = threadIdx.x;
    const u64* survivors = p.survivors + (size_t)query * p.cap;
    const u32 n = min(p.counts[query], p.cap), n_first = min(p.base[query], n), n_bounded = n - n_first;
    const QueryConsts consts = p.consts[query];
    const float infinity = __uint_as_float(0x7F800000u);
    u32 overflow = p.overflows[query] | (p.counts[query] > p.cap ? OVERFLOW_SURVIVORS : 0);
    if (tid == 0) n_kept = n_within = 0;
    __syncthreads();

    // The bounds in order, the smallest of them if there are too many.
    const u64* bounded = survivors + n_first;
    const u32 n_bounds = min(n_bounded, p.bounds_width), width = power_of_two(n_bounds);
    if (n_bounded > p.bounds_width) {
        const RadixCut cut = radix_cut<BOUNDED_THREADS>([&](u32 i) { return bounded[i]; }, n_bounded, n_bounds, radix);
        for (u32 i = tid; i < n_bounded; i += BOUNDED_THREADS) {
            const u64 x = bounded[i];
            if (cut.takes(x)) bounds[atomicAdd(&n_kept, 1u)] = x;
        }
    } else {
        for (u32 i = tid; i < n_bounds; i += BOUNDED_THREADS) bounds[i] = bounded[i];
    }
    for (u32 i = n_bounds + tid; i < width; i += BOUNDED_THREADS) bounds[i] = ~0ull;
    bitonic_sort(
        width, [&](u32 a, u32 b) { return bounds[a] < bounds[b]; },
        [&](u32 a, u32 b) {
            const u64 x = bounds[a];
            bounds[a] = bounds[b];
            bounds[b] = x;
        });

    u32 n_best = 0, next = 0;
    for (u32 i = 0; i < n_first; i += BOUNDED_CHUNK) add_rows(p, consts, survivors + i, min(BOUNDED_CHUNK, n_first - i), best, n_best);
    const auto bound_of = [&](u32 i) { return from_ordered_bits((u32)(bounds[i] >> 32)); };
    const auto reach = [&] { return n_best >= p.k ? best[p.k - 1].key : infinity; };
    while (next < n_bounds && bound_of(next) <= reach()) {
        const u32 chunk = min(BOUNDED_CHUNK, n_bounds - next);
        add_rows(p, consts, bounds + next, chunk, best, n_best);
        next += chunk;
    }
    // What was cut off has bounds of at least the last one looked at.
    if (next == n_bounds && n_bounded > n_bounds && bound_of(n_bounds - 1) <= reach()) overflow |= OVERFLOW_SURVIVORS;

    float frontier = p.thresholds[query];
    if (next < n_bounds) frontier = fminf(frontier, bound_of(next));
    if (next == n_bounds && n_bounded > n_bounds) frontier = fminf(frontier, bound_of(n_bounds - 1));
    if (n_best > p.k && best[p.k].tid_block != 0xFFFFFFFFu) frontier = fminf(frontier, best[p.k].key);
    for (u32 i = tid; i < min(n_best, p.k); i += BOUNDED_THREADS) {
        if (best[i].tid_block == 0xFFFFFFFFu || best[i].key > frontier) continue;
        atomicAdd(&n_within, 1u);
        p.out[(size_t)query * p.k + i] = best[i];
    }
    __syncthreads();
    if (tid == 0) p.heads[query] = {n_within, frontier, overflow, 0};
}
