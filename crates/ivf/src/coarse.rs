//! Choosing lists: how many an index gets, how many a search visits, and which.

use std::ops::ControlFlow;

use half::f16;

use crate::index::Index;
use crate::layout::group::GROUP;
use crate::layout::meta::{CalibrationPoint, META_BLOCK};
use crate::layout::page::ROOT_LIST;
use crate::list_reader::{ListReader, Visit};
use crate::params::MAX_LISTS;
use crate::query::Query;
use crate::rabitq::{Lut, filter_pays};
use crate::store::PageStore;
use crate::{IvfError, Metric, Result};

/// Below this many rows one list is as fast as many.
const MIN_ROWS: u64 = 256;
/// The filter pays over centroids when at most one in so many is wanted.
const FILTER_SHARE: u32 = 8;

/// A list to visit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// List number.
    pub list: u32,
    /// Query to centroid, scaled space; under NegIp 0 where the filter does not need it.
    pub l2sq: f32,
    /// Inner product of query and centroid, scaled space; 0 but for NegIp.
    pub ip: f32,
}

/// Number of lists for an index over `rows` rows when the user does not say: about `2 sqrt(rows)`.
pub fn default_lists(rows: u64) -> u32 {
    if rows < MIN_ROWS {
        return 1;
    }
    let lists = (2.0 * (rows as f64).sqrt()).round() as u64;
    lists.min(rows).min(u64::from(MAX_LISTS)) as u32
}

/// The `probes` lists (at least 1) whose centroids are nearest to the query, nearest first, ties by list number.
/// L2 and Cosine rank by l2sq, NegIp by inner product. All lists if there are no more.
pub fn select_lists<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    probes: u32,
) -> Result<Vec<Probe>> {
    let by_ip = query.metric() == Metric::NegIp;
    let mut ranking = Ranking {
        s,
        index,
        vector: query.vector(),
        by_ip,
        reader: ListReader::new(),
        ranked: Vec::new(),
    };
    ranking.rank(query.lut.as_ref(), probes)?;
    let ranked = std::mem::take(&mut ranking.ranked);
    if !by_ip {
        return Ok(ranked
            .into_iter()
            .map(|(l2sq, list)| Probe {
                list,
                l2sq,
                ip: 0.0,
            })
            .collect());
    }
    let mut probes: Vec<Probe> = ranked
        .into_iter()
        .map(|(rank, list)| Probe {
            list,
            l2sq: 0.0,
            ip: -rank,
        })
        .collect();
    if query.lut.is_some() {
        // The filter's error grows with the distance to the centroid.
        let mut order: Vec<u32> = (0..probes.len() as u32).collect();
        order.sort_unstable_by_key(|&i| probes[i as usize].list);
        let slots: Vec<u32> = order.iter().map(|&i| probes[i as usize].list).collect();
        let mut at = order.iter();
        ranking.rows(&slots, |_, row| {
            if let Some(&i) = at.next() {
                probes[i as usize].l2sq = omen_distance::l2sq_f16(query.vector(), row);
            }
        })?;
    }
    Ok(probes)
}

/// The list a stored row (`[dim]`) belongs to: the one with the nearest centroid by l2sq, whatever the metric; the
/// lower one of equals.
pub fn nearest_list<S: PageStore>(s: &S, index: &Index, row: &[f16]) -> Result<u32> {
    let mut vector = vec![0.0; row.len()];
    omen_distance::f32_from_f16(row, &mut vector);
    let lut = (index.metric() != Metric::NegIp && filter_pays(index.meta.dim)).then(|| {
        let mut rotated = vec![0.0; index.rotation.code_dim()];
        index.rotation.apply(&vector, &mut rotated);
        Lut::new(&rotated)
    });
    let mut ranking = Ranking {
        s,
        index,
        vector: &vector,
        by_ip: false,
        reader: ListReader::new(),
        ranked: Vec::new(),
    };
    ranking.rank(lut.as_ref(), 1)?;
    Ok(ranking.ranked[0].1)
}

/// Ranks the centroids.
struct Ranking<'a, S> {
    s: &'a S,
    index: &'a Index,
    vector: &'a [f32],
    by_ip: bool,
    reader: ListReader,
    /// (l2sq or minus inner product, list)
    ranked: Vec<(f32, u32)>,
}

impl<S: PageStore> Ranking<'_, S> {
    /// Leaves the `probes` nearest in `ranked`, ascending. `lut`: the vector's, made for the metric that ranks.
    fn rank(&mut self, lut: Option<&Lut>, probes: u32) -> Result<()> {
        let n_lists = self.index.n_lists();
        let probes = probes.clamp(1, n_lists);
        if n_lists == 1 {
            // Nothing to choose, and a lone list is searched without filter.
            self.ranked.push((0.0, 0));
            return Ok(());
        }
        match lut {
            Some(lut) if probes <= n_lists / FILTER_SHARE => self.estimated(lut, probes)?,
            _ => self.measure(&(0..n_lists).collect::<Vec<u32>>())?,
        }
        self.keep(probes as usize);
        self.ranked.sort_unstable_by(by_rank);
        Ok(())
    }

    /// Measures the centroids that the estimate cannot rule out: first twice as many as wanted, the best by estimate; then
    /// those whose bound is within what was found.
    fn estimated(&mut self, lut: &Lut, probes: u32) -> Result<()> {
        let (vector, by_ip) = (self.vector, self.by_ip);
        let mut mean = (0.0, 0.0);
        self.rows(&[self.index.n_lists()], |_, row| {
            let l2sq = omen_distance::l2sq_f16(vector, row);
            let add = if by_ip {
                -omen_distance::dot_f16(vector, row)
            } else {
                l2sq
            };
            mean = (add, l2sq.sqrt());
        })?;
        let mut bounds: Vec<(f32, u32)> = Vec::with_capacity(self.index.n_lists() as usize);
        let root = &self.index.meta.root;
        let visit = self.reader.for_each_group(
            self.s,
            self.index,
            ROOT_LIST,
            root,
            |group, header, codes| {
                let first = group * GROUP as u32;
                let n = (root.frozen_count - first).min(GROUP as u32) as usize;
                let group_bounds = lut.bounds(header, codes, mean);
                bounds.extend(
                    group_bounds[..n]
                        .iter()
                        .zip(first..)
                        .map(|(&bound, list)| (bound, list)),
                );
                ControlFlow::Continue(())
            },
        )?;
        unchanged(visit)?;
        let first = probes as usize * 2;
        bounds.select_nth_unstable_by(first - 1, by_rank);
        let (nearest, rest) = bounds.split_at(first);
        let mut slots: Vec<u32> = nearest.iter().map(|&(_, list)| list).collect();
        slots.sort_unstable();
        self.measure(&slots)?;
        self.keep(probes as usize);
        let reach = self
            .ranked
            .iter()
            .fold(f32::NEG_INFINITY, |reach, &(rank, _)| reach.max(rank));
        slots.clear();
        slots.extend(
            rest.iter()
                .filter(|(bound, _)| *bound <= reach)
                .map(|&(_, list)| list),
        );
        slots.sort_unstable();
        self.measure(&slots)
    }

    /// Adds the centroids of `lists` (ascending) to `ranked`.
    fn measure(&mut self, lists: &[u32]) -> Result<()> {
        let (vector, by_ip) = (self.vector, self.by_ip);
        let mut ranked = std::mem::take(&mut self.ranked);
        ranked.reserve(lists.len());
        self.rows(lists, |list, row| {
            let rank = if by_ip {
                -omen_distance::dot_f16(vector, row)
            } else {
                omen_distance::l2sq_f16(vector, row)
            };
            ranked.push((rank, list));
        })?;
        self.ranked = ranked;
        Ok(())
    }

    fn keep(&mut self, n: usize) {
        if self.ranked.len() > n {
            self.ranked.select_nth_unstable_by(n - 1, by_rank);
            self.ranked.truncate(n);
        }
    }

    fn rows(&mut self, slots: &[u32], f: impl FnMut(u32, &[f16])) -> Result<()> {
        let visit = self.reader.read_rows(
            self.s,
            self.index,
            ROOT_LIST,
            &self.index.meta.root,
            slots,
            f,
        )?;
        unchanged(visit)
    }
}

fn by_rank(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// The root list never changes after the build.
fn unchanged(visit: Visit) -> Result<()> {
    match visit {
        Visit::Done => Ok(()),
        Visit::Changed => Err(IvfError::corrupt(
            META_BLOCK,
            "the root list refers to pages that are not its own",
        )),
    }
}

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
    fn lists_by_rows() {
        assert_eq!(
            (default_lists(0), default_lists(1), default_lists(255)),
            (1, 1, 1)
        );
        assert_eq!((default_lists(256), default_lists(1_000_000)), (32, 2000));
        assert_eq!(default_lists(u64::MAX), MAX_LISTS);
    }

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
