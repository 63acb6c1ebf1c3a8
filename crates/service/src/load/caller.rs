//! The loader's end of a load: commands are given and waited for.

use super::command::Command;
use super::link::{Pause, State, Word, change, read};
use super::outcome::{Reply, decode_outcome};
use super::region::{Header, LoadRegion};
use omen_gpu::GpuError;
use omen_gpu::context::Wait;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a loader that begins waits for the host to clear up after the one before.
const CLEARING: Duration = Duration::from_secs(1);

/// Asks whether to go on; an error ends a wait.
pub(super) type Poll<'a> = dyn FnMut() -> Result<(), GpuError> + 'a;

/// The loader's end of a load. Dropping it, when nothing writes into areas any more, ends the load.
pub(super) struct Caller {
    region: LoadRegion,
    /// As it is while the load is open.
    word: Word,
    server: u64,
    /// Commands given.
    n: u64,
}

impl Caller {
    /// Begins a load. Errors: `Busy` if there is one, `Lost` without a server, and what `poll` says.
    pub(super) fn open(
        region: LoadRegion,
        owner: u32,
        poll: &mut Poll<'_>,
    ) -> Result<Self, GpuError> {
        let state = &region.header().state;
        let until = Instant::now() + CLEARING;
        let mut pause = Pause::default();
        loop {
            let server = region.server()?;
            let last = read(state);
            match last.state() {
                State::Idle => {
                    let word = last.next(owner);
                    let (from, to) = (last.0, word.0);
                    if state
                        .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                    {
                        return Ok(Self {
                            region,
                            word,
                            server,
                            n: 0,
                        });
                    }
                }
                State::Cancelled if Instant::now() < until => {
                    poll()?;
                    pause.turn();
                }
                _ => return Err(GpuError::Busy),
            }
        }
    }

    /// Gives a command; the one before has been answered. Errors: `Lost`.
    pub(super) fn post(&mut self, command: &Command) -> Result<(), GpuError> {
        self.check()?;
        self.n += 1;
        let header = self.header();
        for (to, word) in header.command.iter().zip(command.encode()) {
            to.store(word, Ordering::Relaxed);
        }
        let number = self.word.number(self.n);
        header.asked.store(number, Ordering::Release);
        Ok(())
    }

    /// Waits for the last command's outcome, which is the inner one; the outer one is what a `poll` says, after which the command
    /// still is under way. Errors of the inner one: what the host says, `Lost`, `TimedOut` past `wait.until`.
    pub(super) fn outcome(
        &self,
        wait: &mut Wait<'_>,
        poll: &mut Poll<'_>,
    ) -> Result<Result<Reply, GpuError>, GpuError> {
        let mut pause = Pause::default();
        loop {
            if let Some(outcome) = self.answer() {
                return Ok(outcome);
            }
            if let Err(error) = self.check() {
                // The answer comes before the change of the state.
                return Ok(self.answer().unwrap_or(Err(error)));
            }
            if pause.sleeps() {
                (wait.poll)()?;
                poll()?;
                if Instant::now() >= wait.until {
                    return Ok(Err(GpuError::TimedOut));
                }
            }
            pause.turn();
        }
    }

    fn answer(&self) -> Option<Result<Reply, GpuError>> {
        let header = self.header();
        let number = self.word.number(self.n);
        let is_answered = header.answered.load(Ordering::Acquire) == number;
        is_answered.then(|| {
            let word = |i: usize| header.answer[i].load(Ordering::Relaxed);
            decode_outcome(&std::array::from_fn(word))
        })
    }

    /// Whether the host is there and goes on with the load.
    fn check(&self) -> Result<(), GpuError> {
        if self.region.server()? != self.server {
            return Err(GpuError::Lost("the GPU server was started again".into()));
        }
        if read(&self.header().state) != self.word {
            return Err(GpuError::Lost("the GPU server ended the load".into()));
        }
        Ok(())
    }

    fn header(&self) -> &Header {
        self.region.header()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let state = &self.header().state;
        loop {
            let word = read(state);
            let to = match word.state() {
                State::Open => State::Cancelled,
                State::Finished | State::Failed => State::Idle,
                _ => return,
            };
            if word.with(State::Open) != self.word || change(state, word, to) {
                return;
            }
        }
    }
}
