//! Twins of `unpack_rows` and `unpack_groups`: from the pages' streams to the tier's arrays.

use crate::params::UnpackItem;
use bytemuck::{cast_slice, pod_read_unaligned};
use half::f16;
use omen_ivf::Metric;
use omen_ivf::layout::group::{Filter, GROUP, GroupHeader, GroupShape};

/// The tier's arrays that are unpacked into; shapes as in [`crate::params::TierView`], empty where the tier has none.
pub struct UnpackArrays<'a> {
    /// `[n_slots, pitch]`
    pub rows: &'a mut [f16],
    /// `[n_slots]`
    pub norm_sq: &'a mut [f32],
    /// `[n_slots]`
    pub err: &'a mut [f32],
    /// `[n_slots]`
    pub tids: &'a mut [u64],
    /// `[n_slots, code_pitch]`
    pub codes: &'a mut [u32],
    /// `[3, n_slots]`
    pub factors: &'a mut [f32],
    /// Halves per row.
    pub pitch: usize,
    /// Words per code.
    pub code_pitch: usize,
    /// The metric: of bits, what stands for the squared norm is their number.
    pub metric: Metric,
}

/// Unpacks the rows of one item of the area, `dim` halves, or words of as many bits, each.
pub fn unpack_rows(tier: &mut UnpackArrays<'_>, area: &[u8], item: &UnpackItem, dim: usize) {
    for i in 0..item.n as usize {
        let from = &area[item.at as usize + i * dim * 2..][..dim * 2];
        let slot = item.first_slot as usize + i;
        let to = &mut tier.rows[slot * tier.pitch..][..tier.pitch];
        to.fill(f16::ZERO);
        to[..dim].copy_from_slice(cast_slice(from));
        tier.norm_sq[slot] = if tier.metric.is_of_bits() {
            to.iter().map(|x| x.to_bits().count_ones()).sum::<u32>() as f32
        } else {
            to.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>() as f32
        };
    }
}

/// Unpacks the groups of one item of the area, `group_bytes` apart, with codes of `code_words` words (0: none).
pub fn unpack_groups(
    tier: &mut UnpackArrays<'_>,
    area: &[u8],
    item: &UnpackItem,
    group_bytes: usize,
    code_words: usize,
) {
    let n_slots = tier.err.len();
    let code_bytes = code_words * size_of::<u32>() * GROUP;
    let mut bits = vec![0u64; GROUP * code_words.div_ceil(2)];
    for first in (0..item.n as usize).step_by(GROUP) {
        let group = &area[item.at as usize + first / GROUP * group_bytes..];
        let (header, codes) = group.split_at(size_of::<GroupHeader>());
        let header: GroupHeader = pod_read_unaligned(header);
        if code_words > 0 {
            let words = code_words / 2;
            omen_distance::unpack_codes(&codes[..code_bytes], words, code_words * 32, &mut bits);
        }
        for i in 0..GROUP.min(item.n as usize - first) {
            let slot = item.first_slot as usize + first + i;
            tier.err[slot] = header.err[i];
            if !tier.tids.is_empty() {
                tier.tids[slot] =
                    u64::from(header.tid_block[i]) | u64::from(header.tid_offset[i]) << 32;
            }
            if code_words == 0 {
                continue;
            }
            let factors = [header.f_add[i], header.f_rescale[i], header.f_error[i]];
            for (f, factor) in factors.into_iter().enumerate() {
                tier.factors[f * n_slots + slot] = factor;
            }
            let to = &mut tier.codes[slot * tier.code_pitch..][..tier.code_pitch];
            to.fill(0);
            for (w, word) in to[..code_words].iter_mut().enumerate() {
                *word = (bits[i * code_words / 2 + w / 2] >> (32 * (w % 2))) as u32;
            }
        }
    }
}

// Codes of whole 64-bit words, as `unpack_codes` takes them.
const _: () = assert!(
    GroupShape::new(Filter::OneBit, 1)
        .code_dim
        .is_multiple_of(64)
);
