//! Mistakes that the worker makes in test builds, as `omen.inject_fault` says.

use std::cell::Cell;
use std::time::Duration;

use omen_gpu::GpuError;
use omen_service::serve::{Served, Server};

use super::worker::end;
use crate::guc::{self, Fault};
use crate::wake::{self, Event};

/// A call that does not come back takes so long, again and again.
const STUCK_TURN: Duration = Duration::from_secs(1);
/// A worker that answers nothing looks so often whether that is over.
const HANG_TURN: Duration = Duration::from_millis(20);
/// More than any device has.
const TOO_MUCH: u64 = 1 << 50;

thread_local! {
    /// Whether the last call of the device failed, of those that do every other time.
    static HAS_FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Ends the process, is stuck after `beat`, or returns whether it is to answer nothing this time.
pub(super) fn hangs(beat: &mut dyn FnMut()) -> bool {
    match guc::inject_fault() {
        Fault::Exit => end(&injected()),
        Fault::Lost => end(&GpuError::Lost("injected fault".into())),
        Fault::Stuck => {
            beat();
            loop {
                std::thread::sleep(STUCK_TURN);
            }
        }
        Fault::Hang => {
            wake::wait(HANG_TURN, Event::Idle.number());
            true
        }
        _ => false,
    }
}

/// [`Server::serve`], of a device that may fail.
pub(super) fn serve(
    server: &mut Server,
    deadline: Duration,
    beat: &mut dyn FnMut(),
    wake: &mut dyn FnMut(u32),
) -> Served {
    match error_of_batches(server) {
        Some(error) => server.serve_with(&mut |_, _, _, _| Err(error.clone()), wake),
        None => server.serve(deadline, beat, wake),
    }
}

fn error_of_batches(server: &Server) -> Option<GpuError> {
    match guc::inject_fault() {
        Fault::OutOfMemory => Some(GpuError::OutOfMemory {
            needed: TOO_MUCH,
            available: 0,
        }),
        Fault::FailLaunch => Some(injected()),
        // Turns without requests do not count.
        Fault::FlakyLaunch if server.queue().n_ready() > 0 => {
            let fails = !HAS_FAILED.get();
            HAS_FAILED.set(fails);
            fails.then(injected)
        }
        _ => None,
    }
}

/// Of so many bytes there are for a tier, those that it gets.
pub(super) fn room(bytes: u64) -> u64 {
    match guc::inject_fault() {
        Fault::OutOfMemory => 0,
        _ => bytes,
    }
}

fn injected() -> GpuError {
    GpuError::Other("injected fault".into())
}
