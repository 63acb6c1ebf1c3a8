// unpack_rows, unpack_groups: from the pages' streams, copied to the device as they are, to the tier's arrays.
//
// unpack_rows:   rows of an item, back to back (2 * dim bytes each), to the tier's pitch, padded with zeros; and their squared norms: the
//                squares are exact in f32, their sum is taken in f64 and rounded once. Of strings of bits, in words of 16, the number
//                of bits set takes the norm's place.
// unpack_groups: groups of 32 entries (crates/ivf/src/layout/group.rs: 6 lines of 128 bytes, then code lines in FastScan order)
//                to radii, tids, factors and row-major codes. Live bits are set by the host.
//
// In:  UnpackParams; items in the area, each of one list. Out: the tier's arrays at the items' slots.
// Grid (n_items), block 256. Rows: one warp per row, 8 halves a lane. Groups: one warp per group, one lane per entry, up to 8
// groups an item; p.code_words == 0: no codes, neither in the area nor in the tier.
//
// Two numbers, an area of 8 MB: bytes 16 MB (6 us at 3 TB/s, of 150 us that the bus needs for the next area); operations 4 M.
#include "params.h"

#define GROUP_HEADER_BYTES 768u

extern "C" __global__ void __launch_bounds__(256) unpack_rows(const __grid_constant__ UnpackParams p) {
    const UnpackItem item = p.items[blockIdx.x];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 dim = p.dim, pitch = p.tier.pitch;
    const bool of_bits = is_of_bits(p.tier.metric);
    const bool whole = dim % 8 == 0; // rows start at multiples of 16 bytes and hold whole chunks of 8 halves
    const __half* rows = reinterpret_cast<const __half*>(p.area + item.at);
    for (u32 i = warp; i < item.n; i += 8) {
        const __half* from = rows + (size_t)i * dim;
        const size_t slot = (size_t)item.first_slot + i;
        __half* to = const_cast<__half*>(p.tier.rows) + slot * pitch;
        double sum = 0.0;
        for (u32 k = lane * 8; k < pitch; k += 256) {
            u32 words[4] = {0, 0, 0, 0};
            if (whole) {
                if (k < dim) {
                    const uint4 packed = *reinterpret_cast<const uint4*>(from + k);
                    words[0] = packed.x, words[1] = packed.y, words[2] = packed.z, words[3] = packed.w;
                }
            } else {
#pragma unroll
                for (u32 j = 0; j < 8; ++j) {
                    if (k + j < dim) words[j / 2] |= (u32)__half_as_ushort(from[k + j]) << (16 * (j % 2));
                }
            }
#pragma unroll
            for (u32 w = 0; w < 4; ++w) {
                if (of_bits) {
                    sum += (double)__popc(words[w]);
                    continue;
                }
                const float2 x = __half22float2(*reinterpret_cast<const __half2*>(&words[w]));
                sum += (double)(x.x * x.x);
                sum += (double)(x.y * x.y);
            }
            *reinterpret_cast<uint4*>(to + k) = make_uint4(words[0], words[1], words[2], words[3]);
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, offset);
        if (lane == 0) const_cast<float*>(p.tier.norm_sq)[slot] = __double2float_rn(sum);
    }
}

extern "C" __global__ void __launch_bounds__(256) unpack_groups(const __grid_constant__ UnpackParams p) {
    const UnpackItem item = p.items[blockIdx.x];
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 entry = warp * 32 + lane;
    if (entry >= item.n) return; // nothing below needs the other lanes
    const unsigned char* group = p.area + item.at + (size_t)warp * p.group_bytes;
    const float* lines = reinterpret_cast<const float*>(group);
    const size_t slot = (size_t)item.first_slot + entry;
    const_cast<float*>(p.tier.err)[slot] = lines[3 * 32 + lane];
    if (p.tier.tids != nullptr) {
        const u64 block = reinterpret_cast<const u32*>(group)[4 * 32 + lane];
        const u64 offset = reinterpret_cast<const unsigned short*>(group + 5 * 128)[lane];
        const_cast<u64*>(p.tier.tids)[slot] = block | offset << 32;
    }
    if (p.code_words == 0) return;

    float* factors = const_cast<float*>(p.tier.factors);
#pragma unroll
    for (u32 f = 0; f < 3; ++f) factors[(size_t)f * p.tier.n_slots + slot] = lines[f * 32 + lane];
    // A line has 8 nibbles of each entry, nibble n in one of its bytes 16n to 16n + 15: entries 0, 8, 1, 9, .. in the low halves,
    // 16, 24, 17, 25, .. in the high ones.
    const u32 low = lane & 15, shift = lane < 16 ? 0 : 4;
    const unsigned char* code = group + GROUP_HEADER_BYTES + (low < 8 ? 2 * low : 2 * low - 15);
    u32* to = const_cast<u32*>(p.tier.codes) + slot * p.tier.code_pitch;
    for (u32 first = 0; first < p.tier.code_pitch; first += 4) {
        u32 words[4] = {0, 0, 0, 0};
#pragma unroll
        for (u32 w = 0; w < 4; ++w) {
            if (first + w >= p.code_words) break;
#pragma unroll
            for (u32 n = 0; n < 8; ++n) {
                const u32 nibble = (code[(first + w) * 128 + n * 16] >> shift) & 15u;
                words[w] |= nibble << (4 * n);
            }
        }
        *reinterpret_cast<uint4*>(to + first) = make_uint4(words[0], words[1], words[2], words[3]);
    }
}
