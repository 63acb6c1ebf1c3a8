//! Writes the live entries of a list as a new frozen part. The list is locked exclusively, so nothing changes under it.
//!
//! Two passes over the entries, one a stream, so that memory stays small however long the list is and each stream's
//! pages lie together where the store can give neighbouring pages.

use std::ops::{ControlFlow, Range};

use half::f16;

use crate::bulk_delete::foreign_pages;
use crate::form::RowForm;
use crate::index::Index;
use crate::layout::directory::{ListEntry, Run};
use crate::layout::group::GROUP;
use crate::layout::map::{self, CODE_STREAM, MapRecord, RECORDS_PER_PAGE, VECTOR_STREAM};
use crate::layout::page::{self, PageKind};
use crate::layout::streams;
use crate::list_reader::{ChainPlace, ListReader, PageVisit, Visit};
use crate::rabitq::Encoder;
use crate::store::{NO_BLOCK, PageStoreMut};
use crate::stream_writer::StreamWriter;
use crate::{IvfError, Result, Tid};

/// A frozen part just written.
pub(crate) struct Frozen {
    pub count: u32,
    pub code_run: Run,
    pub vector_run: Run,
    pub map_head: u32,
    pub radius: f32,
}

/// Entries waiting to be encoded or written.
#[derive(Default)]
pub(crate) struct Batch {
    pub tids: Vec<Tid>,
    pub errs: Vec<f32>,
    /// `[n, row_words]`
    pub rows: Vec<f16>,
}

impl Batch {
    /// Adds an entry.
    pub(crate) fn push(&mut self, tid: Tid, err: f32, row: &[f16]) {
        self.tids.push(tid);
        self.errs.push(err);
        self.rows.extend_from_slice(row);
    }

    /// Encodes the entries in `range` (1 to 32) as a group into `out` and returns the sum of their squared distances to the
    /// centroid.
    pub(crate) fn encode(
        &self,
        range: Range<usize>,
        words: usize,
        encoder: &ListEncoder,
        out: &mut [u8],
    ) -> f64 {
        let rows: Vec<&[f16]> = self.rows[range.start * words..range.end * words]
            .chunks_exact(words)
            .collect();
        let (errs, tids) = (&self.errs[range.clone()], &self.tids[range]);
        encoder.encode(&rows, errs, tids, out)
    }

    /// Drops the first `n` entries.
    pub(crate) fn drop_first(&mut self, n: usize, words: usize) {
        self.tids.drain(..n);
        self.errs.drain(..n);
        self.rows.drain(..n * words);
    }
}

/// Encodes entries of one list.
pub(crate) struct ListEncoder<'a> {
    encoder: Encoder<'a>,
    /// The list's centroid, `[coarse_dim]`.
    centroid: Vec<f32>,
    /// Absent where rows are their own coarse vectors.
    coarser: Option<&'a RowForm>,
}

impl<'a> ListEncoder<'a> {
    /// For the list with this centroid as stored.
    pub(crate) fn new(
        encoder: Encoder<'a>,
        centroid: &[f16],
        coarser: Option<&'a RowForm>,
    ) -> Self {
        Self {
            encoder,
            centroid: centroid.iter().map(|x| x.to_f32()).collect(),
            coarser,
        }
    }

    /// As [`Batch::encode`], of rows that lie anywhere.
    pub(crate) fn encode(
        &self,
        rows: &[&[f16]],
        errs: &[f32],
        tids: &[Tid],
        out: &mut [u8],
    ) -> f64 {
        self.encoder.encode_group(rows, errs, tids, out);
        let l2sq = |row: &&[f16]| match self.coarser {
            None => omen_distance::l2sq_f16(&self.centroid, row),
            Some(form) => omen_distance::l2sq_f16(&self.centroid, &form.coarse_row(row)),
        };
        rows.iter().map(|row| f64::from(l2sq(row))).sum()
    }
}

/// Writes the live entries of `list`, whose entry is `old`, to new pages stamped `layout_gen`.
pub(crate) fn write_frozen<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    old: &ListEntry,
    layout_gen: u32,
) -> Result<Frozen> {
    let words = index.row_words(list) as usize;
    let centroid = read_centroid(s, index, list)?;
    let shape = index.meta.shape();
    let encoder = Encoder::new(index.metric(), shape.filter, &index.rotation, &centroid);
    let encoder = ListEncoder::new(encoder, &centroid, index.coarser(list));
    let put = &mut |page: &[u8]| s.allocate(|new| new.copy_from_slice(page));

    let mut group = vec![0; shape.bytes()];
    let mut codes = StreamWriter::new(PageKind::Code, list, layout_gen);
    let (mut count, mut sum_sq) = (0u32, 0f64);
    for_each_live(s, index, list, old, &mut |batch, n| {
        sum_sq += batch.encode(0..n, words, &encoder, &mut group);
        count += n as u32;
        codes.push(&group, put)
    })?;
    let code_runs = codes.finish(put)?;

    let mut vectors = StreamWriter::new(PageKind::Vector, list, layout_gen);
    for_each_live(s, index, list, old, &mut |batch, n| {
        vectors.push(bytemuck::cast_slice(&batch.rows[..n * words]), put)
    })?;
    let vector_runs = vectors.finish(put)?;

    Ok(Frozen {
        count,
        code_run: code_runs.first().copied().unwrap_or_default(),
        vector_run: vector_runs.first().copied().unwrap_or_default(),
        map_head: write_map(s, list, layout_gen, &code_runs, &vector_runs)?,
        radius: if count == 0 {
            0.0
        } else {
            (sum_sq / f64::from(count)).sqrt() as f32
        },
    })
}

/// Writes the map pages for all runs but the first of each stream; returns the first page or `NO_BLOCK`.
fn write_map<S: PageStoreMut>(
    s: &S,
    list: u32,
    layout_gen: u32,
    code: &[Run],
    vector: &[Run],
) -> Result<u32> {
    let further = |stream, runs: &[Run]| -> Vec<MapRecord> {
        runs.iter()
            .skip(1)
            .map(|&run| MapRecord { stream, run })
            .collect()
    };
    let mut records = further(CODE_STREAM, code);
    records.extend(further(VECTOR_STREAM, vector));
    let mut next = NO_BLOCK;
    // Last page first, because each page names the next.
    for (seq, records) in records.chunks(RECORDS_PER_PAGE).enumerate().rev() {
        next = s.allocate(|page| {
            page::init_page(page, PageKind::Map, list, layout_gen, seq as u32);
            for (i, record) in records.iter().enumerate() {
                map::put_record(page, i, record);
            }
            page::set_content_bytes(page, size_of_val(records));
            let mut tail = page::tail(page);
            tail.n_records = records.len() as u32;
            tail.next = next;
            page::set_tail(page, &tail);
        })?;
    }
    Ok(next)
}

/// Calls `f(batch, n)` for the first `n` entries of `batch`, groups of 32 and a last smaller one, in order; no page is
/// locked meanwhile.
fn for_each_live<S: PageStoreMut>(
    s: &S,
    index: &Index,
    list: u32,
    entry: &ListEntry,
    f: &mut dyn FnMut(&Batch, usize) -> Result<()>,
) -> Result<()> {
    let words = index.row_words(list) as usize;
    let mut reader = ListReader::new();
    let mut batch = Batch::default();
    let mut drain = |batch: &mut Batch, least: usize| -> Result<()> {
        while batch.tids.len() >= least.max(1) {
            let n = batch.tids.len().min(GROUP);
            f(batch, n)?;
            batch.drop_first(n, words);
        }
        Ok(())
    };
    for group in 0..streams::n_groups(entry.frozen_count) {
        let mut heads: Vec<(u32, Tid, f32)> = Vec::with_capacity(GROUP);
        let visit = reader.headers(s, index, list, entry, group..group + 1, |group, header| {
            let live = (0..GROUP).filter(|i| header.live & (1 << i) != 0);
            let tid = |i| Tid::new(header.tid_block[i], header.tid_offset[i]);
            heads.extend(live.map(|i| (group * GROUP as u32 + i as u32, tid(i), header.err[i])));
            ControlFlow::Continue(())
        })?;
        let mut head = heads.iter();
        let visit_rows = reader.rows(
            s,
            index,
            list,
            entry,
            heads.iter().map(|h| h.0),
            |_, row| {
                if let Some(&(_, tid, err)) = head.next() {
                    batch.push(tid, err, row);
                }
            },
        )?;
        if visit == Visit::Changed || visit_rows == Visit::Changed {
            return Err(foreign_pages(index, list));
        }
        drain(&mut batch, GROUP)?;
    }
    let mut place = ChainPlace::head(entry);
    while let Some(at) = place {
        match reader.appended_page(s, index, list, entry, at, |tid, err, row| {
            batch.push(tid, err, row)
        })? {
            PageVisit::Changed => return Err(foreign_pages(index, list)),
            PageVisit::Next { next, .. } => place = next,
        }
        drain(&mut batch, GROUP)?;
    }
    drain(&mut batch, 1)
}

/// The centroid of `list` as stored, `[coarse_dim]`; of `ROOT_LIST` the centroids' mean.
pub fn read_centroid<S: crate::store::PageStore>(
    s: &S,
    index: &Index,
    list: u32,
) -> Result<Vec<f16>> {
    let root = &index.meta.root;
    let row_no = if list == page::ROOT_LIST {
        root.frozen_count
    } else {
        list
    };
    let mut centroid = Vec::new();
    let visit =
        ListReader::new().read_rows(s, index, page::ROOT_LIST, root, &[row_no], |_, row| {
            centroid.extend_from_slice(row);
        })?;
    if visit == Visit::Changed {
        return Err(IvfError::corrupt(
            root.vector_run.start,
            "not a page of the root list",
        ));
    }
    Ok(centroid)
}
