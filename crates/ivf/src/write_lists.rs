//! Build: writes the lists, the root list first. Threads make their pieces, several ahead; this thread takes entries from their source, and writes the
//! pieces in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use half::f16;
use rayon::ThreadPool;

use crate::build_entries::{EntryBlock, EntrySource};
use crate::layout::directory::ListEntry;
use crate::layout::page::ROOT_LIST;
use crate::list_piece::{FIRST_LAYOUT, Job, Maker, Piece, piece_bytes, piece_entries};
use crate::list_writer::ListWriter;
use crate::row_batch::RowBatch;
use crate::store::BulkWriter;
use crate::write_index::{Follower, IndexSpec, misuse};
use crate::{IvfError, Result, Tid};

/// While this thread waits for others, it looks for interrupts so often.
const LOOK: Duration = Duration::from_millis(20);

/// What is written.
pub(crate) struct Written {
    pub root: ListEntry,
    pub lists: Vec<ListEntry>,
    pub n_rows: u64,
}

/// Cuts what is to be written into jobs.
struct Jobs<'a> {
    spec: &'a IndexSpec,
    /// Dimension of the centroids.
    dim: usize,
    mean: &'a [f16],
    source: &'a mut dyn EntrySource,
    most: usize,
    /// Centroids of the root list that are given out.
    n_root: usize,
    /// The list of the last job, and its entries so far.
    last: Option<(u32, u64)>,
}

impl Jobs<'_> {
    fn next(&mut self, memory: Vec<u8>) -> Result<Option<Job>> {
        let n_lists = self.spec.lists as usize;
        if self.n_root < n_lists {
            return Ok(Some(self.next_of_root(memory)));
        }
        let Some(block) = self.source.next(self.most)? else {
            return Ok(None);
        };
        let list = block.list();
        let first = match self.last {
            Some((last, n)) if last == list => n,
            Some((last, _)) if last > list => return Err(out_of_order(list, self.spec)),
            _ => 0,
        };
        if list as usize >= n_lists {
            return Err(out_of_order(list, self.spec));
        }
        if !first.is_multiple_of(self.most as u64) {
            return Err(misuse(format!("list {list} comes in pieces")));
        }
        self.last = Some((list, first + block.len() as u64));
        Ok(Some(Job {
            list,
            first,
            block,
            n_extra: 0,
            memory,
        }))
    }

    /// The root list: the centroids as entries (tid = list number), and one more row, their mean.
    fn next_of_root(&mut self, memory: Vec<u8>) -> Job {
        let (dim, n_lists) = (self.dim, self.spec.lists as usize);
        let range = self.n_root..n_lists.min(self.n_root + self.most);
        let mut rows = RowBatch::with_capacity(dim, range.len() + 1);
        let centroids = self.spec.centroids[range.start * dim..].chunks_exact(dim);
        for (list, centroid) in range.clone().zip(centroids) {
            rows.push_row(Tid::new(list as u32, 1), 0.0, centroid);
        }
        self.n_root = range.end;
        let is_last = range.end == n_lists;
        if is_last {
            rows.push_row(Tid::default(), 0.0, self.mean);
        }
        Job {
            list: ROOT_LIST,
            first: range.start as u64,
            block: EntryBlock::of_list(ROOT_LIST, rows),
            n_extra: usize::from(is_last),
            memory,
        }
    }
}

fn out_of_order(list: u32, spec: &IndexSpec) -> IvfError {
    misuse(format!(
        "an entry for list {list} of {}, or out of order",
        spec.lists
    ))
}

/// Writes pieces as they come, in order.
struct Writer<'a, W> {
    w: &'a mut W,
    /// Words of a row of the root list, and of others.
    words: [usize; 2],
    list: Option<ListWriter>,
    written: Written,
    /// Memory of pieces that are written, and bytes that the vector pages of any take: had from this thread's heap and never moved, since each thread's
    /// keeps what is freed.
    spare: Vec<Vec<u8>>,
    piece_bytes: usize,
    follower: &'a mut dyn Follower,
}

impl<W: BulkWriter> Writer<'_, W> {
    fn add(&mut self, piece: Piece) -> Result<()> {
        self.w.check_interrupts()?;
        if self.list.as_ref().is_none_or(|l| l.list != piece.list) {
            self.finish_list()?;
        }
        let words = self.words[usize::from(piece.list != ROOT_LIST)];
        let new = || ListWriter::new(piece.list, words);
        let list = self.list.get_or_insert_with(new);
        if piece.list != ROOT_LIST {
            self.written.n_rows += u64::from(piece.n_entries);
            self.follower.piece(&piece);
        }
        self.spare.push(list.add(self.w, piece)?);
        self.follower.written(self.written.n_rows);
        Ok(())
    }

    fn finish_list(&mut self) -> Result<()> {
        if let Some(list) = self.list.take() {
            let no = list.list;
            let entry = list.finish(self.w)?;
            match no {
                ROOT_LIST => self.written.root = entry,
                _ => self.written.lists[no as usize] = entry,
            }
        }
        Ok(())
    }

    fn memory(&mut self) -> Vec<u8> {
        let new = || Vec::with_capacity(self.piece_bytes);
        self.spare.pop().unwrap_or_else(new)
    }
}

/// Writes the root list and the lists of the entries of `source`. With a pool its threads make pieces, up to `max_bytes` of them ahead, at
/// least one.
pub(crate) fn write_lists<W: BulkWriter>(
    w: &mut W,
    maker: &Maker,
    pool: Option<(&ThreadPool, usize)>,
    source: &mut dyn EntrySource,
    follower: &mut dyn Follower,
) -> Result<Written> {
    let words = [ROOT_LIST, 0].map(|list| maker.row_words(list) as usize);
    let mut jobs = Jobs {
        spec: maker.spec,
        dim: words[0],
        mean: maker.mean,
        source,
        most: piece_entries(words[0].max(words[1])),
        n_root: 0,
        last: None,
    };
    let empty = ListEntry::empty(FIRST_LAYOUT);
    let mut writer = Writer {
        w,
        words,
        list: None,
        written: Written {
            root: empty,
            lists: vec![empty; maker.spec.lists as usize],
            n_rows: 0,
        },
        spare: Vec::new(),
        piece_bytes: piece_bytes(words[0].max(words[1])),
        follower,
    };
    match pool {
        Some((pool, max_bytes)) => write_ahead(&mut writer, maker, pool, max_bytes, &mut jobs)?,
        None => {
            while let Some(job) = jobs.next(writer.memory())? {
                writer.add(maker.make(job))?;
            }
        }
    }
    writer.finish_list()?;
    Ok(writer.written)
}

/// A piece, or what a thread panicked with.
type Outcome = std::thread::Result<Piece>;

/// Pieces that are being made, in order: their bytes, and what has come back.
#[derive(Default)]
struct Ahead {
    pieces: VecDeque<(usize, Option<Outcome>)>,
    /// Number of the first.
    first: usize,
    n_bytes: usize,
}

/// As `write_lists`, by the threads of `pool`. They never wait, and the scope ends, however it does, when the jobs they were given are done.
fn write_ahead<W: BulkWriter>(
    writer: &mut Writer<W>,
    maker: &Maker,
    pool: &ThreadPool,
    max_bytes: usize,
    jobs: &mut Jobs,
) -> Result<()> {
    pool.in_place_scope(|scope| {
        let (sender, made) = channel::<(usize, Outcome)>();
        let (mut ahead, mut has_ended) = (Ahead::default(), false);
        loop {
            while !has_ended && (ahead.pieces.is_empty() || ahead.n_bytes < max_bytes) {
                let Some(job) = jobs.next(writer.memory())? else {
                    has_ended = true;
                    break;
                };
                let n_bytes = job.n_bytes(writer.words[usize::from(job.list != ROOT_LIST)]);
                let number = ahead.first + ahead.pieces.len();
                ahead.pieces.push_back((n_bytes, None));
                ahead.n_bytes += n_bytes;
                let sender = sender.clone();
                scope.spawn(move |_| {
                    let outcome = catch_unwind(AssertUnwindSafe(|| maker.make(job)));
                    // Nobody takes it when the build has failed.
                    let _ = sender.send((number, outcome));
                });
            }
            let Some(piece) = ahead.next(writer.w, &made)? else {
                return Ok(());
            };
            writer.add(piece)?;
        }
    })
}

impl Ahead {
    /// The next piece, waited for; `None` if none is being made.
    fn next<W: BulkWriter>(
        &mut self,
        w: &mut W,
        made: &Receiver<(usize, Outcome)>,
    ) -> Result<Option<Piece>> {
        loop {
            match self.pieces.front() {
                None => return Ok(None),
                Some((_, None)) => match made.recv_timeout(LOOK) {
                    Ok((number, outcome)) => {
                        self.pieces[number - self.first].1 = Some(outcome);
                    }
                    Err(RecvTimeoutError::Timeout) => w.check_interrupts()?,
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(misuse("the threads have ended".into()));
                    }
                },
                Some((_, Some(_))) => {
                    let (n_bytes, outcome) = self.pieces.pop_front().expect("looked at above");
                    self.first += 1;
                    self.n_bytes -= n_bytes;
                    let outcome = outcome.expect("looked at above");
                    return outcome.map(Some).map_err(|panic| {
                        let text = panic
                            .downcast_ref::<String>()
                            .map(String::as_str)
                            .or_else(|| panic.downcast_ref::<&str>().copied());
                        misuse(format!("a thread panicked: {}", text.unwrap_or("unknown")))
                    });
                }
            }
        }
    }
}
