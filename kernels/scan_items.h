// Which items a scan has, and what becomes of a row and a query once their inner product, or their key, is known. Included by the scan kernels.
#pragma once
#include "loose_key.h"
#include "scan_append.h"

// Items of the whole grid: made on the device, given by the host, or, where there is no list of them, every tile of ROWS rows
// against every WIDTH queries.
template <u32 ROWS, u32 WIDTH>
__device__ __forceinline__ u32 item_count(const ScanParams& p) {
    if (p.items == nullptr) return (p.n_rows + ROWS - 1) / ROWS * ((p.n_queries + WIDTH - 1) / WIDTH);
    return p.n_items == nullptr ? p.items_given : __ldg(p.n_items);
}

template <u32 ROWS, u32 WIDTH>
__device__ __forceinline__ ScanItem item_of(const ScanParams& p, u32 i) {
    if (p.items != nullptr) {
        const uint4 raw = __ldg(reinterpret_cast<const uint4*>(p.items + i));
        return *reinterpret_cast<const ScanItem*>(&raw);
    }
    // The queries of a row tile follow each other, so that its rows come from L2 after the first.
    const u32 n_groups = (p.n_queries + WIDTH - 1) / WIDTH;
    ScanItem item;
    item.first_slot = i / n_groups * ROWS;
    item.first_row = item.first_slot;
    item.first_query = i % n_groups * WIDTH;
    item.n_rows = (unsigned short)min(ROWS, p.n_rows - item.first_slot);
    item.n_queries = (unsigned short)min(WIDTH, p.n_queries - item.first_query);
    return item;
}

// The slot of a row, counted from the item's first one on.
__device__ __forceinline__ u32 slot_at(const ScanParams& p, const ScanItem& item, u32 row) {
    return (item.first_slot + row) * max(p.row_step, 1u);
}

__device__ __forceinline__ u32 query_at(const ScanParams& p, u32 position) {
    return p.group == nullptr ? position : __ldg(p.group + position);
}

// What centroids are ranked by.
__device__ __forceinline__ float centroid_rank(u32 metric, float query_norm_sq, float dot, float norm_sq) {
    return metric == METRIC_NEG_IP ? -dot : fmaxf(fmaf(-2.0f, dot, query_norm_sq + norm_sq), 0.0f);
}

// What becomes of the key of a row and a query. Called by a whole warp; `peers`: the lanes that hold the same query.
// `inside`: row and query belong to the item; `position`: the query's in group. Not for SCAN_RANK.
__device__ __forceinline__ void emit_key(const ScanParams& p, u32 peers, bool inside, u32 position, u32 query, u32 slot, u32 row, float key) {
    const bool alive = inside && ((__ldg(p.tier.live + (slot >> 5)) >> (slot & 31)) & 1u);
    if (p.mode == SCAN_APPEND) {
        append_survivors(p, peers, alive && key < __ldg(p.thresholds + query), query, key, slot);
        return;
    }
    if (!inside) return;
    const u32 place = (p.pairs == nullptr ? 0 : p.places[p.pairs[position]]) + row;
    if (place < p.cap) {
        p.survivors[(size_t)query * p.cap + place] = alive ? ((u64)ordered_bits(key) << 32) | slot : ~0ull;
    }
}

// The same of their inner product, in every mode.
__device__ __forceinline__ void emit(const ScanParams& p, u32 peers, bool inside, u32 position, u32 query, u32 slot, u32 row,
                                     float slack, float dot) {
    const QueryConsts consts = p.consts[query];
    const float norm_sq = __ldg(p.tier.norm_sq + slot);
    if (p.mode == SCAN_RANK) {
        if (inside) p.ranks[(size_t)query * p.n_rows + slot] = centroid_rank(p.tier.metric, consts.norm_sq, dot, norm_sq);
        return;
    }
    const float key = loose_key(p.tier.metric, p.loose_scale, consts, slack, dot, norm_sq, norm_upper(norm_sq), __ldg(p.tier.err + slot));
    emit_key(p, peers, inside, position, query, slot, row, key);
}
