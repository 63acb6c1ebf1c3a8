// prepare_codes: queries for the code scan: rotated, quantised to four bits, split into bit planes.
//
// In:  PrepareCodesParams; queries in f32, padded with zeroes.
// Out: planes[q, p] = bits of weight 1, 2, 4, -8 of the levels s_i in -8..7; codes[q]: with A = sum of s_i over a code's set
//      bits, <o, q'> is about step A + base; slack. If `rotated` is not null: the rotated queries.
// Grid (n_queries), block 256. The vector is in shared memory, or in `rotated` where it does not fit.
//
// The rotation is omen_ivf's (rotation.rs), the same operations in the same order, so bit for bit the same numbers: hence the
// _rn intrinsics, which the compiler never contracts. Its components are close to normal: QUERY_STEP standard deviations lose
// least in the levels -8..7 (0.110 of the norm). The levels count in units of u = |q'|^2 / <s, q'>, not of the step they were made
// with, so that the error e = q' - u s is orthogonal to q' and causes no bias; a code's signs weigh its components like
// independent signs, so the standard error of <o, e> is |e|, and that is measured, not estimated.
//
// Two numbers, 256 queries x 768: bytes 0.9 MB (0.3 us at 3 TB/s); operations 4 D log2 D and 30 D, 13 M (0.5 us at 25 T/s): what
// it takes is the latency of 32 barriers, 2 us.
#include "params.h"

#define PREPARE_THREADS 256
#define PREPARE_SHARED 8192
#define ROTATION_ROUNDS 4
#define QUERY_STEP 0.34f
#define INV_SQRT2 0.70710678118654752440f

// Sum over the block, in all threads. Each warp by a butterfly, then the warps in order.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) value = __fadd_rn(value, __shfl_xor_sync(0xFFFFFFFFu, value, offset));
    __syncthreads(); // the previous sum has been read
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    float total = scratch[0];
#pragma unroll
    for (int w = 1; w < PREPARE_THREADS / 32; ++w) total = __fadd_rn(total, scratch[w]);
    return total;
}

// Unnormalised transform of x[0 .. n), n a power of two; two passes a sweep, as omen_distance's fht.rs.
__device__ __forceinline__ void hadamard(float* x, u32 n) {
    u32 log_h = 0;
    for (; (4u << log_h) <= n; log_h += 2) {
        const u32 h = 1u << log_h;
        for (u32 i = threadIdx.x; i < n / 4; i += PREPARE_THREADS) {
            float* at = x + (((i >> log_h) << (log_h + 2)) | (i & (h - 1)));
            const float a = at[0], b = at[h], c = at[2 * h], d = at[3 * h];
            const float ab = __fadd_rn(a, b), a_b = __fsub_rn(a, b), cd = __fadd_rn(c, d), c_d = __fsub_rn(c, d);
            at[0] = __fadd_rn(ab, cd);
            at[h] = __fadd_rn(a_b, c_d);
            at[2 * h] = __fsub_rn(ab, cd);
            at[3 * h] = __fsub_rn(a_b, c_d);
        }
        __syncthreads();
    }
    const u32 h = 1u << log_h;
    if (2 * h <= n) {
        for (u32 i = threadIdx.x; i < h; i += PREPARE_THREADS) {
            const float a = x[i], b = x[i + h];
            x[i] = __fadd_rn(a, b);
            x[i + h] = __fsub_rn(a, b);
        }
        __syncthreads();
    }
}

__device__ __forceinline__ float flipped(float value, const u32* flips, u32 i) {
    return __uint_as_float(__float_as_uint(value) ^ ((flips[i >> 5] >> (i & 31)) << 31));
}

extern "C" __global__ void __launch_bounds__(PREPARE_THREADS) prepare_codes(const __grid_constant__ PrepareCodesParams p) {
    __shared__ float held[PREPARE_SHARED];
    __shared__ float scratch[PREPARE_THREADS / 32];
    const u32 query = blockIdx.x, tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const u32 dim = p.code_dim, words = dim / 32, half = dim / 2;
    const float* q = p.queries + (size_t)query * p.pitch;
    float* rotated = p.rotated ? p.rotated + (size_t)query * dim : nullptr;
    const bool fits = dim <= PREPARE_SHARED;
    float* x = fits ? held : rotated;

    for (u32 i = tid; i < dim; i += PREPARE_THREADS) x[i] = flipped(i < p.pitch ? q[i] : 0.0f, p.flips, i);
    __syncthreads();
    const u32 window = 0x80000000u >> __clz((int)dim);
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn((float)window));
    for (u32 round = 0; round < ROTATION_ROUNDS; ++round) {
        const u32 start = (round & 1) ? dim - window : 0;
        hadamard(x + start, window);
        const u32* next = round + 1 < ROTATION_ROUNDS ? p.flips + (round + 1) * words : nullptr;
        for (u32 i = tid; i < half; i += PREPARE_THREADS) {
            const u32 j = i + half;
            float a = x[i], b = x[j];
            if (i - start < window) a = __fmul_rn(a, scale);
            if (j - start < window) b = __fmul_rn(b, scale);
            if (window < dim) {
                const float sum = __fadd_rn(a, b), difference = __fsub_rn(a, b);
                a = __fmul_rn(sum, INV_SQRT2);
                b = __fmul_rn(difference, INV_SQRT2);
            }
            x[i] = next ? flipped(a, next, i) : a;
            x[j] = next ? flipped(b, next, j) : b;
        }
        __syncthreads();
    }

    float norm_sq = 0.0f;
    for (u32 i = tid; i < dim; i += PREPARE_THREADS) {
        norm_sq = __fadd_rn(norm_sq, __fmul_rn(x[i], x[i]));
        if (fits && rotated) rotated[i] = x[i];
    }
    norm_sq = block_sum(norm_sq, scratch);
    const float delta = __fmul_rn(QUERY_STEP, __fsqrt_rn(__fdiv_rn(norm_sq, (float)dim)));
    const float per_unit = delta > 1e-30f ? __fdiv_rn(1.0f, delta) : 0.0f;

    float dot = 0.0f, level_sq = 0.0f, level_sum = 0.0f, magnitude = 0.0f;
    for (u32 w = warp; w < p.code_pitch; w += PREPARE_THREADS / 32) {
        float level = 0.0f;
        if (w < words) {
            const float value = x[w * 32 + lane];
            level = fminf(fmaxf(rintf(__fmul_rn(value, per_unit)), -8.0f), 7.0f);
            dot = __fadd_rn(dot, __fmul_rn(level, value));
            level_sq += level * level;
            level_sum += level;
            magnitude = __fadd_rn(magnitude, fabsf(value));
        }
        const u32 bits = (u32)(int)level;
        u32 mine = 0;
#pragma unroll
        for (u32 plane = 0; plane < 4; ++plane) {
            const u32 ballot = __ballot_sync(0xFFFFFFFFu, (bits >> plane) & 1u);
            if (lane == plane) mine = ballot;
        }
        if (lane < 4) p.planes[((size_t)query * 4 + lane) * p.code_pitch + w] = mine;
    }
    dot = block_sum(dot, scratch);
    level_sq = block_sum(level_sq, scratch);
    level_sum = block_sum(level_sum, scratch);
    magnitude = block_sum(magnitude, scratch);
    if (tid != 0) return;

    const float unit = dot > 0.0f ? __fdiv_rn(norm_sq, dot) : 0.0f;
    const float lost_sq = __fadd_rn(norm_sq, __fmul_rn(unit, __fsub_rn(__fmul_rn(unit, level_sq), __fmul_rn(2.0f, dot))));
    CodeConsts out;
    out.step = 2.0f * unit;
    out.base = -__fmul_rn(unit, level_sum);
    // The second term pays for the roundings of the rotation and of step A + base.
    out.slack = __fadd_rn(__fmul_rn(p.epsilon, __fsqrt_rn(fmaxf(lost_sq, 0.0f))), __fmul_rn(magnitude, 9.5367431640625e-7f));
    out.reserved = 0;
    p.codes[query] = out;
}
