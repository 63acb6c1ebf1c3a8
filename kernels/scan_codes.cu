// scan_codes_*: bounds of all rows of the lists from their 1-bit codes.
//
// In:  ScanCodesParams; items: rows of one list against the queries that probe it, any number of each (256 rows are a good number; queries
//      up to the kernel's width share one reading of the rows). Planes and consts from prepare_codes.
// Out: lower bounds (upper = 0): (key, slot) of live entries whose key is below the query's threshold, appended to the query's
//      survivors, as the row scans do; an entry of infinite err has the key 0 (-inf under NegIp).
//      Upper bounds (upper = 1): survivors[query, pair_base[pair] + slot] = (key of the upper bound, slot) for every row, ~0 for dead ones.
// Grid: any number of blocks of 128 threads, which stride over the *n_items items (planned on the device).
// - scan_codes_mma_4, _16 (compute capability 8.0 to 9.x; elsewhere the same as popc): mma.sync m16n8k256 over bits, and + popc.
//   A: 16 rows' codes; B: 2 queries x 4 planes. A thread takes words 2t and 2t+1 of each 8: rows and planes are permuted alike.
//   A warp has 32 rows and up to 4 or 16 queries.
// - scan_codes_popc: LOP and POPC, a warp has 32 rows and up to 4 queries at a time.
// Planes are in shared memory, 2,048 dimensions at a time; then rows follow in passes of 128.
//
// Two numbers, 1M x 768: bytes 112 MB (codes 96, factors and err 16 a row; 37 us at 3 TB/s), once per 16 queries of a list;
// operations 2 * 4 * 768 a pair: 98 G for 16 queries, 13 us if bit mma does per SM what it does on an A100 (7,600 T/s; not measured on
// an H100), and about 30 instructions a pair for the bound, 16 us. By POPC 96 a pair, 16 a clock and SM: 26 us a query.
#include "code_bound.h"

#define CODE_THREADS 128
#define CODE_PASS 128 // rows of a block at a time
#define CODE_SLAB 64  // words of the planes in shared memory at a time
#define CODE_STRIDE (CODE_SLAB + 8) // so that 4 planes x 8 words are in different banks
#define CODE_STEPS 4  // mma steps whose codes are loaded together

#if __CUDA_ARCH__ >= 800 && (__CUDA_ARCH__ < 900 || defined(__CUDA_ARCH_FEAT_SM90_ALL))
#define HAS_BIT_MMA 1
#endif

// Words [base, base + here) of the planes of group[from ..][.. n] to shared memory, `rows` rows in all (4 a query); rows of no query: zero.
__device__ __forceinline__ void load_planes(const ScanCodesParams& p, u32 from, u32 n, u32 rows, u32 base, u32 here,
                                            u32 (*planes)[CODE_STRIDE]) {
    const u32 pieces = here / 4;
    for (u32 i = threadIdx.x; i < rows * pieces; i += CODE_THREADS) {
        const u32 row = i / pieces, word = (i - row * pieces) * 4;
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (row / 4 < n) {
            const u32 query = p.group[from + row / 4];
            const u32* plane = p.planes + ((size_t)query * 4 + (row & 3)) * p.tier.code_pitch;
            bits = __ldg(reinterpret_cast<const uint4*>(plane + base + word));
        }
        *reinterpret_cast<uint4*>(&planes[row][word]) = bits;
    }
}

// Sum of the set bits' levels over 4 words of a code, which are words [word, word + 4) of the slab.
__device__ __forceinline__ int level_sum(const uint4& code, const u32 (*planes)[CODE_STRIDE], u32 word) {
    int counts[4];
#pragma unroll
    for (int plane = 0; plane < 4; ++plane) {
        const uint4 bits = *reinterpret_cast<const uint4*>(&planes[plane][word]);
        counts[plane] = __popc(code.x & bits.x) + __popc(code.y & bits.y) + __popc(code.z & bits.z) + __popc(code.w & bits.w);
    }
    return counts[0] + 2 * counts[1] + 4 * counts[2] - 8 * counts[3];
}

template <Finish FINISH>
__device__ __forceinline__ void finish_rows(const ScanCodesParams& p, const ScanItem& item, u32 row_number, const QueryTerms* terms, u32 n,
                                            const int (&sums)[4]) {
    const RowTerms row = load_row(p, item, row_number);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        if (q < n) finish_pair<FINISH>(p, row, terms[q], sums[q], row.inside, 0xFFFFFFFFu);
    }
}

// A lane has a row; queries in rounds of 4.
__device__ __forceinline__ void scan_popc(const ScanCodesParams& p) {
    __shared__ __align__(16) u32 planes[16][CODE_STRIDE];
    __shared__ QueryTerms terms[4];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 code_pitch = p.tier.code_pitch, n_items = *p.n_items;
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x) {
        const ScanItem item = p.items[i];
        prefetch_rows(p, item);
        for (u32 first = 0; first < item.n_queries; first += 4) {
            const u32 n = min(4u, item.n_queries - first), from = item.first_query + first;
            for (u32 pass = 0; pass < item.n_rows; pass += CODE_PASS) {
                const u32 warp_row = pass + warp * 32;
                const bool busy = warp_row < item.n_rows;
                const u32 slot = item.first_slot + min(warp_row + lane, item.n_rows - 1);
                const u32* code = p.tier.codes + (size_t)slot * code_pitch;
                int sums[4] = {};
                for (u32 base = 0; base < code_pitch; base += CODE_SLAB) {
                    const u32 here = min((u32)CODE_SLAB, code_pitch - base);
                    if (pass == 0 || code_pitch > CODE_SLAB) {
                        __syncthreads(); // everyone is done with what is in shared memory
                        if (pass == 0 && base == 0) load_terms(p, from, n, terms);
                        load_planes(p, from, n, n * 4, base, here, planes);
                        __syncthreads();
                    }
                    if (!busy) continue;
                    const uint4* pieces = reinterpret_cast<const uint4*>(code + base);
                    uint4 a = __ldg(pieces), b = __ldg(pieces + 1);
                    for (u32 word = 0; word < here; word += 8) {
                        const u32 next = word + 8 < here ? word / 4 + 2 : word / 4;
                        const uint4 c = __ldg(pieces + next), d = __ldg(pieces + next + 1);
#pragma unroll
                        for (int q = 0; q < 4; ++q) {
                            if (q < n) sums[q] += level_sum(a, planes + 4 * q, word) + level_sum(b, planes + 4 * q, word + 4);
                        }
                        a = c;
                        b = d;
                    }
                }
                if (!busy) continue;
                if (p.upper) {
                    finish_rows<STORE_UPPER>(p, item, warp_row + lane, terms, n, sums);
                } else if (p.tier.metric == METRIC_NEG_IP) {
                    finish_rows<APPEND_DOT>(p, item, warp_row + lane, terms, n, sums);
                } else {
                    finish_rows<APPEND_ROOT>(p, item, warp_row + lane, terms, n, sums);
                }
            }
        }
    }
}

#ifdef HAS_BIT_MMA
// c += popc(a & b), a 16 rows x 256 bits, b 256 bits x 8 planes.
__device__ __forceinline__ void bit_mma(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A thread's columns 2t, 2t+1 are planes 0, 1 (t even) or 2, 3 (t odd) of query t / 2, in rows g and g + 8: neighbours exchange halves, and the
// even one ends up with row g, the odd one with row g + 8.
template <Finish FINISH, int PAIRS>
__device__ __forceinline__ void finish_tiles(const ScanCodesParams& p, const ScanItem& item, u32 warp_row, const QueryTerms* terms, u32 n,
                                             const int (&sums)[2][PAIRS][4]) {
    const u32 lane = threadIdx.x & 31, odd = lane & 1, mine = (lane >> 1) & 1;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
        const RowTerms row = load_row(p, item, warp_row + 16 * m + (lane >> 2) + 8 * odd);
#pragma unroll
        for (int j = 0; j < PAIRS; ++j) {
            if (2 * j >= n) break;
            const int(&c)[4] = sums[m][j];
            const int low = odd ? 4 * c[0] - 8 * c[1] : c[0] + 2 * c[1];
            const int high = odd ? 4 * c[2] - 8 * c[3] : c[2] + 2 * c[3];
            const int sum = (odd ? high : low) + __shfl_xor_sync(0xFFFFFFFFu, odd ? low : high, 1);
            const u32 q = 2 * j + mine;
            finish_pair<FINISH>(p, row, terms[min(q, n - 1)], sum, row.inside && q < n, 0x33333333u << (2 * mine));
        }
    }
}

// A warp has 2 tiles of 16 rows and up to PAIRS tiles of 2 queries.
template <int PAIRS>
__device__ __forceinline__ void scan_mma_bits(const ScanCodesParams& p) {
    __shared__ __align__(16) u32 planes[PAIRS * 8][CODE_STRIDE];
    __shared__ QueryTerms terms[PAIRS * 2];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 g = lane >> 2, t = lane & 3;
    const u32 code_pitch = p.tier.code_pitch, n_items = *p.n_items;
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x) {
        const ScanItem item = p.items[i];
        prefetch_rows(p, item);
        for (u32 first = 0; first < item.n_queries; first += PAIRS * 2) {
            const u32 n = min((u32)PAIRS * 2, item.n_queries - first), from = item.first_query + first;
            const u32 tiles = (n + 1) / 2;
            for (u32 pass = 0; pass < item.n_rows; pass += CODE_PASS) {
                const u32 warp_row = pass + warp * 32;
                const bool busy = warp_row < item.n_rows;
                const u32* codes = p.tier.codes + (size_t)item.first_slot * code_pitch;
                u32 code[4]; // where the codes of rows g, g + 8 of the first tile are, then of the second
#pragma unroll
                for (int r = 0; r < 4; ++r) code[r] = min(warp_row + r * 8 + g, item.n_rows - 1) * code_pitch + 2 * t;
                int sums[2][PAIRS][4] = {};
                for (u32 base = 0; base < code_pitch; base += CODE_SLAB) {
                    const u32 here = min((u32)CODE_SLAB, code_pitch - base);
                    if (pass == 0 || code_pitch > CODE_SLAB) {
                        __syncthreads(); // everyone is done with what is in shared memory
                        if (pass == 0 && base == 0) load_terms(p, from, n, terms);
                        load_planes(p, from, n, tiles * 8, base, here, planes);
                        __syncthreads();
                    }
                    if (!busy) continue;
                    const u32 steps = here / 8;
                    for (u32 chunk = 0; chunk < steps; chunk += CODE_STEPS) {
                        uint2 a[CODE_STEPS][4];
#pragma unroll
                        for (int s = 0; s < CODE_STEPS; ++s) {
#pragma unroll
                            for (int r = 0; r < 4; ++r) {
                                a[s][r] = make_uint2(0, 0);
                                if (chunk + s < steps) {
                                    a[s][r] = __ldg(reinterpret_cast<const uint2*>(codes + code[r] + base + (chunk + s) * 8));
                                }
                            }
                        }
#pragma unroll
                        for (int s = 0; s < CODE_STEPS; ++s) {
                            if (chunk + s >= steps) break;
#pragma unroll
                            for (int j = 0; j < PAIRS; ++j) {
                                if (j >= tiles) break;
                                const uint2 b = *reinterpret_cast<const uint2*>(&planes[j * 8 + g][(chunk + s) * 8 + 2 * t]);
                                bit_mma(sums[0][j], a[s][0].x, a[s][1].x, a[s][0].y, a[s][1].y, b.x, b.y);
                                bit_mma(sums[1][j], a[s][2].x, a[s][3].x, a[s][2].y, a[s][3].y, b.x, b.y);
                            }
                        }
                    }
                }
                if (!busy) continue;
                if (p.upper) {
                    finish_tiles<STORE_UPPER, PAIRS>(p, item, warp_row, terms, n, sums);
                } else if (p.tier.metric == METRIC_NEG_IP) {
                    finish_tiles<APPEND_DOT, PAIRS>(p, item, warp_row, terms, n, sums);
                } else {
                    finish_tiles<APPEND_ROOT, PAIRS>(p, item, warp_row, terms, n, sums);
                }
            }
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(CODE_THREADS, 5) scan_codes_mma_4(const __grid_constant__ ScanCodesParams p) {
#ifdef HAS_BIT_MMA
    scan_mma_bits<2>(p);
#else
    scan_popc(p);
#endif
}

extern "C" __global__ void __launch_bounds__(CODE_THREADS, 4) scan_codes_mma_16(const __grid_constant__ ScanCodesParams p) {
#ifdef HAS_BIT_MMA
    scan_mma_bits<8>(p);
#else
    scan_popc(p);
#endif
}

extern "C" __global__ void __launch_bounds__(CODE_THREADS, 7) scan_codes_popc(const __grid_constant__ ScanCodesParams p) {
    scan_popc(p);
}
