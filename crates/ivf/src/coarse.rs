//! Choosing lists: how many an index gets, and which ones a search visits.

mod bounds;

use half::f16;

use self::bounds::Bounds;
use crate::centroids::{Centroids, unchanged};
use crate::index::Index;
use crate::layout::group::GROUP;
use crate::layout::page::ROOT_LIST;
use crate::list_reader::ListReader;
use crate::params::MAX_LISTS;
use crate::probes::Reach;
use crate::query::Query;
use crate::rabitq::QueryCode;
use crate::store::PageStore;
use crate::{Metric, Result};

/// Below this many rows one list is as fast as many.
const MIN_ROWS: u64 = 256;
/// Codes pay over centroids when at most one in so many is wanted.
const FILTER_SHARE: u32 = 4;

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

impl Probe {
    /// What lists are ranked by and bounds of entries start from: l2sq, or minus the inner product (NegIp). Lists near by l2sq are near by L1.
    pub(crate) fn rank(&self, query: &Query) -> f32 {
        match query.metric() {
            Metric::NegIp => -self.ip,
            _ => self.l2sq,
        }
    }
}

/// Number of lists for an index over `rows` rows when the user does not say: about `2 sqrt(rows)`.
pub fn default_lists(rows: u64) -> u32 {
    if rows < MIN_ROWS {
        return 1;
    }
    let lists = (2.0 * (rows as f64).sqrt()).round() as u64;
    lists.min(rows).min(u64::from(MAX_LISTS)) as u32
}

/// The lists whose centroids are nearest to the query, as far as `reach` goes (at least one), nearest first, ties by list
/// number. NegIp ranks by inner product, others by l2sq. All lists if there are no more.
pub fn select_lists<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    reach: impl Into<Reach>,
) -> Result<Vec<Probe>> {
    let reach = reach.into();
    let by_ip = query.metric() == Metric::NegIp;
    let mut ranking = Ranking {
        s,
        index,
        vector: query.vector(),
        by_ip,
        centroids: None,
        reader: ListReader::new(),
        ranked: Vec::new(),
    };
    ranking.rank(query.code.as_ref(), None, reach.probes)?;
    let mut ranked = std::mem::take(&mut ranking.ranked);
    let nearest = ranked[0].0;
    // Not `<=`: if all are infinitely far, none is farther than another.
    let too_far = |rank| farther(query, rank, nearest) > reach.spread;
    ranked.truncate(ranked.partition_point(|&(rank, _)| !too_far(rank)));
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
    if query.code.is_some() {
        // The filter's error grows with the distance to the centroid.
        ranking.complete(&mut probes, |probe, row| {
            probe.l2sq = omen_distance::l2sq_f16(query.vector(), row);
        })?;
    }
    Ok(probes)
}

/// `lists` as lists to visit, in their order, as if [`select_lists`] had chosen them.
pub fn probes_of<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    lists: &[u32],
) -> Result<Vec<Probe>> {
    let by_ip = query.metric() == Metric::NegIp;
    let mut ranking = Ranking {
        s,
        index,
        vector: query.vector(),
        by_ip,
        centroids: index.centroids(s)?,
        reader: ListReader::new(),
        ranked: Vec::new(),
    };
    let unknown = |&list: &u32| Probe {
        list,
        l2sq: 0.0,
        ip: 0.0,
    };
    let mut probes: Vec<Probe> = lists.iter().map(unknown).collect();
    ranking.complete(&mut probes, |probe, row| {
        probe.l2sq = omen_distance::l2sq_f16(query.vector(), row);
        if by_ip {
            probe.ip = omen_distance::dot_f16(query.vector(), row);
        }
    })?;
    Ok(probes)
}

/// How much farther a centroid of rank `rank` (l2sq, or minus inner product) is than one of rank `nearest`; see
/// [`crate::layout::meta::CalibrationSpread`]. Monotone in `rank`, and 0 for the nearest.
pub(crate) fn farther(query: &Query, rank: f32, nearest: f32) -> f32 {
    match query.metric() {
        // A query of length 0 has all inner products 0.
        Metric::NegIp => (rank - nearest) / query.bound().q_norm().max(f32::MIN_POSITIVE),
        _ => rank.sqrt() - nearest.sqrt(),
    }
}

/// The list a stored row belongs to: the one whose centroid is nearest to the row's coarse vector by l2sq, whatever the metric; the
/// lower one of equals. A check makes this choice again for entries that are there (`check/entry.rs`): if it is ever made otherwise, theirs
/// must stay right.
pub fn nearest_list<S: PageStore>(s: &S, index: &Index, row: &[f16]) -> Result<u32> {
    let coarse = index.form.coarse_row(row);
    let mut vector = vec![0.0; coarse.len()];
    omen_distance::f32_from_f16(&coarse, &mut vector);
    let code = QueryCode::new(index.meta.shape().filter, &index.rotation, &vector);
    // Codes under NegIp estimate inner products: with both lengths they give distances too.
    let norms = match index.metric() {
        Metric::NegIp if code.is_some() => Some(index.centroid_norms(s)?),
        _ => None,
    };
    let mut ranking = Ranking {
        s,
        index,
        vector: &vector,
        by_ip: false,
        centroids: None,
        reader: ListReader::new(),
        ranked: Vec::new(),
    };
    ranking.rank(code.as_ref(), norms, 1)?;
    Ok(ranking.ranked[0].1)
}

/// All lists of an index and their ranks, in the order of [`select_lists`], from centroids in memory.
pub(crate) fn rank_all(centroids: &Centroids, n_lists: u32, query: &Query) -> Vec<(f32, u32)> {
    let by_ip = query.metric() == Metric::NegIp;
    let rank = |list| (rank_of(query.vector(), by_ip, centroids.row(list)), list);
    let mut ranked: Vec<(f32, u32)> = (0..n_lists).map(rank).collect();
    ranked.sort_unstable_by(by_rank);
    ranked
}

/// What a centroid is ranked by: l2sq, or minus the inner product.
fn rank_of(vector: &[f32], by_ip: bool, centroid: &[f16]) -> f32 {
    let rank = if by_ip {
        -omen_distance::dot_f16(vector, centroid)
    } else {
        omen_distance::l2sq_f16(vector, centroid)
    };
    // A damaged centroid is the farthest: its list is still one of all.
    if rank.is_nan() { f32::INFINITY } else { rank }
}

/// Ranks the centroids.
struct Ranking<'a, S> {
    s: &'a S,
    index: &'a Index,
    vector: &'a [f32],
    by_ip: bool,
    /// The root list, from the first [`Self::rank`] on, unless it is to be read from its pages.
    centroids: Option<&'a Centroids>,
    reader: ListReader,
    /// (l2sq or minus inner product, list)
    ranked: Vec<(f32, u32)>,
}

impl<S: PageStore> Ranking<'_, S> {
    /// Leaves the `probes` nearest in `ranked`, ascending. `code`: the vector's; `norms`: squared norms of the centroids, given
    /// where codes estimate inner products and l2sq ranks.
    fn rank(&mut self, code: Option<&QueryCode>, norms: Option<&[f32]>, probes: u32) -> Result<()> {
        let n_lists = self.index.n_lists();
        let probes = probes.clamp(1, n_lists);
        if n_lists == 1 {
            // Nothing to choose, and a lone list is searched without filter.
            self.ranked.push((0.0, 0));
            return Ok(());
        }
        self.centroids = self.index.centroids(self.s)?;
        match code {
            Some(code) if probes <= n_lists / FILTER_SHARE => {
                self.estimated(code, norms, probes)?;
            }
            _ => self.measure(&(0..n_lists).collect::<Vec<u32>>())?,
        }
        self.keep(probes as usize);
        self.ranked.sort_unstable_by(by_rank);
        Ok(())
    }

    /// Measures the centroids that the estimate cannot rule out: first twice as many as wanted, the best by estimate; then
    /// those whose bound is within what was found.
    fn estimated(&mut self, code: &QueryCode, norms: Option<&[f32]>, probes: u32) -> Result<()> {
        let vector = self.vector;
        let codes_by_ip = self.index.metric() == Metric::NegIp;
        let mut mean = (0.0, 0.0);
        self.rows(&[self.index.n_lists()], |_, row| {
            let l2sq = omen_distance::l2sq_f16(vector, row);
            let add = if codes_by_ip {
                -omen_distance::dot_f16(vector, row)
            } else {
                l2sq
            };
            mean = (add, l2sq.sqrt());
        })?;
        let estimate = code.estimate(mean.0, mean.1);
        let mut visitor = Bounds {
            code,
            estimate,
            norms: norms.map(|norms| (norms, omen_distance::norm_sq(vector))),
            n_lists: self.index.n_lists(),
            sums: [0; GROUP],
            bounds: Vec::with_capacity(self.index.n_lists() as usize),
        };
        self.groups(&mut visitor)?;
        let mut bounds = visitor.bounds;
        let first = (probes as usize * 2).min(bounds.len());
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
                .filter(|(bound, _)| bound.is_nan() || *bound <= reach)
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
            ranked.push((rank_of(vector, by_ip, row), list));
        })?;
        self.ranked = ranked;
        Ok(())
    }

    /// Calls `f` with each list and its centroid.
    fn complete(
        &mut self,
        probes: &mut [Probe],
        mut f: impl FnMut(&mut Probe, &[f16]),
    ) -> Result<()> {
        let mut order: Vec<u32> = (0..probes.len() as u32).collect();
        order.sort_unstable_by_key(|&i| probes[i as usize].list);
        let slots: Vec<u32> = order.iter().map(|&i| probes[i as usize].list).collect();
        let mut at = order.iter();
        self.rows(&slots, |_, row| {
            if let Some(&i) = at.next() {
                f(&mut probes[i as usize], row);
            }
        })
    }

    fn keep(&mut self, n: usize) {
        if self.ranked.len() > n {
            self.ranked.select_nth_unstable_by(n - 1, by_rank);
            self.ranked.truncate(n);
        }
    }

    fn rows(&mut self, slots: &[u32], mut f: impl FnMut(u32, &[f16])) -> Result<()> {
        if let Some(centroids) = self.centroids {
            slots.iter().for_each(|&slot| f(slot, centroids.row(slot)));
            return Ok(());
        }
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

    fn groups(&mut self, visitor: &mut Bounds) -> Result<()> {
        if let Some(centroids) = self.centroids {
            centroids.visit_groups(visitor);
            return Ok(());
        }
        let root = &self.index.meta.root;
        let visit = self
            .reader
            .visit_groups(self.s, self.index, ROOT_LIST, root, visitor)?;
        unchanged(visit)
    }
}

fn by_rank(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
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
}
