//! Answers to commands as words: they are answers as those to searches are, without candidates, and numbers behind them.

use super::region::ANSWER_WORDS;
use crate::message::{Refusal, Status, decode_answer, encode_error, encode_status};
use omen_gpu::GpuError;

/// Numbers that an answer has.
pub(super) const REPLY_WORDS: usize = 13;
/// What a command that succeeded is answered, all zero where nothing is to be told.
pub(super) type Reply = [u64; REPLY_WORDS];

/// An outcome as words; a text is cut to what fits.
pub(super) fn encode_outcome(outcome: &Result<Reply, GpuError>) -> [u64; ANSWER_WORDS] {
    let mut words = [0; ANSWER_WORDS];
    let (payload, numbers) = words.split_at_mut(ANSWER_WORDS - REPLY_WORDS);
    let payload: &mut [u8] = bytemuck::cast_slice_mut::<u64, u8>(payload);
    match outcome {
        Ok(reply) => {
            numbers.copy_from_slice(reply);
            encode_status(Status::Ok, "", payload)
        }
        Err(error) => encode_error(error, payload),
    };
    words
}

/// The outcome; of words that are none, an error.
pub(super) fn decode_outcome(words: &[u64; ANSWER_WORDS]) -> Result<Reply, GpuError> {
    let other = |text: String| GpuError::Other(text);
    let (payload, numbers) = words.split_at(ANSWER_WORDS - REPLY_WORDS);
    let answer = decode_answer(bytemuck::cast_slice(payload)).map_err(|e| other(e.to_string()))?;
    answer.outcome().map_err(|refusal| match refusal {
        Refusal::Gpu(error) => error,
        refusal => other(refusal.to_string()),
    })?;
    Ok(std::array::from_fn(|i| numbers[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back_and_long_texts_are_cut() {
        for error in [
            GpuError::NoDriver,
            GpuError::NoDevice,
            GpuError::OutOfMemory {
                needed: u64::MAX,
                available: 7,
            },
            GpuError::NotResident(u32::MAX),
            GpuError::Busy,
            GpuError::TimedOut,
            GpuError::Interrupted,
            GpuError::Lost("why".into()),
            GpuError::Unsupported(String::new()),
            GpuError::Other("what".into()),
        ] {
            let words = encode_outcome(&Err(error.clone()));
            assert_eq!(decode_outcome(&words), Err(error));
        }
        let reply = std::array::from_fn(|i| u64::MAX - i as u64);
        assert_eq!(decode_outcome(&encode_outcome(&Ok(reply))), Ok(reply));
        let long = format!("x{}", "ä".repeat(200));
        let words = encode_outcome(&Err(GpuError::Other(long.clone())));
        let Err(GpuError::Other(text)) = decode_outcome(&words) else {
            panic!("another error");
        };
        assert!(text.len() > 200 && long.starts_with(&text));
        assert!(decode_outcome(&[u64::MAX; ANSWER_WORDS]).is_err());
    }
}
