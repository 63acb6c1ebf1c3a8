//! Build: the frozen part of one list, from its entries as they arrive.
//!
//! The vector stream is written as the entries come. The codes, a fraction of the size, are kept in memory until the list
//! ends, so that each stream's pages lie together.

use half::f16;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::frozen_writer::Batch;
use crate::layout::directory::ListEntry;
use crate::layout::group::GROUP;
use crate::layout::page::PageKind;
use crate::rabitq::Encoder;
use crate::rotation::Rotation;
use crate::store::BulkWriter;
use crate::stream_writer::StreamWriter;
use crate::write_index::{IndexSpec, misuse};
use crate::{Result, Tid};

/// Layout generation of a list as built.
const FIRST_LAYOUT: u32 = 1;
/// Groups encoded at once, if their rows are not larger than so many bytes.
const BATCH_GROUPS: usize = 64;
const BATCH_BYTES: usize = 8 << 20;

/// Writes the frozen part of one list.
pub(crate) struct ListWriter<'a> {
    dim: usize,
    list: u32,
    pool: Option<&'a ThreadPool>,
    encoder: Encoder<'a>,
    centroid: Vec<f32>,
    group_bytes: usize,
    batch: Batch,
    codes: Vec<u8>,
    vectors: StreamWriter,
    count: u32,
    sum_sq: f64,
}

impl<'a> ListWriter<'a> {
    /// An empty list with this centroid.
    pub(crate) fn new(
        spec: &IndexSpec,
        rotation: &'a Rotation,
        pool: Option<&'a ThreadPool>,
        list: u32,
        centroid: &[f16],
    ) -> Self {
        Self {
            dim: spec.dim as usize,
            list,
            pool,
            encoder: Encoder::new(spec.metric, spec.filter, rotation, centroid),
            centroid: centroid.iter().map(|x| x.to_f32()).collect(),
            group_bytes: spec.shape().bytes(),
            batch: Batch::default(),
            codes: Vec::new(),
            vectors: StreamWriter::new(PageKind::Vector, list, FIRST_LAYOUT),
            count: 0,
            sum_sq: 0.0,
        }
    }

    /// Adds an entry.
    pub(crate) fn push<W: BulkWriter>(
        &mut self,
        w: &mut W,
        tid: Tid,
        err: f32,
        row: &[f16],
    ) -> Result<()> {
        self.batch.push(tid, err, row);
        let n_groups = (BATCH_BYTES / (2 * self.dim * GROUP)).clamp(1, BATCH_GROUPS);
        if self.batch.tids.len() == n_groups * GROUP {
            self.flush(w)
        } else {
            Ok(())
        }
    }

    /// Encodes and writes the entries that wait.
    fn flush<W: BulkWriter>(&mut self, w: &mut W) -> Result<()> {
        w.check_interrupts()?;
        let n = self.batch.tids.len();
        let start = self.codes.len();
        self.codes
            .resize(start + n.div_ceil(GROUP) * self.group_bytes, 0);
        let (batch, encoder, centroid, dim) =
            (&self.batch, &self.encoder, &self.centroid, self.dim);
        let encode = |(group, out): (usize, &mut [u8])| {
            let range = group * GROUP..n.min((group + 1) * GROUP);
            batch.encode(range, dim, encoder, centroid, out)
        };
        let out = &mut self.codes[start..];
        // Collected and then added in order, so that the sum does not depend on the threads.
        let sums: Vec<f64> = match self.pool {
            Some(pool) if n > GROUP => pool.install(|| {
                out.par_chunks_exact_mut(self.group_bytes)
                    .enumerate()
                    .map(encode)
                    .collect()
            }),
            _ => out
                .chunks_exact_mut(self.group_bytes)
                .enumerate()
                .map(encode)
                .collect(),
        };
        self.sum_sq += sums.iter().sum::<f64>();
        self.vectors
            .push(bytemuck::cast_slice(&self.batch.rows), &mut |page| {
                w.append(page)
            })?;
        self.batch.drop_first(n, self.dim);
        self.count += n as u32;
        Ok(())
    }

    /// Ends the list.
    pub(crate) fn finish<W: BulkWriter>(self, w: &mut W) -> Result<ListEntry> {
        self.finish_with(w, &[])
    }

    /// Ends the list, with one more row in its vector stream that is no entry (the root list has one).
    pub(crate) fn finish_with<W: BulkWriter>(
        mut self,
        w: &mut W,
        extra_row: &[f16],
    ) -> Result<ListEntry> {
        self.flush(w)?;
        self.vectors
            .push(bytemuck::cast_slice(extra_row), &mut |page| w.append(page))?;
        let vector_runs = self.vectors.finish(&mut |page| w.append(page))?;
        let mut codes = StreamWriter::new(PageKind::Code, self.list, FIRST_LAYOUT);
        codes.push(&self.codes, &mut |page| w.append(page))?;
        let code_runs = codes.finish(&mut |page| w.append(page))?;
        if vector_runs.len() > 1 || code_runs.len() > 1 {
            return Err(misuse("pages were not appended one after the other".into()));
        }
        Ok(ListEntry {
            frozen_count: self.count,
            code_run: code_runs.first().copied().unwrap_or_default(),
            vector_run: vector_runs.first().copied().unwrap_or_default(),
            radius: if self.count == 0 {
                0.0
            } else {
                (self.sum_sq / f64::from(self.count)).sqrt() as f32
            },
            ..ListEntry::empty(FIRST_LAYOUT)
        })
    }
}
