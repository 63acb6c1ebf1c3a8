// A scan by direct sums over rows and queries, without tensor cores: a term for each coordinate. Included by scan_fma.cu and scan_l1.cu.
//
// Item: n_rows <= 128 rows of one list, n_queries <= 4 queries, in f32. A block has 8 warps; a warp takes 16 rows, four at a time, and its lanes
// split the dimensions.
#pragma once
#include "scan_items.h"

#define DIRECT_ROWS 4
#define DIRECT_QUERIES 4
#define DIRECT_TILE 128
#define DIRECT_SLAB 1024 // dimensions of the queries in shared memory at a time

__device__ __forceinline__ void unpack8(const uint4& v, float (&out)[8]) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
        out[2 * i] = pair.x;
        out[2 * i + 1] = pair.y;
    }
}

// `term(sum, q, h)`: the sum with the term of a coordinate. `take(peers, inside, position, query, slot, row, sum)` is called by whole warps, as `emit`.
template <class Term, class Take>
__device__ __forceinline__ void scan_direct_item(const ScanParams& p, const ScanItem& item, float (&slab)[DIRECT_QUERIES][DIRECT_SLAB],
                                                 Term term, Take take) {
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const u32 pitch = p.tier.pitch;
    const u32 warp_row = warp * 16;

    float acc[4][DIRECT_ROWS][DIRECT_QUERIES] = {};
    for (u32 base = 0; base < pitch; base += DIRECT_SLAB) {
        const u32 here = min((u32)DIRECT_SLAB, pitch - base);
        __syncthreads();
        for (u32 q = 0; q < DIRECT_QUERIES; ++q) {
            const float* query = p.queries + (size_t)query_at(p, item.first_query + min(q, item.n_queries - 1u)) * pitch + base;
            for (u32 k = threadIdx.x; k < here; k += blockDim.x) slab[q][k] = query[k];
        }
        __syncthreads();
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            if (warp_row + step * DIRECT_ROWS >= item.n_rows) break;
            const __half* rows[DIRECT_ROWS];
#pragma unroll
            for (int r = 0; r < DIRECT_ROWS; ++r) {
                const u32 row = min(warp_row + step * DIRECT_ROWS + r, item.n_rows - 1u);
                rows[r] = p.tier.rows + (size_t)slot_at(p, item, row) * pitch + base;
            }
            for (u32 k = lane * 8; k < here; k += 256) {
                float q[DIRECT_QUERIES][8];
#pragma unroll
                for (int j = 0; j < DIRECT_QUERIES; ++j) {
                    *reinterpret_cast<float4*>(&q[j][0]) = *reinterpret_cast<const float4*>(&slab[j][k]);
                    *reinterpret_cast<float4*>(&q[j][4]) = *reinterpret_cast<const float4*>(&slab[j][k + 4]);
                }
#pragma unroll
                for (int r = 0; r < DIRECT_ROWS; ++r) {
                    float h[8];
                    unpack8(__ldg(reinterpret_cast<const uint4*>(rows[r] + k)), h);
#pragma unroll
                    for (int j = 0; j < DIRECT_QUERIES; ++j) {
#pragma unroll
                        for (int i = 0; i < 8; ++i) acc[step][r][j] = term(acc[step][r][j], q[j][i], h[i]);
                    }
                }
            }
        }
    }

    // Every lane gets every sum; lane = 4 r + j of the first 16 keeps the pair (row r, query j) of each step.
    const u32 r_mine = (lane >> 2) & 3, q_mine = lane & 3;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        float mine = 0.0f;
#pragma unroll
        for (int r = 0; r < DIRECT_ROWS; ++r) {
#pragma unroll
            for (int j = 0; j < DIRECT_QUERIES; ++j) {
                float sum = acc[step][r][j];
#pragma unroll
                for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
                if (r == r_mine && j == q_mine) mine = sum;
            }
        }
        const u32 row = warp_row + step * DIRECT_ROWS + r_mine;
        const bool inside = lane < 16 && row < item.n_rows && q_mine < item.n_queries;
        const u32 in_tile = min(row, item.n_rows - 1u);
        const u32 position = item.first_query + min(q_mine, item.n_queries - 1u);
        const u32 query = query_at(p, position);
        take(0x11111111u << q_mine, inside, position, query, slot_at(p, item, in_tile), item.first_row + in_tile, mine);
    }
}

// All items of the grid.
template <class Term, class Take>
__device__ __forceinline__ void scan_direct(const ScanParams& p, Term term, Take take) {
    __shared__ float slab[DIRECT_QUERIES][DIRECT_SLAB];
    const u32 n_items = item_count<DIRECT_TILE, DIRECT_QUERIES>(p);
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x) {
        scan_direct_item(p, item_of<DIRECT_TILE, DIRECT_QUERIES>(p, i), slab, term, take);
    }
}
