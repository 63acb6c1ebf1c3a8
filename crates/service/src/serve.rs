//! The server: takes what is ready, searches together what can be one batch, answers.

mod admit;
mod call;
mod hosted;
mod owed;
mod retired;
mod room;

pub use call::Call;
pub use hosted::TierUse;
pub use room::{RoomWanted, make_way};

use crate::message::{Answer, Refusal, Request, Status, TierKey, encode_error, encode_status};
use crate::queue::{Queue, Taken};
use admit::admit;
use hosted::Hosted;
use omen_gpu::{BatchFound, Export, Gpu, GpuError, Refresh, Tier, TierList};
use owed::Owed;
use retired::Retired;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Most queries of a round, hence of a batch.
pub const MAX_BATCH: usize = 256;
/// After so long the server's other duties have their turn: a refresh waits for them twice.
const MAX_TIME: Duration = Duration::from_millis(2);

/// Searches a tier: [`Call::make`] with a deadline. Arguments: the tier, the call, the index's g, and what is to be called again and again while
/// the device works.
pub type Search<'a> =
    dyn FnMut(&Tier, &mut Call<'_>, f32, &mut dyn FnMut()) -> Result<BatchFound, GpuError> + 'a;

/// The server's state: a device, and tiers in its memory.
pub struct Server {
    queue: Queue,
    gpu: Gpu,
    tiers: HashMap<TierKey, Hosted>,
    retired: Retired,
    /// Numbers given to tiers so far.
    n_numbers: u64,
}

/// What rounds did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Requests taken, all of which have been answered.
    pub n_requests: usize,
    /// Queries of those that a tier could answer.
    pub n_queries: usize,
    /// Calls of the device.
    pub n_batches: usize,
    /// Those that failed.
    pub n_failed: usize,
    /// Queries of the largest.
    pub largest_batch: usize,
    /// Most clients that waited at the same time.
    pub largest_round: usize,
    /// What those that did not fail took, their waits for the device included.
    pub device: Duration,
    /// The device is lost: the process should end. What followed was answered with `Status::Down`.
    pub error: Option<GpuError>,
}

/// A request that its tier can answer.
struct Admitted {
    taken: Taken,
    /// A copy: what the slot says later does not count. `probes` is at most the tier's number of lists.
    head: Request,
    /// The lists that are given, likewise.
    lists: Vec<u32>,
}

impl Admitted {
    /// Whether one call of the device can answer both. Of those that give lists each gets what the one for the most results needs: they go
    /// together only if that is the same.
    fn goes_with(&self, other: &Self) -> bool {
        let form = |r: &Request| {
            let nearest = (r.n_lists == 0).then_some((r.probes, r.spread.to_bits()));
            let k = (r.n_lists > 0).then_some(r.k);
            (r.key, nearest, k, r.rounding.to_bits())
        };
        form(&self.head) == form(&other.head)
    }

    fn n_queries(&self) -> usize {
        self.head.n_queries as usize
    }
}

fn n_queries_of(group: &[Admitted]) -> usize {
    group.iter().map(Admitted::n_queries).sum()
}

fn n_owners_of(taken: &[Taken]) -> usize {
    let owners: HashSet<u32> = taken.iter().map(Taken::owner).collect();
    owners.len()
}

impl Server {
    /// A server without tiers.
    pub fn new(queue: Queue, gpu: Gpu) -> Self {
        Self {
            queue,
            gpu,
            tiers: HashMap::new(),
            retired: Retired::default(),
            n_numbers: 0,
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes over a tier, perhaps in place of one.
    pub fn insert(&mut self, key: TierKey, tier: Tier) {
        self.n_numbers += 1;
        let replaced = self.tiers.insert(key, Hosted::new(tier, self.n_numbers));
        if let Some(old) = replaced {
            self.retired.take(key, old);
        }
    }

    /// For another process to map a tier, and the number of the tier as it is; `None` if it is not there, or the device cannot. Its memory lives until
    /// [`Self::free_unmapped`] finds that nobody maps it; until then no refresh may be begun.
    pub fn export(&mut self, key: &TierKey) -> Option<(u64, Export)> {
        let hosted = self.tiers.get_mut(key)?;
        let export = hosted.tier.export().ok()?;
        hosted.is_exported = true;
        Some((hosted.number, export))
    }

    /// Frees what was given up since it was exported and is not mapped any more. `is_mapped`: whether the tier of this key and number is.
    pub fn free_unmapped(&mut self, is_mapped: impl Fn(&TierKey, u64) -> bool) {
        self.retired.free(is_mapped);
    }

    /// Bytes of device memory of tiers that were given up and may be mapped.
    pub fn retired_bytes(&self) -> u64 {
        self.retired.bytes()
    }

    /// Begins to refresh lists of a tier, and the number of the tier as it is; `None` if it is not there, or the device cannot.
    pub fn begin_refresh(&self, key: &TierKey) -> Option<(u64, Refresh)> {
        let hosted = self.tiers.get(key)?;
        Some((hosted.number, hosted.tier.begin_refresh().ok()?))
    }

    /// Takes over the lists of a tier as a refresh has left them, which gives it another number: of two refreshes that began with the same lists
    /// the first counts. Returns how many are new; `None`: the tier has not that number any more, or they do not fit it.
    pub fn end_refresh(
        &mut self,
        key: &TierKey,
        number: u64,
        lists: Vec<Option<TierList>>,
    ) -> Option<usize> {
        let hosted = self.tiers.get_mut(key).filter(|h| h.number == number)?;
        self.n_numbers += 1;
        hosted.refresh(lists, self.n_numbers)
    }

    /// Gives up the tiers whose keys `is_unwanted`.
    pub fn remove_where(&mut self, mut is_unwanted: impl FnMut(&TierKey) -> bool) {
        let keys: Vec<TierKey> = self.tiers.keys().copied().collect();
        for key in keys.into_iter().filter(|key| is_unwanted(key)) {
            if let Some(hosted) = self.tiers.remove(&key) {
                self.retired.take(key, hosted);
            }
        }
    }

    /// The tiers that are here, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &TierKey> {
        self.tiers.keys()
    }

    /// A tier that is here.
    pub fn tier(&self, key: &TierKey) -> Option<&Tier> {
        self.tiers.get(key).map(|hosted| &hosted.tier)
    }

    /// Bytes of device memory that the tiers hold, scratch included, and those that were given up and may be mapped.
    pub fn bytes(&self) -> u64 {
        let bytes = self.tiers.values().map(|hosted| hosted.tier.bytes());
        bytes.sum::<u64>() + self.retired_bytes()
    }

    /// The tiers, the one unused for longest first.
    pub fn uses(&self) -> Vec<TierUse> {
        let mut uses: Vec<TierUse> = self.tiers.iter().map(|(k, h)| h.usage(*k)).collect();
        uses.sort_unstable_by_key(|u| (u.last_used, u.key));
        uses
    }

    /// Answers what is ready, at most [`MAX_BATCH`] queries at once, and what has become ready meanwhile. `deadline` is that of each batch,
    /// before which `beat` is called; `wake` gets the numbers of owners that sleep.
    pub fn serve(
        &mut self,
        deadline: Duration,
        beat: &mut dyn FnMut(),
        wake: &mut dyn FnMut(u32),
    ) -> Served {
        let mut search =
            |tier: &Tier, call: &mut Call<'_>, rounding: f32, meanwhile: &mut dyn FnMut()| {
                beat();
                let mut poll = || {
                    meanwhile();
                    Ok(())
                };
                call.make(tier, rounding, deadline, &mut poll)
            };
        self.serve_with(&mut search, wake)
    }

    /// As [`Self::serve`], with another way to search: for tests of what happens when the device fails.
    pub fn serve_with(&mut self, search: &mut Search<'_>, wake: &mut dyn FnMut(u32)) -> Served {
        let mut served = Served::default();
        let mut owed = VecDeque::new();
        let start = Instant::now();
        while served.error.is_none() && start.elapsed() < MAX_TIME {
            let taken = self.queue.take_ready(MAX_BATCH);
            if taken.is_empty() {
                break;
            }
            served.n_requests += taken.len();
            served.largest_round = served.largest_round.max(n_owners_of(&taken));
            for group in self.groups(taken, wake) {
                served.n_queries += n_queries_of(&group);
                self.serve_group(group, search, &mut owed, wake, &mut served);
            }
        }
        for answer in owed {
            answer.tell(&self.queue, wake);
        }
        served
    }

    /// The requests that their tiers can answer, those together that one batch can answer; the others are refused. Groups with requests of
    /// many queries come last.
    fn groups(&mut self, taken: Vec<Taken>, wake: &mut dyn FnMut(u32)) -> Vec<Vec<Admitted>> {
        let mut groups: Vec<Vec<Admitted>> = Vec::new();
        for taken in taken {
            let (payload, n_queries) = (self.queue.request(&taken), taken.n_queries());
            let (head, lists) = match admit(&mut self.tiers, payload, n_queries) {
                Ok(admitted) => admitted,
                Err(refusal) => {
                    self.refuse(taken, &refusal, wake);
                    continue;
                }
            };
            let request = Admitted { taken, head, lists };
            match groups.iter_mut().find(|g| g[0].goes_with(&request)) {
                Some(group) => group.push(request),
                None => groups.push(vec![request]),
            }
        }
        groups.sort_by_key(|group| group.iter().any(|request| request.n_queries() > 1));
        groups
    }

    /// Searches for requests that go with each other; meanwhile tells what is owed.
    fn serve_group(
        &mut self,
        group: Vec<Admitted>,
        search: &mut Search<'_>,
        owed: &mut VecDeque<Owed>,
        wake: &mut dyn FnMut(u32),
        served: &mut Served,
    ) {
        // A tier's first batch makes room, which may take long.
        if owed.front().is_some_and(|o| o.key() != group[0].head.key) {
            for answer in owed.drain(..) {
                answer.tell(&self.queue, wake);
            }
        }
        let outcome = match self.tiers.get_mut(&group[0].head.key) {
            _ if served.error.is_some() => Err(Refusal::Down),
            None => Err(Refusal::NotLoaded),
            Some(hosted) => {
                served.n_batches += 1;
                served.largest_batch = served.largest_batch.max(n_queries_of(&group));
                let start = Instant::now();
                hosted.last_used = start;
                let queue = &self.queue;
                let mut meanwhile = || {
                    if let Some(answer) = owed.pop_front() {
                        answer.tell(queue, wake);
                    }
                };
                call::search_group(queue, hosted, &group, search, &mut meanwhile)
                    .map(|found| (hosted, Rc::new(found), start.elapsed()))
                    .map_err(Refusal::Gpu)
            }
        };
        match outcome {
            Ok((hosted, found, took)) => {
                let us = took.as_micros();
                served.device += took;
                let n_queries = n_queries_of(&group);
                let batch = Answer {
                    batch_size: n_queries as u32,
                    device_us: u32::try_from(us).unwrap_or(u32::MAX),
                    names_slots: u32::from(!hosted.tier.parts().rows()),
                    ..Answer::default()
                };
                hosted.n_requests += n_queries as u64;
                let mut first = 0;
                for request in group {
                    let queries = first..first + request.n_queries();
                    first = queries.end;
                    owed.push_back(Owed::new(request, hosted, found.clone(), queries, batch));
                }
            }
            // One of them may be the reason: it alone gets the error.
            Err(Refusal::Gpu(GpuError::Unsupported(_) | GpuError::OutOfMemory { .. }))
                if group.len() > 1 =>
            {
                for request in group {
                    self.serve_group(vec![request], search, owed, wake, served);
                }
            }
            Err(refusal) => {
                served.n_failed += usize::from(matches!(refusal, Refusal::Gpu(_)));
                for request in group {
                    self.refuse(request.taken, &refusal, wake);
                }
                if let Refusal::Gpu(error @ (GpuError::TimedOut | GpuError::Lost(_))) = refusal {
                    served.error = Some(error);
                }
            }
        }
    }

    fn refuse(&self, taken: Taken, refusal: &Refusal, wake: &mut dyn FnMut(u32)) {
        let write = |payload: &mut [u8]| match refusal {
            Refusal::NotLoaded => encode_status(Status::NotLoaded, "", payload),
            Refusal::Down => encode_status(Status::Down, "", payload),
            Refusal::Gpu(error) => encode_error(error, payload),
        };
        self.queue.answer(taken, write, wake);
    }
}
