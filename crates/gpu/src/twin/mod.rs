//! CPU twins of the kernels: what each must compute, written plainly. They are the oracles of the GPU's parity tests and the
//! kernels of the simulated device.

pub mod assign;
pub mod bits;
pub mod finish;
pub mod plan;
pub mod prepare_codes;
pub mod probes;
pub mod rerank;
pub mod rerank_survivors;
pub mod scan;
pub mod scan_codes;
pub mod select;
pub mod unpack;

use half::f16;

/// The hot tier's arrays in host memory; shapes as in [`crate::params::TierView`].
#[derive(Debug, Clone, Copy)]
pub struct TierArrays<'a> {
    /// `[n_slots, pitch]`
    pub rows: &'a [f16],
    /// `[n_slots]`
    pub norm_sq: &'a [f32],
    /// `[n_slots]`
    pub err: &'a [f32],
    /// `[ceil(n_slots / 32)]`
    pub live: &'a [u32],
    /// `[n_slots]`
    pub tids: &'a [u64],
    /// `[n_slots, code_pitch]`
    pub codes: &'a [u32],
    /// `[3, n_slots]`
    pub factors: &'a [f32],
    /// Halves per row, or words of as many bits.
    pub pitch: usize,
    /// Words per code; 0 without codes.
    pub code_pitch: usize,
    /// The metric.
    pub metric: omen_ivf::Metric,
}

impl TierArrays<'_> {
    /// The stored vector of a slot, `[pitch]`.
    pub fn row(&self, slot: u32) -> &[f16] {
        let at = slot as usize * self.pitch;
        &self.rows[at..at + self.pitch]
    }

    /// Words of 32 bits of a query that is compared to the rows.
    pub fn query_words(&self) -> usize {
        crate::memory::query_words(self.metric.is_of_bits(), self.pitch)
    }

    /// Whether the entry is live.
    pub fn is_live(&self, slot: u32) -> bool {
        self.live[slot as usize / 32] >> (slot % 32) & 1 == 1
    }
}

/// Sum of `term(i)` over `0..n` in sixteen lanes (fewer roundings than one after the other, like the kernels).
fn lane_sum(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = n / 16 * 16;
    for base in (0..whole).step_by(16) {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += term(base + j);
        }
    }
    for i in whole..n {
        lanes[i - whole] += term(i);
    }
    lanes.iter().sum()
}
