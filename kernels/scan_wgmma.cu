// scan_wgmma: exact scan of list tiles against the queries that probe them, for any number of queries (compute capability 9.0a).
//
// In:  ScanParams. Item: n_rows <= 128 rows of one list, n_queries <= 256 queries; pitch a multiple of 32.
// Out: by mode, see params.h.
// Grid: one block per multiprocessor, which share the items; block 384, dynamic shared memory sizeof(Shared) + 1,024.
//
// Warps 0 and 1 bring tiles of 64 dimensions into a ring of stages: the rows by the bulk copy engine, the queries too where they follow
// each other, and by 16-byte asynchronous copies where `group` gathers them. Warpgroups 1 and 2 take 64 rows each and multiply; the
// number of queries decides among four widths of the product, so that lists which few queries probe cost memory time only. Their epilogue
// compares with the thresholds in terms of the bare inner product (three instructions a pair) and computes the loose key of what passes.
// Warps 2 and 3 do what would make them wait for device memory: they fetch what an item's epilogue needs while its products run, and
// append the survivors of the item before, which are gathered in shared memory.
//
// Two numbers, 1M x 768 at 1,024 queries: bytes 1.54 GB (0.51 ms at 3 TB/s); operations 2 * n_rows * pitch * n_queries, 1.57 T: 2.0 ms
// at 790 TFLOP/s. Through L2 go n_rows * pitch * 2 bytes per 256 queries and as much for every 128 rows of queries: 12 GB/ms.
#include "scan_items.h"
#include "wgmma.h"

#define WG_ROWS 128u
#define WG_WIDTH 256u
#define WG_COLUMNS 64u // dimensions of a stage: rows of 128 bytes
#define WG_STAGES 4u
#define WG_LOADERS 64u
#define WG_WORKERS 256u
#define WG_HELPERS 64u
#define WG_FIRST_WORKER 128u
#define WG_KEPT 512u // survivors of an item gathered in shared memory; more go out one by one

// What the epilogue knows of a row and of a query.
struct RowInfo {
    float norm_sq, norm, err;
    u32 alive;
};
struct QueryInfo {
    float base, per_norm_sq, per_norm; // SCAN_APPEND: passes if accumulator > base + per_norm_sq ||h||^2 - per_norm ||h||
    u32 query;
    float norm_sq, dot_scale, slack; // the other modes
    u32 place;
};
struct ItemInfo {
    RowInfo rows[WG_ROWS];
    QueryInfo queries[WG_WIDTH];
};

struct Shared {
    __half rows[WG_STAGES][WG_ROWS * WG_COLUMNS];
    __half queries[WG_STAGES][WG_WIDTH * WG_COLUMNS];
    ItemInfo info[2];             // of this item and the next
    u64 kept[2][WG_KEPT];         // survivors of this item and of the one before
    unsigned short kept_query[2][WG_KEPT];
    u64 full[WG_STAGES], empty[WG_STAGES];
    u64 info_full[2], info_empty[2], kept_full[2], kept_empty[2];
    u32 n_kept[2];
    float largest_err[2];
};
static_assert(sizeof(Shared) == 227472, "WGMMA_SHARED_BYTES in crates/gpu/src/launch/scan.rs");

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_wait(u64* barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// `bytes` is 16, or 0 to write zeroes.
__device__ __forceinline__ void copy16(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// The helpers alone.
__device__ __forceinline__ void sync_helpers() { asm volatile("bar.sync 1, %0;" ::"n"(WG_HELPERS) : "memory"); }

// Where chunk c (16 bytes) of row r lies in a tile of 128-byte rows, swizzled.
__device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

__device__ __forceinline__ u32 stages_of(const ScanParams& p) {
    return (p.tier.pitch + WG_COLUMNS - 1) / WG_COLUMNS * p.n_halves;
}

// The number of queries rounded up to a width there is a product for.
__device__ __forceinline__ u32 width_of(u32 n_queries) {
    return n_queries <= 16 ? 16 : n_queries <= 64 ? 64 : n_queries <= 128 ? 128 : 256;
}

// One thread: `bytes` will come to the barrier by bulk copies.
__device__ __forceinline__ void barrier_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void bulk_rows(void* to, const TensorMap& map, u32 column, u32 row, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
        "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

__device__ __forceinline__ void bulk_queries(void* to, const TensorMap& map, u32 column, u32 half, u32 query, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(column), "r"(half), "r"(query), "r"(shared_address(barrier))
        : "memory");
}

#define WG_BOX 64u // queries of a bulk copy

// Rows and columns beyond the matrices come as zeroes; rows past an item's end are those of the next list: the epilogue drops them.
__device__ __forceinline__ void load_tiles(const ScanParams& p, Shared& s) {
    const bool gathers = p.group != nullptr;
    const u32 thread = threadIdx.x;
    if (!gathers && thread != 0) return;
    const u32 chunk = thread & 7, first = thread >> 3; // this thread: a chunk of every 8th query
    const u32 pitch = p.tier.pitch, per_half = (pitch + WG_COLUMNS - 1) / WG_COLUMNS;
    const u32 n_items = item_count<WG_ROWS, WG_WIDTH>(p);
    u32 stage = 0, parity = 1, n = 0;
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x, ++n) {
        const ScanItem item = item_of<WG_ROWS, WG_WIDTH>(p, i);
        const u32 width = width_of(item.n_queries);
        const u32 boxes = (width + WG_BOX - 1) / WG_BOX;
        const u32 bytes = (WG_ROWS + (gathers ? 0 : boxes * WG_BOX)) * 2 * WG_COLUMNS;
        // The helpers know which queries the item has.
        const QueryInfo* infos = s.info[n & 1].queries;
        if (gathers) barrier_wait(&s.info_full[n & 1], (n >> 1) & 1);
        for (u32 half = 0; half < p.n_halves; ++half) {
            for (u32 k = 0; k < per_half; ++k) {
                barrier_wait(&s.empty[stage], parity);
                if (thread == 0) {
                    barrier_expect(&s.full[stage], bytes);
                    bulk_rows(s.rows[stage], p.row_map, k * WG_COLUMNS, item.first_slot, &s.full[stage]);
                    for (u32 b = 0; !gathers && b < boxes; ++b) {
                        bulk_queries(s.queries[stage] + b * WG_BOX * WG_COLUMNS, p.query_map, k * WG_COLUMNS, half,
                                     item.first_query + b * WG_BOX, &s.full[stage]);
                    }
                }
                if (gathers) {
                    // A last stage of 32 dimensions is filled up with zeroes.
                    const u32 wanted = k * WG_COLUMNS + chunk * 8, bytes16 = wanted < pitch ? 16 : 0;
                    const __half* from = p.halves + (size_t)half * pitch + (wanted < pitch ? wanted : 0);
                    const u32 queries = shared_address(s.queries[stage]);
#pragma unroll 8
                    for (u32 row = first; row < width; row += WG_LOADERS / 8) {
                        copy16(queries + swizzled(row, chunk), from + (size_t)infos[row].query * 2 * pitch, bytes16);
                    }
                    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(&s.full[stage])) : "memory");
                }
                if (++stage == WG_STAGES) stage = 0, parity ^= 1;
            }
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ __forceinline__ float slack_of(const ScanParams& p, const QueryConsts& consts) {
    return p.n_halves == 2 ? consts.slack : consts.slack_high;
}

__device__ __forceinline__ RowInfo row_info(const ScanParams& p, const ScanItem& item, u32 row) {
    const u32 slot = item.first_slot + min(row, item.n_rows - 1u);
    RowInfo info;
    info.norm_sq = __ldg(p.tier.norm_sq + slot);
    info.norm = norm_upper(info.norm_sq);
    info.err = 0.0f;
    info.alive = row < item.n_rows;
    if (p.mode != SCAN_RANK) {
        info.err = __ldg(p.tier.err + slot);
        info.alive = info.alive && ((__ldg(p.tier.live + (slot >> 5)) >> (slot & 31)) & 1u);
    }
    return info;
}

// The threshold in terms of the accumulator, not above where the loose key falls below it: 2^-19 pays for the roundings here.
__device__ __forceinline__ void query_limit(const ScanParams& p, const QueryConsts& q, float threshold, float largest_err, QueryInfo& info) {
    const float give = 1.9073486328125e-6f;
    const float slack = slack_of(p, q) * (1.0f + give);
    if (p.tier.metric == METRIC_NEG_IP) {
        const float worst = largest_err * q.norm_up;
        info.base = (-threshold - worst - give * (fabsf(threshold) + worst)) / q.dot_scale;
        info.per_norm_sq = 0.0f;
        info.per_norm = slack / q.dot_scale;
    } else {
        const float reach = (threshold + largest_err + q.err) / p.loose_scale;
        const float square = reach * reach, half_scale = 0.5f / q.dot_scale;
        info.base = (q.norm_sq * (1.0f - give) - square * (1.0f + give)) * half_scale;
        info.per_norm_sq = (1.0f - give) * half_scale;
        info.per_norm = slack * half_scale;
    }
    // NaN: infinities met; then everything is looked at.
    if (!(info.base == info.base)) info.base = __uint_as_float(0xFF800000u);
}

__device__ __forceinline__ QueryInfo query_info(const ScanParams& p, const ScanItem& item, u32 column, float largest_err) {
    const u32 position = item.first_query + min(column, item.n_queries - 1u);
    QueryInfo info;
    info.query = query_at(p, position);
    const QueryConsts consts = p.consts[info.query];
    info.norm_sq = consts.norm_sq;
    info.dot_scale = consts.dot_scale;
    info.slack = slack_of(p, consts);
    info.place = p.mode == SCAN_PLACE ? __ldg(p.places + __ldg(p.pairs + position)) + item.first_row : 0;
    info.base = info.per_norm_sq = info.per_norm = 0.0f;
    if (p.mode == SCAN_APPEND) {
        query_limit(p, consts, __ldg(p.thresholds + info.query), largest_err, info);
    } else {
        info.base = p.tier.metric == METRIC_NEG_IP ? consts.norm_up : consts.err; // what the key takes besides
    }
    return info;
}

// Appends what was gathered of an item.
__device__ __forceinline__ void append_kept(const ScanParams& p, Shared& s, u32 buffer) {
    const u32 n = min(s.n_kept[buffer], WG_KEPT), helper = threadIdx.x - WG_LOADERS;
    for (u32 i = helper; i < n; i += WG_HELPERS) {
        const u32 query = s.info[buffer].queries[s.kept_query[buffer][i]].query;
        const u32 place = atomicAdd(p.counts + query, 1u);
        if (place < p.cap) p.survivors[(size_t)query * p.cap + place] = s.kept[buffer][i];
    }
    sync_helpers();
    if (helper == 0) {
        s.n_kept[buffer] = 0;
        barrier_arrive(&s.kept_empty[buffer]);
        barrier_arrive(&s.info_empty[buffer]);
    }
}

__device__ __forceinline__ void help(const ScanParams& p, Shared& s) {
    const u32 helper = threadIdx.x - WG_LOADERS;
    const u32 n_items = item_count<WG_ROWS, WG_WIDTH>(p);
    u32 n = 0; // items so far
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x, ++n) {
        const u32 buffer = n & 1, parity = (n >> 1) & 1;
        const ScanItem item = item_of<WG_ROWS, WG_WIDTH>(p, i);
        // The infos of the item two before are of no use any more: its survivors have been appended.
        barrier_wait(&s.info_empty[buffer], parity ^ 1);
        // The largest radius of a live row loosens the thresholds of all. Radii are not negative: their bits are in order.
        u32 largest = 0;
#pragma unroll
        for (u32 r = helper; r < WG_ROWS; r += WG_HELPERS) {
            const RowInfo row = row_info(p, item, r);
            if (row.alive) largest = max(largest, __float_as_uint(row.err));
            s.info[buffer].rows[r] = row;
        }
        largest = __reduce_max_sync(0xFFFFFFFFu, largest);
        if ((helper & 31) == 0) s.largest_err[helper >> 5] = __uint_as_float(largest);
        sync_helpers();
        const float err = fmaxf(s.largest_err[0], s.largest_err[1]);
        for (u32 column = helper; column < width_of(item.n_queries); column += WG_HELPERS) {
            s.info[buffer].queries[column] = query_info(p, item, column, err);
        }
        barrier_arrive(&s.info_full[buffer]);
        sync_helpers(); // before the largest radii are written again
        if (n > 0) {
            const u32 before = buffer ^ 1;
            barrier_wait(&s.kept_full[before], ((n - 1) >> 1) & 1);
            append_kept(p, s, before);
        }
    }
    if (n > 0) {
        barrier_wait(&s.kept_full[(n - 1) & 1], ((n - 1) >> 1) & 1);
        append_kept(p, s, (n - 1) & 1);
    }
}

// A pair that may survive: its loose key decides.
__device__ __forceinline__ void keep_pair(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item, u32 row, u32 column, float sum) {
    const u32 query = s.info[buffer].queries[column].query;
    const QueryConsts consts = p.consts[query];
    const RowInfo info = s.info[buffer].rows[row];
    const float key = loose_key(p.tier.metric, p.loose_scale, consts, slack_of(p, consts), sum * consts.dot_scale, info.norm_sq,
                                info.norm, info.err);
    if (!(key < __ldg(p.thresholds + query))) return;
    const u64 number = ((u64)ordered_bits(key) << 32) | (item.first_slot + row);
    const u32 at = atomicAdd(&s.n_kept[buffer], 1u);
    if (at < WG_KEPT) {
        s.kept[buffer][at] = number;
        s.kept_query[buffer][at] = (unsigned short)column;
        return;
    }
    const u32 place = atomicAdd(p.counts + query, 1u);
    if (place < p.cap) p.survivors[(size_t)query * p.cap + place] = number;
}

template <int N>
__device__ __forceinline__ void keep_below(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item, const float (&d)[N / 2]) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, lane = worker & 31;
    const u32 first_row = (worker >> 5) * 16 + (lane >> 2), t = lane & 3;
    const RowInfo rows[2] = {s.info[buffer].rows[first_row], s.info[buffer].rows[first_row + 8]};
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        if (8 * j >= item.n_queries) break;
        bool passes[4];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const u32 column = 8 * j + 2 * t + e;
            const float4 q = *reinterpret_cast<const float4*>(&s.info[buffer].queries[column]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float limit = fmaf(q.y, rows[h].norm_sq, fmaf(-q.z, rows[h].norm, q.x));
                // Negated, so that NaN passes.
                passes[2 * h + e] = rows[h].alive && column < item.n_queries && !(d[4 * j + 2 * h + e] <= limit);
            }
        }
        if (!__any_sync(0xFFFFFFFFu, passes[0] | passes[1] | passes[2] | passes[3])) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (passes[i]) keep_pair(p, s, buffer, item, first_row + 8 * (i >> 1), 8 * j + 2 * t + (i & 1), d[4 * j + i]);
        }
    }
}

// The modes that keep every row: placed among the survivors, or ranked.
template <int N>
__device__ __forceinline__ void keep_all(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item, const float (&d)[N / 2]) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, lane = worker & 31;
    const u32 first_row = (worker >> 5) * 16 + (lane >> 2), t = lane & 3;
    const RowInfo rows[2] = {s.info[buffer].rows[first_row], s.info[buffer].rows[first_row + 8]};
    const bool by_ip = p.tier.metric == METRIC_NEG_IP;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        if (8 * j >= item.n_queries) break;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const u32 column = 8 * j + 2 * t + e;
            if (column >= item.n_queries) continue;
            const QueryInfo q = s.info[buffer].queries[column];
            QueryConsts consts; // the part that the key reads
            consts.norm_sq = q.norm_sq;
            consts.norm_up = q.base;
            consts.err = by_ip ? 0.0f : q.base;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const u32 row = first_row + 8 * h;
                if (row >= item.n_rows) continue;
                const float dot = d[4 * j + 2 * h + e] * q.dot_scale;
                if (p.mode == SCAN_RANK) {
                    p.ranks[(size_t)q.query * p.n_rows + item.first_slot + row] =
                        centroid_rank(p.tier.metric, q.norm_sq, dot, rows[h].norm_sq);
                } else if (q.place + row < p.cap) {
                    const float key = loose_key(p.tier.metric, p.loose_scale, consts, q.slack, dot, rows[h].norm_sq, rows[h].norm, rows[h].err);
                    p.survivors[(size_t)q.query * p.cap + q.place + row] =
                        rows[h].alive ? ((u64)ordered_bits(key) << 32) | (item.first_slot + row) : ~0ull;
                }
            }
        }
    }
}

template <int N>
__device__ __forceinline__ void multiply(const ScanParams& p, Shared& s, const ScanItem& item, u32 n, u32& stage, u32& parity) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, group = worker >> 7;
    const u32 n_stages = stages_of(p);
    const bool gathers = p.group != nullptr;
    float d[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) d[i] = 0.0f;
    u32 before = WG_STAGES; // the stage whose products were issued last
    for (u32 k = 0; k < n_stages; ++k) {
        barrier_wait(&s.full[stage], parity);
        // What plain copies wrote becomes visible to the tensor cores.
        if (gathers) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        const u64 a = matrix_descriptor(shared_address(s.rows[stage]) + group * 64 * 128);
        const u64 b = matrix_descriptor(shared_address(s.queries[stage]));
        wgmma_fence();
#pragma unroll
        for (u32 i = 0; i < WG_COLUMNS / 16; ++i) wgmma_step(d, a + 2 * i, b + 2 * i, 1);
        wgmma_commit();
        wgmma_wait<1>();
        if (before < WG_STAGES && (worker & 127) == 0) barrier_arrive(&s.empty[before]);
        before = stage;
        if (++stage == WG_STAGES) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    if ((worker & 127) == 0) barrier_arrive(&s.empty[before]);

    const u32 buffer = n & 1, turn = (n >> 1) & 1;
    barrier_wait(&s.info_full[buffer], turn);
    barrier_wait(&s.kept_empty[buffer], turn ^ 1);
    if (p.mode == SCAN_APPEND) {
        keep_below<N>(p, s, buffer, item, d);
    } else {
        keep_all<N>(p, s, buffer, item, d);
    }
    barrier_arrive(&s.kept_full[buffer]);
}

__device__ __forceinline__ void work(const ScanParams& p, Shared& s) {
    const u32 n_items = item_count<WG_ROWS, WG_WIDTH>(p);
    u32 stage = 0, parity = 0, n = 0;
    for (u32 i = blockIdx.x; i < n_items; i += gridDim.x, ++n) {
        const ScanItem item = item_of<WG_ROWS, WG_WIDTH>(p, i);
        switch (width_of(item.n_queries)) {
        case 16: multiply<16>(p, s, item, n, stage, parity); break;
        case 64: multiply<64>(p, s, item, n, stage, parity); break;
        case 128: multiply<128>(p, s, item, n, stage, parity); break;
        default: multiply<256>(p, s, item, n, stage, parity); break;
        }
    }
}

extern "C" __global__ void __launch_bounds__(WG_FIRST_WORKER + WG_WORKERS, 1) scan_wgmma(const __grid_constant__ ScanParams p) {
    unsigned char* raw = reinterpret_cast<unsigned char*>(dynamic_shared);
    // Swizzled tiles begin at multiples of 1,024.
    Shared& s = *reinterpret_cast<Shared*>(raw + ((1024 - (shared_address(raw) & 1023)) & 1023));
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < WG_STAGES; ++i) {
            barrier_init(&s.full[i], p.group == nullptr ? 1 : 1 + WG_LOADERS);
            barrier_init(&s.empty[i], WG_WORKERS / 128);
        }
        for (u32 i = 0; i < 2; ++i) {
            barrier_init(&s.info_full[i], WG_HELPERS);
            barrier_init(&s.info_empty[i], 1);
            barrier_init(&s.kept_full[i], WG_WORKERS);
            barrier_init(&s.kept_empty[i], 1);
            s.n_kept[i] = 0;
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    // Registers go to whom they are of use: 72 + 2 * 216 = 504 for three threads.
    if (threadIdx.x < WG_FIRST_WORKER) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
        if (threadIdx.x < WG_LOADERS) {
            load_tiles(p, s);
        } else {
            help(p, s);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
        work(p, s);
    }
}

#else // no wgmma: the launcher never picks this there

extern "C" __global__ void scan_wgmma(const __grid_constant__ ScanParams p) { __trap(); }

#endif
