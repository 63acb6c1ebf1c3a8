//! Tiers in the worker: sessions load them; those of dropped or rewritten indexes go, and the one unused for longest where another needs its
//! room, those of indexes with `hot = on` last. What is loaded is written by a thread of `omen_service::load`, so that searches go on meanwhile.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use omen_gpu::{Export, GpuError, Refresh};
use omen_service::load::{Host, HostOptions, Loaded, OfTier, Room, Wanted};
use omen_service::message::TierKey;
use omen_service::serve::{RoomWanted, Server, TierUse, make_way};

use super::autoload::Autoload;
use super::control::{MAX_TIERS, add};
use super::faults;
use super::loader::{self, file_of};
use super::memory::Service;
use crate::compat;
use crate::engine::load::limit;
use crate::threads;

/// So often the files of the tiers' indexes are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A tier of codes alone gets its rows, should there be room, if it was searched or loaded within this time.
const IN_USE: Duration = Duration::from_secs(60);
/// A load waits so long for other tiers to be dropped.
const ROOM_TIME: Duration = Duration::from_secs(5);

/// A load wants room for so many bytes; what it may take is sent back.
struct WantsRoom {
    wanted: Wanted,
    needed: u64,
    asked: Instant,
    answer: SyncSender<u64>,
}

/// Something is wanted of a tier, to refresh or to map it, which is sent back with the tier's number.
struct Wants<T> {
    key: TierKey,
    answer: SyncSender<Option<(u64, T)>>,
}

/// How the thread asks for that, and what the worker sees of it.
fn wants_of<T: Send + 'static>() -> (OfTier<T>, Receiver<Wants<T>>) {
    let (asks, wanted) = channel();
    let ask = move |key: &TierKey| {
        let (answer, given) = sync_channel(1);
        asks.send(Wants { key: *key, answer }).ok()?;
        given.recv_timeout(ROOM_TIME).ok()?
    };
    (Box::new(ask), wanted)
}

/// The worker's part in loads, and its looking after tiers.
pub(super) struct Hosting {
    host: Host,
    loaded: Receiver<Loaded>,
    wants_room: Receiver<WantsRoom>,
    wants_refresh: Receiver<Wants<Refresh>>,
    wants_export: Receiver<Wants<Export>>,
    looked: Instant,
    autoload: Autoload,
}

impl Hosting {
    /// Starts the thread. Errors: `Other` if there is none to be had.
    pub(super) fn start(service: &Service, server: &mut Server) -> Result<Self, GpuError> {
        let (tiers, loaded) = channel();
        let (asks, wants_room) = channel();
        let room = move |wanted: &Wanted, needed: u64| {
            let (answer, granted) = sync_channel(1);
            let wants = WantsRoom {
                wanted: *wanted,
                needed,
                asked: Instant::now(),
                answer,
            };
            let asked = asks.send(wants).is_ok();
            asked
                .then(|| granted.recv_timeout(ROOM_TIME).ok())
                .flatten()
                .unwrap_or(0)
        };
        let (refresh, wants_refresh) = wants_of();
        let (export, wants_export) = wants_of();
        let options = HostOptions {
            room: Some(Box::new(room)),
            refresh: Some(refresh),
            export: Some(export),
            ..HostOptions::default()
        };
        let (region, gpu) = (service.load, server.gpu().clone());
        let host = threads::with_signals_blocked(|| Host::start(region, gpu, tiers, options));
        let hosting = Self {
            host: host.map_err(|e| GpuError::Other(format!("could not start a thread: {e}")))?,
            loaded,
            wants_room,
            wants_refresh,
            wants_export,
            looked: Instant::now(),
            autoload: Autoload::start(service),
        };
        publish(service, server);
        Ok(hosting)
    }

    /// Takes over tiers that were loaded, and makes room for those to come. Returns whether one is being loaded. Errors: the device is lost.
    pub(super) fn step(
        &mut self,
        service: &Service,
        server: &mut Server,
    ) -> Result<bool, GpuError> {
        for wants in self.wants_room.try_iter() {
            let most = limit(server.gpu(), server.bytes())?;
            let is_late = wants.asked.elapsed() >= ROOM_TIME;
            let is_made = !is_late && make_room(service, server, &wants, most);
            if !is_made {
                // What the loader chose by may be out of date.
                publish(service, server);
            }
            let left = most.saturating_sub(server.bytes());
            let granted = if is_made {
                left
            } else {
                left.min(wants.needed.saturating_sub(1))
            };
            // A loader that has given up does not read it.
            let _ = wants.answer.send(faults::room(granted));
        }
        // What was loaded before a refresh or a mapping was asked for is taken over before it begins, with the lists as the last refresh has
        // left them.
        let wants_refresh: Vec<Wants<Refresh>> = self.wants_refresh.try_iter().collect();
        let wants_export: Vec<Wants<Export>> = self.wants_export.try_iter().collect();
        for loaded in self.loaded.try_iter() {
            take_over(service, server, loaded);
        }
        for Wants { key, answer } in wants_refresh {
            // Who has it mapped would find other lists in the place of those it knows.
            let is_mapped = service.may_be_mapped(&key);
            let begun = (!is_mapped).then(|| server.begin_refresh(&key)).flatten();
            let _ = answer.send(begun);
        }
        for Wants { key, answer } in wants_export {
            let _ = answer.send(server.export(&key));
        }
        self.look_after(service, server);
        self.autoload.step(service);
        let is_loading = service.load.owner().is_some();
        if is_loading {
            // It may sleep still.
            self.host.wake();
        }
        match self.host.lost() {
            Some(error) => Err(error),
            None => Ok(is_loading),
        }
    }

    /// Fulfils wishes for eviction, and now and then drops tiers whose index is gone: dropped, truncated, or rewritten into another file.
    /// Queries of sessions that still see the old one are the CPU's.
    fn look_after(&mut self, service: &Service, server: &mut Server) {
        let control = service.control;
        if control.wants_eviction() {
            server.remove_where(|key| control.is_to_evict(key));
            publish(service, server);
            control.note_evicted();
        }
        if self.looked.elapsed() > LOOK {
            self.looked = Instant::now();
            server.remove_where(is_gone);
            // Scratch memory comes and goes with searches.
            publish(service, server);
            want_rows(service, server);
            self.autoload.write_if_due(server);
        }
    }

    /// Before the worker ends: writes down which tiers there are.
    pub(super) fn end(&mut self, server: &mut Server) {
        server.remove_where(is_gone);
        self.autoload.write(server);
    }
}

/// Has searches use what was loaded. Lists of a tier that is gone are of no use.
fn take_over(service: &Service, server: &mut Server, loaded: Loaded) {
    match loaded {
        Loaded::Tier(key, tier) => {
            remove_of_file(server, &key);
            server.insert(key, *tier);
            add(&service.control.loads, 1);
            service.note_tier(&key);
            publish(service, server);
            add(&service.control.takeovers, 1);
        }
        Loaded::Lists(key, number, lists) => {
            if let Some(n_new) = server.end_refresh(&key, number, lists) {
                add(&service.control.refreshes, 1);
                service.note_refresh(&key, n_new);
                publish_tiers(service, server);
            }
        }
    }
}

/// Drops tiers until what is wanted fits into `limit`, and there is a place for one more. `false`: none, as that cannot be.
fn make_room(service: &Service, server: &mut Server, wants: &WantsRoom, limit: u64) -> bool {
    // The memory of what sessions have mapped would not be free.
    let (mapped, uses): (Vec<TierUse>, Vec<TierUse>) = server
        .uses()
        .into_iter()
        .partition(|tier| service.is_mapped(&tier.key, tier.number));
    let kept: u64 = mapped.iter().map(|tier| tier.bytes).sum();
    let wanted = RoomWanted {
        key: wants.wanted.key,
        bytes: wants.needed,
        displaces_last: wants.wanted.displaces_last,
        limit: limit.saturating_sub(server.retired_bytes() + kept),
        max_tiers: MAX_TIERS - mapped.len(),
    };
    let Some(going) = make_way(&uses, &wanted, |key| service.goes_last(key)) else {
        return false;
    };
    server.remove_where(|key| going.contains(key));
    publish(service, server);
    true
}

/// Lets everyone know which tiers there are, and frees those that were given up and that nobody has mapped any more.
fn publish(service: &Service, server: &mut Server) {
    server.free_unmapped(|key, number| service.is_mapped(key, number));
    publish_tiers(service, server);
    let (used, retired) = (server.bytes(), server.retired_bytes());
    // Should the device not say, loads are refused until it does. What was given up and is mapped is no loader's to have.
    let limit = limit(server.gpu(), used).unwrap_or(0);
    service.load.set_room(Room {
        limit: limit.saturating_sub(retired),
        used: used - retired,
    });
    let figure = &service.control.retired_bytes;
    figure.store(retired, Ordering::Relaxed);
}

/// Lets everyone know which tiers there are; of memory there is neither more nor less.
fn publish_tiers(service: &Service, server: &Server) {
    let mut uses = server.uses();
    // In the same places as before, as far as they are the same: somebody may be looking.
    uses.sort_unstable_by_key(|tier| tier.key);
    service.control.set_tiers(&uses);
    service.publish_hot(server);
}

/// Has a tier of codes alone that is in use loaded with its rows, if by now there is room for them beside all other tiers.
fn want_rows(service: &Service, server: &Server) {
    let Ok(Room { limit, used }) = service.load.room() else {
        return;
    };
    let fits = |tier: &&TierUse| {
        let others = used.saturating_sub(tier.bytes);
        let needed = tier.bytes_with_rows;
        let fits = needed.is_some_and(|needed| needed <= limit.saturating_sub(others));
        fits && tier.last_used.elapsed() < IN_USE
    };
    // The one used last comes first; while a loader loads, no other starts.
    for tier in server.uses().iter().rev().filter(fits) {
        loader::start_for_rows(service, &tier.key);
    }
}

/// An index may be dropped and another be given its file: ALTER TABLE does so where nothing has to be rewritten.
fn remove_of_file(server: &mut Server, key: &TierKey) {
    server.remove_where(|other| file_of(other) == file_of(key));
}

fn is_gone(key: &TierKey) -> bool {
    compat::is_file_gone(file_of(key))
}
