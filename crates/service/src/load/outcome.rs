//! Answers to commands as words: they are answers as those to searches are, without candidates.

use super::region::ANSWER_WORDS;
use crate::message::{Refusal, Status, decode_answer, encode_error, encode_status};
use omen_gpu::GpuError;

/// An outcome as words; a text is cut to what fits.
pub(super) fn encode_outcome(outcome: &Result<(), GpuError>) -> [u64; ANSWER_WORDS] {
    let mut words = [0; ANSWER_WORDS];
    let payload: &mut [u8] = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
    match outcome {
        Ok(()) => encode_status(Status::Ok, "", payload),
        Err(error) => encode_error(error, payload),
    };
    words
}

/// The outcome; of words that are none, an error.
pub(super) fn decode_outcome(words: &[u64; ANSWER_WORDS]) -> Result<(), GpuError> {
    let other = |text: String| GpuError::Other(text);
    let answer = decode_answer(bytemuck::cast_slice(words)).map_err(|e| other(e.to_string()))?;
    answer.outcome().map_err(|refusal| match refusal {
        Refusal::Gpu(error) => error,
        refusal => other(refusal.to_string()),
    })
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
        assert_eq!(decode_outcome(&encode_outcome(&Ok(()))), Ok(()));
        let long = format!("x{}", "ä".repeat(200));
        let words = encode_outcome(&Err(GpuError::Other(long.clone())));
        let Err(GpuError::Other(text)) = decode_outcome(&words) else {
            panic!("another error");
        };
        assert!(text.len() > 200 && long.starts_with(&text));
        assert!(decode_outcome(&[u64::MAX; ANSWER_WORDS]).is_err());
    }
}
