// The ring of stages of scan_wgmma and scan_wgmma_dense: shared memory, barriers, and the warps that bring tiles. For scan_wgmma.cu alone.
//
// In a cluster (PTX ISA: thread block clusters, multicast of bulk copies) a stage is free once all blocks have read it, since each brings a
// part of the queries to all; `full` expects what the others bring as well, which may come before this block says so.
#pragma once
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
#define WG_CLUSTER 2u // blocks of scan_wgmma_dense that share their queries; CLUSTER in crates/gpu/src/launch/scan.rs
#define WG_WORKER_WARPS (WG_WORKERS / 32)
#define WG_KEPT 96u // candidates of an item that a warp gathers in shared memory; more go out one by one

// What the epilogue knows of a row and of a query.
struct RowInfo {
    float norm_sq, norm, err;
    u32 alive;
};
// SCAN_APPEND: a pair is a candidate if accumulator > base + scale ||h||^2 (METRIC_NEG_IP: > base).
struct Limit {
    float base, scale;
};
struct QueryInfo {
    u32 query;
    float norm_sq, dot_scale;
    float slack;  // per unit of the row's norm
    float beside; // norm_up or err, what the key takes besides
    u32 place;    // SCAN_APPEND: the threshold's bits; SCAN_PLACE: where the item's first row goes
};
struct ItemInfo {
    RowInfo rows[WG_ROWS];
    Limit limits[WG_WIDTH];
    QueryInfo queries[WG_WIDTH];
};
// A pair that may survive.
struct alignas(8) Candidate {
    float sum; // the accumulator
    u32 place; // row of the tile << 8 | column
};

struct Shared {
    __half rows[WG_STAGES][WG_ROWS * WG_COLUMNS];
    __half queries[WG_STAGES][WG_WIDTH * WG_COLUMNS];
    ItemInfo info[2]; // of this item and the next
    Candidate kept[2][WG_WORKER_WARPS][WG_KEPT]; // of this item and of the one before
    u64 full[WG_STAGES], empty[WG_STAGES];
    u64 info_full[2], info_empty[2], kept_full[2], kept_empty[2];
    u32 n_kept[2][WG_WORKER_WARPS]; // may pass WG_KEPT
    float largest_err[2], largest_norm[2];
};
static_assert(sizeof(Shared) == 229584, "WGMMA_SHARED_BYTES in crates/gpu/src/launch/scan.rs");

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

// Arrives at the barrier at this place in the shared memory of the cluster's block `rank`. Without the scope of a cluster, which would
// wait for the thread's stores: what goes on between blocks are bulk copies and products, and those are done.
__device__ __forceinline__ void barrier_arrive_at(u64* barrier, u32 rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}

// All threads of the cluster.
__device__ __forceinline__ void sync_cluster() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// `bytes` is 16, or 0 to write zeroes.
__device__ __forceinline__ void copy16(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// The helpers alone.
__device__ __forceinline__ void sync_helpers() { asm volatile("bar.sync 1, %0;" ::"n"(WG_HELPERS) : "memory"); }

// Where chunk c (16 bytes) of row r lies in a tile of 128-byte rows, swizzled.
__device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// The items of a block, of which BLOCKS make a cluster. More than one share the queries of every item, and their row tiles follow each
// other; a block whose tile would lie beyond the rows takes the first tile and drops it, for the others count on its stages.
template <u32 BLOCKS>
__device__ __forceinline__ u32 block_item_count(const ScanParams& p) {
    if (BLOCKS == 1) return item_count<WG_ROWS, WG_WIDTH>(p);
    return (p.n_rows + BLOCKS * WG_ROWS - 1) / (BLOCKS * WG_ROWS) * ((p.n_queries + WG_WIDTH - 1) / WG_WIDTH);
}

template <u32 BLOCKS>
__device__ __forceinline__ ScanItem block_item_of(const ScanParams& p, u32 i) {
    if (BLOCKS == 1) return item_of<WG_ROWS, WG_WIDTH>(p, i);
    const u32 n_groups = (p.n_queries + WG_WIDTH - 1) / WG_WIDTH;
    const u32 first = (i / n_groups * BLOCKS + blockIdx.x % BLOCKS) * WG_ROWS;
    const bool exists = first < p.n_rows;
    ScanItem item;
    item.first_slot = exists ? first : 0;
    item.first_row = item.first_slot;
    item.first_query = i % n_groups * WG_WIDTH;
    item.n_rows = (unsigned short)(exists ? min(WG_ROWS, p.n_rows - first) : 0);
    item.n_queries = (unsigned short)min(WG_WIDTH, p.n_queries - item.first_query);
    return item;
}

__device__ __forceinline__ u32 stages_of(const ScanParams& p) {
    return (p.tier.pitch + WG_COLUMNS - 1) / WG_COLUMNS * p.n_halves;
}

// The number of queries rounded up to a width there is a product for.
__device__ __forceinline__ u32 width_of(u32 n_queries) {
    return n_queries <= 16 ? 16 : n_queries <= 32 ? 32 : n_queries <= 64 ? 64 : n_queries <= 128 ? 128 : n_queries <= 192 ? 192 : 256;
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

// The same to this place in every block of the cluster, and to the barrier there.
template <u32 BLOCKS>
__device__ __forceinline__ void bulk_queries_to_all(void* to, const TensorMap& map, u32 column, u32 half, u32 query, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], "
        "%6;" ::"r"(shared_address(to)),
        "l"(&map), "r"(column), "r"(half), "r"(query), "r"(shared_address(barrier)), "h"((unsigned short)((1u << BLOCKS) - 1))
        : "memory");
}

// One thread of a warpgroup: it reads the stage no more. Of two blocks, here first: once the other block has seen its own arrival, this
// one has happened, so that nobody arrives here for the stage's next use before all have for this one. More blocks would not be in order.
template <u32 BLOCKS>
__device__ __forceinline__ void release_stage(Shared& s, u32 stage) {
    static_assert(BLOCKS <= 2, "order of arrivals");
    barrier_arrive(&s.empty[stage]);
    if (BLOCKS == 2) barrier_arrive_at(&s.empty[stage], blockIdx.x % BLOCKS ^ 1);
}

#define WG_BOX 64u // queries of a bulk copy

// Rows and columns beyond the matrices come as zeroes; rows past an item's end are those of the next list: the epilogue drops them.
// Blocks of a cluster bring their own rows, and take turns at the queries, which go to all of them.
template <u32 BLOCKS>
__device__ __forceinline__ void load_tiles(const ScanParams& p, Shared& s) {
    const bool gathers = BLOCKS == 1 && p.group != nullptr;
    const u32 thread = threadIdx.x;
    if (!gathers && thread != 0) return;
    const u32 chunk = thread & 7, first = thread >> 3; // this thread: a chunk of every 8th query
    const u32 pitch = p.tier.pitch, per_half = (pitch + WG_COLUMNS - 1) / WG_COLUMNS;
    const u32 n_items = block_item_count<BLOCKS>(p);
    u32 stage = 0, parity = 1, n = 0;
    for (u32 i = blockIdx.x / BLOCKS; i < n_items; i += gridDim.x / BLOCKS, ++n) {
        const ScanItem item = block_item_of<BLOCKS>(p, i);
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
                    for (u32 b = blockIdx.x % BLOCKS; !gathers && b < boxes; b += BLOCKS) {
                        __half* to = s.queries[stage] + b * WG_BOX * WG_COLUMNS;
                        const u32 column = k * WG_COLUMNS, query = item.first_query + b * WG_BOX;
                        if (BLOCKS == 1) {
                            bulk_queries(to, p.query_map, column, half, query, &s.full[stage]);
                        } else {
                            bulk_queries_to_all<BLOCKS>(to, p.query_map, column, half, query, &s.full[stage]);
                        }
                    }
                }
                if (gathers) {
                    // A last stage of 32 dimensions is filled up with zeroes. What is left of the width keeps what was there: columns of
                    // the product do not touch each other.
                    const u32 wanted = k * WG_COLUMNS + chunk * 8, bytes16 = wanted < pitch ? 16 : 0;
                    const __half* from = p.halves + (size_t)half * pitch + (wanted < pitch ? wanted : 0);
                    const u32 queries = shared_address(s.queries[stage]);
#pragma unroll 8
                    for (u32 row = first; row < item.n_queries; row += WG_LOADERS / 8) {
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

#endif
