// Structs shared by the kernels and their Rust launchers. The Rust twin is crates/gpu/src/params.rs: change both together
// (the sizes are asserted on both sides, and tests/tests/kernel_table.rs compares them with the compiled code).
// Lengths: pitch = halves per row, a multiple of 32; rows beyond `dim` are zero.
#pragma once
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned long long u64;

// Metric, as in omen_ivf::Metric.
#define METRIC_L2 1u
#define METRIC_NEG_IP 2u
#define METRIC_COSINE 3u

// The hot tier: entries in slots, the slots of a list contiguous.
struct TierView {
    const __half* rows;   // [n_slots, pitch] stored vectors
    const float* norm_sq; // [n_slots] squared norm of the stored vector, rounded to nearest
    const float* err;     // [n_slots] radius of the hard bound, may be +inf
    const u32* live;      // [ceil(n_slots / 32)] bit slot % 32 of word slot / 32
    const u64* tids;      // [n_slots] block in the low, line pointer in the high half
    u32 pitch;
    u32 metric;
};
static_assert(sizeof(TierView) == 48, "TierView");

// What one query brings to the keys, besides its coordinates (crates/gpu/src/query.rs derives the numbers).
struct QueryConsts {
    float norm_sq;   // ||q||^2
    float dot_scale; // power of two that undoes the scaling of the hi/lo halves
    float slack;     // loose key: error of the squared distance (or of the dot) per unit of ||h||
    float norm_up;   // loose key, NegIp: ||q||, rounded up generously
    float norm;      // tight key, NegIp: ||q|| (1 + 2g)
    float err;       // q_err; 0 unless Cosine
    u32 reserved[2];
};
static_assert(sizeof(QueryConsts) == 32, "QueryConsts");

// One CTA's work: rows [first_slot, first_slot + n_rows) against queries group[first_query ..][.. n_queries].
struct ScanItem {
    u32 first_slot;
    u32 n_rows;
    u32 first_query;
    u32 n_queries;
};
static_assert(sizeof(ScanItem) == 16, "ScanItem");

struct ScanParams {
    TierView tier;
    const __half* halves;      // [n_queries, 2, pitch] high and low half of the scaled queries
    const float* queries;      // [n_queries, pitch]
    const QueryConsts* consts; // [n_queries]
    const ScanItem* items;     // [gridDim.x]
    const u32* group;          // query numbers, referred to by the items
    const float* thresholds;   // [n_queries] +inf until `keep` survivors are known
    u32* counts;               // [n_queries] survivors appended; may pass cap (then the rest is lost and the host searches again)
    u64* survivors;            // [n_queries, cap] ordered(key) << 32 | slot
    u32 cap;
    float loose_scale;         // 1 - 4g
};
static_assert(sizeof(ScanParams) == 120, "ScanParams");

struct SelectParams {
    u64* survivors;    // [n_queries, cap]
    u32* counts;       // [n_queries]
    float* thresholds; // [n_queries]
    u32* overflows;    // [n_queries] set to 1 where counts passed cap
    u32 cap;
    u32 keep;
};
static_assert(sizeof(SelectParams) == 40, "SelectParams");

struct RerankOut {
    float key;
    u32 slot;
    u32 tid_block;
    u32 tid_offset;
};
static_assert(sizeof(RerankOut) == 16, "RerankOut");

struct RerankParams {
    TierView tier;
    const float* queries;      // [n_queries, pitch]
    const QueryConsts* consts; // [n_queries]
    const u64* survivors;      // [n_queries, cap]
    const u32* counts;         // [n_queries]
    RerankOut* out;            // [n_queries, keep]
    u32 cap;
    u32 keep;
    float tight_scale;         // 1 - 2g
    u32 reserved;
};
static_assert(sizeof(RerankParams) == 104, "RerankParams");

// Floats as unsigned numbers in the same order (no NaN comes in).
__device__ __forceinline__ u32 ordered_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}

__device__ __forceinline__ float from_ordered_bits(u32 bits) {
    return __uint_as_float((bits & 0x80000000u) ? (bits & 0x7FFFFFFFu) : ~bits);
}

// What a query's four bit planes are worth: <o, q'> is about step * (sum of weights * popc(code & plane)) + base.
struct CodeConsts {
    float step;
    float base;
    float slack; // that many standard errors of it, from the four bits: epsilon of them
    u32 reserved;
};
static_assert(sizeof(CodeConsts) == 16, "CodeConsts");

struct PrepareCodesParams {
    const float* queries; // [n_queries, pitch]
    const u32* flips;     // [4, code_dim / 32] sign flips of the rotation: bit i of word w is dimension 32 w + i
    float* rotated;       // [n_queries, code_dim] or null (only where code_dim <= 8,192): the rotated queries
    u32* planes;          // [n_queries, 4, code_pitch] bits of weight 1, 2, 4, -8 of the rotated query's levels
    CodeConsts* codes;    // [n_queries]
    u32 pitch;
    u32 code_dim;         // a multiple of 64, not below pitch
    u32 code_pitch;       // words of a code, a multiple of 8; beyond code_dim / 32 they are zero
    float epsilon;        // standard errors to allow for
};
static_assert(sizeof(PrepareCodesParams) == 56, "PrepareCodesParams");

// The part of the tier that the code scan reads.
struct CodeView {
    const u32* codes;     // [n_slots, code_pitch] signs of the rotated residuals
    const float* factors; // [3, n_slots] f_add, f_rescale, f_error
    const float* err;     // [n_slots] radius of the hard bound, may be +inf
    const u32* live;      // [ceil(n_slots / 32)]
    u32 n_slots;
    u32 code_pitch;
    u32 metric;
    u32 reserved;
};
static_assert(sizeof(CodeView) == 48, "CodeView");

struct ScanCodesParams {
    CodeView tier;
    const u32* planes;         // [n_queries, 4, code_pitch]
    const CodeConsts* codes;   // [n_queries]
    const QueryConsts* consts; // [n_queries]
    const ScanItem* items;     // [*n_items] any number of rows and queries
    const u32* n_items;        // one number
    const u32* group;          // query numbers, referred to by the items
    const u32* pair;           // (query, list) pair of each entry of group
    const float* add;          // [n_pairs] |q-c|^2 (L2, Cosine) or -<q,c> (NegIp)
    const float* distance;     // [n_pairs] |q-c|
    const float* thresholds;   // [n_queries]; lower bounds only
    u32* counts;               // [n_queries] survivors appended; may pass cap; lower bounds only
    u64* survivors;            // [n_queries, cap] ordered(key) << 32 | slot
    const u32* pair_base;      // [n_pairs] upper bounds only: position of slot 0 in the query's survivors, modulo 2^32
    u32 cap;
    u32 upper;                 // 0: append by lower bounds; 1: store the upper bounds' keys of all rows
    float loose_scale;         // 1 - 4g
    float epsilon;             // standard errors to allow for
};
static_assert(sizeof(ScanCodesParams) == 168, "ScanCodesParams");

struct RerankSurvivorsParams {
    const __half* rows;        // [n_slots, pitch]
    const float* err;          // [n_slots]
    const float* queries;      // [n_queries, pitch]
    const QueryConsts* consts; // [n_queries]
    const u32* base;           // [n_queries] survivors before this one have their keys, or null: none has
    const u32* counts;         // [n_queries]
    u64* survivors;            // [n_queries, cap]
    u32 n_slots;
    u32 pitch;
    u32 metric;
    u32 cap;
    float tight_scale;         // 1 - 2g
    u32 reserved;
};
static_assert(sizeof(RerankSurvivorsParams) == 80, "RerankSurvivorsParams");
