//! Memory plans: pure functions from shapes to bytes and offsets, the same for device and host memory.

use crate::error::GpuError;
use crate::params::{Found, QueryConsts, ScanItem};

mod tier;

pub use tier::{
    CODE_PITCH_STEP, LadderShape, MIN_SCRATCH_BYTES, N_FACTORS, Parts, Rung, TierPlan,
    code_pitch_of, room_of_list, rung, with_room, with_spare,
};

/// Rows are padded with zeros to a multiple of this many halves (64 bytes).
pub const PITCH_STEP: usize = 32;
/// Arrays within an allocation start at multiples of this.
pub const ALIGN: usize = 256;
/// Most slots of a tier: slots are the low half of 64-bit survivors, and counts must not wrap.
pub const MAX_SLOTS: u64 = 1 << 31;
/// Largest k the GPU answers.
pub const MAX_K: usize = 131_072;
/// Rows a list is cut into for planning rounds; a whole number of tiles of every scan kernel.
pub const PIECE_ROWS: usize = 4096;
/// Least room for survivors of a query.
const MIN_CAP: usize = 16_384;

/// Halves per row in device memory.
pub fn pitch_of(dim: usize) -> usize {
    dim.next_multiple_of(PITCH_STEP)
}

/// Survivors kept and reranked for `k` results: a margin, so that the frontier lies beyond the k-th tight key.
pub fn keep_for(k: usize) -> usize {
    k + (k / 4).max(64)
}

/// Room for survivors of a query: what is kept, and at least one piece more.
pub fn cap_for(keep: usize) -> usize {
    (4 * keep)
        .max(MIN_CAP)
        .min(keep + (keep / 4).max(4 * PIECE_ROWS))
}

/// Lays arrays out one after the other.
#[derive(Default)]
pub(crate) struct Layout {
    at: usize,
}

impl Layout {
    /// The offset of an array of `bytes` bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> usize {
        let start = self.at;
        self.at = (start + bytes).next_multiple_of(ALIGN);
        start
    }

    /// Bytes taken so far.
    pub(crate) fn end(&self) -> usize {
        self.at
    }
}

/// What a batch needs room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScratchShape {
    /// Queries in the batch.
    pub n_queries: usize,
    /// Halves per row, or words of as many bits.
    pub pitch: usize,
    /// Whether rows are strings of bits: of a query then only its words count.
    pub of_bits: bool,
    /// Survivors kept per query.
    pub keep: usize,
    /// Room for survivors per query.
    pub cap: usize,
    /// Scan items of all rounds.
    pub n_items: usize,
    /// Query numbers that the items refer to.
    pub n_group: usize,
}

impl ScratchShape {
    /// Words of 32 bits per query.
    pub fn query_words(&self) -> usize {
        query_words(self.of_bits, self.pitch)
    }
}

/// Words of 32 bits of a query that is compared to rows of so many halves, or words of as many bits.
pub fn query_words(of_bits: bool, pitch: usize) -> usize {
    if of_bits { pitch / 2 } else { pitch }
}

/// Offsets of a batch's arrays. `0..upload_end` goes to the device in one copy, `state..download_end` comes back in one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScratchPlan {
    /// The shape planned for.
    pub shape: ScratchShape,
    /// f32 `[n_queries, pitch]`, or u32 `[n_queries, pitch / 2]` of bits.
    pub queries: usize,
    /// f16 `[n_queries, 2, pitch]`; of bits nothing.
    pub halves: usize,
    /// [`QueryConsts`] `[n_queries]`.
    pub consts: usize,
    /// [`ScanItem`] `[n_items]`.
    pub items: usize,
    /// u32 `[n_group]`.
    pub group: usize,
    /// Start of the state: thresholds, counts, overflows.
    pub state: usize,
    /// f32 `[n_queries]`.
    pub thresholds: usize,
    /// u32 `[n_queries]`.
    pub counts: usize,
    /// u32 `[n_queries]`.
    pub overflows: usize,
    /// End of what is uploaded.
    pub upload_end: usize,
    /// [`Found`] `[n_queries, keep]`.
    pub out: usize,
    /// End of what is downloaded.
    pub download_end: usize,
    /// u64 `[n_queries, cap]`.
    pub survivors: usize,
    /// Bytes in all.
    pub bytes: usize,
}

impl ScratchPlan {
    /// The plan for a batch.
    pub fn new(shape: ScratchShape) -> Self {
        let n = shape.n_queries;
        let mut layout = Layout::default();
        let queries = layout.take(n * shape.query_words() * 4);
        let halves = layout.take(if shape.of_bits {
            0
        } else {
            n * shape.pitch * 4
        });
        let consts = layout.take(n * size_of::<QueryConsts>());
        let items = layout.take(shape.n_items * size_of::<ScanItem>());
        let group = layout.take(shape.n_group * 4);
        let state = layout.at;
        let thresholds = layout.take(n * 4);
        let counts = layout.take(n * 4);
        let overflows = layout.take(n * 4);
        let upload_end = layout.at;
        let out = layout.take(n * shape.keep * size_of::<Found>());
        let download_end = layout.at;
        let survivors = layout.take(n * shape.cap * 8);
        Self {
            shape,
            queries,
            halves,
            consts,
            items,
            group,
            state,
            thresholds,
            counts,
            overflows,
            upload_end,
            out,
            download_end,
            survivors,
            bytes: layout.at,
        }
    }
}

/// How many of the queries, from the first on, fit into `limit` bytes of scratch. `n_pieces[i]`: pieces query i scans.
/// Counts a query's items as if no other shared them. Errors: `OutOfMemory` if not even the first fits.
pub fn batch_len(
    pitch: usize,
    keep: usize,
    cap: usize,
    n_pieces: &[usize],
    limit: u64,
) -> Result<usize, GpuError> {
    // Twelve arrays may each lose up to ALIGN bytes.
    let mut bytes = 12 * ALIGN as u64;
    for (i, &pieces) in n_pieces.iter().enumerate() {
        let per_query =
            pitch * 8 + size_of::<QueryConsts>() + 12 + keep * size_of::<Found>() + cap * 8;
        let per_piece = 4 + (PIECE_ROWS / 128) * size_of::<ScanItem>();
        bytes += (per_query + pieces * per_piece) as u64;
        if bytes > limit {
            return if i > 0 {
                Ok(i)
            } else {
                Err(GpuError::OutOfMemory {
                    needed: bytes,
                    available: limit,
                })
            };
        }
    }
    Ok(n_pieces.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_what_is_kept_and_one_piece() {
        for k in [1, 10, 64, 1000, 10_000, MAX_K] {
            let keep = keep_for(k);
            assert!(
                keep >= k + 64 && cap_for(keep) >= keep + PIECE_ROWS,
                "k {k}"
            );
        }
    }

    #[test]
    fn scratch_plan_does_not_overlap() {
        let shape = ScratchShape {
            n_queries: 3,
            pitch: 64,
            of_bits: false,
            keep: 74,
            cap: 16_384,
            n_items: 5,
            n_group: 7,
        };
        let p = ScratchPlan::new(shape);
        let arrays = [
            (p.queries, 3 * 64 * 4),
            (p.halves, 3 * 64 * 4),
            (p.consts, 3 * 32),
            (p.items, 5 * 16),
            (p.group, 7 * 4),
            (p.thresholds, 12),
            (p.counts, 12),
            (p.overflows, 12),
            (p.out, 3 * 74 * 16),
            (p.survivors, 3 * 16_384 * 8),
        ];
        for pair in arrays.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{p:?}");
            assert_eq!(pair[1].0 % ALIGN, 0);
        }
        assert_eq!((p.state, p.upload_end), (p.thresholds, p.out));
        assert!(p.bytes >= p.survivors + 3 * 16_384 * 8 && p.download_end == p.survivors);
    }

    #[test]
    fn batches_fit_the_limit() {
        let (pitch, keep) = (768, keep_for(10));
        let cap = cap_for(keep);
        let n_pieces = vec![3; 100];
        for limit in [1 << 20, 1 << 22, 1 << 24, 1 << 30] {
            let n = batch_len(pitch, keep, cap, &n_pieces, limit).unwrap();
            let shape = ScratchShape {
                n_queries: n,
                pitch,
                of_bits: false,
                keep,
                cap,
                n_items: n * 3 * 32,
                n_group: n * 3,
            };
            assert!(
                ScratchPlan::new(shape).bytes as u64 <= limit,
                "{n} queries in {limit}"
            );
        }
        assert!(batch_len(pitch, keep, cap, &n_pieces, 1000).is_err());
    }
}
