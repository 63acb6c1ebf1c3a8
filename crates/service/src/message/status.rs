//! How a request ended, as a number, and as an error.

use super::{Answer, AnswerView};
use omen_gpu::GpuError;
use thiserror::Error;

/// How a request ended. 0 is no status, so that memory never written to is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// It was answered.
    Ok = 1,
    /// The tier is not here.
    NotLoaded = 2,
    /// No server is up, or it ended before it answered.
    Down = 3,
    /// [`GpuError::NoDriver`]
    NoDriver = 4,
    /// [`GpuError::NoDevice`]
    NoDevice = 5,
    /// [`GpuError::OutOfMemory`]
    OutOfMemory = 6,
    /// [`GpuError::NotResident`]
    NotResident = 7,
    /// [`GpuError::Busy`]
    Busy = 8,
    /// [`GpuError::TimedOut`]
    TimedOut = 9,
    /// [`GpuError::Interrupted`]
    Interrupted = 10,
    /// [`GpuError::Lost`]
    Lost = 11,
    /// [`GpuError::Unsupported`]
    Unsupported = 12,
    /// [`GpuError::Other`]
    Other = 13,
}

const ALL: [Status; 13] = [
    Status::Ok,
    Status::NotLoaded,
    Status::Down,
    Status::NoDriver,
    Status::NoDevice,
    Status::OutOfMemory,
    Status::NotResident,
    Status::Busy,
    Status::TimedOut,
    Status::Interrupted,
    Status::Lost,
    Status::Unsupported,
    Status::Other,
];

impl Status {
    /// The status of this number.
    pub fn from_number(number: u32) -> Option<Self> {
        ALL.into_iter().find(|status| *status as u32 == number)
    }

    /// The status of an error.
    pub fn of(error: &GpuError) -> Self {
        match error {
            GpuError::NoDriver => Self::NoDriver,
            GpuError::NoDevice => Self::NoDevice,
            GpuError::OutOfMemory { .. } => Self::OutOfMemory,
            GpuError::NotResident(_) => Self::NotResident,
            GpuError::Busy => Self::Busy,
            GpuError::TimedOut => Self::TimedOut,
            GpuError::Interrupted => Self::Interrupted,
            GpuError::Lost(_) => Self::Lost,
            GpuError::Unsupported(_) => Self::Unsupported,
            GpuError::Other(_) => Self::Other,
        }
    }
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The tier is not here: it may be loaded.
    #[error("the GPU service does not hold the index")]
    NotLoaded,
    /// No server is up, or it ended before it answered.
    #[error("the GPU service is not running")]
    Down,
    /// The engine's error.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

impl AnswerView<'_> {
    /// Whether the request was answered, or why not.
    pub fn outcome(&self) -> Result<(), Refusal> {
        let text = || String::from_utf8_lossy(self.text).into_owned();
        Err(Refusal::Gpu(match self.status {
            Status::Ok => return Ok(()),
            Status::NotLoaded => return Err(Refusal::NotLoaded),
            Status::Down => return Err(Refusal::Down),
            Status::NoDriver => GpuError::NoDriver,
            Status::NoDevice => GpuError::NoDevice,
            Status::OutOfMemory => GpuError::OutOfMemory {
                needed: self.head.needed,
                available: self.head.available,
            },
            Status::NotResident => GpuError::NotResident(self.head.needed as u32),
            Status::Busy => GpuError::Busy,
            Status::TimedOut => GpuError::TimedOut,
            Status::Interrupted => GpuError::Interrupted,
            Status::Lost => GpuError::Lost(text()),
            Status::Unsupported => GpuError::Unsupported(text()),
            Status::Other => GpuError::Other(text()),
        }))
    }
}

/// Writes an answer without candidates, with as much of `text` as fits; the bytes it takes, 0 if not even the head fits.
pub fn encode_status(status: Status, text: &str, payload: &mut [u8]) -> usize {
    let head = Answer {
        status: status as u32,
        ..Answer::default()
    };
    encode(head, text, payload)
}

/// As [`encode_status`], for an error of the engine.
pub fn encode_error(error: &GpuError, payload: &mut [u8]) -> usize {
    let (needed, available) = match error {
        GpuError::OutOfMemory { needed, available } => (*needed, *available),
        GpuError::NotResident(list) => (u64::from(*list), 0),
        _ => (0, 0),
    };
    let text = match error {
        GpuError::Lost(text) | GpuError::Unsupported(text) | GpuError::Other(text) => text,
        _ => "",
    };
    let head = Answer {
        status: Status::of(error) as u32,
        needed,
        available,
        ..Answer::default()
    };
    encode(head, text, payload)
}

fn encode(mut head: Answer, text: &str, payload: &mut [u8]) -> usize {
    let room = payload.len().saturating_sub(size_of::<Answer>());
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    head.n_text = text.len() as u32;
    let parts = [bytemuck::bytes_of(&head), text.as_bytes()];
    super::write(payload, parts.into_iter()).unwrap_or(0)
}
