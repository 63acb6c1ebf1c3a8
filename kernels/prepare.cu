// prepare_queries: a batch's queries as the scans want them, and the state a search starts from.
//
// In:  PrepareParams: queries f32 [n_queries, dim + bit_words], read once (they may lie in the host's memory).
// Out: queries f32 [n_queries, pitch] padded with zeroes; high and low f16 halves of the query scaled by a power of two; the constants
//      of the keys; of strings of bits the words behind the coordinates, padded, and how many bits are set; thresholds +inf, counts first_count,
//      overflows 0. A query with a coordinate beyond 2^56 or not finite becomes zero and has OVERFLOW_QUERY.
// Grid (n_queries), block 128. The host's twins are crates/gpu/src/query.rs, prepare() and prepare_bits(); the error analysis is in loose_key.h.
//
// Two numbers, 10,000 queries x 768: bytes 31 MB over PCIe (0.6 ms at 52 GB/s), 61 MB written; operations 10 a coordinate.
#include "params.h"

#define QUERY_THREADS 128
#define PREPARE_MAX_ABS 7.205759403792794e16f // 2^56: with it, squares summed over 16,000 dimensions stay finite
#define PREPARE_EXP 7                          // scaled queries have their largest coordinate in [2^7, 2^8)
#define PREPARE_MIN_EXP (-48)

__device__ __forceinline__ double prepare_sum(double x, double* scratch) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = x;
    __syncthreads();
    return scratch[0] + scratch[1] + scratch[2] + scratch[3];
}

// To f32, upwards.
__device__ __forceinline__ float prepare_up(double x) { return __double2float_ru(x * (1.0 + 1e-6)); }

extern "C" __global__ void __launch_bounds__(QUERY_THREADS) prepare_queries(const __grid_constant__ PrepareParams p) {
    __shared__ double scratch[QUERY_THREADS / 32];
    __shared__ float largest_of[QUERY_THREADS / 32];
    __shared__ u32 bad_of[QUERY_THREADS / 32];
    const u32 query = blockIdx.x, tid = threadIdx.x;
    const bool recorded = p.raw == nullptr;
    const float* raw = (recorded ? p.input[0] : p.raw) + (size_t)query * (p.dim + p.bit_words);
    float* out = p.queries + (size_t)query * p.pitch;
    __half* high = p.halves + (size_t)query * 2 * p.pitch;
    __half* low = high + p.pitch;

    float largest = 0.0f;
    u32 bad = 0;
    if (p.dim % 4 == 0 && p.bit_words % 4 == 0) {
        for (u32 k = tid * 4; k < p.dim; k += QUERY_THREADS * 4) {
            const float4 v = *reinterpret_cast<const float4*>(raw + k);
            *reinterpret_cast<float4*>(out + k) = v;
            const float m = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
            largest = fmaxf(largest, m);
            // The sum is NaN or infinite if any of them is.
            const float sum = fabsf(v.x) + fabsf(v.y) + fabsf(v.z) + fabsf(v.w);
            bad |= !(m <= PREPARE_MAX_ABS) || !(sum <= 4.0f * PREPARE_MAX_ABS);
        }
    } else {
        for (u32 k = tid; k < p.dim; k += QUERY_THREADS) {
            const float x = raw[k];
            out[k] = x;
            largest = fmaxf(largest, fabsf(x));
            bad |= !(fabsf(x) <= PREPARE_MAX_ABS);
        }
    }
    for (u32 k = p.dim + tid; k < p.pitch; k += QUERY_THREADS) out[k] = 0.0f;
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
    bad = __any_sync(0xFFFFFFFFu, bad);
    if ((tid & 31) == 0) {
        largest_of[tid >> 5] = largest;
        bad_of[tid >> 5] = bad;
    }
    __syncthreads(); // also: out is written
    largest = fmaxf(fmaxf(largest_of[0], largest_of[1]), fmaxf(largest_of[2], largest_of[3]));
    bad = bad_of[0] | bad_of[1] | bad_of[2] | bad_of[3];
    if (bad) largest = 0.0f;

    const int exponent = (int)((__float_as_uint(largest) >> 23) & 0xFF) - 127;
    const int exp = largest == 0.0f ? 0 : max(exponent - PREPARE_EXP, PREPARE_MIN_EXP);
    const float down = ldexpf(1.0f, -exp);
    const double back = ldexp(1.0, exp);
    double norm_sq = 0.0, lost_sq = 0.0, lost_high_sq = 0.0;
    for (u32 k = tid; k < p.pitch; k += QUERY_THREADS) {
        if (bad) out[k] = 0.0f;
        const float x = bad ? 0.0f : out[k];
        const float scaled = x * down;
        const __half h = __float2half_rn(scaled);
        const float wide = __half2float(h);
        const __half l = __float2half_rn(scaled - wide); // exact: the difference of a number and its rounding to fewer bits
        high[k] = h;
        low[k] = l;
        const double exact = x, of_high = exact - (double)wide * back, lost = of_high - (double)__half2float(l) * back;
        norm_sq += exact * exact;
        lost_sq += lost * lost;
        lost_high_sq += of_high * of_high;
    }
    norm_sq = prepare_sum(norm_sq, scratch);
    lost_sq = prepare_sum(lost_sq, scratch);
    lost_high_sq = prepare_sum(lost_high_sq, scratch);
    double ones = 0.0;
    if (p.bits != nullptr) {
        const u32* words = reinterpret_cast<const u32*>(raw) + p.dim;
        for (u32 k = tid; k < p.bit_pitch; k += QUERY_THREADS) {
            const u32 word = k < p.bit_words ? words[k] : 0;
            p.bits[(size_t)query * p.bit_pitch + k] = word;
            ones += (double)__popc(word);
        }
        ones = prepare_sum(ones, scratch);
    }
    if (tid != 0) return;

    const float* bounds = (recorded ? p.input[1] : p.bounds) + 2 * query;
    const double norm = sqrt(norm_sq), g = p.rounding;
    const double sums = (1.25 * p.pitch + 32.0) * 1.1920928955078125e-7 * 1.01 * norm;
    const double error = sums + sqrt(lost_sq), error_high = sums + sqrt(lost_high_sq);
    const bool by_ip = p.metric == METRIC_NEG_IP;
    const double q_norm = by_ip ? (double)bounds[0] : 0.0;
    const double more = (2.0 * g + 4.76837158203125e-7) * norm;
    QueryConsts consts;
    // A norm so small that its square is not a normal number counts as 0: too small is safe.
    consts.norm_sq = norm_sq < 1e-30 ? 0.0f : (float)norm_sq;
    consts.dot_scale = (float)back;
    consts.slack = prepare_up(by_ip ? error + more : 2.0 * error);
    consts.slack_high = prepare_up(by_ip ? error_high + more : 2.0 * error_high);
    consts.norm_up = prepare_up(q_norm * (1.0 + 4.0 * g));
    consts.norm = is_of_bits(p.metric) ? (float)ones : prepare_up(q_norm * (1.0 + 2.0 * g));
    consts.err = by_ip ? 0.0f : bounds[1];
    consts.reserved = 0;
    p.consts[query] = consts;
    p.thresholds[query] = __uint_as_float(0x7F800000u);
    p.counts[query] = p.first_count;
    p.overflows[query] = bad ? OVERFLOW_QUERY : 0;
}
