// assign_rows: the nearest centroid of each row, from the inner products of all rows with all centroids.
//
// argmin |x - c|^2 = argmin offset(c) - <x, c> with offset(c) = |c|^2 / 2, so that nothing of the row itself is needed
// (with centroids relative to a point m: offset(c) = |c - m|^2 / 2 + <m, c - m>).
//
// In:  AssignParams: ranks f32 [n_centroids, n_rows], minus the inner products, as a scan in SCAN_RANK by inner product leaves them with the
//      centroids as its queries; offsets f32 [n_centroids].
// Out: lists u32 [n_rows]; of equally near centroids the lower number; 0 where no score is a number below infinity.
// Grid (ceil(n_rows / 32)), block 256: a warp takes 32 rows and every eighth centroid, so that loads are whole lines.
//
// Two numbers, 1M rows x 4,096 centroids: bytes 16.4 GB read once (5 ms at 3.3 TB/s), operations 2 a number.
#include "params.h"

#define ASSIGN_ROWS 32
#define ASSIGN_PARTS 8

extern "C" __global__ void __launch_bounds__(ASSIGN_ROWS* ASSIGN_PARTS) assign_rows(const __grid_constant__ AssignParams p) {
    __shared__ float score_of[ASSIGN_PARTS][ASSIGN_ROWS];
    __shared__ u32 list_of[ASSIGN_PARTS][ASSIGN_ROWS];
    const u32 lane = threadIdx.x % ASSIGN_ROWS, part = threadIdx.x / ASSIGN_ROWS;
    const u32 row = blockIdx.x * ASSIGN_ROWS + lane;
    float best = __uint_as_float(0x7F800000u);
    u32 list = 0;
    if (row < p.n_rows) {
        const float* ranks = p.ranks + row;
#pragma unroll 8
        for (u32 c = part; c < p.n_centroids; c += ASSIGN_PARTS) {
            const float score = __ldcs(ranks + (size_t)c * p.n_rows) + __ldg(p.offsets + c);
            // Ascending numbers: of equals the first stays.
            if (score < best) {
                best = score;
                list = c;
            }
        }
    }
    score_of[part][lane] = best;
    list_of[part][lane] = list;
    __syncthreads();
    if (part != 0 || row >= p.n_rows) return;
    for (u32 other = 1; other < ASSIGN_PARTS; ++other) {
        const float score = score_of[other][lane];
        const u32 number = list_of[other][lane];
        if (score < best || (score == best && number < list)) {
            best = score;
            list = number;
        }
    }
    p.lists[row] = list;
}
