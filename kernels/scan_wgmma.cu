// scan_wgmma: exact scan of list tiles against the queries that probe them, for any number of queries (compute capability 9.0a).
// scan_wgmma_dense: the same for every row against every query (no items, no group; SCAN_APPEND and SCAN_RANK).
//
// In:  ScanParams. Item: n_rows <= 128 rows of one list, n_queries <= 256 queries; pitch a multiple of 32.
// Out: by mode, see params.h.
// Grid: one block per multiprocessor, which share the items; block 384, dynamic shared memory sizeof(Shared) + 1,024. Dense: clusters of
// WG_CLUSTER blocks, the grid a multiple of that.
//
// Warps 0 and 1 bring tiles of 64 dimensions into a ring of stages: the rows by the bulk copy engine, the queries too where they follow
// each other, and by 16-byte asynchronous copies where `group` gathers them. Warpgroups 1 and 2 take 64 rows each and multiply; the
// number of queries decides among six widths of the product, so that lists which few queries probe cost memory time only. Their epilogue
// compares with the thresholds in terms of the bare inner product (two instructions a pair) and gathers what passes in shared memory.
// Warps 2 and 3 do what would make them wait for device memory, or is long: they fetch what an item's epilogue needs while its products
// run, and of the item before they compute the loose keys of what was gathered and append the survivors.
//
// Two numbers, 1M x 768 at 1,024 queries: bytes 1.54 GB (0.51 ms at 3 TB/s); operations 2 * n_rows * pitch * n_queries, 1.57 T: 2.0 ms
// at 790 TFLOP/s. A block's stage is 16 KB of rows and 32 KB of queries, and 0.6 us of products; through L2 all
// blocks together get some 5 TB/s, 40 GB/s each: 1.25 us. Where the blocks of a cluster share the queries it is 32 KB, 0.8 us.
#include "wgmma_epilogue.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// The products of a stage are issued; `add` = 0: new sums.
template <int N>
__device__ __forceinline__ void multiply_stage(Shared& s, u32 stage, u32 parity, bool gathers, u32 add, float (&d)[N / 2]) {
    const u32 group = (threadIdx.x - WG_FIRST_WORKER) >> 7;
    barrier_wait(&s.full[stage], parity);
    // What plain copies wrote becomes visible to the tensor cores.
    if (gathers) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    const u64 a = matrix_descriptor(shared_address(s.rows[stage]) + group * 64 * 128);
    const u64 b = matrix_descriptor(shared_address(s.queries[stage]));
    wgmma_fence();
#pragma unroll
    for (u32 i = 0; i < WG_COLUMNS / 16; ++i) wgmma_step(d, a + 2 * i, b + 2 * i, i > 0 ? 1 : add);
    wgmma_commit();
}

__device__ __forceinline__ void next_stage(u32& stage, u32& parity) {
    if (++stage == WG_STAGES) stage = 0, parity ^= 1;
}

template <int N, u32 BLOCKS>
__device__ __forceinline__ void multiply(const ScanParams& p, Shared& s, const ScanItem& item, u32 n, u32& stage, u32& parity) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER;
    const u32 n_stages = stages_of(p);
    const bool gathers = BLOCKS == 1 && p.group != nullptr;
    float d[N / 2]; // the first product does not read it
    multiply_stage<N>(s, stage, parity, gathers, 0, d);
    u32 before = stage; // the stage whose products were issued last
    next_stage(stage, parity);
#pragma unroll 1
    for (u32 k = 1; k < n_stages; ++k) {
        multiply_stage<N>(s, stage, parity, gathers, 1, d);
        wgmma_wait<1>();
        if ((worker & 127) == 0) release_stage<BLOCKS>(s, before);
        before = stage;
        next_stage(stage, parity);
    }
    wgmma_wait<0>();
    if ((worker & 127) == 0) release_stage<BLOCKS>(s, before);

    const u32 buffer = n & 1, turn = (n >> 1) & 1;
    barrier_wait(&s.info_full[buffer], turn);
    if (p.mode == SCAN_APPEND) {
        keep_below<N>(p, s, buffer, turn, item, d);
    } else {
        keep_all<N>(p, s, buffer, item, d);
    }
    barrier_arrive(&s.kept_full[buffer]);
}

template <u32 BLOCKS>
__device__ __forceinline__ void work(const ScanParams& p, Shared& s) {
    const u32 n_items = block_item_count<BLOCKS>(p);
    u32 stage = 0, parity = 0, n = 0;
    for (u32 i = blockIdx.x / BLOCKS; i < n_items; i += gridDim.x / BLOCKS, ++n) {
        const ScanItem item = block_item_of<BLOCKS>(p, i);
        switch (width_of(item.n_queries)) {
        case 16: multiply<16, BLOCKS>(p, s, item, n, stage, parity); break;
        case 32: multiply<32, BLOCKS>(p, s, item, n, stage, parity); break;
        case 64: multiply<64, BLOCKS>(p, s, item, n, stage, parity); break;
        case 128: multiply<128, BLOCKS>(p, s, item, n, stage, parity); break;
        case 192: multiply<192, BLOCKS>(p, s, item, n, stage, parity); break;
        default: multiply<256, BLOCKS>(p, s, item, n, stage, parity); break;
        }
    }
}

template <u32 BLOCKS>
__device__ __forceinline__ void scan_all(const ScanParams& p) {
    unsigned char* raw = reinterpret_cast<unsigned char*>(dynamic_shared);
    // Swizzled tiles begin at multiples of 1,024: at the same places in all blocks of a cluster.
    Shared& s = *reinterpret_cast<Shared*>(raw + ((1024 - (shared_address(raw) & 1023)) & 1023));
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < WG_STAGES; ++i) {
            barrier_init(&s.full[i], BLOCKS > 1 || p.group == nullptr ? 1 : 1 + WG_LOADERS);
            barrier_init(&s.empty[i], BLOCKS * (WG_WORKERS / 128));
        }
        for (u32 i = 0; i < 2; ++i) {
            barrier_init(&s.info_full[i], WG_HELPERS);
            barrier_init(&s.info_empty[i], WG_HELPERS);
            barrier_init(&s.kept_full[i], WG_WORKERS);
            barrier_init(&s.kept_empty[i], WG_HELPERS);
            for (u32 w = 0; w < WG_WORKER_WARPS; ++w) s.n_kept[i][w] = 0; // as the modes that keep all leave it
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (BLOCKS == 1) {
        __syncthreads();
    } else {
        sync_cluster();
    }
    // Registers go to whom they are of use: 72 + 2 * 216 = 504 for three threads.
    if (threadIdx.x < WG_FIRST_WORKER) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
        if (threadIdx.x < WG_LOADERS) {
            load_tiles<BLOCKS>(p, s);
        } else {
            help<BLOCKS>(p, s);
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
        work<BLOCKS>(p, s);
    }
    // No block goes while another may still arrive at its barriers.
    if (BLOCKS > 1) sync_cluster();
}

extern "C" __global__ void __launch_bounds__(WG_FIRST_WORKER + WG_WORKERS, 1) scan_wgmma(const __grid_constant__ ScanParams p) {
    scan_all<1>(p);
}

extern "C" __global__ void __cluster_dims__(WG_CLUSTER, 1, 1) __launch_bounds__(WG_FIRST_WORKER + WG_WORKERS, 1)
    scan_wgmma_dense(const __grid_constant__ ScanParams p) {
    scan_all<WG_CLUSTER>(p);
}

#else // no wgmma: the launcher never picks these there

extern "C" __global__ void scan_wgmma(const __grid_constant__ ScanParams p) { __trap(); }
extern "C" __global__ void scan_wgmma_dense(const __grid_constant__ ScanParams p) { __trap(); }

#endif
