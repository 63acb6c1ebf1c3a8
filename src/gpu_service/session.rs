//! A session's side of a search: puts queries into slots, waits for the answers, or gives up.
//!
//! One query takes one slot. Many go in messages of as many as fit a slot, of which a few are under way at the same time: while the device
//! works on some, the session writes the next.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use omen_gpu::GpuError;
use omen_gpu::params::QueryBound;
use omen_service::client::{self, Waiting};
use omen_service::message::{AnswerView, MessageError, Refusal, Request, StaleList, decode_answer};
use pgrx::{pg_guard, pg_sys};

use super::breaker::now;
use super::control::{State, add};
use super::memory::Service;
use crate::wake::{self, Event};

/// An answer that comes within this time is not slept for: falling asleep and being woken take a fifth of it. That is so where few search; where
/// many do, the cores have better things to do, and answers come later.
const SPIN: Duration = Duration::from_micros(250);
/// Messages of a session that are under way at the same time, at most. More would be larger batches, for which others' searches wait.
const MAX_UNDER_WAY: usize = 4;
/// A session takes another slot if so many of all are free: one in so many.
const FREE_SHARE: usize = 2;
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

/// Queries for the service.
#[derive(Clone, Copy)]
pub(crate) struct Questions<'a> {
    /// What is asked of each. How many queries a message has is set here.
    pub(crate) request: Request,
    /// Lists to search; none: the device chooses the nearest.
    pub(crate) lists: &'a [u32],
    /// Lists that the service should know to be out of date.
    pub(crate) stale: &'a [StaleList],
    /// Queries of a message, at most.
    pub(crate) in_message: usize,
    /// How long the answer to a message may take.
    pub(crate) timeout: Duration,
}

/// Writes some of the queries, by their numbers: `[n, query_words]` (`Query::words`), and their bounds, `[n]`.
pub(crate) type Fill<'a> = dyn FnMut(Range<usize>, &mut [f32], &mut [QueryBound]) + 'a;

/// A message that waits for its answer.
struct UnderWay {
    waiting: Waiting,
    n_queries: usize,
    /// Lists that it says are out of date.
    n_told: usize,
    /// When it was sent, as the breaker knows times.
    sent: i64,
    until: Instant,
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

/// Has the service search for queries number `queries`, which `fill` writes; `take` gets their answers, in order, perhaps in parts. Errors: `Busy`
/// without a free slot, `Interrupted` if an interrupt is pending, `TimedOut`, `Down` if the service ended, and the service's own; what `take`
/// got before counts. No slot is held afterwards.
pub(crate) fn ask(
    service: &Service,
    questions: &Questions,
    queries: Range<usize>,
    fill: &mut Fill,
    take: &mut dyn FnMut(&AnswerView),
) -> Result<(), Refusal> {
    release_at_exit();
    let me = wake::my_number();
    if IS_ASKING.replace(true) {
        // Claims do nothing while an error unwinds.
        service.queue.release_all_of(me);
    }
    let mut under_way = VecDeque::new();
    let outcome = ask_as(me, service, questions, queries, fill, take, &mut under_way);
    for message in under_way {
        give_up(service, message);
    }
    IS_ASKING.set(false);
    outcome
}

fn ask_as(
    me: u32,
    service: &Service,
    questions: &Questions,
    queries: Range<usize>,
    fill: &mut Fill,
    take: &mut dyn FnMut(&AnswerView),
    under_way: &mut VecDeque<UnderWay>,
) -> Result<(), Refusal> {
    if !service.lets_through() {
        return Err(GpuError::TimedOut.into());
    }
    let (mut questions, mut left) = (*questions, queries);
    loop {
        while !left.is_empty() && may_send(service, under_way.len()) {
            let Some(message) = send(me, service, &questions, left.clone(), fill)? else {
                break;
            };
            left.start += message.n_queries;
            // The service is told once.
            questions.stale = &questions.stale[message.n_told..];
            under_way.push_back(message);
        }
        let Some(message) = under_way.pop_front() else {
            if left.is_empty() {
                return Ok(());
            }
            add(&service.control.refused, 1);
            return Err(GpuError::Busy.into());
        };
        let is_last = left.is_empty() && under_way.is_empty();
        if let Err(error) = wait_for(service, &message.waiting, message.until, is_last) {
            if error == GpuError::TimedOut {
                service.note_timeout(message.sent);
            }
            give_up(service, message);
            return Err(error.into());
        }
        let outcome = match message.waiting.answer() {
            Some(bytes) => read(bytes, message.n_queries, take),
            // It ended before there was an answer.
            None => Err(Refusal::Down),
        };
        message.waiting.finish();
        service.control.breaker.close();
        outcome?;
    }
}

/// Whether a session with so many messages under way may send another.
fn may_send(service: &Service, n_under_way: usize) -> bool {
    let queue = &service.queue;
    n_under_way == 0 || n_under_way < MAX_UNDER_WAY && queue.n_free() * FREE_SHARE > queue.n_slots()
}

/// Sends the first of some queries, as many as fit. `None`: no slot is free.
fn send(
    me: u32,
    service: &Service,
    questions: &Questions,
    queries: Range<usize>,
    fill: &mut Fill,
) -> Result<Option<UnderWay>, Refusal> {
    // SAFETY: the role of the session, on the main thread.
    let role = unsafe { pg_sys::GetUserId() }.to_u32();
    let sent = now();
    let Some(mut claim) = client::claim(&service.queue, me, role) else {
        return Ok(None);
    };
    let room = |n_queries: usize| {
        let (words, n_lists) = (questions.request.words as usize, questions.lists.len());
        let bytes = Request::bytes(n_queries, words, n_lists, 0);
        service.queue.slot_bytes().saturating_sub(bytes) / size_of::<StaleList>()
    };
    let mut n_queries = queries.len().min(questions.in_message);
    while n_queries > 1 && room(n_queries) < questions.stale.len() {
        n_queries = n_queries.div_ceil(2);
    }
    // Those that do not fit are told with the next.
    let stale = &questions.stale[..questions.stale.len().min(room(n_queries))];
    let request = Request {
        n_queries: n_queries as u32,
        ..questions.request
    };
    let these = queries.start..queries.start + n_queries;
    let fill = |vectors: &mut [f32], bounds: &mut [QueryBound]| fill(these, vectors, bounds);
    if let Err(error) = request.encode(stale, questions.lists, claim.payload(), fill) {
        claim.give_up();
        return Err(other(error));
    }
    claim.set_queries(request.n_queries);
    Ok(Some(UnderWay {
        waiting: claim.submit(|| service.wake_worker()),
        n_queries,
        n_told: stale.len(),
        sent,
        until: Instant::now() + questions.timeout,
    }))
}

fn give_up(service: &Service, message: UnderWay) {
    message.waiting.abandon();
    add(&service.control.abandoned, message.n_queries as u64);
}

/// Reads an answer to so many queries.
fn read(bytes: &[u8], n_queries: usize, take: &mut dyn FnMut(&AnswerView)) -> Result<(), Refusal> {
    let answer = decode_answer(bytes).map_err(other)?;
    answer.outcome()?;
    if answer.head.n_queries as usize != n_queries {
        let what = "the GPU service answers other questions";
        return Err(GpuError::Other(what.into()).into());
    }
    take(&answer);
    Ok(())
}

fn other(error: MessageError) -> Refusal {
    GpuError::Other(format!("message of the GPU service: {error}")).into()
}

/// Waits until the answer is there. Unless it is the last one, an interrupt that is pending ends the wait before it begins.
fn wait_for(
    service: &Service,
    waiting: &Waiting,
    until: Instant,
    is_last: bool,
) -> Result<(), GpuError> {
    if !is_last && pg_sys::elog::interrupt_pending() {
        return Err(GpuError::Interrupted);
    }
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

/// Sees to it that a session that ends, be it in the middle of a search, leaves no slot behind, and nothing mapped.
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
        // Before the notes that keep the memory there.
        crate::engine::tiers::let_go();
        service.control.mappings.release_all_of(me);
    }
}
