//! The server's end: a thread that writes tiers as their loaders say.

use super::callee::{Callee, Seen};
use super::command::{Command, Found, Wanted, encode_export};
use super::link::Pause;
use super::outcome::Reply;
use super::region::{LoadRegion, Room};
use super::writing::{Load, tell_lists};
use crate::message::TierKey;
use omen_gpu::context::Wait;
use omen_gpu::memory::TierPlan;
use omen_gpu::{Export, Gpu, GpuError, Refresh, Tier, TierList};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for the device.
const DEVICE_DEADLINE: Duration = Duration::from_secs(10);
/// How often the thread looks for a load while there is none.
const IDLE_TURN: Duration = Duration::from_millis(20);
/// A loader that has not been heard of for so long is looked after every [`SLOW_TURN`].
const SLOW_AFTER: Duration = Duration::from_secs(1);
const SLOW_TURN: Duration = Duration::from_millis(1);

/// Makes room for a tier that needs so many bytes, by dropping others or not; how many it may take. Called by the host's
/// thread, which waits for it, within some seconds.
pub type RoomFor = Box<dyn FnMut(&Wanted, u64) -> u64 + Send>;

/// Gets something of the tier of this key, if there is one, and a number of the tier that no other has had. Called as [`RoomFor`].
pub type OfTier<T> = Box<dyn FnMut(&TierKey) -> Option<(u64, T)> + Send>;

/// What a load has come to.
pub enum Loaded {
    /// A tier, in place of one of the same key.
    Tier(TierKey, Box<Tier>),
    /// Lists in place of those of the tier of this key, if it still is the one of this number.
    Lists(TierKey, u64, Vec<Option<TierList>>),
}

/// How a host goes about it.
pub struct HostOptions {
    /// A load whose loader gives no command for so long has failed.
    pub patience: Duration,
    /// None: what [`LoadRegion::set_room`] leaves.
    pub room: Option<RoomFor>,
    /// Begins the refresh of a tier. None: no tier is refreshed.
    pub refresh: Option<OfTier<Refresh>>,
    /// Exports a tier. None: no tier is exported.
    pub export: Option<OfTier<Export>>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(60),
            room: None,
            refresh: None,
            export: None,
        }
    }
}

/// Takes loads, one at a time, until it is dropped: then the load under way fails, and loaders are told that there is no server.
pub struct Host {
    region: LoadRegion,
    ends: Arc<AtomicBool>,
    lost: Arc<OnceLock<GpuError>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the thread; with signals blocked, if signals are the main thread's business. One host a region. What is loaded is sent to
    /// `tiers`. Errors: of the system.
    pub fn start(
        region: LoadRegion,
        gpu: Gpu,
        tiers: Sender<Loaded>,
        options: HostOptions,
    ) -> std::io::Result<Self> {
        let (ends, lost) = <(Arc<AtomicBool>, Arc<OnceLock<GpuError>>)>::default();
        // Here, so that there is a server when this returns.
        let mut work = Work {
            load: None,
            callee: Callee::new(region),
            region,
            gpu,
            tiers,
            options,
            ends: ends.clone(),
            lost: lost.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("omen load".into())
            .spawn(move || work.run())?;
        Ok(Self {
            region,
            ends,
            lost,
            thread: Some(thread),
        })
    }

    /// Gives up what `owner` is loading, who is gone: see [`LoadRegion::release_of`].
    pub fn cancel(&self, owner: u32) {
        self.region.release_of(owner);
        self.wake();
    }

    /// Looks for a load at once.
    pub fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// The error after which the device is of no use, or nothing can be loaded any more: the server should end.
    pub fn lost(&self) -> Option<GpuError> {
        let ended = self.thread.as_ref().is_some_and(|t| t.is_finished());
        let panicked = || GpuError::Other("the thread that loads has ended".into());
        self.lost.get().cloned().or_else(|| ended.then(panicked))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported, and its load has ended.
            let _ = thread.join();
        }
    }
}

fn no_load() -> GpuError {
    GpuError::Other("a command without a load".into())
}

/// What the thread has.
struct Work {
    load: Option<Load>,
    callee: Callee,
    region: LoadRegion,
    gpu: Gpu,
    tiers: Sender<Loaded>,
    options: HostOptions,
    ends: Arc<AtomicBool>,
    lost: Arc<OnceLock<GpuError>>,
}

impl Drop for Work {
    /// Also after a panic.
    fn drop(&mut self) {
        self.load = None;
        self.callee.fail();
        self.region.set_server_down();
    }
}

impl Work {
    fn run(&mut self) {
        let mut pause = Pause::default();
        let mut heard = Instant::now();
        while !self.ends.load(Ordering::Acquire) {
            match self.callee.look() {
                Seen::Asked(command) => {
                    let is_last = command.as_ref().is_ok_and(Command::is_last);
                    let outcome = command.and_then(|command| self.execute(command));
                    if let Err(error) = &outcome {
                        self.load = None;
                        if matches!(error, GpuError::TimedOut | GpuError::Lost(_)) {
                            let _ = self.lost.set(error.clone());
                        }
                    }
                    self.callee.answer(&outcome, is_last);
                    (pause, heard) = (Pause::default(), Instant::now());
                }
                Seen::Open if heard.elapsed() > self.options.patience => {
                    self.load = None;
                    self.callee.fail();
                }
                Seen::Open if heard.elapsed() > SLOW_AFTER => std::thread::sleep(SLOW_TURN),
                Seen::Open => pause.turn(),
                Seen::Nothing => {
                    self.load = None;
                    std::thread::park_timeout(IDLE_TURN);
                    (pause, heard) = (Pause::default(), Instant::now());
                }
                Seen::Ended => {
                    self.load = None;
                    self.callee.clear();
                    pause.turn();
                    heard = Instant::now();
                }
            }
        }
    }

    fn execute(&mut self, command: Command) -> Result<Reply, GpuError> {
        match command {
            Command::Begin(wanted) => {
                self.load = None;
                self.load = Some(self.begin(wanted)?);
                Ok(Reply::default())
            }
            Command::Refresh(key) => {
                self.load = None;
                let (load, found) = self.begin_refresh(key)?;
                self.load = Some(load);
                Ok(found.encode())
            }
            Command::Export(key) => {
                self.load = None;
                self.export(key)
            }
            Command::Finish {
                which,
                has_centroids,
            } => {
                self.finish(which, has_centroids)?;
                Ok(Reply::default())
            }
            command => {
                self.write(command)?;
                Ok(Reply::default())
            }
        }
    }

    fn write(&mut self, command: Command) -> Result<(), GpuError> {
        let load = self.load.as_mut().ok_or_else(no_load)?;
        let (callee, ends) = (&self.callee, &self.ends);
        let mut wait = Wait {
            until: Instant::now() + DEVICE_DEADLINE,
            poll: &mut || {
                let goes_on = callee.is_wanted() && !ends.load(Ordering::Acquire);
                goes_on.then_some(()).ok_or(GpuError::Interrupted)
            },
        };
        load.write(command, &mut wait)
    }

    fn begin(&mut self, wanted: Wanted) -> Result<Load, GpuError> {
        let Wanted {
            spec,
            parts,
            n_slots,
            ..
        } = wanted;
        let needed = TierPlan::new(&spec, parts, n_slots)?.bytes_needed();
        let room = match &mut self.options.room {
            Some(room) => room(&wanted, needed),
            None => {
                let Room { limit, used } = self.region.last_room();
                limit.saturating_sub(used)
            }
        };
        let byte_limit = wanted.byte_limit.min(room);
        Load::begin(&self.gpu, self.region, wanted, byte_limit)
    }

    fn begin_refresh(&mut self, key: TierKey) -> Result<(Load, Found), GpuError> {
        let begun = self.options.refresh.as_mut().and_then(|begin| begin(&key));
        let none = || GpuError::Unsupported("refreshing a tier that is not there".into());
        let (number, refresh) = begun.ok_or_else(none)?;
        Load::begin_refresh(self.region, key, number, refresh)
    }

    fn export(&mut self, key: TierKey) -> Result<Reply, GpuError> {
        let export = self.options.export.as_mut().and_then(|of| of(&key));
        let none = || GpuError::Unsupported("mapping a tier that is not there".into());
        let (number, export) = export.ok_or_else(none)?;
        tell_lists(&self.region, &export.lists)?;
        Ok(encode_export(&export, number))
    }

    /// Hands over what was loaded.
    fn finish(&mut self, which: usize, has_centroids: bool) -> Result<(), GpuError> {
        let load = self.load.take().ok_or_else(no_load)?;
        let loaded = load.finish(which, has_centroids)?;
        // Should it be cancelled later, the tier serves all the same.
        if !self.callee.is_wanted() {
            return Err(GpuError::Interrupted);
        }
        let gone = |_| GpuError::Other("the server takes no tiers".into());
        self.tiers.send(loaded).map_err(gone)
    }
}
