// scan_bits: exact scan of list tiles of strings of bits against the queries that probe them, by Hamming's or Jaccard's distance.
//
// In:  ScanParams: rows in words, [n_slots, pitch / 2] of 32 bits, norm_sq the numbers of bits set in them; queries u32 [n_queries, pitch / 2].
//      Item: n_rows <= 256 rows of one list, n_queries <= 8 queries. Not SCAN_RANK: lists are chosen by coarse vectors.
// Out: by mode, see params.h; keys by bit_distance.h, which are tight.
// Grid: any number of blocks, which share the items; block 256: a row each thread, read 32 bytes at a time, as memory gives them; the queries are in
// shared memory, whence all threads read the same word.
//
// Two numbers, 1M x 1,024 bits: bytes 128 MB (each row once per 8 queries; 43 us at 3 TB/s of an H100); operations 32 POPC a pair of row and query,
// 16 a clock and multiprocessor: 9 us a query.
#include "bit_distance.h"
#include "scan_items.h"

#define BITS_ROWS 256
#define BITS_QUERIES 8
#define BITS_SLAB 128 // chunks of 4 words of the queries in shared memory at a time

__device__ __forceinline__ void scan_bits_item(const ScanParams& p, const ScanItem& item, uint4 (&slab)[BITS_QUERIES][BITS_SLAB]) {
    const u32 n_chunks = p.tier.pitch / 8; // an even number: pitch is a multiple of 32
    const u32 n_queries = item.n_queries;
    const u32 in_tile = min(threadIdx.x, item.n_rows - 1u), slot = slot_at(p, item, in_tile);
    const uint4* row = reinterpret_cast<const uint4*>(p.tier.rows) + (size_t)slot * n_chunks;

    u32 differing[BITS_QUERIES] = {};
    for (u32 base = 0; base < n_chunks; base += BITS_SLAB) {
        const u32 here = min((u32)BITS_SLAB, n_chunks - base);
        __syncthreads();
        for (u32 i = threadIdx.x; i < n_queries * here; i += blockDim.x) {
            const u32 q = i / here, c = i % here;
            const uint4* query = reinterpret_cast<const uint4*>(p.queries) + (size_t)query_at(p, item.first_query + q) * n_chunks;
            slab[q][c] = query[base + c];
        }
        __syncthreads();
        for (u32 c = 0; c < here; c += 2) {
            const uint4 a = __ldg(row + base + c), b = __ldg(row + base + c + 1);
#pragma unroll
            for (u32 q = 0; q < BITS_QUERIES; ++q) {
                if (q < n_queries) differing[q] += differing_bits(a, slab[q][c]) + differing_bits(b, slab[q][c + 1]);
            }
        }
    }

    const float of_row = __ldg(p.tier.norm_sq + slot);
    const bool inside = threadIdx.x < item.n_rows;
#pragma unroll
    for (u32 q = 0; q < BITS_QUERIES; ++q) {
        if (q >= n_queries) break;
        const u32 position = item.first_query + q, query = query_at(p, position);
        const float distance = bit_distance(p.tier.metric, differing[q], p.consts[query].norm, of_row);
        emit_key(p, 0xFFFFFFFFu, inside, position, query, slot, item.first_row + in_tile, bit_key(p.tier.metric, distance));
    }
}

extern "C" __global__ void __launch_bounds__(256) scan_bits(const __grid_constant__ ScanParams p) {
    __shared__ uint4 slab[BITS_QUERIES][BITS_SLAB];
    const u32 n_items = item_count<BITS_ROWS, BITS_QUERIES>(p);
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x) scan_bits_item(p, item_of<BITS_ROWS, BITS_QUERIES>(p, i), slab);
}
