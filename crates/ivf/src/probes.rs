//! How many lists a search visits for the recall wanted: read off the calibration.

use crate::index::Index;
use crate::layout::meta::CalibrationPoint;

/// Neighbours that the two measured curves are about.
const SHALLOW: u64 = 10;
const DEEP: u64 = 100;

impl Index {
    /// How many lists to visit for this expected recall of the `depth` nearest, from the calibration. What lies between the
    /// measured points, and between the 10 and the 100 nearest (or beyond), is joined in the logarithm of probes; the result
    /// is rounded up. Without calibration a sixteenth of the lists.
    pub fn probes_for(&self, recall: f32, depth: u64) -> u32 {
        let n_points = (self.meta.calibration_points as usize).min(self.meta.calibration.len());
        let points = &self.meta.calibration[..n_points];
        probes_at_depth(points, recall, depth, self.n_lists())
    }
}

fn probes_at_depth(points: &[CalibrationPoint], recall: f32, depth: u64, lists: u32) -> u32 {
    if points.is_empty() {
        return (lists / 16).max(1);
    }
    let shallow = probes_from(points, |point| point.recall_10, recall, lists);
    let measured = points[0].recall_100 >= 0.0;
    let probes = if depth > SHALLOW && measured {
        let deep = probes_from(points, |point| point.recall_100, recall, lists);
        // 0 at ten neighbours, 1 at a hundred, 2 at a thousand.
        let decades =
            (depth as f64 / SHALLOW as f64).log10() / (DEEP as f64 / SHALLOW as f64).log10();
        shallow * (deep / shallow).powf(decades)
    } else {
        shallow
    };
    // Less a millionth, so that rounding does not add a probe at the points themselves.
    ((probes * (1.0 - 1e-6)).ceil()).clamp(1.0, f64::from(lists)) as u32
}

/// Probes at which the curve reaches `recall`.
fn probes_from(
    points: &[CalibrationPoint],
    curve: impl Fn(&CalibrationPoint) -> f32,
    recall: f32,
    lists: u32,
) -> f64 {
    let Some(at) = points.iter().position(|point| curve(point) >= recall) else {
        return f64::from(lists);
    };
    let reached = &points[at];
    let Some(before) = at.checked_sub(1).map(|i| &points[i]) else {
        return f64::from(reached.probes.max(1));
    };
    let share = (recall - curve(before)) / (curve(reached) - curve(before));
    let (low, high) = (
        f64::from(before.probes.max(1)).ln(),
        f64::from(reached.probes.max(1)).ln(),
    );
    (low + f64::from(share.clamp(0.0, 1.0)) * (high - low)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(probes: u32, recall_10: f32, recall_100: f32) -> CalibrationPoint {
        CalibrationPoint {
            probes,
            recall_10,
            recall_100,
        }
    }

    #[test]
    fn probes_by_recall() {
        let points = [
            point(1, 0.5, -1.0),
            point(4, 0.9, -1.0),
            point(16, 0.9, -1.0),
            point(64, 1.0, -1.0),
        ];
        let probes = |recall| probes_at_depth(&points, recall, 10, 64);
        assert_eq!([0.1, 0.5, 0.7, 0.9, 1.0].map(probes), [1, 1, 2, 4, 64]);
        assert_eq!(probes(0.95), 32);
        assert_eq!(probes(2.0), 64);
        // Nothing measured of the hundred nearest.
        assert_eq!(probes_at_depth(&points, 0.9, 1000, 64), 4);
        assert_eq!(probes_at_depth(&[], 0.9, 10, 160), 10);
        assert_eq!(probes_at_depth(&[], 0.9, 10, 1), 1);
    }

    #[test]
    fn probes_by_depth() {
        let points = [
            point(1, 0.5, 0.4),
            point(10, 0.9, 0.7),
            point(40, 0.95, 0.9),
            point(500, 1.0, 1.0),
        ];
        let probes = |depth| probes_at_depth(&points, 0.9, depth, 500);
        assert_eq!([1, 10, 100, 1000].map(probes), [10, 10, 40, 160]);
        assert_eq!(probes(32), 21);
        assert_eq!(probes(1_000_000), 500);
    }
}
