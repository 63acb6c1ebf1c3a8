//! Assigns rows to the nearest of many centroids: what training and building an index spend their time on. No tier, no index.
//!
//! `argmin |x - c|^2` is found from inner products alone (`kernels/assign.cu`), with centroids relative to a point m near which all lie:
//! far from the origin, f32 sums would lose the small differences otherwise. Sums are not bounded: this chooses lists, and no promise rests on it.

mod centred;
mod cuda;
mod fallback;
#[cfg(feature = "simulated")]
mod simulated;

use crate::context::Wait;
use crate::device::{Backend, Gpu};
use crate::error::GpuError;
use crate::memory::pitch_of;
use centred::Centred;
use cuda::CudaAssigner;
pub use fallback::{Failure, RowAssigner, SampleAssigner};
use half::f16;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::time::{Duration, Instant};

/// Inner products of a piece of the rows with all centroids take at most so many bytes: about what the L2 holds.
const RANK_BYTES: usize = 64 << 20;
/// Rows of a piece, at least and at most; both are whole tiles of the scans.
const MIN_PIECE: usize = 256;
const MAX_PIECE: usize = 16_384;

/// Bytes of rows that a thread copies at a time.
const TASK_BYTES: usize = 256 << 10;
/// Longest wait for the device to do a piece.
const PIECE_DEADLINE: Duration = Duration::from_secs(10);

/// Asked every now and then during a wait, which an error ends.
pub type Poll<'a> = &'a mut dyn FnMut() -> Result<(), GpuError>;

/// The wait for a piece.
fn bounded<'a>(poll: Poll<'a>) -> Wait<'a> {
    Wait {
        until: Instant::now() + PIECE_DEADLINE,
        poll,
    }
}

/// Rows of a piece.
fn piece_rows(n_centroids: usize) -> usize {
    let rows = RANK_BYTES / (4 * n_centroids.max(1));
    rows.clamp(MIN_PIECE, MAX_PIECE) / MIN_PIECE * MIN_PIECE
}

/// What the two kinds of devices do.
trait Assign: Send {
    /// Takes centroids, `[n, dim]` relative to their point, n at most as many as room was made for, and what is added to their products.
    fn set_centroids(&mut self, centroids: &Centred, poll: Poll<'_>) -> Result<(), GpuError>;

    /// Keeps rows on the device, in place of those kept before: `n` of them, which `fill` writes piece by piece: from row `first` on, `[rows, pitch]`.
    fn hold(
        &mut self,
        n: usize,
        fill: &mut dyn FnMut(usize, &mut [f16]),
        poll: Poll<'_>,
    ) -> Result<(), GpuError>;

    /// Assigns the rows that are kept, to `lists` `[n]`.
    fn assign_held(&mut self, lists: &mut [u32], poll: Poll<'_>) -> Result<(), GpuError>;

    /// Assigns rows `[n, dim]` to `lists` `[n]`.
    fn assign(
        &mut self,
        rows: &[f16],
        lists: &mut [u32],
        pool: &ThreadPool,
        poll: Poll<'_>,
    ) -> Result<(), GpuError>;
}

/// Finds the nearest centroids of rows on a device. One caller at a time; an error of kind `Interrupted` leaves it usable.
pub struct GpuAssigner {
    dim: usize,
    max_centroids: usize,
    /// The point that kept rows are relative to, `[dim]`.
    center: Vec<f32>,
    device: Box<dyn Assign>,
    /// Calls left before it fails, for rows that are kept and for others (to test what comes then).
    #[cfg(feature = "simulated")]
    calls_left: [usize; 2],
}

impl GpuAssigner {
    /// Has the device be lost after so many calls of [`Self::assign_held`] and of [`Self::assign`].
    #[cfg(feature = "simulated")]
    pub fn fail_after(&mut self, held: usize, rows: usize) {
        self.calls_left = [held, rows];
    }

    #[cfg(feature = "simulated")]
    fn count_call(&mut self, which: usize) -> Result<(), GpuError> {
        let left = &mut self.calls_left[which];
        *left = left
            .checked_sub(1)
            .ok_or_else(|| GpuError::Lost("injected fault".into()))?;
        Ok(())
    }

    /// Bytes of device memory that it takes for rows of `dim` dimensions and so many centroids, with `n_held` rows kept.
    pub fn bytes_needed(dim: usize, max_centroids: usize, n_held: usize) -> u64 {
        let (pitch, piece) = (pitch_of(dim), piece_rows(max_centroids));
        let lanes = cuda::LANES * piece * (4 * max_centroids + 2 * pitch + 4);
        (lanes + max_centroids * (8 * pitch + 64) + 2 * n_held * pitch) as u64
    }

    /// Takes the centroids that rows are assigned to: `[n, dim]`, finite, 1 to `max_centroids` of them.
    pub fn set_centroids(&mut self, centroids: &[f32], poll: Poll<'_>) -> Result<(), GpuError> {
        self.check(centroids.len());
        let centred = Centred::around_mean(centroids, self.dim);
        self.device.set_centroids(&centred, poll)
    }

    /// As [`Self::set_centroids`], for the rows that are kept.
    pub fn set_centroids_of_held(
        &mut self,
        centroids: &[f32],
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        self.check(centroids.len());
        let centred = Centred::for_relative_rows(centroids, &self.center);
        self.device.set_centroids(&centred, poll)
    }

    fn check(&self, n: usize) {
        let most = self.max_centroids * self.dim;
        assert!(
            n > 0 && n <= most && n.is_multiple_of(self.dim),
            "{n} numbers of at most {most}"
        );
    }

    /// Keeps `rows`, `[n, dim]`, finite, in half precision on the device, in place of those kept before. Threads of `pool` convert them.
    pub fn hold(
        &mut self,
        rows: &[f32],
        pool: &ThreadPool,
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        let (dim, pitch) = (self.dim, pitch_of(self.dim));
        self.center = centred::mean(rows, dim);
        let center = &self.center;
        let task = task_rows(pitch);
        let convert = |rows: &[f32], to: &mut [f16]| {
            let mut relative = vec![0f32; dim];
            for (row, to) in rows.chunks_exact(dim).zip(to.chunks_exact_mut(pitch)) {
                for ((r, &x), &m) in relative.iter_mut().zip(row).zip(center) {
                    *r = (x - m).clamp(-MAX_F16, MAX_F16);
                }
                omen_distance::f16_from_f32(&relative, &mut to[..dim]);
            }
        };
        let mut fill = |first: usize, to: &mut [f16]| {
            let rows = rows[first * dim..].par_chunks(task * dim);
            let parts = rows.zip(to.par_chunks_mut(task * pitch));
            pool.install(|| parts.for_each(|(rows, to)| convert(rows, to)));
        };
        self.device.hold(rows.len() / dim, &mut fill, poll)
    }

    /// Writes the nearest centroid of each row that is kept to `lists`, `[n]`, after [`Self::set_centroids_of_held`].
    pub fn assign_held(&mut self, lists: &mut [u32], poll: Poll<'_>) -> Result<(), GpuError> {
        #[cfg(feature = "simulated")]
        self.count_call(0)?;
        self.device.assign_held(lists, poll)
    }

    /// Writes the nearest centroid of each of `rows`, `[n, dim]`, to `lists`, `[n]`, after [`Self::set_centroids`]. Ties go to the lower number. Threads of
    /// `pool` copy the rows.
    pub fn assign(
        &mut self,
        rows: &[f16],
        lists: &mut [u32],
        pool: &ThreadPool,
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        assert_eq!(
            rows.len(),
            lists.len() * self.dim,
            "rows of {} dimensions",
            self.dim
        );
        #[cfg(feature = "simulated")]
        self.count_call(1)?;
        self.device.assign(rows, lists, pool, poll)
    }
}

/// Rows that a thread takes at a time, of `pitch` halves each.
fn task_rows(pitch: usize) -> usize {
    (TASK_BYTES / (2 * pitch)).max(1)
}

/// Largest finite number of half precision.
const MAX_F16: f32 = 65_504.0;

impl Gpu {
    /// Makes room for up to `max_centroids` centroids of `dim` dimensions, and what assigning rows to them takes. Errors: `OutOfMemory` also if that,
    /// with `n_held` rows kept, is more than `byte_limit`.
    pub fn assigner(
        &self,
        dim: usize,
        max_centroids: usize,
        n_held: usize,
        byte_limit: u64,
    ) -> Result<GpuAssigner, GpuError> {
        let needed = GpuAssigner::bytes_needed(dim, max_centroids, n_held);
        self.check_room(needed, byte_limit)?;
        let device: Box<dyn Assign> = match &self.backend {
            Backend::Cuda(ctx, _) => Box::new(CudaAssigner::new(ctx, dim, max_centroids)?),
            #[cfg(feature = "simulated")]
            Backend::Simulated(_) => Box::new(simulated::SimulatedAssigner::new(dim)),
        };
        Ok(GpuAssigner {
            dim,
            max_centroids,
            center: vec![0.0; dim],
            device,
            #[cfg(feature = "simulated")]
            calls_left: [usize::MAX; 2],
        })
    }
}
