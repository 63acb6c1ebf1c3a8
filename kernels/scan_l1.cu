// scan_l1: as scan_fma, by L1: sums of magnitudes have no form for tensor cores, so that all devices run this one.
//
// In:  ScanParams (queries in f32; `halves` is not read). Item: n_rows <= 128 rows of one list, n_queries <= 4 queries. Not SCAN_RANK: centroids
//      are ranked by squared distances.
// Out: by mode, see params.h; keys by loose_key_l1.
// Grid: any number of blocks, which share the items; block 256 (8 warps), see scan_direct.h.
//
// Two numbers, 1M x 768: bytes 1.54 GB (each row once per 4 queries; 0.5 ms at 3 TB/s of an H100); operations: a difference and a sum for
// each coordinate and query, 6 G at 4 queries, and a conversion for each coordinate: 0.25 ms at 30 T instructions/s.
#include "scan_direct.h"

extern "C" __global__ void __launch_bounds__(256, 2) scan_l1(const __grid_constant__ ScanParams p) {
    scan_direct(
        p, [](float sum, float q, float h) { return sum + fabsf(q - h); },
        [&](u32 peers, bool inside, u32 position, u32 query, u32 slot, u32 row, float sum) {
            const float key = loose_key_l1(p.loose_scale, p.consts[query], sum, __ldg(p.tier.err + slot));
            emit_key(p, peers, inside, position, query, slot, row, key);
        });
}
