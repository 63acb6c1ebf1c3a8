//! The host's end of loads: commands are seen and answered.

use super::command::Command;
use super::link::{QUARANTINE, State, Word, change, read};
use super::outcome::{Reply, encode_outcome};
use super::region::LoadRegion;
use omen_gpu::GpuError;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What the host sees when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nobody loads, or it is over.
    Nothing,
    /// A load, without a command that is not answered.
    Open,
    /// The load's command.
    Asked(Result<Command, GpuError>),
    /// The load is to be cleared up after: then [`Callee::clear`].
    Ended,
}

/// The host's end.
pub(super) struct Callee {
    region: LoadRegion,
    /// Of the load it knows.
    word: Word,
    /// Commands answered.
    n: u64,
    /// When it saw that its loader was gone.
    gone: Option<Instant>,
}

impl Callee {
    /// The new host of a region; loads of an earlier one fail.
    pub(super) fn new(region: LoadRegion) -> Self {
        let header = region.header();
        let word = read(&header.state);
        if word.state() == State::Open {
            change(&header.state, word, State::Failed);
        }
        // Even or, after a server that did not say goodbye, odd: odd and more.
        let next =
            |server: u64| Some((server | 1).wrapping_add(if server % 2 == 1 { 2 } else { 0 }));
        let _ = header
            .server
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        Self {
            region,
            word: word.with(State::Idle),
            n: 0,
            gone: None,
        }
    }

    pub(super) fn look(&mut self) -> Seen {
        let header = self.region.header();
        let word = read(&header.state);
        if word != self.word {
            if word.with(State::Idle) != self.word.with(State::Idle) {
                self.n = 0;
            }
            (self.word, self.gone) = (word, None);
        }
        match word.state() {
            State::Idle | State::Finished | State::Failed => Seen::Nothing,
            State::Cancelled | State::Gone => Seen::Ended,
            State::Open if header.asked.load(Ordering::Acquire) == word.number(self.n + 1) => {
                let word = |i: usize| header.command[i].load(Ordering::Relaxed);
                Seen::Asked(Command::decode(&std::array::from_fn(word)))
            }
            State::Open => Seen::Open,
        }
    }

    /// Whether the load's loader still wants it.
    pub(super) fn is_wanted(&self) -> bool {
        read(&self.region.header().state) == self.word
    }

    /// Answers the command; an error ends the load, as does `is_last`. Of what ends nothing is held any more.
    pub(super) fn answer(&mut self, outcome: &Result<Reply, GpuError>, is_last: bool) {
        let header = self.region.header();
        for (to, word) in header.answer.iter().zip(encode_outcome(outcome)) {
            to.store(word, Ordering::Relaxed);
        }
        self.n += 1;
        let number = self.word.number(self.n);
        header.answered.store(number, Ordering::Release);
        if outcome.is_err() {
            self.fail();
        } else if is_last {
            change(&header.state, self.word, State::Finished);
        }
    }

    /// Ends an open load, of which nothing is held any more.
    pub(super) fn fail(&mut self) {
        let state = &self.region.header().state;
        if self.word.state() == State::Open {
            change(state, self.word, State::Failed);
        }
    }

    /// Makes way for the next load, as soon as that can be: nothing is held of one that ended.
    pub(super) fn clear(&mut self) {
        let state = &self.region.header().state;
        let seen = *self.gone.get_or_insert_with(Instant::now);
        if self.word.state() == State::Cancelled || seen.elapsed() >= QUARANTINE {
            change(state, self.word, State::Idle);
        }
    }
}
