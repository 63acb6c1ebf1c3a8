//! The samples that give an exact search its thresholds.
//!
//! Rows that come at regular distances are rows in random order: of n rows, those below the `keep`-th best of a sample of every step-th are
//! about `keep * step`. So a first sample of some thousand rows is kept whole; each next one is a few times denser and keeps what is below
//! the threshold so far, and everything comes last. Sources: Dr. Top-k, arXiv:2109.08219 (delegates); the rounds of `crate::plan`.

use super::tuning::Samples;

/// Rows of the first sample per survivor kept, at least.
const FIRST_ROWS_PER_KEPT: usize = 4;
/// Room for so many times the survivors expected.
const ROOM: usize = 4;

/// Which rows are looked at before all are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Every how many slots a row of each sample comes: the first sample's, then smaller and smaller ones, above 1.
    pub steps: Vec<usize>,
    /// Rows of the first sample.
    pub first_rows: usize,
    /// Rooms for survivors that suffice for rows in random order.
    pub room: usize,
}

impl Sample {
    /// The samples of `n_slots` slots for a search that keeps `keep` survivors.
    pub fn new(n_slots: usize, keep: usize, samples: Samples) -> Self {
        let rows = samples
            .first_rows
            .max(FIRST_ROWS_PER_KEPT * keep)
            .min(n_slots);
        let first = (n_slots / rows.max(1)).max(1);
        let n_rounds = ((first as f64).ln() / (samples.denser.max(2) as f64).ln())
            .ceil()
            .max(1.0);
        let denser = (first as f64).powf(1.0 / n_rounds);
        let mut steps = vec![first];
        for round in (1..n_rounds as usize).rev() {
            let step = denser.powi(round as i32).round() as usize;
            if step > 1 && step < steps[steps.len() - 1] {
                steps.push(step);
            }
        }
        let first_rows = n_slots.div_ceil(first);
        let room = first_rows.max(ROOM * keep * denser.ceil() as usize);
        Self {
            steps,
            first_rows,
            room,
        }
    }

    /// Rows of the sample of every `step`-th of `n_slots` slots.
    pub fn rows(n_slots: usize, step: usize) -> usize {
        n_slots.div_ceil(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown((first_rows, denser): (usize, usize)) -> Samples {
        Samples { first_rows, denser }
    }

    #[test]
    fn samples_grow_by_what_there_is_room_for() {
        for keep in [17, 26, 116, 1125] {
            for n_slots in [0, 1, 1000, 5000, 70_000, 1_000_000, 10_000_000, 1 << 30] {
                for samples in [(2048, 24), (2048, 1024), (16_384, 8)].map(grown) {
                    let sample = Sample::new(n_slots, keep, samples);
                    assert!(
                        sample.first_rows >= keep.min(n_slots)
                            && sample.first_rows <= sample.room.max(1)
                    );
                    let mut last = sample.steps[0];
                    for step in sample.steps[1..].iter().copied().chain([1]) {
                        assert!(
                            step <= last && ROOM * keep * last <= 2 * sample.room * step,
                            "{sample:?}"
                        );
                        last = step;
                    }
                }
            }
        }
        assert_eq!(
            Sample::new(1_000_000, 26, grown((2048, 24))).steps,
            [488, 22]
        );
        assert_eq!(Sample::new(1_000_000, 26, grown((2048, 512))).steps, [488]);
    }
}
