//! Makes groups, with codes, of entries that are on pages without: of what was appended to lists.

use super::LoadError;
use crate::engine::TierWriter;
use crate::tier_builder::TierBuilder;
use crate::tier_builder::entries::Entries;
use half::f16;
use omen_ivf::export::read_centroid;
use omen_ivf::index::Index;
use omen_ivf::rabitq::Encoder;
use omen_ivf::store::PageStore;
use rayon::{Scope, ThreadPool};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Threads get so many entries at a time: to wake one up costs as much as to encode a few.
const ENTRIES_A_JOB: usize = 16;
/// So many jobs a thread wait, or are in work, at most; what is beyond is for who reads the pages, which so never waits long.
const JOBS_A_THREAD: usize = 2;

/// How groups of an index are made for a tier.
#[derive(Clone, Copy)]
pub(super) struct GroupMaker<'a> {
    index: &'a Index,
    has_codes: bool,
    group_bytes: usize,
}

impl<'a> GroupMaker<'a> {
    pub(super) fn new<W: TierWriter + ?Sized>(builder: &TierBuilder<W>, index: &'a Index) -> Self {
        Self {
            index,
            has_codes: builder.parts().codes(),
            group_bytes: builder.staging.shape().group_bytes,
        }
    }

    /// What groups of `list` are made with: its centroid, if the tier has codes.
    pub(super) fn centroid<S: PageStore>(
        &self,
        s: &S,
        list: u32,
    ) -> Result<Option<Vec<f16>>, LoadError> {
        let centroid = self.has_codes.then(|| read_centroid(s, self.index, list));
        Ok(centroid.transpose()?)
    }

    /// The groups of entries of the list with this centroid.
    pub(super) fn groups(&self, entries: &Entries, centroid: Option<&[f16]>) -> Vec<u8> {
        let index = self.index;
        let filter = index.meta.shape().filter;
        let encoder = centroid.map(|c| Encoder::new(index.metric(), filter, &index.rotation, c));
        let row_words = index.entry_words();
        entries.groups(row_words, self.group_bytes, encoder.as_ref())
    }
}

/// Entries of a list on their way to the slots from `slot` on.
pub(super) struct Arriving {
    pub(super) entries: Entries,
    pub(super) centroid: Option<Vec<f16>>,
    pub(super) slot: usize,
}

/// The same with their groups.
pub(super) struct Made {
    pub(super) arriving: Arriving,
    pub(super) groups: Vec<u8>,
}

/// Has groups made, by the threads of a scope where there are any, by who gives the entries else.
pub(super) struct Making<'a, 'scope> {
    maker: GroupMaker<'scope>,
    scope: Option<&'a Scope<'scope>>,
    most_open: usize,
    /// Not given out yet, and how many entries that are.
    gathered: Vec<Arriving>,
    n_gathered: usize,
    n_open: usize,
    sender: Sender<Vec<Made>>,
    made: Receiver<Vec<Made>>,
}

impl<'a, 'scope> Making<'a, 'scope> {
    fn new(maker: GroupMaker<'scope>, scope: Option<&'a Scope<'scope>>, most_open: usize) -> Self {
        let (sender, made) = channel();
        Self {
            maker,
            scope,
            most_open,
            gathered: Vec::new(),
            n_gathered: 0,
            n_open: 0,
            sender,
            made,
        }
    }

    /// Runs `work` with the threads of `pool`, if there is one.
    pub(super) fn with<R>(
        maker: GroupMaker<'scope>,
        pool: Option<&ThreadPool>,
        work: impl FnOnce(Making<'_, 'scope>) -> R,
    ) -> R {
        match pool {
            Some(pool) => pool.in_place_scope(|scope| {
                let most_open = JOBS_A_THREAD * pool.current_num_threads();
                work(Making::new(maker, Some(scope), most_open))
            }),
            None => work(Making::new(maker, None, 0)),
        }
    }

    /// Gives entries; what has been made by now.
    pub(super) fn give(&mut self, arriving: Arriving) -> Vec<Made> {
        self.n_gathered += arriving.entries.n();
        self.gathered.push(arriving);
        if self.n_gathered >= ENTRIES_A_JOB {
            self.hand_out();
        }
        let made: Vec<_> = self.made.try_iter().collect();
        self.n_open -= made.len();
        made.into_iter().flatten().collect()
    }

    fn hand_out(&mut self) {
        let (maker, sender) = (self.maker, self.sender.clone());
        let job = std::mem::take(&mut self.gathered);
        self.n_gathered = 0;
        let run = move || {
            let make = |arriving: Arriving| Made {
                groups: maker.groups(&arriving.entries, arriving.centroid.as_deref()),
                arriving,
            };
            // The other end goes first only where this is not wanted any more.
            let _ = sender.send(job.into_iter().map(make).collect());
        };
        self.n_open += 1;
        match self.scope {
            Some(scope) if self.n_open <= self.most_open => scope.spawn(move |_| run()),
            _ => run(),
        }
    }

    /// What is still to come; waits for it.
    pub(super) fn end(mut self) -> impl Iterator<Item = Made> {
        self.hand_out();
        // So that it ends when all jobs have, be it by a panic.
        let Self { made, .. } = self;
        made.into_iter().flatten()
    }
}
