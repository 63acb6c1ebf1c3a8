//! The plan of a batch that the device answers on its own: sizes, offsets, and which kernels. Pure functions.
//!
//! Exact: `prepare_queries`; `Place` scan of a sample, and select, for a threshold; `Append` scan of everything, and select; `finish_selected`.
//! Else: `prepare_queries`; `Rank` scan over the centroids; `select_probes`; `plan`; `Place` scan of each query's nearest lists, and
//! select, for a finite threshold; `Append` scan of its other lists against that threshold, and select;
//! `finish_selected`. Small batches search the other lists by codes (`prepare_codes`, `scan_codes`), and the exact keys of what those
//! cannot rule out come from the rows (`rerank_survivors`). A tier of codes alone is searched by codes in both rounds, against the lower
//! bounds kept so far, and the answer is what is kept in the end (`codes.rs`).

pub use super::shape::TierShape;

use super::codes::{CODE_ITEM_QUERIES, CodePlan, Room, SlotsPlan};
use super::exact::Sample;
use super::tuning::{FEW, LARGE, Tuning};
use crate::context::Scans;
use crate::error::GpuError;
use crate::launch::finish::MAX_KEEP;
use crate::launch::probes::MAX_PROBES;
use crate::launch::scan::Width;
use crate::launch::scan_codes::ITEM_ROWS;
use crate::memory::{Layout, pitch_of};
use crate::params::{Found, FoundHead, QueryBound, QueryConsts, ScanItem};

/// What a batch asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Queries.
    pub n_queries: usize,
    /// Results of each.
    pub k: usize,
    /// Lists of each; `None`: everything, exactly.
    pub probes: Option<usize>,
    /// Lists farther than this from the nearest one are left out.
    pub spread: f32,
    /// The index's g.
    pub rounding: f32,
    /// Whether the chosen lists are told.
    pub want_lists: bool,
}

/// Where the chosen lists are told. Offsets in bytes of page-locked memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChosenPlan {
    /// u32 `[n, probes]`.
    pub lists: usize,
    /// u32 `[n]`: how many of them count.
    pub n_probes: usize,
}

/// The plan of one batch. Offsets are in bytes: of device scratch, or (`host_*`) of page-locked memory.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchPlan {
    /// The tier.
    pub tier: TierShape,
    /// What is asked for.
    pub wanted: Wanted,
    /// Halves per query, by which lists are chosen.
    pub pitch: usize,
    /// Lists chosen for each query; 0: everything is searched.
    pub probes: usize,
    /// Survivors kept.
    pub keep: usize,
    /// Room for survivors.
    pub cap: usize,
    /// Rows at which the first round is large enough.
    pub first_rows: usize,
    /// What an exact search looks at before it looks at everything.
    pub sample: Sample,
    /// Kernel of the centroids.
    pub rank_width: Width,
    /// Kernel of the rounds over rows.
    pub width: Width,
    /// The second round is over codes; in a tier of codes alone both are.
    pub codes: Option<CodePlan>,
    /// The answer of a tier of codes alone, in place of `host_heads` and `host_found`.
    pub slots: Option<SlotsPlan>,
    /// The chosen lists, if they are told.
    pub chosen: Option<ChosenPlan>,
    /// Halves of the queries that take part in the rounds.
    pub n_halves: u32,
    /// Room for items of a round.
    pub max_items: usize,
    /// f32 `[n, pitch]`.
    pub queries: usize,
    /// What rows are compared to, `[n, row_query_words]`: the queries, or of strings of bits u32.
    pub row_queries: usize,
    /// f16 `[n, 2, pitch]`.
    pub halves: usize,
    /// [`QueryConsts`] `[n]`.
    pub consts: usize,
    /// f32 `[n]`.
    pub thresholds: usize,
    /// u32 `[n]`.
    pub counts: usize,
    /// u32 `[n]`.
    pub overflows: usize,
    /// f32 `[n, n_lists]`.
    pub ranks: usize,
    /// u32 `[n, probes]`.
    pub lists: usize,
    /// u32 `[n, probes]`.
    pub places: usize,
    /// f32 `[n, probes]`.
    pub adds: usize,
    /// f32 `[n, probes]`.
    pub distances: usize,
    /// u32 `[n]`.
    pub n_probes: usize,
    /// u32 `[n]`.
    pub n_first: usize,
    /// u32 `[2, n_lists]`.
    pub list_pairs: usize,
    /// u32 `[2, n_lists]`.
    pub starts: usize,
    /// u32 `[2, n_lists]`.
    pub item_starts: usize,
    /// u32 `[n, probes]`.
    pub pair_at: usize,
    /// u32 `[2, n * probes]`.
    pub group: usize,
    /// u32 `[2, n * probes]`.
    pub pairs: usize,
    /// [`ScanItem`] `[2, max_items]`.
    pub items: usize,
    /// u32 `[2]`.
    pub n_items: usize,
    /// u64 `[n, cap]`.
    pub survivors: usize,
    /// Bytes of device scratch.
    pub bytes: usize,
    /// f32 `[n, query_words]`.
    pub host_raw: usize,
    /// [`QueryBound`] `[n]`.
    pub host_bounds: usize,
    /// u64 `[2]`: addresses of the queries and their bounds.
    pub host_input: usize,
    /// u32 `[1]`: set by the device if items found no room.
    pub host_overflow: usize,
    /// [`FoundHead`] `[n]`.
    pub host_heads: usize,
    /// [`Found`] `[n, k]`.
    pub host_found: usize,
    /// Bytes of page-locked memory.
    pub host_bytes: usize,
}

/// So many more survivors than results are kept, at least, and one in so many: enough to see beyond the last result, though the keys of
/// the scans are loose.
const MARGIN: usize = 16;
const MARGIN_SHARE: usize = 8;
/// Least room for survivors of a query.
const MIN_CAP: usize = 4096;
/// Most room for survivors of a query.
const MAX_CAP: usize = 1 << 17;

/// The scan kernel for `queries` queries that meet the same rows.
fn width_for(scans: Scans, queries: usize, tuning: &Tuning) -> Width {
    match scans {
        Scans::Fma => Width::Fma,
        Scans::Wgmma if queries >= tuning.wgmma_from => Width::Wgmma,
        Scans::Mma | Scans::Wgmma => match queries {
            0..=4 => Width::Mma4,
            5..=8 => Width::Mma8,
            9..=16 => Width::Mma16,
            _ => Width::Mma32,
        },
    }
}

impl BatchPlan {
    /// The plan of a batch. Errors: `Unsupported` for more results or lists than the kernels take.
    pub fn new(tier: TierShape, wanted: Wanted, tuning: Tuning) -> Result<Self, GpuError> {
        let (n, n_lists) = (wanted.n_queries, tier.n_lists);
        let k = wanted.k.max(1);
        let probes = wanted.probes.map_or(0, |probes| probes.clamp(1, n_lists));
        if probes > MAX_PROBES {
            return Err(GpuError::Unsupported(format!("{probes} lists of a query")));
        }
        let sharing = (n * probes).div_ceil(n_lists);
        // All lists are an exact search, also where they are told one by one: codes may err.
        let is_exact =
            wanted.probes.is_none_or(|probes| probes >= n_lists) && wanted.spread == f32::INFINITY;
        let by_codes = !tier.has_rows
            || tier.code_dim > 0
                && !is_exact
                && sharing <= tuning.code_sharing
                && n <= tuning.code_queries;
        let Room {
            keep,
            first_rows,
            least,
        } = if !tier.has_rows {
            if wanted.probes.is_none() {
                return Err(GpuError::Unsupported(
                    "an exact search by codes alone".into(),
                ));
            }
            if tier.code_dim == 0 {
                return Err(GpuError::Other("codes without a rotation".into()));
            }
            Room::of_codes_alone(k)?
        } else {
            let keep = k.saturating_add(MARGIN.max(k / MARGIN_SHARE));
            if keep > MAX_KEEP {
                return Err(GpuError::Unsupported(format!("k = {k} in a batch")));
            }
            if by_codes {
                Room::of_codes(k, tuning.code_first_rows)
            } else {
                let least = if n < LARGE {
                    tuning.first_rows
                } else {
                    tuning.first_rows_large
                };
                Room {
                    keep,
                    first_rows: least.max(tuning.first_rows_per_kept * keep),
                    least: MIN_CAP,
                }
            }
        };
        let samples = if n <= FEW {
            tuning.exact_few
        } else {
            tuning.exact
        };
        let sample = Sample::new(tier.n_slots, keep, samples);
        let room = match wanted.probes {
            Some(_) => tier.longest.max(first_rows) + 2 * keep,
            None => sample.room + 2 * keep,
        };
        let cap = room.clamp(least, MAX_CAP);
        let width = match wanted.probes {
            Some(_) => width_for(tier.scans, sharing.min(n), &tuning),
            None => width_for(tier.scans, n, &tuning),
        };
        let width = Width::of_metric(tier.metric).unwrap_or(width);
        let most_items = |rows: usize, queries: usize| {
            (tier.tiles(rows) * n.div_ceil(queries)).min(n * probes * (tier.longest / rows + 1))
        };
        let mut max_items = most_items(width.rows(), width.queries()).max(1);
        if by_codes {
            max_items = max_items.max(most_items(ITEM_ROWS, CODE_ITEM_QUERIES));
        }
        let pairs = n * probes;
        if pairs > u32::MAX as usize / 4 || max_items > i32::MAX as usize {
            return Err(GpuError::Unsupported(format!("{pairs} lists to search")));
        }
        let pitch = pitch_of(tier.dim);
        let mut device = Layout::default();
        let mut host = Layout::default();
        let mut take = |bytes: usize| device.take(bytes);
        let queries = take(n * pitch * 4);
        let row_queries = match tier.metric.is_of_bits() {
            true => take(n * tier.row_query_words() * 4),
            false => queries,
        };
        let mut plan = Self {
            pitch,
            probes,
            keep,
            cap,
            first_rows,
            sample,
            rank_width: width_for(tier.scans, n, &tuning),
            width,
            n_halves: if width == Width::Wgmma && n > tuning.two_halves_queries {
                1
            } else {
                2
            },
            max_items,
            codes: by_codes.then(|| CodePlan::new(&tier, n, sharing, &mut take)),
            slots: None,
            chosen: None,
            queries,
            row_queries,
            halves: take(n * pitch * 4),
            consts: take(n * size_of::<QueryConsts>()),
            thresholds: take(n * 4),
            counts: take(n * 4),
            overflows: take(n * 4),
            ranks: take(if probes > 0 { n * n_lists * 4 } else { 0 }),
            lists: take(pairs * 4),
            places: take(pairs * 4),
            adds: take(pairs * 4),
            distances: take(pairs * 4),
            n_probes: take(n * 4),
            n_first: take(n * 4),
            list_pairs: take(2 * n_lists * 4),
            starts: take(2 * n_lists * 4),
            item_starts: take(2 * n_lists * 4),
            pair_at: take(pairs * 4),
            group: take(2 * pairs * 4),
            pairs: take(2 * pairs * 4),
            items: take(2 * max_items * size_of::<ScanItem>()),
            n_items: take(8),
            survivors: take(n * cap * 8),
            bytes: 0,
            host_raw: host.take(n * tier.query_words() * 4),
            host_bounds: host.take(n * size_of::<QueryBound>()),
            host_input: host.take(16),
            host_overflow: host.take(4),
            host_heads: host.take(if tier.has_rows {
                n * size_of::<FoundHead>()
            } else {
                0
            }),
            host_found: host.take(if tier.has_rows {
                n * wanted.k * size_of::<Found>()
            } else {
                0
            }),
            host_bytes: 0,
            tier,
            wanted,
        };
        plan.slots = (!tier.has_rows).then(|| SlotsPlan::new(n, keep, &mut host));
        plan.chosen = (wanted.want_lists && probes > 0).then(|| ChosenPlan {
            lists: host.take(pairs * 4),
            n_probes: host.take(n * 4),
        });
        plan.bytes = device.end();
        plan.host_bytes = host.end();
        Ok(plan)
    }

    /// Rows and queries of an item of the first round.
    pub fn first_tile(&self) -> (usize, usize) {
        match self.slots {
            Some(_) => self.second_tile(),
            None => (self.width.rows(), self.width.queries()),
        }
    }

    /// Rows and queries of an item of the second round.
    pub fn second_tile(&self) -> (usize, usize) {
        match self.codes {
            Some(_) => (ITEM_ROWS, CODE_ITEM_QUERIES),
            None => (self.width.rows(), self.width.queries()),
        }
    }

    /// Whether everything is searched.
    pub fn is_exact(&self) -> bool {
        self.wanted.probes.is_none()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use omen_ivf::Metric;

    pub(in super::super) fn tier(scans: Scans) -> TierShape {
        TierShape {
            metric: Metric::L2,
            dim: 768,
            bit_words: 0,
            row_pitch: 768,
            n_lists: 4096,
            n_slots: 1_000_000,
            longest: 2000,
            scans,
            code_dim: 768,
            has_rows: true,
        }
    }

    pub(in super::super) fn wanted(n_queries: usize, probes: Option<usize>) -> Wanted {
        Wanted {
            n_queries,
            k: 10,
            probes,
            spread: f32::INFINITY,
            rounding: 1e-6,
            want_lists: false,
        }
    }

    #[test]
    fn what_the_kernels_do_not_take_is_refused() {
        let refused = |wanted| {
            matches!(
                BatchPlan::new(tier(Scans::Wgmma), wanted, Tuning::default()),
                Err(GpuError::Unsupported(_))
            )
        };
        assert!(refused(Wanted {
            k: 10_000,
            ..wanted(1, None)
        }));
        assert!(!refused(Wanted {
            k: 1000,
            ..wanted(10_000, Some(4096))
        }));
    }

    #[test]
    fn the_first_round_has_room() {
        for k in [1, 10, 100, 1000] {
            let plan = BatchPlan::new(
                tier(Scans::Mma),
                Wanted {
                    k,
                    ..wanted(100, Some(64))
                },
                Tuning::default(),
            )
            .unwrap();
            assert!(plan.cap >= plan.first_rows + plan.keep && plan.cap >= plan.tier.longest);
            assert!(plan.first_rows > plan.keep);
        }
    }
}
