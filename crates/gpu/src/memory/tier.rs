//! What a tier holds of an index, where in its one allocation, and how much of an index fits a budget.
//!
//! Bytes of an entry: rows 2 * pitch, squared norm 4, radius 4, tid 8, live bit; codes `code_pitch` * 4, factors 12. At 768
//! dimensions that is 1,660 with rows and codes, and 112 with codes alone.

use super::{Layout, MAX_SLOTS, pitch_of};
use crate::error::GpuError;
use crate::tier::TierSpec;
use omen_ivf::layout::group::{Filter, GroupShape};

/// Least scratch a tier is given besides its entries; while it is loaded, room of its staging areas on the device.
pub const MIN_SCRATCH_BYTES: u64 = 16 << 20;
/// Codes are padded with zeros to a multiple of this many 32-bit words (256 bits).
pub const CODE_PITCH_STEP: usize = 8;
/// Factors of a code: `f_add`, `f_rescale`, `f_error` (`omen_ivf::rabitq`).
pub const N_FACTORS: usize = 3;

/// 32-bit words per one-bit code in device memory.
pub fn code_pitch_of(dim: usize) -> usize {
    dim.div_ceil(32).next_multiple_of(CODE_PITCH_STEP)
}

/// What a tier holds of its entries. Radii and live bits are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Rows with their norms, and tids.
    Rows,
    /// The same, and one-bit codes with their factors.
    RowsAndCodes,
    /// One-bit codes with their factors: a result is a slot, for which the host reads row and tid.
    Codes,
}

impl Parts {
    /// All that an index of this filter offers.
    pub fn of(filter: Filter) -> Self {
        match filter {
            Filter::OneBit => Self::RowsAndCodes,
            Filter::None | Filter::FourBit => Self::Rows,
        }
    }

    /// Whether rows, norms and tids are there.
    pub fn rows(self) -> bool {
        self != Self::Codes
    }

    /// Whether codes and factors are there.
    pub fn codes(self) -> bool {
        self != Self::Rows
    }
}

/// Offsets of a tier's arrays in its one allocation; shapes as in [`crate::params::TierView`]. Arrays that are not among the parts
/// are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierPlan {
    /// What is there.
    pub parts: Parts,
    /// Slots planned for.
    pub n_slots: usize,
    /// Lists of the index.
    pub n_lists: usize,
    /// Halves, or words of as many bits, per row.
    pub pitch: usize,
    /// Halves per centroid.
    pub centroid_pitch: usize,
    /// 32-bit words per code; 0 without codes.
    pub code_pitch: usize,
    /// Offset of the rows.
    pub rows: usize,
    /// Offset of the squared norms.
    pub norm_sq: usize,
    /// Offset of the error radii.
    pub err: usize,
    /// Offset of the live bits.
    pub live: usize,
    /// Offset of the tids.
    pub tids: usize,
    /// Offset of the codes.
    pub codes: usize,
    /// Offset of the factors.
    pub factors: usize,
    /// Offset of the centroids, f16 `[n_lists, centroid_pitch]`.
    pub centroids: usize,
    /// Offset of the centroids' squared norms, f32 `[n_lists]`.
    pub centroid_norms: usize,
    /// Bytes in all.
    pub bytes: usize,
}

impl TierPlan {
    /// The plan for `n_slots` entries. Errors: `Unsupported` beyond [`MAX_SLOTS`].
    pub fn new(spec: &TierSpec, parts: Parts, n_slots: u64) -> Result<Self, GpuError> {
        let of_vectors = !spec.metric.is_of_bits();
        if of_vectors && spec.row_words != spec.dim {
            let what = "rows that are neither vectors nor strings of bits";
            return Err(GpuError::Unsupported(what.into()));
        }
        if !of_vectors && parts.codes() {
            return Err(GpuError::Unsupported("codes of strings of bits".into()));
        }
        if n_slots > MAX_SLOTS {
            return Err(GpuError::Unsupported(format!(
                "{n_slots} entries in one tier"
            )));
        }
        let n = n_slots as usize; // at most 2^31
        let with_rows = if parts.rows() { n } else { 0 };
        let with_codes = if parts.codes() { n } else { 0 };
        let (pitch, centroid_pitch) = (pitch_of(spec.row_words), pitch_of(spec.dim));
        let code_pitch = if parts.codes() {
            code_pitch_of(spec.dim)
        } else {
            0
        };
        let mut layout = Layout::default();
        Ok(Self {
            parts,
            n_slots: n,
            n_lists: spec.n_lists,
            pitch,
            centroid_pitch,
            code_pitch,
            rows: layout.take(with_rows * pitch * 2),
            norm_sq: layout.take(with_rows * 4),
            err: layout.take(n * 4),
            live: layout.take(n.div_ceil(32) * 4),
            tids: layout.take(with_rows * 8),
            codes: layout.take(with_codes * code_pitch * 4),
            factors: layout.take(with_codes * N_FACTORS * 4),
            centroids: layout.take(spec.n_lists * centroid_pitch * 2),
            centroid_norms: layout.take(spec.n_lists * 4),
            bytes: layout.at,
        })
    }

    /// Bytes of device memory such a tier takes at least, scratch for searches included.
    pub fn bytes_needed(&self) -> u64 {
        self.bytes as u64 + MIN_SCRATCH_BYTES
    }
}

/// Slots to plan for `n` entries: lists that are rewritten while a tier is loaded are read a second time.
pub fn with_spare(n: u64) -> u64 {
    n + n / 256 + n.min(1024)
}

/// The same for a tier whose lists are to be refreshed: each has room for what is appended to it ([`room_of_list`]), and lists that are rewritten are
/// written beside those in use.
pub fn with_room(n: u64, n_lists: usize) -> u64 {
    let (growth, words) = match n {
        0 => (0, 0),
        _ => (
            n / GROWTH_SHARE + (LEAST_GROWTH * n_lists) as u64,
            32 * n_lists as u64,
        ),
    };
    with_spare(n) + growth + words + n / 8
}

/// A list has room for one more entry for so many, and for so many at least: VACUUM rewrites a list after 32 appended entries or a sixteenth
/// (`omen_ivf::fold`), whatever is more.
const GROWTH_SHARE: u64 = 8;
const LEAST_GROWTH: usize = 32;

/// Slots for a list of `n` entries and what will be appended to it, in whole words of live bits.
pub fn room_of_list(n: usize) -> usize {
    (n + n / GROWTH_SHARE as usize + LEAST_GROWTH).next_multiple_of(32)
}

/// An index that a tier is wanted of.
#[derive(Debug, Clone, Copy)]
pub struct LadderShape<'a> {
    /// What the tier is for.
    pub spec: TierSpec,
    /// Codes of the index.
    pub filter: Filter,
    /// Entries of each list, the hottest list first.
    pub list_sizes: &'a [u32],
}

/// How much of an index a tier holds, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rung {
    /// All entries, with rows, and codes where the index has one-bit codes.
    CodesAndRows,
    /// All entries, codes alone (indexes with one-bit codes).
    CodesOnly,
    /// Whole lists, as in `CodesAndRows`.
    HottestLists {
        /// Places of the lists in the order given, ascending: each that fits beside those before.
        chosen: Vec<usize>,
        /// Their entries, at least one.
        n_slots: u64,
    },
    /// Not even one list that has entries.
    Nothing,
}

/// The best rung that fits `budget` bytes, spare slots ([`with_spare`]) and the least scratch included.
pub fn rung(shape: &LadderShape<'_>, budget: u64) -> Rung {
    let all: u64 = shape.list_sizes.iter().map(|&n| u64::from(n)).sum();
    let parts = Parts::of(shape.filter);
    let fits = |parts: Parts, n: u64| {
        TierPlan::new(&shape.spec, parts, with_spare(n))
            .is_ok_and(|plan| plan.bytes_needed() <= budget)
    };
    if fits(parts, all) {
        return Rung::CodesAndRows;
    }
    if parts.codes() && fits(Parts::Codes, all) {
        return Rung::CodesOnly;
    }
    // `fits` is monotone: the most entries that fit are found by halving.
    let (mut most, mut too_many) = (0, all);
    while most + 1 < too_many {
        let middle = most + (too_many - most) / 2;
        if fits(parts, middle) {
            most = middle;
        } else {
            too_many = middle;
        }
    }
    let mut n_slots = 0;
    let mut chosen = Vec::new();
    for (i, &n) in shape.list_sizes.iter().enumerate() {
        if n_slots + u64::from(n) <= most {
            n_slots += u64::from(n);
            chosen.push(i);
        }
    }
    if n_slots > 0 {
        Rung::HottestLists { chosen, n_slots }
    } else {
        Rung::Nothing
    }
}

/// Whether codes are laid out as this module assumes: whole 32-bit words, which padding follows.
const _: () = assert!(
    GroupShape::new(Filter::OneBit, 100)
        .code_dim
        .is_multiple_of(32)
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ALIGN;
    use omen_ivf::Metric;

    fn spec(dim: usize, n_lists: usize) -> TierSpec {
        TierSpec::of_vectors(Metric::L2, dim, n_lists)
    }

    #[test]
    fn arrays_do_not_overlap() {
        for parts in [Parts::Rows, Parts::RowsAndCodes, Parts::Codes] {
            let p = TierPlan::new(&spec(600, 7), parts, 1001).unwrap();
            assert_eq!(
                (p.pitch, p.code_pitch),
                (608, if parts.codes() { 24 } else { 0 })
            );
            let rows = if parts.rows() { 1001 } else { 0 };
            let codes = if parts.codes() { 1001 } else { 0 };
            let arrays = [
                (p.rows, rows * 608 * 2),
                (p.norm_sq, rows * 4),
                (p.err, 1001 * 4),
                (p.live, 32 * 4),
                (p.tids, rows * 8),
                (p.codes, codes * 24 * 4),
                (p.factors, codes * 12),
                (p.centroids, 7 * 608 * 2),
                (p.centroid_norms, 7 * 4),
                (p.bytes, 0),
            ];
            for pair in arrays.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{p:?}");
                assert!(pair[0].0 + pair[0].1 + ALIGN > pair[1].0, "{p:?}");
                assert_eq!(pair[1].0 % ALIGN, 0);
            }
        }
        assert!(matches!(
            TierPlan::new(&spec(4, 1), Parts::Rows, MAX_SLOTS + 1),
            Err(GpuError::Unsupported(_))
        ));
        let empty = TierPlan::new(&spec(16_000, 0), Parts::RowsAndCodes, 0).unwrap();
        assert_eq!(empty.bytes, 0);
    }

    #[test]
    fn bytes_of_a_vector_of_768_dimensions() {
        let n = 1_000_000;
        let bytes = |parts| {
            let plan = TierPlan::new(&spec(768, 4096), parts, with_spare(n)).unwrap();
            plan.bytes as u64 / n
        };
        assert!(bytes(Parts::RowsAndCodes) <= 1700);
        assert!(bytes(Parts::Codes) <= 120);
    }

    #[test]
    fn the_ladder_goes_down_step_by_step() {
        let sizes = [1000u32; 100];
        let shape = LadderShape {
            spec: spec(768, 100),
            filter: Filter::OneBit,
            list_sizes: &sizes,
        };
        let need = |parts, n| {
            let plan = TierPlan::new(&shape.spec, parts, with_spare(n)).unwrap();
            plan.bytes_needed()
        };
        let whole = need(Parts::RowsAndCodes, 100_000);
        assert_eq!(rung(&shape, whole), Rung::CodesAndRows);
        assert_eq!(rung(&shape, whole - 1), Rung::CodesOnly);
        let codes = need(Parts::Codes, 100_000);
        assert_eq!(rung(&shape, codes), Rung::CodesOnly);
        let fewer = Rung::HottestLists {
            chosen: vec![0, 1, 2],
            n_slots: 3000,
        };
        assert_eq!(rung(&shape, need(Parts::RowsAndCodes, 3000)), fewer);
        let rows_only = LadderShape {
            filter: Filter::FourBit,
            ..shape
        };
        assert_eq!(rung(&rows_only, need(Parts::Rows, 3000)), fewer);
        let most = Rung::HottestLists {
            chosen: (0..99).collect(),
            n_slots: 99_000,
        };
        let whole = need(Parts::Rows, 100_000);
        assert_eq!(rung(&rows_only, whole), Rung::CodesAndRows);
        assert_eq!(rung(&rows_only, whole - 1), most);
        let one = need(Parts::RowsAndCodes, 1000);
        assert_eq!(rung(&shape, one - 1), Rung::Nothing);
        let uneven = LadderShape {
            list_sizes: &[500, 90_000, 1000, 2000, 1500],
            ..shape
        };
        let around = Rung::HottestLists {
            chosen: vec![0, 2, 4],
            n_slots: 3000,
        };
        assert_eq!(rung(&uneven, need(Parts::RowsAndCodes, 3000)), around);
        let nothing = LadderShape {
            list_sizes: &[],
            ..shape
        };
        assert_eq!(rung(&nothing, 0), Rung::Nothing);
        assert_eq!(rung(&nothing, 1 << 30), Rung::CodesAndRows);
    }
}
