// What scan_wgmma and scan_wgmma_dense do with their products, and the warps that fetch what that takes and append the survivors. For
// scan_wgmma.cu alone.
#pragma once
#include "wgmma_tiles.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ float slack_of(const ScanParams& p, const QueryConsts& consts) {
    return p.n_halves == 2 ? consts.slack : consts.slack_high;
}

template <u32 BLOCKS>
__device__ __forceinline__ RowInfo row_info(const ScanParams& p, const ScanItem& item, u32 row) {
    // Beside a cluster's last tile there may be an item without rows.
    const u32 slot = slot_at(p, item, min(row, BLOCKS == 1 ? item.n_rows - 1u : max((u32)item.n_rows, 1u) - 1u));
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
    const bool by_list = p.mode == SCAN_PLACE && p.pairs != nullptr;
    info.place = item.first_row + (by_list ? __ldg(p.places + __ldg(p.pairs + position)) : 0);
    info.base = info.per_norm_sq = info.per_norm = 0.0f;
    if (p.mode == SCAN_APPEND) {
        // keep_pair needs more than it finds room for: the slack is in per_norm.
        const float threshold = __ldg(p.thresholds + info.query);
        query_limit(p, consts, threshold, largest_err, info);
        info.slack = p.tier.metric == METRIC_NEG_IP ? consts.norm_up : consts.err;
        info.place = __float_as_uint(threshold);
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

template <u32 BLOCKS>
__device__ __forceinline__ void help(const ScanParams& p, Shared& s) {
    const u32 helper = threadIdx.x - WG_LOADERS;
    const u32 n_items = block_item_count<BLOCKS>(p);
    u32 n = 0; // items so far
    for (u32 i = blockIdx.x / BLOCKS; i < n_items; i += gridDim.x / BLOCKS, ++n) {
        const u32 buffer = n & 1, parity = (n >> 1) & 1;
        const ScanItem item = block_item_of<BLOCKS>(p, i);
        // The infos of the item two before are of no use any more: its survivors have been appended.
        barrier_wait(&s.info_empty[buffer], parity ^ 1);
        // The largest radius of a live row loosens the thresholds of all. Radii are not negative: their bits are in order.
        u32 largest = 0;
#pragma unroll
        for (u32 r = helper; r < WG_ROWS; r += WG_HELPERS) {
            const RowInfo row = row_info<BLOCKS>(p, item, r);
            if (row.alive) largest = max(largest, __float_as_uint(row.err));
            s.info[buffer].rows[r] = row;
        }
        largest = __reduce_max_sync(0xFFFFFFFFu, largest);
        if ((helper & 31) == 0) s.largest_err[helper >> 5] = __uint_as_float(largest);
        sync_helpers();
        const float err = fmaxf(s.largest_err[0], s.largest_err[1]);
        for (u32 column = helper; column < width_of(item.n_queries); column += WG_HELPERS) {
            QueryInfo info = query_info(p, item, column, err);
            if (BLOCKS > 1 && p.mode == SCAN_APPEND && column >= item.n_queries) {
                info.base = __uint_as_float(0x7F800000u); // a limit of +inf: see any_above
                info.per_norm_sq = info.per_norm = 0.0f;
            }
            s.info[buffer].queries[column] = info;
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
    // All from shared memory: a trip to device memory for each would take longer than the products of the item.
    const QueryInfo q = s.info[buffer].queries[column];
    const RowInfo info = s.info[buffer].rows[row];
    const bool by_ip = p.tier.metric == METRIC_NEG_IP;
    QueryConsts consts; // the part that the key reads
    consts.norm_sq = q.norm_sq;
    consts.norm_up = q.slack;
    consts.err = by_ip ? 0.0f : q.slack;
    const float slack = q.per_norm * q.dot_scale * (by_ip ? 1.0f : 2.0f); // rounded up when per_norm was made
    const float key = loose_key(p.tier.metric, p.loose_scale, consts, slack, sum * q.dot_scale, info.norm_sq, info.norm, info.err);
    if (!(key < __uint_as_float(q.place))) return;
    const u64 number = ((u64)ordered_bits(key) << 32) | slot_at(p, item, row);
    const u32 at = atomicAdd(&s.n_kept[buffer], 1u);
    if (at < WG_KEPT) {
        s.kept[buffer][at] = number;
        s.kept_query[buffer][at] = (unsigned short)column;
        return;
    }
    const u32 place = atomicAdd(p.counts + q.query, 1u);
    if (place < p.cap) p.survivors[(size_t)q.query * p.cap + place] = number;
}

// Not above where the loose key of the pair falls below the threshold.
__device__ __forceinline__ float limit_of(const float4& query, const RowInfo& row) {
    return fmaf(query.y, row.norm_sq, fmaf(-query.z, row.norm, query.x));
}

// Whether any pair of this thread in STEP blocks of 8 columns from block `first` on may survive. Columns beyond the item's queries count
// as well: their limits are +inf.
template <int N, int STEP>
__device__ __forceinline__ bool any_above(const Shared& s, u32 buffer, const RowInfo (&rows)[2], int first, const float (&d)[N / 2]) {
    const u32 t = threadIdx.x & 3;
    bool above[2] = {false, false};
#pragma unroll
    for (int j = first; j < first + STEP; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const float4 q = *reinterpret_cast<const float4*>(&s.info[buffer].queries[8 * j + 2 * t + e]);
#pragma unroll
            for (int h = 0; h < 2; ++h) above[h] |= !(d[4 * j + 2 * h + e] <= limit_of(q, rows[h]));
        }
    }
    return (above[0] && rows[0].alive) || (above[1] && rows[1].alive);
}

// STEP > 1: so many blocks of 8 columns are looked at together first, which has their loads under way at a time.
template <int N, int STEP>
__device__ __forceinline__ void keep_below(const ScanParams& p, Shared& s, u32 buffer, const ScanItem& item, const float (&d)[N / 2]) {
    const u32 worker = threadIdx.x - WG_FIRST_WORKER, lane = worker & 31;
    const u32 first_row = (worker >> 5) * 16 + (lane >> 2), t = lane & 3;
    const RowInfo rows[2] = {s.info[buffer].rows[first_row], s.info[buffer].rows[first_row + 8]};
    bool skips = false;
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        if (8 * j >= item.n_queries) break;
        if (STEP > 1 && j % STEP == 0) skips = !__any_sync(0xFFFFFFFFu, any_above<N, STEP>(s, buffer, rows, j, d));
        if (STEP > 1 && skips) continue;
        bool passes[4];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const u32 column = 8 * j + 2 * t + e;
            const float4 q = *reinterpret_cast<const float4*>(&s.info[buffer].queries[column]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float limit = limit_of(q, rows[h]);
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
                        rows[h].alive ? ((u64)ordered_bits(key) << 32) | slot_at(p, item, row) : ~0ull;
                }
            }
        }
    }
}

#endif
