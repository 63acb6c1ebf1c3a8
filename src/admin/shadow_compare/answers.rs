//! Answers of one rival, and what is to be said of them.

use std::collections::HashSet;
use std::time::Duration;

/// Row address and distance; NaN of what has none.
pub(super) type Answer = Vec<(u64, f64)>;

/// What one index, or the sort of the table, answered, query by query.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Of each query.
    pub answers: Vec<Answer>,
    /// How long each took.
    pub times: Vec<Duration>,
}

impl Answers {
    /// Notes an answer.
    pub(super) fn push(&mut self, answer: Answer, took: Duration) {
        self.answers.push(answer);
        self.times.push(took);
    }

    /// Rows of all answers.
    pub(super) fn n_rows(&self) -> usize {
        self.answers.iter().map(Vec::len).sum()
    }

    /// Share of the nearest rows that were found: rows as near as the last of the true answer count, as any of several equally far ones is right. `None` if there were none to find.
    pub(super) fn recall(&self, truth: &Self) -> Option<f64> {
        let (mut found, mut wanted) = (0, 0);
        for (answer, truth) in self.answers.iter().zip(&truth.answers) {
            let farthest = truth.last().map_or(f64::NEG_INFINITY, |last| last.1);
            let hits = answer
                .iter()
                .filter(|(_, distance)| *distance <= farthest || farthest.is_nan());
            found += hits.count().min(truth.len());
            wanted += truth.len();
        }
        (wanted > 0).then(|| found as f64 / wanted as f64)
    }

    /// Share of the rows of `other` that are among these. `None` if it has none.
    pub(super) fn same_rows(&self, other: &Self) -> Option<f64> {
        let mut same = 0;
        for (answer, other) in self.answers.iter().zip(&other.answers) {
            let rows: HashSet<u64> = answer.iter().map(|(row, _)| *row).collect();
            same += other.iter().filter(|(row, _)| rows.contains(row)).count();
        }
        let n_rows = other.n_rows();
        (n_rows > 0).then(|| same as f64 / n_rows as f64)
    }

    /// Mean time in milliseconds.
    pub(super) fn mean_ms(&self) -> f64 {
        self.times.iter().map(milliseconds).sum::<f64>() / self.times.len().max(1) as f64
    }

    /// The time in milliseconds that this share of the queries took at most.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let mut times: Vec<f64> = self.times.iter().map(milliseconds).collect();
        times.sort_by(f64::total_cmp);
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

fn milliseconds(time: &Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
