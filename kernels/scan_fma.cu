// scan_fma: exact scan of list tiles against the queries that probe them, without tensor cores (compute capability 7.x).
//
// In:  ScanParams (queries in f32; `halves` is not read). Item: n_rows <= 128 rows of one list, n_queries <= 4 queries.
// Out: by mode, see params.h.
// Grid: any number of blocks, which share the items; block 256 (8 warps), see scan_direct.h.
//
// Two numbers, 1M x 768: bytes 1.54 GB (each row once per 4 queries; 1.7 ms at 0.9 TB/s of a V100);
// operations 2 * n_rows * pitch * n_queries, 6 G at 4 queries: 0.5 ms at 14 TFLOP/s.
#include "scan_direct.h"

extern "C" __global__ void __launch_bounds__(256) scan_fma(const __grid_constant__ ScanParams p) {
    scan_direct(
        p, [](float sum, float q, float h) { return fmaf(q, h, sum); },
        [&](u32 peers, bool inside, u32 position, u32 query, u32 slot, u32 row, float dot) {
            emit(p, peers, inside, position, query, slot, row, p.consts[query].slack, dot);
        });
}
