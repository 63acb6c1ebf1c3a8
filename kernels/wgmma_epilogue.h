// What scan_wgmma and scan_wgmma_dense do with their products, and the warps that fetch what that takes and append the survivors. For
// scan_wgmma.cu alone.
#pragma once
#include "wgmma_tiles.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// All but the norm, which would wait for its square.
template <u32 BLOCKS>
__device__ __forceinline__ RowInfo row_info(const ScanParams& p, const ScanItem& item, u32 row) {
    // Beside a cluster's last tile there may be an item without rows.
    const u32 slot = slot_at(p, item, min(row, BLOCKS == 1 ? item.n_rows - 1u : max((u32)item.n_rows, 1u) - 1u));
    RowInfo info;
    info.norm_sq = __ldg(p.tier.norm_sq + slot);
    info.norm = info.err = 0.0f;
    info.alive = row < item.n_rows;
    if (p.mode != SCAN_RANK) {
        info.err = __ldg(p.tier.err + slot);
        info.alive = info.alive && ((__ldg(p.tier.live + (slot >> 5)) >> (slot & 31)) & 1u);
    }
    return info;
}

// What the epilogue needs of the query of a column. Columns beyond the item's queries repeat the last one.
__device__ __forceinline__ QueryInfo query_info(const ScanParams& p, const ScanItem& item, u32 column) {
    const u32 position = item.first_query + min(column, item.n_queries - 1u);
    QueryInfo info;
    info.query = query_at(p, position);
    const QueryConsts consts = p.consts[info.query];
    info.norm_sq = consts.norm_sq;
    info.dot_scale = consts.dot_scale;
    info.slack = p.n_halves == 2 ? consts.slack : consts.slack_high;
    info.beside = p.tier.metric == METRIC_NEG_IP ? consts.norm_up : consts.err;
    if (p.mode == SCAN_APPEND) {
        info.place = __float_as_uint(__ldg(p.thresholds + info.query));
    } else {
        const bool by_list = p.mode == SCAN_PLACE && p.pairs != nullptr;
        info.place = item.first_row + (by_list ? __ldg(p.places + __ldg(p.pairs + position)) : 0);
    }
    return info;
}

// The threshold in terms of the accumulator, not above where the loose key falls below it: 2^-19 pays for the roundings here. The slack is
// taken for the largest norm of the tile's live rows: fma is monotone, so that for any row the limit is not above that of its own norm.
__device__ __forceinline__ Limit query_limit(const ScanParams& p, const QueryInfo& q, float largest_err, float largest_norm) {
    const float give = 1.9073486328125e-6f;
    const float slack = q.slack * (1.0f + give), threshold = __uint_as_float(q.place);
    Limit limit;
    if (p.tier.metric == METRIC_NEG_IP) {
        const float worst = largest_err * q.beside;
        limit.base = (-threshold - worst - give * (fabsf(threshold) + worst)) / q.dot_scale;
        limit.base = fmaf(-(slack / q.dot_scale), largest_norm, limit.base);
        limit.scale = 1.0f; // of 0, see keep_below
    } else {
        const float reach = (threshold + largest_err + q.beside) / p.loose_scale;
        const float square = reach * reach, half_scale = 0.5f / q.dot_scale;
        limit.base = (q.norm_sq * (1.0f - give) - square * (1.0f + give)) * half_scale;
        limit.base = fmaf(-(slack * half_scale), largest_norm, limit.base);
        limit.scale = (1.0f - give) * half_scale;
    }
    // NaN: infinities met; then everything is looked at.
    if (!(limit.base == limit.base)) limit.base = __uint_as_float(0xFF800000u);
    return limit;
}

// The loose key of a row and the query of a column, from the accumulator.
__device__ __forceinline__ float key_of(const ScanParams& p, const QueryInfo& q, const RowInfo& row, float sum) {
    QueryConsts consts; // the part that the key reads
    consts.norm_sq = q.norm_sq;
    consts.norm_up = q.beside;
    consts.err = q.beside;
    return loose_key(p.tier.metric, p.loose_scale, consts, q.slack, sum * q.dot_scale, row.norm_sq, row.norm, row.err);
}

// A candidate whose loose key is below the threshold is appended to its query's survivors.
__device__ __forceinline__ void append_candidate(const ScanParams& p, const ItemInfo& info, const ScanItem& item, const Candidate& candidate) {
    const u32 row = candidate.place >> 8;
    const QueryInfo q = info.queries[candidate.place & 255];
    const float key = key_of(p, q, info.rows[row], candidate.sum);
    if (!(key < __uint_as_float(q.place))) return;
    const u32 place = atomicAdd(p.counts + q.query, 1u);
    if (place < p.cap) p.survivors[(size_t)q.query * p.cap + place] = ((u64)ordered_bits(key) << 32) | slot_at(p, item, row);
}

// Appends what was gathered of an item.
__device__ __forceinline__ void append_kept(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item) {
    const u32 helper = threadIdx.x - WG_LOADERS;
    u32 ends[WG_WORKER_WARPS], n = 0;
#pragma unroll
    for (int w = 0; w < WG_WORKER_WARPS; ++w) {
        n += min(s.n_kept[buffer][w], WG_KEPT);
        ends[w] = n;
    }
#pragma unroll 1
    for (u32 i = helper; i < n; i += WG_HELPERS) {
        u32 warp = 0, begin = 0;
#pragma unroll
        for (int w = 0; w + 1 < WG_WORKER_WARPS; ++w) {
            if (i >= ends[w]) warp = w + 1, begin = ends[w];
        }
        append_candidate(p, s.info[buffer], item, s.kept[buffer][warp][i - begin]);
    }
    barrier_arrive(&s.kept_empty[buffer]);
    barrier_arrive(&s.info_empty[buffer]);
}

template <u32 BLOCKS>
__device__ __forceinline__ void help(const ScanParams& p, Shared& s) {
    const u32 helper = threadIdx.x - WG_LOADERS;
    const u32 n_items = block_item_count<BLOCKS>(p);
    u32 n = 0; // items so far
    ScanItem last = {};
    for (u32 i = blockIdx.x / BLOCKS; i < n_items; i += gridDim.x / BLOCKS, ++n) {
        const u32 buffer = n & 1, parity = (n >> 1) & 1;
        const ScanItem item = block_item_of<BLOCKS>(p, i);
        // The infos of the item two before are of no use any more: its survivors have been appended.
        barrier_wait(&s.info_empty[buffer], parity ^ 1);
        // All that comes from device memory is asked for at once.
        QueryInfo queries[WG_WIDTH / WG_HELPERS];
        const u32 width = width_of(item.n_queries);
#pragma unroll
        for (u32 c = 0; c < WG_WIDTH / WG_HELPERS; ++c) {
            if (helper + c * WG_HELPERS < width) queries[c] = query_info(p, item, helper + c * WG_HELPERS);
        }
        RowInfo rows[WG_ROWS / WG_HELPERS];
#pragma unroll
        for (u32 r = 0; r < WG_ROWS / WG_HELPERS; ++r) rows[r] = row_info<BLOCKS>(p, item, helper + r * WG_HELPERS);
        // The largest radius and norm of a live row loosen the thresholds of all. Neither is negative: their bits are in order.
        u32 largest_err = 0, largest_norm = 0;
#pragma unroll
        for (u32 r = 0; r < WG_ROWS / WG_HELPERS; ++r) {
            rows[r].norm = norm_upper(rows[r].norm_sq);
            if (rows[r].alive) {
                largest_err = max(largest_err, __float_as_uint(rows[r].err));
                largest_norm = max(largest_norm, __float_as_uint(rows[r].norm));
            }
            s.info[buffer].rows[helper + r * WG_HELPERS] = rows[r];
        }
        largest_err = __reduce_max_sync(0xFFFFFFFFu, largest_err);
        largest_norm = __reduce_max_sync(0xFFFFFFFFu, largest_norm);
        if ((helper & 31) == 0) {
            s.largest_err[helper >> 5] = __uint_as_float(largest_err);
            s.largest_norm[helper >> 5] = __uint_as_float(largest_norm);
        }
        sync_helpers();
        const float err = fmaxf(s.largest_err[0], s.largest_err[1]), norm = fmaxf(s.largest_norm[0], s.largest_norm[1]);
#pragma unroll
        for (u32 c = 0; c < WG_WIDTH / WG_HELPERS; ++c) {
            const u32 column = helper + c * WG_HELPERS;
            if (column >= width) break;
            s.info[buffer].queries[column] = queries[c];
            if (p.mode != SCAN_APPEND) continue;
            Limit limit = {__uint_as_float(0x7F800000u), 1.0f}; // nothing is above
            if (column < item.n_queries) limit = query_limit(p, queries[c], err, norm);
            s.info[buffer].limits[column] = limit;
        }
        barrier_arrive(&s.info_full[buffer]);
        sync_helpers(); // before the largest are written again
        if (n > 0) {
            const u32 before = buffer ^ 1;
            barrier_wait(&s.kept_full[before], ((n - 1) >> 1) & 1);
            append_kept(p, s, before, last);
        }
        last = item;
    }
    if (n > 0) {
        barrier_wait(&s.kept_full[(n - 1) & 1], ((n - 1) >> 1) & 1);
        append_kept(p, s, (n - 1) & 1, last);
    }
}

// The accumulators of block j (of 8 columns). Registers have no addresses: a few jumps to the moves of that block, so that what is done
// with them is there once. Unrolled for all accumulators it is longer than the instruction cache, and each piece is fetched anew.
template <int N>
__device__ __forceinline__ void block_of(const float (&d)[N / 2], u32 j, float (&v)[4]) {
#define WG_BLOCK(J)                                                                      \
    case (J):                                                                            \
        _Pragma("unroll") for (int i = 0; i < 4; ++i) v[i] = d[(4 * (J) + i) % (N / 2)]; \
        break;
#define WG_BLOCKS(J) WG_BLOCK(J) WG_BLOCK(J + 1) WG_BLOCK(J + 2) WG_BLOCK(J + 3)
    static_assert(WG_WIDTH == 8 * 32, "blocks");
    // Those beyond N do not come, and cost nothing.
    switch (j & (N <= 16 ? 1 : N <= 32 ? 3 : N <= 64 ? 7 : N <= 128 ? 15 : 31)) {
        WG_BLOCKS(0) WG_BLOCKS(4) WG_BLOCKS(8) WG_BLOCKS(12) WG_BLOCKS(16) WG_BLOCKS(20) WG_BLOCKS(24) WG_BLOCKS(28)
    }
#undef WG_BLOCKS
#undef WG_BLOCK
}

// Which blocks of 8 columns have a candidate in this thread: a bit for each.
template <int N>
__device__ __forceinline__ u32 blocks_above(const ItemInfo& info, const float (&d)[N / 2], float scale0, float scale1) {
    const u32 t = threadIdx.x & 3;
    u32 blocks = 0;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        const float4 q = *reinterpret_cast<const float4*>(&info.limits[8 * j + 2 * t]);
        // Negated, so that NaN counts.
        const bool above = !(d[4 * j] <= fmaf(q.y, scale0, q.x)) | !(d[4 * j + 1] <= fmaf(q.w, scale0, q.z)) |
                           !(d[4 * j + 2] <= fmaf(q.y, scale1, q.x)) | !(d[4 * j + 3] <= fmaf(q.w, scale1, q.z));
        if (above) blocks |= 1u << j;
    }
    return blocks;
}

// SCAN_APPEND. First every accumulator is compared with its limit, without a branch; then the blocks of columns which have a candidate
// are looked at one by one, and the candidates put into shared memory, where the warp has a part of its own. Their keys are the helpers'
// business. No survivor is lost: a limit is not above where the loose key falls below the threshold, candidates beyond WG_KEPT are
// appended here, and those beyond `cap` are counted.
template <int N>
__device__ __forceinline__ void keep_below(const ScanParams& p, Shared& s, u32 buffer, u32 turn, const ScanItem& item, const float (&d)[N / 2]) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, lane = worker & 31, warp = worker >> 5;
    const u32 first_row = warp * 16 + (lane >> 2), t = lane & 3;
    const ItemInfo& info = s.info[buffer];
    const bool by_ip = p.tier.metric == METRIC_NEG_IP;
    // What the limits grow with: +inf for dead rows, which nothing is above unless a base is -inf.
    const float inf = __uint_as_float(0x7F800000u);
    const bool alive0 = info.rows[first_row].alive, alive1 = info.rows[first_row + 8].alive;
    const float scale0 = alive0 ? by_ip ? 0.0f : info.rows[first_row].norm_sq : inf;
    const float scale1 = alive1 ? by_ip ? 0.0f : info.rows[first_row + 8].norm_sq : inf;

    const u32 below = (1u << lane) - 1;
    u32 n = 0; // candidates of this warp
    u32 blocks = blocks_above<N>(info, d, scale0, scale1);
    barrier_wait(&s.kept_empty[buffer], turn ^ 1);
    // Each lane looks at a block of its own: few have any, and hardly one has two.
    while (__any_sync(0xFFFFFFFFu, blocks != 0)) {
        float v[4];
        u32 passing = 0, place = 0; // a bit for each of the four; that of the first one
        if (blocks != 0) {
            const u32 j = __ffs(blocks) - 1, column = 8 * j + 2 * t;
            blocks &= blocks - 1;
            block_of<N>(d, j, v);
            const float4 q = *reinterpret_cast<const float4*>(&info.limits[column]);
            if (alive0 && !(v[0] <= fmaf(q.y, scale0, q.x))) passing |= 1;
            if (alive0 && !(v[1] <= fmaf(q.w, scale0, q.z))) passing |= 2;
            if (alive1 && !(v[2] <= fmaf(q.y, scale1, q.x))) passing |= 4;
            if (alive1 && !(v[3] <= fmaf(q.w, scale1, q.z))) passing |= 8;
            const u32 n_columns = item.n_queries;
            passing &= column + 1 < n_columns ? 15u : column < n_columns ? 5u : 0u;
            place = first_row << 8 | column;
        }
        while (const u32 voting = __ballot_sync(0xFFFFFFFFu, passing != 0)) {
            if (passing != 0) {
                const u32 i = __ffs(passing) - 1, at = n + __popc(voting & below);
                passing &= passing - 1;
                const Candidate candidate = {i == 0 ? v[0] : i == 1 ? v[1] : i == 2 ? v[2] : v[3], place + (i >> 1) * (8 << 8) + (i & 1)};
                if (at < WG_KEPT) {
                    s.kept[buffer][warp][at] = candidate;
                } else {
                    append_candidate(p, info, item, candidate);
                }
            }
            n += __popc(voting);
        }
    }
    if (lane == 0) s.n_kept[buffer][warp] = n;
}

// The modes that keep every row: placed among the survivors, or ranked.
template <int N>
__device__ __forceinline__ void keep_all(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item, const float (&d)[N / 2]) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, lane = worker & 31;
    const u32 first_row = (worker >> 5) * 16 + (lane >> 2), t = lane & 3;
    const RowInfo rows[2] = {s.info[buffer].rows[first_row], s.info[buffer].rows[first_row + 8]};
#pragma unroll 1
    for (u32 j = 0; 8 * j < item.n_queries; ++j) {
        float v[4];
        block_of<N>(d, j, v);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const u32 column = 8 * j + 2 * t + e;
            if (column >= item.n_queries) continue;
            const QueryInfo q = s.info[buffer].queries[column];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const u32 row = first_row + 8 * h;
                if (row >= item.n_rows) continue;
                if (p.mode == SCAN_RANK) {
                    p.ranks[(size_t)q.query * p.n_rows + item.first_slot + row] =
                        centroid_rank(p.tier.metric, q.norm_sq, v[2 * h + e] * q.dot_scale, rows[h].norm_sq);
                } else if (q.place + row < p.cap) {
                    const float key = key_of(p, q, rows[h], v[2 * h + e]);
                    p.survivors[(size_t)q.query * p.cap + q.place + row] =
                        rows[h].alive ? ((u64)ordered_bits(key) << 32) | slot_at(p, item, row) : ~0ull;
                }
            }
        }
    }
}

#endif
