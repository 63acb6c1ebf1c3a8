//! How many lists a search visits for the recall wanted: read off the calibration.

use crate::calibrate::Curve;
use crate::index::Index;
use crate::layout::meta::{CalibrationPoint, CalibrationSpread};

/// Neighbours that the two measured curves are about.
const SHALLOW: u64 = 10;
const DEEP: u64 = 100;

/// Which lists a search visits: the nearest ones, at most so many, and none that is much farther than the nearest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// Most lists; at least 1.
    pub probes: u32,
    /// How much farther a list's centroid may be than the nearest one; see [`CalibrationSpread`].
    pub spread: f32,
}

impl From<u32> for Reach {
    /// So many lists, however far.
    fn from(probes: u32) -> Self {
        Self {
            probes: probes.max(1),
            spread: f32::INFINITY,
        }
    }
}

impl Index {
    /// Which lists to visit for this expected recall of the `depth` nearest, from the calibration. What lies between the
    /// measured points, and between the 10 and the 100 nearest (or beyond), is joined in the logarithm of probes; the number of
    /// lists is rounded up. Without calibration a sixteenth of the lists.
    pub fn reach_for(&self, recall: f32, depth: u64) -> Reach {
        let n_points = (self.meta.calibration_points as usize).min(self.meta.calibration.len());
        reach_at_depth(
            &self.meta.calibration[..n_points],
            &self.meta.spreads[..n_points],
            recall,
            depth,
            self.n_lists(),
        )
    }
}

impl Curve {
    /// [`Index::reach_for`] of an index of `lists` lists that has this calibration.
    pub fn reach_for(&self, recall: f32, depth: u64, lists: u32) -> Reach {
        reach_at_depth(&self.points, &self.spreads, recall, depth, lists)
    }

    /// Share of the ten nearest rows that the nearest `probes` lists hold at least, by the points measured.
    pub fn recall_at(&self, probes: u32) -> f32 {
        let within = self
            .points
            .iter()
            .take_while(|point| point.probes <= probes);
        within.last().map_or(0.0, |point| point.recall_10)
    }
}

fn reach_at_depth(
    points: &[CalibrationPoint],
    spreads: &[CalibrationSpread],
    recall: f32,
    depth: u64,
    lists: u32,
) -> Reach {
    if points.is_empty() {
        return Reach::from(lists / 16);
    }
    let shallow: Vec<Step> = points
        .iter()
        .zip(spreads)
        .map(|(point, spread)| Step::new(point.probes, point.recall_10, spread.spread_10))
        .collect();
    let (mut probes, mut spread) = reach_from(&shallow, recall, lists);
    if depth > SHALLOW && points[0].recall_100 >= 0.0 {
        let deep: Vec<Step> = points
            .iter()
            .zip(spreads)
            .map(|(point, spread)| Step::new(point.probes, point.recall_100, spread.spread_100))
            .collect();
        let (deep_probes, deep_spread) = reach_from(&deep, recall, lists);
        // 0 at ten neighbours, 1 at a hundred, 2 at a thousand.
        let decades =
            (depth as f64 / SHALLOW as f64).log10() / (DEEP as f64 / SHALLOW as f64).log10();
        probes *= (deep_probes / probes).powf(decades);
        spread = between(spread, deep_spread, decades as f32).max(0.0);
    }
    // Less a millionth, so that rounding does not add a probe at the points themselves.
    let probes = ((probes * (1.0 - 1e-6)).ceil()).clamp(1.0, f64::from(lists)) as u32;
    Reach { probes, spread }
}

/// A point of one curve.
#[derive(Debug, Clone, Copy)]
struct Step {
    probes: f64,
    recall: f32,
    spread: f32,
}

impl Step {
    fn new(probes: u32, recall: f32, spread: f32) -> Self {
        Self {
            probes: f64::from(probes.max(1)),
            recall,
            spread: if spread > 0.0 { spread } else { f32::INFINITY },
        }
    }
}

/// Probes and spread at which the curve reaches `recall`.
fn reach_from(steps: &[Step], recall: f32, lists: u32) -> (f64, f32) {
    let Some(at) = steps.iter().position(|step| step.recall >= recall) else {
        return (f64::from(lists), f32::INFINITY);
    };
    let reached = steps[at];
    let Some(before) = at.checked_sub(1).map(|i| steps[i]) else {
        return (reached.probes, reached.spread);
    };
    let share = ((recall - before.recall) / (reached.recall - before.recall)).clamp(0.0, 1.0);
    let (low, high) = (before.probes.ln(), reached.probes.ln());
    let probes = (low + f64::from(share) * (high - low)).exp();
    (probes, between(before.spread, reached.spread, share))
}

/// `a` at 0, `b` at 1; where one of them is no limit, nothing lies between.
fn between(a: f32, b: f32, share: f32) -> f32 {
    if share == 0.0 || a == b {
        a
    } else if share == 1.0 {
        b
    } else if a.is_finite() && b.is_finite() {
        a + share * (b - a)
    } else {
        f32::INFINITY
    }
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

    const NO_SPREADS: [CalibrationSpread; 4] = [CalibrationSpread {
        spread_10: 0.0,
        spread_100: 0.0,
    }; 4];

    #[test]
    fn probes_by_recall() {
        let points = [
            point(1, 0.5, -1.0),
            point(4, 0.9, -1.0),
            point(16, 0.9, -1.0),
            point(64, 1.0, -1.0),
        ];
        let reach = |recall, depth| reach_at_depth(&points, &NO_SPREADS, recall, depth, 64);
        let probes = |recall| reach(recall, 10).probes;
        assert_eq!([0.1, 0.5, 0.7, 0.9, 1.0].map(probes), [1, 1, 2, 4, 64]);
        assert_eq!(probes(0.95), 32);
        assert_eq!(reach(2.0, 10), Reach::from(64));
        // Nothing measured of the hundred nearest.
        assert_eq!(reach(0.9, 1000), Reach::from(4));
        assert_eq!(reach_at_depth(&[], &[], 0.9, 10, 160), Reach::from(10));
        assert_eq!(reach_at_depth(&[], &[], 0.9, 10, 1), Reach::from(1));
    }

    #[test]
    fn reach_by_depth() {
        let points = [
            point(1, 0.5, 0.4),
            point(10, 0.9, 0.7),
            point(40, 0.95, 0.9),
            point(500, 1.0, 1.0),
        ];
        let spread = |spread_10, spread_100| CalibrationSpread {
            spread_10,
            spread_100,
        };
        let spreads = [
            spread(f32::INFINITY, f32::INFINITY),
            spread(0.5, 0.25),
            spread(1.0, 1.5),
            spread(f32::INFINITY, f32::INFINITY),
        ];
        let reach = |recall, depth| reach_at_depth(&points, &spreads, recall, depth, 500);
        let probes = |depth| reach(0.9, depth).probes;
        assert_eq!([1, 10, 100, 1000].map(probes), [10, 10, 40, 160]);
        assert_eq!(probes(32), 21);
        assert_eq!(probes(1_000_000), 500);
        assert_eq!(
            [10, 100, 1000].map(|depth| reach(0.9, depth).spread),
            [0.5, 1.5, 2.5]
        );
        assert!((reach(0.925, 10).spread - 0.75).abs() < 1e-4);
        // Between a limit and none there is none.
        assert_eq!(reach(0.99, 10).spread, f32::INFINITY);
    }
}
