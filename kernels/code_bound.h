// Bounds from 1-bit codes, and what the code scan does with them. Included by scan_codes.cu.
// Rust twin: crates/gpu/src/twin/scan_codes.rs. The estimate and its factors: crates/ivf/src/rabitq/mod.rs.
//
// With A = sum of weights * popc(code & plane), the estimate of |q-h|^2 (L2, Cosine) or -<q,h> (NegIp) is
//     est = (f_add + add) + f_rescale (step A + base)
// and two errors make it uncertain, each normal and independent of the other: the code's, a = epsilon f_error |q-c|, and that of the
// query's four bits, b = |f_rescale| slack, both in units of epsilon standard errors. Together that is sqrt(a^2 + b^2), which the
// margin exceeds without a root, as a + min(b, b^2 / 2a): the query's error hardly matters while it is the smaller one, where
// a + b would cost a third of the margin.
// Lower bound: est - margin; upper: est + margin. They hold statistically; hard bounds come from the rerank.
#pragma once
#include "params.h"
#include "scan_append.h"

#define INFINITY_F __uint_as_float(0x7F800000u)

// What a query brings to its pair with a list; in shared memory.
struct __align__(16) QueryTerms {
    float4 first;  // step, base, add, spread = epsilon |q-c|
    float4 second; // slack, blend = slack^2 / spread, reach = (threshold + q_err) growth, threshold
    float q_err, norm; // norm: NegIp
    u32 query, position;
};

// What a row brings.
struct RowTerms {
    float add, rescale, error, mix, err, reach; // mix = f_rescale^2 / (2 f_error); reach = err growth
    u32 slot;
    bool inside, live;
};

// L2, Cosine, without a root for the many: a key below the threshold has its bound below the square of (threshold + q_err + err) growth,
// where growth = (1 + 2^-19) / loose_scale: 2^-18 of the square pays for all roundings here and there.
__device__ __forceinline__ float growth(const ScanCodesParams& p) {
    return (1.0f + 1.9073486328125e-6f) / p.loose_scale;
}

// By threads 0 .. n: the queries group[from ..][.. n].
__device__ __forceinline__ void load_terms(const ScanCodesParams& p, u32 from, u32 n, QueryTerms* terms) {
    if (threadIdx.x >= n) return;
    const u32 query = p.group[from + threadIdx.x], pair = p.pair[from + threadIdx.x];
    const CodeConsts code = p.codes[query];
    const QueryConsts consts = p.consts[query];
    const float spread = p.epsilon * p.distance[pair];
    const float threshold = p.upper ? INFINITY_F : p.thresholds[query];
    QueryTerms out;
    out.first = make_float4(code.step, code.base, p.add[pair], spread);
    out.second = make_float4(code.slack, spread > 0.0f ? code.slack * code.slack / spread : INFINITY_F, (threshold + consts.err) * growth(p), threshold);
    out.q_err = consts.err;
    out.norm = p.upper ? consts.norm : consts.norm_up;
    out.query = query;
    out.position = p.upper ? p.pair_base[pair] : 0;
    terms[threadIdx.x] = out;
}

__device__ __forceinline__ RowTerms load_row(const ScanCodesParams& p, const ScanItem& item, u32 row) {
    RowTerms out;
    out.inside = row < item.n_rows;
    out.slot = item.first_slot + min(row, item.n_rows - 1);
    const float* factors = p.tier.factors + out.slot;
    out.add = __ldg(factors);
    out.rescale = __ldg(factors + p.tier.n_slots);
    out.error = __ldg(factors + 2 * (size_t)p.tier.n_slots);
    out.err = __ldg(p.tier.err + out.slot);
    out.reach = out.err * growth(p);
    out.live = (__ldg(p.tier.live + (out.slot >> 5)) >> (out.slot & 31)) & 1u;
    out.mix = out.error > 0.0f ? 0.5f * out.rescale * out.rescale / out.error : INFINITY_F;
    return out;
}

__device__ __forceinline__ void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// By the whole block: starts bringing the item's first rows into the cache, while the queries are being fetched.
__device__ __forceinline__ void prefetch_rows(const ScanCodesParams& p, const ScanItem& item) {
    const u32 n_rows = min(item.n_rows, 512u), n_words = n_rows * p.tier.code_pitch;
    const u32* codes = p.tier.codes + (size_t)item.first_slot * p.tier.code_pitch;
    for (u32 i = threadIdx.x * 32; i < n_words; i += blockDim.x * 32) prefetch(codes + i);
    for (u32 i = threadIdx.x * 32; i < n_rows; i += blockDim.x * 32) {
        const float* factors = p.tier.factors + item.first_slot + i;
        prefetch(factors);
        prefetch(factors + p.tier.n_slots);
        prefetch(factors + 2 * (size_t)p.tier.n_slots);
        prefetch(p.tier.err + item.first_slot + i);
    }
}

// What becomes of a pair.
enum Finish { APPEND_ROOT, APPEND_DOT, STORE_UPPER };

__device__ __forceinline__ void store_upper(const ScanCodesParams& p, const RowTerms& row, const QueryTerms& q, float bound) {
    const u32 position = q.position + row.slot;
    if (position >= p.cap) return;
    float key;
    if (p.tier.metric == METRIC_NEG_IP) {
        key = bound - row.err * q.norm;
    } else {
        // 1 + 2^-22 pays for the roundings of the root and of itself.
        key = bound == bound ? sqrtf(fmaxf(bound, 0.0f)) * (1.0f + 2.384185791015625e-7f) - (row.err + q.q_err) : bound;
        if (key < 0.0f) key = 0.0f;
    }
    if (key != key) key = INFINITY_F;
    p.survivors[(size_t)q.query * p.cap + position] = row.live ? ((u64)ordered_bits(key) << 32) | row.slot : ~0ull;
}

// Called by a whole warp; lanes of the same `peers` have the same query. `sum`: A of the lane's pair; `mine`: whether the lane has a pair
// (its row is inside the item and its query exists).
template <Finish FINISH>
__device__ __forceinline__ void finish_pair(const ScanCodesParams& p, const RowTerms& row, const QueryTerms& q, int sum, bool mine,
                                            u32 peers) {
    const float4 first = q.first, second = q.second;
    const float step = first.x, base = first.y, add = first.z, spread = first.w;
    const float slack = second.x, blend = second.y, reach = second.z, threshold = second.w;
    const float inner = fmaf(step, (float)sum, base);
    const float estimate = fmaf(row.rescale, inner, row.add + add);
    // fminf takes the other one where one is NaN (infinity times 0).
    const float margin = fmaf(row.error, spread, fminf(fabsf(row.rescale) * slack, row.mix * blend));
    if (FINISH == STORE_UPPER) {
        if (mine) store_upper(p, row, q, estimate + margin);
        return;
    }
    const float bound = estimate - margin;
    bool pass = mine && row.live;
    if (FINISH == APPEND_ROOT) {
        const float limit = reach + row.reach;
        pass = pass && !(bound >= limit * limit);
    }
    if (__ballot_sync(0xFFFFFFFFu, pass) == 0) return;
    float key;
    if (FINISH == APPEND_ROOT) {
        key = sqrtf(fmaxf(bound, 0.0f)) * p.loose_scale - (row.err + q.q_err);
        key = key > 0.0f ? key : 0.0f;
    } else {
        key = bound - row.err * q.norm;
        if (key != key) key = -INFINITY_F;
    }
    // A threshold that is NaN (dead entries among the smallest) holds nobody back.
    pass = pass && !(key >= threshold);
    ScanParams to;
    to.counts = p.counts;
    to.survivors = p.survivors;
    to.cap = p.cap;
    append_survivors(to, peers, pass, q.query, key, row.slot);
}
