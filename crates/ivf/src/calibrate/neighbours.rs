//! The true neighbours of many queries at once.
//!
//! Each query first searches its nearest lists, which gives it a threshold. Then every list is read once and met by all
//! queries that have not seen it: its pages stay in the processor's cache meanwhile. The calling thread reads, which it alone may;
//! others compare what it has read, while it reads on. Each query meets the lists in their order, so the result does not
//! depend on the number of threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rayon::ThreadPool;

use super::Nearest;
use super::page_batch::{Batch, BatchReader, List, Lists};
use crate::Result;
use crate::coarse::{Probe, select_lists};
use crate::index::Index;
use crate::list_reader::Visit;
use crate::params::Metric;
use crate::query::Query;
use crate::scan_list::{ListScan, Scratch, SearchStats};
use crate::scan_lists::scan_lists;
use crate::store::PageStore;
use crate::topk::{Candidate, TopK};

/// One in so many lists is searched first, and at least `MIN_FIRST`.
const FIRST_SHARE: u32 = 64;
const MIN_FIRST: u32 = 4;
/// Queries between two looks for interrupts.
const INTERRUPT_EVERY: usize = 64;
/// Tasks for each thread, so that none waits long for the others at the end of a batch.
const PARTS_PER_THREAD: usize = 4;
/// While others compare, the calling thread looks so often for interrupts.
const LOOK: Duration = Duration::from_millis(50);

/// For each query its `k` nearest entries, nearest first, each with its list. The filter is on: what it misses hardly
/// shows, and without it this would take ten times as long.
pub(super) fn neighbours<S: PageStore>(
    s: &S,
    index: &Index,
    queries: &[Query],
    k: usize,
    pool: &ThreadPool,
) -> Result<Nearest> {
    let mut searches = Vec::with_capacity(queries.len());
    let first = (index.n_lists() / FIRST_SHARE).max(MIN_FIRST);
    for query in queries {
        searches.push(Search::begin(s, index, query, first, k)?);
    }
    let n_parts = pool.current_num_threads() * PARTS_PER_THREAD;
    let part_len = searches.len().div_ceil(n_parts).max(1);
    let mut parts: Vec<Mutex<Vec<Search>>> = Vec::with_capacity(n_parts);
    while !searches.is_empty() {
        let rest = searches.split_off(part_len.min(searches.len()));
        parts.push(Mutex::new(searches));
        searches = rest;
    }
    let is_given_up = AtomicBool::new(false);
    pool.in_place_scope(|scope| -> Result<()> {
        // However this ends, the threads' work ends before the scope does.
        let _given_up = SetOnDrop(&is_given_up);
        let mut reader = BatchReader::new(s, index);
        let (_, mut under_way) = mpsc::channel::<Result<()>>();
        let mut met: Option<Arc<Lists>> = None;
        loop {
            let batch = reader.next()?;
            finish(s, &under_way)?;
            // Lists that were seen to change stay for the thread that may read them again.
            if let Some(lists) = met.take() {
                for part in &parts {
                    meet_changed(s, index, &lists, &mut lock(part))?;
                }
            }
            match batch {
                None => return Ok(()),
                Some(Batch::Single(list)) => {
                    for part in &parts {
                        meet_single(s, index, &list, &mut lock(part))?;
                    }
                }
                Some(Batch::Lists(lists)) => {
                    let lists = Arc::new(lists);
                    let (done, next) = mpsc::channel();
                    for part in &parts {
                        let (lists, done, is_given_up) =
                            (lists.clone(), done.clone(), &is_given_up);
                        scope.spawn(move |_| {
                            let outcome = meet_all(index, &lists, &mut lock(part), is_given_up);
                            // Nobody listens after an error.
                            let _ = done.send(outcome);
                        });
                    }
                    under_way = next;
                    met = Some(lists);
                }
            }
        }
    })?;
    let searches = parts
        .into_iter()
        .flat_map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner));
    let listed = searches.map(|search| search.top.into_listed().0);
    let without_keys = |found: Vec<(Candidate, u32)>| {
        let named = found.into_iter().map(|(c, list)| (c.tid, list));
        named.collect()
    };
    Ok(listed.map(without_keys).collect())
}

/// Waits until all senders are gone.
fn finish<S: PageStore>(s: &S, under_way: &mpsc::Receiver<Result<()>>) -> Result<()> {
    loop {
        match under_way.recv_timeout(LOOK) {
            Ok(outcome) => outcome?,
            Err(mpsc::RecvTimeoutError::Timeout) => s.check_interrupts()?,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Has each of the queries meet the lists, as long as that is wanted.
fn meet_all(
    index: &Index,
    lists: &Lists,
    searches: &mut [Search],
    is_given_up: &AtomicBool,
) -> Result<()> {
    let mut scratch = Scratch::default();
    for list in &lists.lists {
        for search in &mut *searches {
            if is_given_up.load(Ordering::Relaxed) {
                return Ok(());
            }
            if search.meet(lists, index, list, &mut scratch)? == Visit::Changed {
                search.changed.push(list.list);
            }
        }
    }
    Ok(())
}

/// Has each of the queries meet one list through the store.
fn meet_single<S: PageStore>(
    s: &S,
    index: &Index,
    list: &List,
    searches: &mut [Search],
) -> Result<()> {
    let mut scratch = Scratch::default();
    for (i, search) in searches.iter_mut().enumerate() {
        if i % INTERRUPT_EVERY == 0 {
            s.check_interrupts()?;
        }
        if search.meet(s, index, list, &mut scratch)? == Visit::Changed {
            search.restart(s, index, list, &mut scratch)?;
        }
    }
    Ok(())
}

/// Has the queries search again what changed of `lists`, through the store.
fn meet_changed<S: PageStore>(
    s: &S,
    index: &Index,
    lists: &Lists,
    searches: &mut [Search],
) -> Result<()> {
    for search in searches {
        for changed in std::mem::take(&mut search.changed) {
            for list in lists.lists.iter().filter(|list| list.list == changed) {
                search.restart(s, index, list, &mut Scratch::default())?;
            }
        }
    }
    Ok(())
}

/// A query on its way through the lists.
struct Search<'a> {
    query: &'a Query,
    top: TopK,
    stats: SearchStats,
    /// Lists searched first, ascending.
    seen: Vec<u32>,
    /// Lists that another session's insert folded meanwhile.
    changed: Vec<u32>,
}

impl<'a> Search<'a> {
    /// Searches the `first` nearest lists.
    fn begin<S: PageStore>(
        s: &S,
        index: &Index,
        query: &'a Query,
        first: u32,
        k: usize,
    ) -> Result<Self> {
        let lists = select_lists(s, index, query, first)?;
        let (mut top, mut stats) = (TopK::new(k), SearchStats::default());
        scan_lists(s, index, query, &lists, false, &mut top, &mut stats)?;
        // A thousand searches need not keep theirs.
        top.scratch = Scratch::default();
        let mut seen: Vec<u32> = lists.iter().map(|probe| probe.list).collect();
        seen.sort_unstable();
        Ok(Self {
            query,
            top,
            stats,
            seen,
            changed: Vec::new(),
        })
    }

    /// Searches `list`, unless it was among the first.
    fn meet<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: &List,
        scratch: &mut Scratch,
    ) -> Result<Visit> {
        if self.seen.binary_search(&list.list).is_ok() {
            return Ok(Visit::Done);
        }
        self.top.tighten();
        let probe = self.probe(list);
        self.scan(s, index, &probe, scratch).whole(&list.entry)
    }

    /// From the start, on the pages as they are now.
    fn restart<S: PageStore>(
        &mut self,
        s: &S,
        index: &Index,
        list: &List,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let probe = self.probe(list);
        self.scan(s, index, &probe, scratch).restart(&list.entry)
    }

    fn probe(&self, list: &List) -> Probe {
        let (vector, centroid) = (self.query.vector(), &list.centroid);
        Probe {
            list: list.list,
            l2sq: omen_distance::l2sq_f16(vector, centroid),
            ip: match self.query.metric() {
                Metric::NegIp => omen_distance::dot_f16(vector, centroid),
                _ => 0.0,
            },
        }
    }

    fn scan<'b, S: PageStore>(
        &'b mut self,
        s: &'b S,
        index: &'b Index,
        probe: &'b Probe,
        scratch: &'b mut Scratch,
    ) -> ListScan<'b, S> {
        ListScan {
            s,
            index,
            query: self.query,
            probe,
            probe_no: 0,
            exact: false,
            top: &mut self.top,
            stats: &mut self.stats,
            scratch,
        }
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
