//! A session's side of a search: puts the query into a slot, waits for the answer, or gives up.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_gpu::params::Found;
use omen_service::client::{self, Waiting};
use omen_service::message::{ChosenList, MessageError, Refusal, Request, StaleList, decode_answer};
use pgrx::{pg_guard, pg_sys};

use super::breaker::now;
use super::control::{State, add};
use super::memory::Service;
use super::wake::{self, Event};

/// An answer that comes within this time is not slept for: falling asleep and being woken take a fifth of it. That is so where few search; where
/// many do, the cores have better things to do, and answers come later.
const SPIN: Duration = Duration::from_micros(250);
/// Few, if a core each leaves this share of the machine to others.
const CORES_OF_FEW: usize = 4;
/// Sleeping, a session looks so often whether the service still lives.
const LOOK: Duration = Duration::from_millis(100);

thread_local! {
    /// Whether this process gives back its slots at exit.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// Whether a search is under way, or one was when an error of Postgres ended it.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

/// What the service found for a query.
pub(crate) struct Answered {
    /// Candidates, ascending by (key, tid).
    pub(crate) found: Vec<Found>,
    /// What is not among them has keys of at least this.
    pub(crate) frontier: f32,
    /// The lists the device chose, in its order, as its tier has them.
    pub(crate) lists: Vec<ChosenList>,
}

/// Waits a moment for something the service is to do; lets the user cancel.
pub(crate) fn doze() {
    pgrx::check_for_interrupts!();
    wake::wait(Duration::from_millis(2), Event::Search.number());
}

/// Whether searches may be sent: the worker answers, and runs where this session's settings want it.
pub(crate) fn is_up(service: &Service) -> bool {
    service.control.state() == State::Up && service.queue.server_is_up()
}

/// Has the service search for `vector` (`[dim]`, scaled space); `stale`: lists that it should know to be out of date. Errors: `Busy` without a
/// free slot, `Interrupted` if an interrupt is pending, `TimedOut` after `timeout`, `Down` if the service ended, and the service's own.
pub(crate) fn ask(
    service: &Service,
    request: &Request,
    vector: &[f32],
    stale: &[StaleList],
    timeout: Duration,
) -> Result<Answered, Refusal> {
    release_at_exit();
    let me = wake::my_number();
    if IS_ASKING.replace(true) {
        // Claims do nothing while an error unwinds.
        service.queue.release_all_of(me);
    }
    let outcome = ask_as(me, service, request, vector, stale, timeout);
    IS_ASKING.set(false);
    outcome
}

fn ask_as(
    me: u32,
    service: &Service,
    request: &Request,
    vector: &[f32],
    stale: &[StaleList],
    timeout: Duration,
) -> Result<Answered, Refusal> {
    // SAFETY: the role of the session, on the main thread.
    let role = unsafe { pg_sys::GetUserId() }.to_u32();
    if !service.lets_through() {
        return Err(GpuError::TimedOut.into());
    }
    let sent = now();
    let Some(mut claim) = client::claim(&service.queue, me, role) else {
        add(&service.control.refused, 1);
        return Err(GpuError::Busy.into());
    };
    // Those that do not fit are told next time.
    let room = claim
        .payload()
        .len()
        .saturating_sub(Request::bytes(vector.len(), 0));
    let stale = &stale[..stale.len().min(room / size_of::<StaleList>())];
    if let Err(error) = request.encode(vector, stale, claim.payload()) {
        claim.give_up();
        return Err(other(error));
    }
    let waiting = claim.submit(|| service.wake_worker());
    let until = Instant::now() + timeout;
    if let Err(error) = wait_for(service, &waiting, until) {
        waiting.abandon();
        add(&service.control.abandoned, 1);
        if error == GpuError::TimedOut {
            service.note_timeout(sent);
        }
        return Err(error.into());
    }
    let answered = match waiting.answer() {
        Some(bytes) => answered(bytes),
        // It ended before there was an answer.
        None => Err(Refusal::Down),
    };
    waiting.finish();
    service.control.breaker.close();
    answered
}

fn answered(bytes: &[u8]) -> Result<Answered, Refusal> {
    let answer = decode_answer(bytes).map_err(other)?;
    answer.outcome()?;
    Ok(Answered {
        found: answer.found.to_vec(),
        frontier: answer.head.frontier,
        lists: answer.lists.to_vec(),
    })
}

fn other(error: MessageError) -> Refusal {
    GpuError::Other(format!("message of the GPU service: {error}")).into()
}

/// Waits until the answer is there.
fn wait_for(service: &Service, waiting: &Waiting, until: Instant) -> Result<(), GpuError> {
    let spin_until = Instant::now() + SPIN;
    while few_search(service) && Instant::now() < spin_until {
        for _ in 0..32 {
            if waiting.is_done() {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        // Where there are few cores, the worker needs this one.
        std::thread::yield_now();
    }
    loop {
        if !waiting.sleep_begin() {
            return Ok(());
        }
        let now = Instant::now();
        wake::wait((until - now).min(LOOK), Event::Search.number());
        waiting.sleep_end();
        if waiting.is_done() {
            return Ok(());
        }
        if pg_sys::elog::interrupt_pending() {
            return Err(GpuError::Interrupted);
        }
        if !service.queue.server_is_up() {
            return Err(GpuError::Lost("the GPU service has ended".into()));
        }
        if Instant::now() >= until {
            return Err(GpuError::TimedOut);
        }
    }
}

/// Whether few sessions search at present.
pub(crate) fn few_search(service: &Service) -> bool {
    static CORES: OnceLock<usize> = OnceLock::new();
    let cores = *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from));
    service.control.crowd() as usize <= (cores / CORES_OF_FEW).max(1)
}

/// Sees to it that a session that ends in the middle of a search leaves no slot behind.
pub(super) fn release_at_exit() {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: the callback lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: pg_sys::Datum) {
    if let Some(service) = super::service() {
        let me = wake::my_number();
        service.queue.release_all_of(me);
        service.load.release_of(me);
    }
}
