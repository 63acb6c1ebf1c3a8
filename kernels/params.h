// Structs shared by the kernels and their Rust launchers. The Rust twin is crates/gpu/src/params.rs: change both together
// (the sizes are asserted on both sides, and tests/tests/kernel_table.rs compares them with the compiled code).
// Lengths: pitch = halves per row, a multiple of 32; rows beyond `dim` are zero. Strings of bits are rows of words of 16 bits, as many as pitch.
#pragma once
#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned long long u64;

// All kernels are one module, in which dynamic shared memory has one declaration.
extern __shared__ uint4 dynamic_shared[];

// Metric, as in omen_ivf::Metric.
#define METRIC_L2 1u
#define METRIC_NEG_IP 2u
#define METRIC_COSINE 3u
#define METRIC_L1 4u
#define METRIC_HAMMING 5u
#define METRIC_JACCARD 6u

// The hot tier: entries in slots, the slots of a list contiguous. Without rows (a tier of codes alone) rows, norm_sq and tids
// are null; without codes codes and factors are.
struct TierView {
    const __half* rows;   // [n_slots, pitch] stored vectors, or strings of bits
    const float* norm_sq; // [n_slots] squared norm of the stored vector, rounded to nearest; of a string of bits how many are set
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

// Whether rows are strings of bits.
__device__ __forceinline__ bool is_of_bits(u32 metric) { return metric == METRIC_HAMMING || metric == METRIC_JACCARD; }

// What one query brings to the keys, besides its coordinates (crates/gpu/src/query.rs derives the numbers).
struct QueryConsts {
    float norm_sq;   // ||q||^2
    float dot_scale; // power of two that undoes the scaling of the hi/lo halves
    float slack;     // loose key: error of the squared distance (or of the dot) per unit of ||h||
    float norm_up;   // loose key, NegIp: ||q||, rounded up generously
    float norm;      // tight key, NegIp: ||q|| (1 + 2g); Hamming, Jaccard: bits set
    float err;       // q_err; 0 unless Cosine
    float slack_high; // as slack, where the low half of the query is left out
    u32 reserved;
};
static_assert(sizeof(QueryConsts) == 32, "QueryConsts");

// A piece of a scan: rows first_slot .. first_slot + n_rows of one list against the queries group[first_query ..][.. n_queries].
struct ScanItem {
    u32 first_slot;
    u32 first_row;  // of the list: first_slot is the slot of this row
    u32 first_query;
    unsigned short n_rows;
    unsigned short n_queries;
};
static_assert(sizeof(ScanItem) == 16, "ScanItem");

// What a scan does with what it computes.
#define SCAN_APPEND 0u // live entries with a loose key below the query's threshold are appended to its survivors
#define SCAN_PLACE 1u  // every entry's loose key goes to a place of its own among the survivors; ~0 for dead entries
#define SCAN_RANK 2u   // the rows are centroids: l2sq, or minus the inner product, goes to ranks[query, slot]

// A tensor map of the driver (cuTensorMapEncodeTiled): what the bulk copy engine needs to know of a matrix.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

struct ScanParams {
    TensorMap row_map;         // wgmma: rows [n_slots, pitch], boxes of 128 x 64, swizzled by 128 bytes
    TensorMap query_map;       // wgmma, where group is null: halves [n_queries, 2, pitch], boxes of 64 x 1 x 64, likewise
    TierView tier;
    const __half* halves;      // [n_queries, 2, pitch] high and low half of the scaled queries
    const float* queries;      // [n_queries, pitch]; of strings of bits u32 [n_queries, pitch / 2]
    const QueryConsts* consts; // [n_queries]
    const ScanItem* items;     // null: rows 0 .. n_rows against queries 0 .. n_queries, in tiles of the kernel's size
    const u32* n_items;        // null: items_given of them
    const u32* group;          // query numbers, referred to by the items; null: position = query number
    const u32* pairs;          // as many as group: number of the (query, list) pair
    const u32* places;         // SCAN_PLACE: [n_pairs] where the first row of the pair's list goes
    const float* thresholds;   // [n_queries] +inf until `keep` survivors are known
    u32* counts;               // [n_queries] survivors appended; may pass cap (then the rest is lost and the host searches again)
    u64* survivors;            // [n_queries, cap] ordered(key) << 32 | slot
    float* ranks;              // SCAN_RANK: [n_queries, n_rows]
    u32 cap;
    float loose_scale;         // 1 - 4g
    u32 items_given;
    u32 mode;
    u32 n_rows;
    u32 n_queries;
    u32 n_halves;              // 2: both halves of the queries; 1: the high ones alone (wgmma only)
    u32 row_step;              // where there are no items: row r is slot r * row_step; 0 and 1 are the same
    u32 reserved[14];
};
static_assert(sizeof(ScanParams) == 512, "ScanParams");

struct SelectParams {
    u64* survivors;    // [n_queries, cap]
    u32* counts;       // [n_queries]
    float* thresholds; // [n_queries]
    u32* overflows;    // [n_queries] set to 1 where counts passed cap
    u32 cap;
    u32 keep;
};
static_assert(sizeof(SelectParams) == 40, "SelectParams");

// What is known of a query's answer.
struct FoundHead {
    u32 count;      // candidates written, ascending by (key, tid)
    float frontier; // entries that are not among them have keys of at least this
    u32 overflow;   // OVERFLOW_*
    u32 reserved;
};
static_assert(sizeof(FoundHead) == 16, "FoundHead");

// A reranked candidate: the operator's value lies between what key and ceiling stand for.
struct Found {
    float key;
    float ceiling;
    u32 tid_block;
    u32 tid_offset;
    u32 slot;
};
static_assert(sizeof(Found) == 20, "Found");

struct RerankParams {
    TierView tier;
    const float* queries;      // as in ScanParams
    const QueryConsts* consts; // [n_queries]
    const u64* survivors;      // [n_queries, cap]
    const u32* counts;         // [n_queries]
    Found* out;                // rerank: [n_queries, keep]; finish: [n_queries, k]
    const float* thresholds;   // finish: [n_queries]
    FoundHead* heads;          // finish: [n_queries]
    const u32* overflows;      // finish: [n_queries]
    u32 cap;
    u32 keep;
    float tight_scale;         // 1 - 2g, rounded down
    float wide_scale;          // 1 + 2g, rounded up
    u32 k;
    u32 reserved;
};
static_assert(sizeof(RerankParams) == 160, "RerankParams");

struct PrepareParams {
    const float* raw;          // [n_queries, dim + bit_words], perhaps in the host's memory; null: the next two are at input
    const float* bounds;       // [n_queries, 2] q_norm (NegIp), q_err (L2, Cosine)
    const float* const* input; // addresses of raw and bounds, in the host's memory: recorded launches do not change
    float* queries;            // [n_queries, pitch]
    __half* halves;            // [n_queries, 2, pitch]
    QueryConsts* consts;       // [n_queries]
    float* thresholds;         // [n_queries] set to +inf
    u32* counts;               // [n_queries] set to first_count
    u32* overflows;            // [n_queries] set to 0, or to OVERFLOW_QUERY
    u32 n_queries;
    u32 dim;
    u32 pitch;
    u32 metric;
    float rounding;            // the index's g
    u32 first_count;           // what counts are set to
    u32* bits;                 // of strings of bits: [n_queries, bit_pitch] the words behind the coordinates, padded with zeros; else null
    u32 bit_words;             // words of a query behind its coordinates
    u32 bit_pitch;
};
static_assert(sizeof(PrepareParams) == 112, "PrepareParams");

// overflows[q]: why an answer does not count.
#define OVERFLOW_SURVIVORS 1u // survivors were lost
#define OVERFLOW_QUERY 2u     // the query has numbers that the keys cannot bear

struct ProbeParams {
    const float* ranks;        // [n_queries, n_lists]
    const QueryConsts* consts; // [n_queries]
    const float* list_norms;   // [n_lists] squared norms of the centroids
    const u32* list_rows;      // [n_lists] slots of each list
    u32* lists;                // [n_queries, probes] nearest first
    u32* places;               // [n_queries, probes] rows of the query's lists before this one
    float* adds;               // [n_queries, probes] the list's rank, lowered by what rounding may have added: bounds start from it
    float* distances;          // [n_queries, probes] query to centroid
    u32* n_probes;             // [n_queries] lists within the spread
    u32* n_first;              // [n_queries] lists of the first round
    u32* counts;               // [n_queries] rows of the first round's lists
    u32* overflows;            // [n_queries] OVERFLOW_SURVIVORS if those are more than cap
    u32 n_lists;
    u32 probes;
    u32 first_rows;            // rows at which the first round is large enough
    u32 cap;
    float spread;              // lists farther than this from the nearest one are left out
    u32 metric;
    u32 sort_width;            // power of two, at least probes and 2
    u32 ranks_in_shared;       // there is shared memory for n_lists ranks
};
static_assert(sizeof(ProbeParams) == 128, "ProbeParams");

// A list of the tier.
struct ListSlots {
    u32 first_slot;
    u32 n_slots;
};

// One round of a plan: which (query, list) pairs are in it, and the items they make.
struct PlanParams {
    const u32* lists;          // [n_queries, probes]
    const u32* n_probes;       // [n_queries]
    const u32* n_first;        // [n_queries]
    const ListSlots* slots;    // [n_lists]
    u32* list_pairs;           // [2, n_lists] pairs of each list and round; zeroed before
    u32* pair_at;              // [n_queries, probes] number of the pair among its list's
    u32* starts;               // [2, n_lists] where a list's pairs begin in group
    u32* group;                // [2, n_queries * probes] query numbers by list
    u32* pairs;                // [2, n_queries * probes] the pairs' numbers
    u32* item_starts;          // [2, n_lists] where a list's items begin
    ScanItem* items;           // [2, max_items]
    u32* n_items;              // [2]
    u32* overflow;             // [1] set if a round has more items than max_items
    u32 n_queries;
    u32 probes;
    u32 n_lists;
    u32 max_items;
    u32 tile_rows[2];          // of the round's scan kernel
    u32 width[2];
};
static_assert(sizeof(PlanParams) == 136, "PlanParams");


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

struct AssignParams {
    const float* ranks;   // [n_centroids, n_rows] minus the inner products
    const float* offsets; // [n_centroids]
    u32* lists;           // [n_rows]
    u32 n_centroids;
    u32 n_rows;
};
static_assert(sizeof(AssignParams) == 32, "AssignParams");
