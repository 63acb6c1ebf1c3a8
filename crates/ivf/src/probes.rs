//! How many lists a search visits for the recall wanted: read off the calibration.

use crate::index::Index;
use crate::layout::meta::CalibrationPoint;

impl Index {
    /// How many lists to visit for this expected recall (of the 10 nearest), from the calibration: the measured points
    /// are joined in the logarithm of probes, and the result is rounded up. Without calibration a sixteenth of the
    /// lists.
    pub fn probes_for(&self, recall: f32) -> u32 {
        let n_points = (self.meta.calibration_points as usize).min(self.meta.calibration.len());
        probes_from(&self.meta.calibration[..n_points], recall, self.n_lists())
    }
}

fn probes_from(points: &[CalibrationPoint], recall: f32, lists: u32) -> u32 {
    if points.is_empty() {
        return (lists / 16).max(1);
    }
    let Some(at) = points.iter().position(|point| point.recall_10 >= recall) else {
        return lists;
    };
    let reached = points[at];
    let Some(before) = at.checked_sub(1).map(|i| points[i]) else {
        return reached.probes.clamp(1, lists);
    };
    let share = (recall - before.recall_10) / (reached.recall_10 - before.recall_10);
    let (low, high) = (
        (before.probes.max(1) as f32).ln(),
        (reached.probes.max(1) as f32).ln(),
    );
    let probes = (low + share.clamp(0.0, 1.0) * (high - low)).exp();
    // Less a millionth, so that rounding does not add a probe at the points themselves.
    ((probes * (1.0 - 1e-6)).ceil() as u32).clamp(1, lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_by_recall() {
        let point = |probes, recall_10| CalibrationPoint {
            probes,
            recall_10,
            recall_100: -1.0,
        };
        let points = [point(1, 0.5), point(4, 0.9), point(16, 0.9), point(64, 1.0)];
        let probes = |recall| probes_from(&points, recall, 64);
        assert_eq!([0.1, 0.5, 0.7, 0.9, 1.0].map(probes), [1, 1, 2, 4, 64]);
        assert_eq!(probes(0.95), 32);
        assert_eq!(probes(2.0), 64);
        assert_eq!(probes_from(&[], 0.9, 160), 10);
        assert_eq!(probes_from(&[], 0.9, 1), 1);
    }
}
