//! The worker process. It is connected to no database and reads no pages: sessions send it queries, and what tiers are made of.
//!
//! It ends with code 1 when its context is unusable, or when the driver brings it down: Postgres starts it again, later each time, and no
//! other process is touched. Searches that it leaves are answered by the CPU.

use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use omen_gpu::{Gpu, GpuError};
use omen_service::message::Status;
use omen_service::serve::{Served, Server};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_guard, pg_sys};

use super::control::{State, add};
use super::faults;
use super::hosting::Hosting;
use super::memory::{self, Service};
use super::watchdog::Watchdog;
use crate::engine::devices;
use crate::error::PgError;
use crate::guc;
use crate::wake::{self, Event};

/// As shown in `pg_stat_activity`.
const NAME: &str = "pg_omen GPU service";
/// Postgres starts the worker again so long after it ended by an error; the worker itself waits longer if it ends so again and again.
const RESTART: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(3600);
/// A batch that takes longer, and longer than `omen.gpu_timeout`, ends the worker. Sessions that wait less give up by themselves.
const DEADLINE: Duration = Duration::from_secs(5);
/// What takes longer than this, or than twice the time a batch has, does not come back. Contexts are slow to open where there are many GPUs.
const STUCK: Duration = Duration::from_secs(10);
const STUCK_OPENING: Duration = Duration::from_secs(120);
/// Without a GPU it looks for one so often.
const NO_GPU_PAUSE: Duration = Duration::from_secs(600);
/// After so long without an end, the next one is the first.
const LONG_UP: Duration = Duration::from_secs(600);
/// The worker looks for requests so long before it sleeps: clients that are answered often ask again at once, and those of a single connection
/// need so long to read an answer and ask again.
const SPIN: Duration = Duration::from_micros(250);
/// Sleeping, it looks so often whether its settings have changed; while a tier is loaded, whether that is done.
const NAP: Duration = Duration::from_secs(1);
const NAP_WHILE_LOADING: Duration = Duration::from_millis(2);

/// Has Postgres start the worker.
pub(super) fn register() {
    BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library("pg_omen")
        .set_function("omen_gpu_service_main")
        // With a connection, though to no database, it is seen in `pg_stat_activity` and can be terminated like any other process.
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(Some(RESTART))
        .load();
}

/// The worker's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn omen_gpu_service_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: once, in a worker registered for it; without names no database is opened.
    unsafe {
        let none = core::ptr::null();
        pg_sys::BackgroundWorkerInitializeConnection(none, none, 0);
    }
    let Some(service) = memory::service() else {
        return;
    };
    let control = service.control;
    control.pid.store(std::process::id(), Ordering::Relaxed);
    control
        .proc_number
        .store(wake::my_number(), Ordering::Relaxed);
    // SAFETY: the callbacks live as long as the process.
    unsafe {
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0));
        pg_sys::on_proc_exit(Some(at_last), pg_sys::Datum::from(0));
    }
    // What a worker that was killed left.
    service.leave();
    pause(control.failed_starts.load(Ordering::Relaxed));
    control.starts.fetch_add(1, Ordering::Relaxed);
    control.failed_starts.fetch_add(1, Ordering::Relaxed);
    control.set_state(State::Opening);
    if control.was_stuck() {
        log(format!(
            "{NAME} was ended: a call of the GPU's driver did not come back"
        ));
    }
    let watchdog = match Watchdog::start(service) {
        Ok(watchdog) => watchdog,
        Err(error) => end(&GpuError::Other(format!("no thread: {error}"))),
    };
    loop {
        watchdog.begin(STUCK_OPENING);
        let opened = open(service);
        watchdog.rest();
        match opened {
            Ok(gpu) => run(service, gpu, &watchdog),
            Err(error @ (GpuError::NoDriver | GpuError::NoDevice)) => {
                if control.state() != State::NoGpu {
                    log(format!("{NAME}: {error}; searches use the CPU"));
                }
                control.set_state(State::NoGpu);
                // Not ended: Postgres would forget it, and after a crash of another process nobody knew that there is no GPU.
                wait_for(NO_GPU_PAUSE);
            }
            Err(error) => end(&error),
        }
    }
}

fn open(service: &Service) -> Result<Gpu, GpuError> {
    let (gpu, device) = devices::open(&guc::gpu_devices(), guc::simulate_gpu())?;
    let control = service.control;
    control.device.store(device as u32, Ordering::Relaxed);
    let simulated = u32::from(guc::simulate_gpu());
    control.is_simulated.store(simulated, Ordering::Relaxed);
    Ok(gpu)
}

/// Answers until it is told to end.
fn run(service: &Service, gpu: Gpu, watchdog: &Watchdog) -> ! {
    let up_at = Instant::now();
    let control = service.control;
    // What sessions have mapped is there until this process is gone, however it ends.
    let mut server = ManuallyDrop::new(Server::new(service.queue, gpu));
    let mut hosting = match Hosting::start(service, &mut server) {
        Ok(hosting) => hosting,
        Err(error) => end(&error),
    };
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    control.up_since.store(now, Ordering::Relaxed);
    service.queue.set_server_up(true);
    control.breaker.close();
    control.set_state(State::Up);
    log(format!("{NAME}: up"));
    while !BackgroundWorker::sigterm_received() {
        // Others may wait for this process to notice something: DROP DATABASE, for one.
        pgrx::check_for_interrupts!();
        if BackgroundWorker::sighup_received() {
            // SAFETY: on the main thread, with nothing of Postgres under way.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
        }
        let deadline = guc::gpu_timeout().max(DEADLINE);
        let mut beat = || watchdog.begin(STUCK.max(2 * deadline));
        let is_loading = match hosting.step(service, &mut server) {
            Ok(is_loading) => is_loading,
            Err(error) => end(&error),
        };
        if faults::hangs(&mut beat) {
            continue;
        }
        let began = Instant::now();
        let served = faults::serve(&mut server, deadline, &mut beat, &mut wake::wake);
        watchdog.rest();
        if up_at.elapsed() > LONG_UP {
            control.failed_starts.store(0, Ordering::Relaxed);
        }
        if served.n_requests == 0 {
            idle(service, is_loading);
        } else {
            note(service, &served, began.elapsed());
        }
        if let Some(error) = served.error {
            end(&error);
        }
    }
    hosting.end(&mut server);
    // With code 0 Postgres would take it for done, and not start it again if somebody has just terminated it.
    exit()
}

fn note(service: &Service, served: &Served, elapsed: Duration) {
    let control = service.control;
    add(&control.batches, served.n_batches as u64);
    add(&control.searches, served.n_queries as u64);
    add(&control.busy_us, elapsed.as_micros() as u64);
    add(&control.device_us, served.device.as_micros() as u64);
    add(&control.failures, served.n_failed as u64);
    let largest = served.largest_batch as u64;
    control.note_crowd(served.largest_round as u64);
    control.max_batch.fetch_max(largest, Ordering::Relaxed);
    if served.n_failed == 0 {
        control.failed_starts.store(0, Ordering::Relaxed);
    }
}

/// Waits for requests.
fn idle(service: &Service, is_loading: bool) {
    let until = Instant::now() + SPIN;
    while Instant::now() < until {
        if service.queue.n_ready() > 0 {
            return;
        }
        // Where there are few cores, those who ask need this one.
        std::thread::yield_now();
    }
    if service.queue.server_sleep_begin() {
        let nap = if is_loading { NAP_WHILE_LOADING } else { NAP };
        wake::wait(nap, Event::Idle.number());
        service.queue.server_sleep_end();
    }
}

/// After `n_failed` starts that led to no answer, waits before the next.
fn pause(n_failed: u32) {
    if n_failed < 2 {
        return;
    }
    let pause = RESTART
        .saturating_mul(1 << n_failed.min(12))
        .min(LAST_PAUSE);
    wait_for(pause);
}

/// Waits, unless the process is to end.
fn wait_for(pause: Duration) {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        if BackgroundWorker::sigterm_received() {
            exit();
        }
        pgrx::check_for_interrupts!();
        wake::wait(NAP, Event::Idle.number());
    }
}

/// Ends the process so that it is started again.
pub(super) fn end(error: &GpuError) -> ! {
    log(format!("{NAME} ends and is started again: {error}"));
    exit()
}

fn exit() -> ! {
    // SAFETY: on the main thread; callbacks give back what the process holds.
    unsafe { pg_sys::proc_exit(1) };
    // Not all bindings know that it does not return.
    #[allow(unreachable_code)]
    std::process::abort()
}

fn log(message: String) {
    PgError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message).report(PgLogLevel::LOG);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(service) = memory::service() {
        service.leave();
    }
}

/// The last thing the process does. What libraries would do at its end is left out: the driver's would run while its threads do, and a fault
/// there would be a crash in Postgres' eyes.
unsafe extern "C-unwind" fn at_last(code: i32, _arg: pg_sys::Datum) {
    // SAFETY: ends the process; shared memory has been given back before.
    unsafe { libc::_exit(code) }
}

impl Service {
    /// Wakes the worker.
    pub(crate) fn wake_worker(&self) {
        wake::wake(self.control.proc_number.load(Ordering::Relaxed));
    }

    /// Whether the worker was started again without having answered a search.
    pub(super) fn has_failed_starts(&self) -> bool {
        self.control.failed_starts.load(Ordering::Relaxed) > 1
    }

    /// Leaves no search and no load that waits for this process.
    fn leave(&self) {
        let control = self.control;
        if control.state() != State::NoGpu {
            control.set_state(State::Down);
        }
        self.queue.set_server_up(false);
        self.queue.fail_all(Status::Down, wake::wake);
        self.load.set_server_down();
        control.set_tiers(&[]);
        self.indexes.set_hot(&[]);
        control.note_evicted();
    }
}
