//! Rounds over codes: what they need, and what a tier of codes alone answers.
//!
//! A tier with rows has a first round over rows, whose keys are the threshold of the codes' lower bounds. One of codes alone keeps the
//! least lower bounds of each round: what is kept in the end is all that the caller has to look at, in this order, until no bound is
//! below the keys it found. So many are kept that this is nearly always within them.

use super::plan::TierShape;
use crate::context::Scans;
use crate::error::GpuError;
use crate::launch::prepare_codes::SHARED_DIM;
use crate::launch::scan_codes::CodeScan;
use crate::memory::{Layout, code_pitch_of};
use crate::params::{CodeConsts, from_ordered_bits};
use bytemuck::{Pod, Zeroable};

/// Queries of an item of the code scan.
pub(super) const CODE_ITEM_QUERIES: usize = 64;
/// Survivors of the code scan that `rerank_survivors` is laid out for; more are met by striding.
pub const CODE_SURVIVORS: usize = 256;
/// So many more survivors of the first round than results set the code scan's threshold: keys are as good as exact there.
const CODE_MARGIN: usize = 4;
/// Rows of the first round before a code scan, at least, per survivor kept: at k = 100, half as many took twice the time.
const CODE_FIRST_ROWS_PER_KEPT: usize = 10;
/// Least room for survivors of the code scan.
const MIN_CODE_CAP: usize = 16_384;
/// Survivors kept where there are codes alone: so many for each result and some more, at most so many.
const ALONE_KEPT_PER_RESULT: usize = 16;
const ALONE_MARGIN: usize = 64;
const MAX_ALONE_KEPT: usize = 1 << 16;
/// Rows of the first round per survivor kept, and least room for survivors, where there are codes alone.
const ALONE_FIRST_ROWS_PER_KEPT: usize = 4;
const MIN_ALONE_CAP: usize = 32_768;

/// Slots that a tier of codes alone names at most for a query that wants `k` results. Errors: `Unsupported` for a large k.
pub fn named_for(k: usize) -> Result<usize, GpuError> {
    let named = k
        .saturating_add(ALONE_MARGIN)
        .saturating_mul(ALONE_KEPT_PER_RESULT);
    if named > MAX_ALONE_KEPT {
        return Err(GpuError::Unsupported(format!("k = {k} by codes alone")));
    }
    Ok(named)
}

/// Room for survivors of a query.
pub(super) struct Room {
    /// Survivors kept after each round.
    pub keep: usize,
    /// Rows at which the first round is large enough.
    pub first_rows: usize,
    /// Least room for survivors.
    pub least: usize,
}

impl Room {
    /// Before a second round over codes.
    pub(super) fn of_codes(k: usize, first_rows: usize) -> Self {
        let keep = k + CODE_MARGIN;
        Self {
            keep,
            first_rows: first_rows.max(CODE_FIRST_ROWS_PER_KEPT * keep),
            least: MIN_CODE_CAP,
        }
    }

    /// Where there are codes alone. Errors: `Unsupported` for a large k.
    pub(super) fn of_codes_alone(k: usize) -> Result<Self, GpuError> {
        let keep = named_for(k)?;
        Ok(Self {
            keep,
            first_rows: ALONE_FIRST_ROWS_PER_KEPT * keep,
            least: MIN_ALONE_CAP,
        })
    }
}

/// What a round over codes needs. Offsets in bytes of device scratch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodePlan {
    /// The kernel.
    pub scan: CodeScan,
    /// Words of a code.
    pub code_pitch: usize,
    /// u32 `[n, 4, code_pitch]`.
    pub planes: usize,
    /// [`CodeConsts`] `[n]`.
    pub consts: usize,
    /// f32 `[n, code_dim]`; None where the kernel needs no room.
    pub rotated: Option<usize>,
    /// u32 `[n]`: survivors of the first round.
    pub base: usize,
}

impl CodePlan {
    /// For `n` queries, `sharing` of which meet the same list on average; `take` gives room.
    pub(super) fn new(
        tier: &TierShape,
        n: usize,
        sharing: usize,
        take: &mut impl FnMut(usize) -> usize,
    ) -> Self {
        let code_pitch = code_pitch_of(tier.dim);
        Self {
            scan: CodeScan::best(tier.scans >= Scans::Mma, 2 * sharing),
            code_pitch,
            planes: take(n * 4 * code_pitch * 4),
            consts: take(n * size_of::<CodeConsts>()),
            rotated: (tier.code_dim > SHARED_DIM).then(|| take(n * tier.code_dim * 4)),
            base: take(n * 4),
        }
    }
}

/// Where the answer of a tier of codes alone goes. Offsets in bytes of page-locked memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlotsPlan {
    /// u64 `[n, keep]`: the survivors kept, in any order.
    pub survivors: usize,
    /// f32 `[n]`.
    pub thresholds: usize,
    /// u32 `[n]`.
    pub counts: usize,
    /// u32 `[n]`.
    pub overflows: usize,
}

impl SlotsPlan {
    pub(super) fn new(n: usize, keep: usize, host: &mut Layout) -> Self {
        Self {
            survivors: host.take(n * keep * 8),
            thresholds: host.take(n * 4),
            counts: host.take(n * 4),
            overflows: host.take(n * 4),
        }
    }
}

/// An entry that codes alone do not rule out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct NearSlot {
    /// Its slot in the tier.
    pub slot: u32,
    /// Lower bound of its key, which holds statistically.
    pub bound: f32,
}

impl NearSlot {
    pub(super) fn of(survivor: u64) -> Self {
        Self {
            slot: survivor as u32, // the low half
            bound: from_ordered_bits((survivor >> 32) as u32),
        }
    }
}
