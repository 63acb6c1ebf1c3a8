// Distances of strings of bits, from how many bits differ, and the bounds of what the operators return.
// Rust twin: crates/gpu/src/twin/bits.rs. As omen_ivf's bound.rs, where the bounds are proven.
//
// Counts are exact, and so is Hamming's distance. Jaccard's is 1 - common / (common + differing), in f64 as by the operator, rounded to the nearest
// f32: the operator's value is between its neighbours, and it itself where it is a multiple of 1/256. What is common follows from the numbers of bits set
// (QueryConsts::norm and TierView::norm_sq) and of those that differ. Keys do not depend on the order of sums: those of the scan are tight.
#pragma once
#include "params.h"

__device__ __forceinline__ float bit_distance(u32 metric, u32 differing, float of_query, float of_row) {
    if (metric == METRIC_HAMMING) return (float)differing;
    const u32 common = ((u32)of_query + (u32)of_row - differing) / 2;
    if (common == 0) return 1.0f;
    const double share = (double)common / ((double)common + (double)differing);
    return __double2float_rn(1.0 - share);
}

__device__ __forceinline__ bool is_exact_distance(u32 metric, float distance) {
    const float parts = distance * 256.0f;
    return metric == METRIC_HAMMING || parts == truncf(parts);
}

// Not below 0, since 0 is exact; so the neighbours differ by one in their bits.
__device__ __forceinline__ float bit_key(u32 metric, float distance) {
    return is_exact_distance(metric, distance) ? distance : __uint_as_float(__float_as_uint(distance) - 1);
}

__device__ __forceinline__ float bit_ceiling(u32 metric, float distance) {
    return is_exact_distance(metric, distance) ? distance : __uint_as_float(__float_as_uint(distance) + 1);
}

// Bits that differ in 4 words of 32.
__device__ __forceinline__ u32 differing_bits(const uint4& a, const uint4& b) {
    return __popc(a.x ^ b.x) + __popc(a.y ^ b.y) + __popc(a.z ^ b.z) + __popc(a.w ^ b.w);
}
