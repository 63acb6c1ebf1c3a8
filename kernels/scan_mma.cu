// scan_mma_<n>: exact scan of list tiles against the queries that probe them, on tensor cores (compute capability 8.0 up).
//
// In:  ScanParams. Item: n_rows <= 128 MT rows of one list, n_queries <= 4 NT queries; pitch a multiple of 32.
// Out: by mode, see params.h.
// Grid: any number of blocks, which share the items; block 256 (8 warps), shared memory SLAB_BYTES. n = 4 NT = the queries of an item.
//
// A warp takes 16 MT rows. A dot product does not care in which order k runs as long as both sides agree: thread t of a
// row's four takes the 16 bytes at k = 32 c + 8 t, which serve as its A fragments of two m16n8k16 steps, so rows go from
// device memory to registers without shared memory. B columns 2 j, 2 j + 1 are the high and low half of query j: thread
// t of a row ends up with both sums of query t, and adds them. Queries are staged in shared memory in fragment order.
//
// Two numbers, 1M x 768: bytes 1.54 GB (each row once per group of 4 NT queries; 0.51 ms at 3 TB/s);
// operations 4 * n_rows * pitch * n_queries (hi and lo), 0.79 T at 256 queries: 2 ms at 400 TFLOP/s, what mma.sync gives.
#include "scan_items.h"

#define SLAB_BYTES 32768
#define SCAN_WARPS 8

#if __CUDA_ARCH__ >= 800

__device__ __forceinline__ uint4 load_row(const uint4* from) {
    uint4 v; // rows are read once per CTA: keep them out of L1, and have L2 fetch whole lines
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

__device__ __forceinline__ void mma_16x8x16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// NT: n8 tiles (4 queries each); MT: m16 tiles of a warp; U: chunks of 32 dimensions loaded ahead of their use.
template <int NT, int MT, int U>
__device__ __forceinline__ void scan_mma_item(const ScanParams& p, const ScanItem& item, uint4* slab) {
    constexpr int SLAB_CHUNKS = SLAB_BYTES / (NT * 32 * 16);
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const u32 g = lane >> 2, t = lane & 3; // row (or column) within 8, and part of the chunk
    const u32 n_chunks = p.tier.pitch / 32;
    const u32 first_row = warp * (16 * MT);
    const bool busy = first_row < item.n_rows;

    const uint4* rows[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            // Rows past the item's end read its last row instead; the epilogue drops them.
            const u32 row = min(first_row + 16 * m + 8 * h + g, item.n_rows - 1u);
            rows[m][h] = reinterpret_cast<const uint4*>(p.tier.rows + (size_t)slot_at(p, item, row) * p.tier.pitch) + t;
        }
    }

    // This thread stages one column (query and half) of one n8 tile, every (8 / NT)th chunk.
    static_assert(SCAN_WARPS % NT == 0, "a warp keeps its n8 tile");
    const u32 staged_query = 4 * (warp % NT) + (g >> 1);
    const bool staged = staged_query < item.n_queries;
    const u32 staged_column = staged ? 2 * query_at(p, item.first_query + staged_query) + (g & 1) : 0;
    const uint4* column = reinterpret_cast<const uint4*>(p.halves + (size_t)staged_column * p.tier.pitch) + t;

    float acc[MT][NT][4] = {};
    for (u32 base = 0; base < n_chunks; base += SLAB_CHUNKS) {
        const u32 here = min((u32)SLAB_CHUNKS, n_chunks - base);
        __syncthreads();
        for (u32 c = warp / NT; c < here; c += SCAN_WARPS / NT) {
            slab[(c * NT + warp % NT) * 32 + lane] = staged ? __ldg(column + (base + c) * 4) : make_uint4(0, 0, 0, 0);
        }
        __syncthreads();
        if (!busy) continue;
        for (u32 c0 = 0; c0 < here; c0 += U) {
            uint4 a[U][MT][2];
#pragma unroll
            for (int u = 0; u < U; ++u) {
                if (c0 + u >= here) break;
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    a[u][m][0] = load_row(rows[m][0] + (base + c0 + u) * 4);
                    a[u][m][1] = load_row(rows[m][1] + (base + c0 + u) * 4);
                }
            }
#pragma unroll
            for (int u = 0; u < U; ++u) {
                if (c0 + u >= here) break;
#pragma unroll
                for (int j = 0; j < NT; ++j) {
                    const uint4 b = slab[((c0 + u) * NT + j) * 32 + lane];
#pragma unroll
                    for (int m = 0; m < MT; ++m) {
                        const uint4 lo = a[u][m][0], hi = a[u][m][1];
                        mma_16x8x16(acc[m][j], lo.x, hi.x, lo.y, hi.y, b.x, b.y);
                        mma_16x8x16(acc[m][j], lo.z, hi.z, lo.w, hi.w, b.z, b.w);
                    }
                }
            }
        }
    }
    if (!busy) return;

#pragma unroll
    for (int j = 0; j < NT; ++j) {
        if (4 * j >= item.n_queries) break;
        const bool asked = 4 * j + t < item.n_queries;
        const u32 position = item.first_query + (asked ? 4 * j + t : 0);
        const u32 query = query_at(p, position);
        const QueryConsts consts = p.consts[query];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float dot = (acc[m][j][2 * h] + acc[m][j][2 * h + 1]) * consts.dot_scale;
                const u32 row = first_row + 16 * m + 8 * h + g, in_tile = min(row, item.n_rows - 1u);
                emit(p, 0x11111111u << t, asked && row < item.n_rows, position, query, slot_at(p, item, in_tile),
                     item.first_row + in_tile, consts.slack, dot);
            }
        }
    }
}

template <int NT, int MT, int U>
__device__ __forceinline__ void scan_mma(const ScanParams& p) {
    __shared__ uint4 slab[SLAB_BYTES / 16]; // [chunk, n8 tile, lane]
    constexpr u32 ROWS = SCAN_WARPS * 16 * MT, WIDTH = 4 * NT;
    const u32 n_items = item_count<ROWS, WIDTH>(p);
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x) scan_mma_item<NT, MT, U>(p, item_of<ROWS, WIDTH>(p, i), slab);
}

#define SCAN_MMA(NAME, NT, MT, U, CTAS) \
    extern "C" __global__ void __launch_bounds__(256, CTAS) NAME(const __grid_constant__ ScanParams p) { scan_mma<NT, MT, U>(p); }

#else // no m16n8k16: the launcher never picks these there

#define SCAN_MMA(NAME, NT, MT, U, CTAS) \
    extern "C" __global__ void NAME(const __grid_constant__ ScanParams p) { __trap(); }

#endif

SCAN_MMA(scan_mma_4, 1, 1, 8, 2)
SCAN_MMA(scan_mma_8, 2, 1, 4, 3)
SCAN_MMA(scan_mma_16, 4, 2, 2, 2)
SCAN_MMA(scan_mma_32, 8, 2, 1, 2)
