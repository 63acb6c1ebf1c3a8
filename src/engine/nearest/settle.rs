//! Asking a device for a round of one query until its answer is settled, be it this session's device or the shared service's.

use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_ivf::layout::directory::ListEntry;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::query::Query;
use omen_ivf::scan_list::Served;
use omen_ivf::topk::Candidates;

use super::Nearest;
use crate::engine::answer::{EXACT_BY_CODES, Lists, OnDevice, Round, complete};
use crate::engine::pages::unranked;
use crate::engine::refresh::Behind;
use crate::engine::stats::ScanRecord;
use crate::engine::tiers::Stop;
use crate::engine::{choice, heat};

/// If codes alone do not settle it, so many times as many candidates are asked for, and some more.
const ASK_FACTOR: usize = 4;
const ASK_MORE: usize = 256;

/// A device's answer, and the lists that it is from.
pub(in crate::engine) struct Asked {
    /// What it found.
    pub(in crate::engine) found: OnDevice,
    /// The lists visited.
    pub(in crate::engine) lists: Vec<u32>,
    /// Those of them of which pages may hold what the device has not searched, or all if it has codes alone.
    pub(in crate::engine) looked_up: Vec<LookedUp>,
    /// Entries that it has looked at.
    pub(in crate::engine) n_slots: u64,
    /// Live frozen entries of the lists.
    pub(in crate::engine) n_entries: u64,
    /// How long it took to leave out what has died since.
    pub(in crate::engine) checked: Duration,
}

/// A list by its directory entry, read after the device has searched.
pub(in crate::engine) struct LookedUp {
    pub(in crate::engine) list: u32,
    /// Of a list that the device has searched as its tier has it.
    pub(in crate::engine) entry: ListEntry,
    /// If the device has searched it, what its tier has of the entries appended to it.
    pub(in crate::engine) searched: Option<AppendedTo>,
}

/// Asks a device for so many candidates. `None`: the answer is out of date.
pub(in crate::engine) type Ask<'a> =
    dyn FnMut(usize, &Query, &mut ScanRecord) -> Result<Option<Asked>, Stop> + 'a;

/// Has `ask` ask a device for so many candidates: again, `n_repeats` times at most, where the answer is out of date, and for
/// more where codes alone do not settle which are the `k` nearest. `n_lists`: about how many lists that is. `None`: the device's answers are not
/// those of the index as it is.
pub(in crate::engine) fn settle(
    round: &Round,
    query: &mut Query,
    n_lists: usize,
    n_repeats: usize,
    record: &mut ScanRecord,
    ask: &mut Ask,
) -> Result<Option<Nearest>, Stop> {
    let (began, file) = (Instant::now(), round.pages.file());
    let mut stale_time = Duration::ZERO;
    let (mut n_asked, mut n_repeats) = (round.k, n_repeats);
    loop {
        let (sent, gpu_before) = (Instant::now(), record.gpu);
        let mut is_lost = false;
        let outcome = match ask(n_asked, query, record) {
            Ok(Some(asked)) => {
                is_lost = asked.found.is_lost();
                answer(round, query, asked, &mut stale_time, record)
            }
            outcome => outcome.map(|_| None),
        };
        record.cpu += sent.elapsed().saturating_sub(record.gpu - gpu_before);
        if outcome.is_err() && (n_asked > round.k || is_lost) {
            // It settled nothing: it cost what it took, and what the CPU takes now.
            let to_come = Duration::from_secs_f64(choice::cpu_seconds(file, 1, n_lists));
            choice::note_gpu(file, n_lists, began.elapsed() + to_come, stale_time);
        }
        match outcome? {
            Some((nearest, is_settled)) if is_settled => {
                choice::note_gpu(file, nearest.lists.len(), began.elapsed(), stale_time);
                return Ok(Some(nearest));
            }
            Some(_) => n_asked = n_asked * ASK_FACTOR + ASK_MORE,
            None if n_repeats == 0 => return Ok(None),
            None => n_repeats -= 1,
        }
    }
}

/// What a device's answer makes with what pages hold beside it, and whether that has the `k` nearest. `None`: it is out of date.
fn answer(
    round: &Round,
    query: &mut Query,
    asked: Asked,
    stale_time: &mut Duration,
    record: &mut ScanRecord,
) -> Result<Option<(Nearest, bool)>, Stop> {
    let is_named = asked.found.is_named();
    if is_named && round.exact {
        return Err(GpuError::Unsupported(EXACT_BY_CODES.into()).into());
    }
    if asked.found.is_lost() {
        let what = "more entries by codes alone than there is room for";
        return Err(GpuError::Unsupported(what.into()).into());
    }
    let mut lists = Lists::default();
    for LookedUp {
        list,
        entry,
        searched,
    } in &asked.looked_up
    {
        let list = *list;
        match *searched {
            Some(appended) => lists.searched.push(Served {
                list,
                entry,
                appended,
            }),
            None => lists.absent.push(list),
        }
    }
    let Some(completed) = complete(round, query, asked.found, &lists, stale_time, record)? else {
        return Ok(None);
    };
    heat::note(round.pages, round.index, asked.lists.iter().copied());
    record.candidates += asked.n_slots;
    if !is_named {
        record.reranked += asked.n_slots;
    }
    let found = completed.found;
    let is_settled = !is_named || !is_open(&found, round.k);
    let nearest = Nearest {
        n_entries: asked.n_entries,
        lists: asked.lists.into_iter().map(unranked).collect(),
        is_ranked: false,
        behind: Behind {
            n_appended: completed.n_appended,
            n_slots: asked.n_slots,
            time: *stale_time + completed.appended_time + asked.checked,
        },
        found,
    };
    Ok(Some((nearest, is_settled)))
}

/// Whether codes alone have not settled which are the `k` nearest.
pub(in crate::engine) fn is_open(found: &Candidates, k: usize) -> bool {
    found.items.len() < k && found.frontier < f32::INFINITY
}
