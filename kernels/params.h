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

// The hot tier: entries in slots, the slots of a list contiguous. Without rows (a tier of codes alone) rows, norm_sq and tids
// are null; without codes codes and factors are.
struct TierView {
    const __half* rows;   // [n_slots, pitch] stored vectors
    const float* norm_sq; // [n_slots] squared norm of the stored vector, rounded to nearest
    const float* err;     // [n_slots] radius of the hard bound, may be +inf
    const u32* live;      // [ceil(n_slots / 32)] bit slot % 32 of word slot / 32
    const u64* tids;      // [n_slots] block in the low, line pointer in the high half
    u32 pitch;
    u32 metric;
    const u32* codes;     // [n_slots, code_pitch] bit d % 32 of word d / 32: sign of dimension d of the rotated residual, 1 = positive
    const float* factors; // [3, n_slots] f_add, f_rescale, f_error (crates/ivf/src/rabitq)
    u32 code_pitch;       // 32-bit words per code, a multiple of 8; zeros after the code's dimensions
    u32 n_slots;
};
static_assert(sizeof(TierView) == 72, "TierView");

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
static_assert(sizeof(ScanParams) == 144, "ScanParams");

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
static_assert(sizeof(RerankParams) == 128, "RerankParams");

// What a block unpacks: n rows or n entries of groups from byte `at` of the area on, to slots of one list. `at` is a multiple of
// 16 for groups, and for rows if dim is one of 8; else of 2.
struct UnpackItem {
    u32 at;
    u32 first_slot;
    u32 n;
    u32 reserved;
};
static_assert(sizeof(UnpackItem) == 16, "UnpackItem");

struct UnpackParams {
    TierView tier;
    const unsigned char* area;
    const UnpackItem* items; // [gridDim.x]
    u32 dim;
    u32 group_bytes;         // from one group in the area to the next
    u32 code_words;          // 32-bit words per code in the area, 0: none
    u32 reserved;
};
static_assert(sizeof(UnpackParams) == 104, "UnpackParams");

// Floats as unsigned numbers in the same order (no NaN comes in).
__device__ __forceinline__ u32 ordered_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}

__device__ __forceinline__ float from_ordered_bits(u32 bits) {
    return __uint_as_float((bits & 0x80000000u) ? (bits & 0x7FFFFFFFu) : ~bits);
}
