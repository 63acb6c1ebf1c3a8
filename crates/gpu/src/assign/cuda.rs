//! Assigning on a real device: pieces of the rows take turns in two lanes, so that copies, products and the search for the least overlap.

use super::centred::Centred;
use super::{Assign, Poll, bounded, piece_rows, task_rows};
use crate::buffers::{DeviceBuffer, PinnedBuffer};
use crate::context::{Context, Scans, Stream};
use crate::error::GpuError;
use crate::launch::assign::assign_rows;
use crate::launch::prepare::prepare_queries;
use crate::launch::scan::{Width, scan_planned};
use crate::memory::pitch_of;
use crate::params::{
    AssignParams, PrepareParams, QueryBound, QueryConsts, ScanMode, ScanParams, TierView,
};
use bytemuck::cast_slice_mut;
use half::f16;
use omen_ivf::Metric;
use rayon::ThreadPool;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Pieces under way at a time.
pub(super) const LANES: usize = 2;

/// Where a piece is.
struct Lane {
    // First, because dropping it waits for the work that uses the rest.
    stream: Stream,
    /// f16 `[piece, pitch]`, on the host; zero behind the rows' dimensions.
    upload: PinnedBuffer,
    /// The same on the device.
    rows: DeviceBuffer,
    /// f32 `[n_centroids, piece]`
    ranks: DeviceBuffer,
    /// u32 `[piece]`
    lists: DeviceBuffer,
    download: PinnedBuffer,
    /// The rows whose lists are under way; none of them for other work that has not been waited for.
    under_way: Option<Range<usize>>,
}

/// Where a piece of the rows is on the device; may queue its copy there.
type PieceRows<'a> = dyn FnMut(&mut Lane, Range<usize>) -> Result<u64, GpuError> + 'a;

/// What the centroids are on the device.
struct Prepared {
    /// f32 `[max, dim]`, then [`QueryBound`] `[max]`, on the host.
    input: PinnedBuffer,
    /// See `places`.
    memory: DeviceBuffer,
    /// f32 `[max]`, on the host.
    offsets: PinnedBuffer,
    n: usize,
}

/// Offsets of the arrays in `Prepared::memory`.
struct Places {
    queries: usize,
    halves: usize,
    consts: usize,
    thresholds: usize,
    counts: usize,
    overflows: usize,
    offsets: usize,
    end: usize,
}

fn places(max: usize, pitch: usize) -> Places {
    let mut end = 0;
    let mut take = |bytes: usize| {
        let at = end;
        end += bytes.next_multiple_of(crate::memory::ALIGN);
        at
    };
    Places {
        queries: take(max * pitch * 4),
        halves: take(max * pitch * 4),
        consts: take(max * size_of::<QueryConsts>()),
        thresholds: take(max * 4),
        counts: take(max * 4),
        overflows: take(max * 4),
        offsets: take(max * 4),
        end,
    }
}

pub(super) struct CudaAssigner {
    lanes: Vec<Lane>,
    ctx: Arc<Context>,
    dim: usize,
    pitch: usize,
    max_centroids: usize,
    piece: usize,
    centroids: Prepared,
    places: Places,
    /// Rows that are kept, `[n, pitch]`, and their number.
    held: Option<(DeviceBuffer, usize)>,
}

impl CudaAssigner {
    pub(super) fn new(
        ctx: &Arc<Context>,
        dim: usize,
        max_centroids: usize,
    ) -> Result<Self, GpuError> {
        let (pitch, piece) = (pitch_of(dim), piece_rows(max_centroids));
        let places = places(max_centroids, pitch);
        let lane = || {
            Ok(Lane {
                stream: Stream::new(ctx)?,
                upload: PinnedBuffer::new(ctx, piece * pitch * 2)?,
                rows: DeviceBuffer::new(ctx, piece * pitch * 2)?,
                ranks: DeviceBuffer::new(ctx, max_centroids * piece * 4)?,
                lists: DeviceBuffer::new(ctx, piece * 4)?,
                download: PinnedBuffer::new(ctx, piece * 4)?,
                under_way: None,
            })
        };
        Ok(Self {
            lanes: (0..LANES)
                .map(|_| lane())
                .collect::<Result<_, GpuError>>()?,
            centroids: Prepared {
                input: PinnedBuffer::new(ctx, max_centroids * (dim * 4 + size_of::<QueryBound>()))?,
                memory: DeviceBuffer::new(ctx, places.end)?,
                offsets: PinnedBuffer::new(ctx, max_centroids * 4)?,
                n: 0,
            },
            ctx: ctx.clone(),
            dim,
            pitch,
            max_centroids,
            piece,
            places,
            held: None,
        })
    }

    /// Waits for what an interrupted call left behind.
    fn settle(&mut self, poll: Poll<'_>) -> Result<(), GpuError> {
        for lane in &mut self.lanes {
            if lane.under_way.is_some() {
                lane.stream.wait(&mut bounded(poll))?;
                lane.under_way = None;
            }
        }
        Ok(())
    }

    /// Queues what finds the lists of `n` rows at device address `rows`.
    fn queue(&self, lane: &Lane, rows: u64, n: usize) -> Result<(), GpuError> {
        let at = |offset: usize| self.centroids.memory.address() + offset as u64;
        let ranks = lane.ranks.address();
        let scan = ScanParams {
            tier: TierView {
                rows,
                // Not looked at by inner product, but read: there are more ranks than rows.
                norm_sq: ranks,
                pitch: self.pitch as u32,
                metric: Metric::NegIp as u32,
                n_slots: n as u32,
                ..TierView::default()
            },
            halves: at(self.places.halves),
            queries: at(self.places.queries),
            consts: at(self.places.consts),
            thresholds: at(self.places.thresholds),
            counts: at(self.places.counts),
            ranks,
            mode: ScanMode::Rank as u32,
            n_rows: n as u32,
            n_queries: self.centroids.n as u32,
            n_halves: 2,
            ..ScanParams::default()
        };
        scan_planned(&self.ctx, &lane.stream, width(self.ctx.scans), scan)?;
        let assign = AssignParams {
            ranks,
            offsets: at(self.places.offsets),
            lists: lane.lists.address(),
            n_centroids: self.centroids.n as u32,
            n_rows: n as u32,
        };
        assign_rows(&self.ctx, &lane.stream, assign)
    }

    /// Sends pieces of `n` rows through the lanes in turns.
    fn in_turns(
        &mut self,
        n: usize,
        lists: &mut [u32],
        poll: Poll<'_>,
        rows: &mut PieceRows<'_>,
    ) -> Result<(), GpuError> {
        // An earlier call that was interrupted leaves no centroids, or not all rows.
        if self.centroids.n == 0 || lists.len() != n {
            let (to, of) = (self.centroids.n, lists.len());
            let error = format!("assigning {n} of {of} rows to {to} centroids");
            return Err(GpuError::Other(error));
        }
        self.settle(poll)?;
        let pieces = n.div_ceil(self.piece);
        // After the last piece each lane is waited for once more.
        for turn in 0..pieces + LANES {
            let lane = &mut self.lanes[turn % LANES];
            if lane.under_way.is_some() {
                lane.stream.wait(&mut bounded(poll))?;
                if let Some(done) = lane.under_way.take() {
                    let n_bytes = done.len() * 4;
                    cast_slice_mut(&mut lists[done])
                        .copy_from_slice(&lane.download.bytes()[..n_bytes]);
                }
            }
            if turn >= pieces {
                continue;
            }
            let range = turn * self.piece..n.min((turn + 1) * self.piece);
            // From here on the lane's memory is in use, also if queueing fails halfway.
            lane.under_way = Some(range.clone());
            let at = rows(lane, range.clone())?;
            self.queue(&self.lanes[turn % LANES], at, range.len())?;
            let lane = &mut self.lanes[turn % LANES];
            lane.stream
                .download(&mut lane.download, &lane.lists, 0..range.len() * 4)?;
        }
        Ok(())
    }
}

/// Copies rows of `dim` to rows of `pitch`, zero behind.
fn copy_padded(rows: &[f16], dim: usize, to: &mut [f16], pitch: usize) {
    if dim == pitch {
        to.copy_from_slice(rows);
        return;
    }
    for (to, row) in to.chunks_exact_mut(pitch).zip(rows.chunks_exact(dim)) {
        to[..dim].copy_from_slice(row);
        to[dim..].fill(f16::ZERO);
    }
}

/// The widest kernel there is: centroids are many.
fn width(scans: Scans) -> Width {
    match scans {
        Scans::Wgmma => Width::Wgmma,
        Scans::Mma => Width::Mma32,
        Scans::Fma => Width::Fma,
    }
}

impl Assign for CudaAssigner {
    fn set_centroids(&mut self, centroids: &Centred, poll: Poll<'_>) -> Result<(), GpuError> {
        self.settle(poll)?;
        let (n, max) = (centroids.offsets.len(), self.max_centroids);
        assert!(n <= max);
        let Prepared {
            input,
            memory,
            offsets,
            n: n_now,
        } = &mut self.centroids;
        // Until they are all there, there are none.
        *n_now = 0;
        let numbers: &mut [f32] = cast_slice_mut(input.bytes_mut());
        numbers[..n * self.dim].copy_from_slice(&centroids.centroids);
        cast_slice_mut(offsets.bytes_mut())[..n].copy_from_slice(&centroids.offsets);
        self.lanes[0].under_way = Some(0..0);
        let stream = &self.lanes[0].stream;
        let at = |offset: usize| memory.address() + offset as u64;
        let prepare = PrepareParams {
            raw: input.address(),
            bounds: input.address() + (max * self.dim * 4) as u64,
            queries: at(self.places.queries),
            halves: at(self.places.halves),
            consts: at(self.places.consts),
            thresholds: at(self.places.thresholds),
            counts: at(self.places.counts),
            overflows: at(self.places.overflows),
            n_queries: n as u32,
            dim: self.dim as u32,
            pitch: self.pitch as u32,
            metric: Metric::NegIp as u32,
            ..PrepareParams::default()
        };
        prepare_queries(&self.ctx, stream, prepare)?;
        stream.upload(memory, self.places.offsets, offsets, 0..n * 4)?;
        // The other lane's stream starts from what is there.
        stream.wait(&mut bounded(poll))?;
        self.lanes[0].under_way = None;
        *n_now = n;
        Ok(())
    }

    fn hold(
        &mut self,
        n: usize,
        fill: &mut dyn FnMut(usize, &mut [f16]),
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        self.settle(poll)?;
        let row_bytes = self.pitch * 2;
        self.held = None;
        // Kept at once, with no rows yet: if this ends early, copies into it are waited for before it is freed.
        let (held, n_held) = self
            .held
            .insert((DeviceBuffer::new(&self.ctx, n * row_bytes)?, 0));
        for (turn, first) in (0..n).step_by(self.piece).enumerate() {
            let bytes = 0..(n.min(first + self.piece) - first) * row_bytes;
            let lane = &mut self.lanes[turn % LANES];
            lane.stream.wait(&mut bounded(poll))?;
            lane.under_way = Some(0..0);
            fill(
                first,
                cast_slice_mut(&mut lane.upload.bytes_mut()[bytes.clone()]),
            );
            lane.stream
                .upload(held, first * row_bytes, &lane.upload, bytes)?;
        }
        for lane in &mut self.lanes {
            lane.stream.wait(&mut bounded(poll))?;
            lane.under_way = None;
        }
        *n_held = n;
        Ok(())
    }

    fn assign_held(&mut self, lists: &mut [u32], poll: Poll<'_>) -> Result<(), GpuError> {
        let Some((held, n)) = &self.held else {
            return Err(GpuError::Other("no rows are kept".into()));
        };
        // They stay where they are: if `poll` unwinds, the lanes are waited for before they are freed.
        let (start, n, row_bytes) = (held.address(), *n, self.pitch * 2);
        self.in_turns(n, lists, poll, &mut |_, range| {
            Ok(start + (range.start * row_bytes) as u64)
        })
    }

    fn assign(
        &mut self,
        rows: &[f16],
        lists: &mut [u32],
        pool: &ThreadPool,
        poll: Poll<'_>,
    ) -> Result<(), GpuError> {
        let (dim, pitch) = (self.dim, self.pitch);
        self.in_turns(lists.len(), lists, poll, &mut |lane, range| {
            let rows = &rows[range.start * dim..range.end * dim];
            let n_bytes = range.len() * pitch * 2;
            let to: &mut [f16] = cast_slice_mut(&mut lane.upload.bytes_mut()[..n_bytes]);
            let task = task_rows(pitch);
            let parts = rows
                .par_chunks(task * dim)
                .zip(to.par_chunks_mut(task * pitch));
            pool.install(|| parts.for_each(|(rows, to)| copy_padded(rows, dim, to, pitch)));
            lane.stream
                .upload(&lane.rows, 0, &lane.upload, 0..n_bytes)?;
            Ok(lane.rows.address())
        })
    }
}
