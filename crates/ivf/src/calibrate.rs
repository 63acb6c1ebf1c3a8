//! Measures recall as a function of probes, on rows of the table itself.
//!
//! Each query's true neighbours are found by a search of all lists; the rank of a neighbour's list among the query's lists says
//! from how many probes on it is found. One search of each query so gives the whole curve. What is stored is a lower
//! confidence bound of the mean, so that a small sample does not promise too much.

mod neighbours;
mod page_cache;

use bytemuck::Zeroable;

use self::neighbours::neighbours;

use crate::coarse::select_lists;
use crate::index::Index;
use crate::layout::meta::{CalibrationPoint, MAX_CALIBRATION, META_BLOCK, get_meta, put_meta};
use crate::query::Query;
use crate::store::{PageStore, PageStoreMut};
use crate::topk::Candidate;
use crate::{Result, Tid};

/// Standard errors below the measured mean. A build takes a thousand queries and more, whose error is a few thousandths, as
/// that of whoever measures the recall again: half of it makes shortfalls rarer without probing for more than was asked.
const CONFIDENCE: f64 = 0.5;
/// Neighbours looked at, nearest first.
const DEEP: usize = 100;
const SHALLOW: usize = 10;

/// The recall curve of an index, from its rows `queries` (`[n, dim]`, the user's numbers) at `tids` (`[n]`), which do not count as
/// their own neighbours. Points have ascending probes and non-decreasing recall; the last has all lists and recall 1.
/// Empty if there is nothing to measure (no query with a neighbour).
///
/// Searches every list for every query: seconds to minutes. The store's interrupts are checked between lists.
pub fn calibrate<S: PageStore>(
    s: &S,
    index: &Index,
    queries: &[f32],
    tids: &[Tid],
) -> Result<Vec<CalibrationPoint>> {
    assert_eq!(
        queries.len(),
        tids.len() * index.dim(),
        "a tid for each query"
    );
    let mut prepared = Vec::with_capacity(tids.len());
    let mut own = Vec::with_capacity(tids.len());
    for (q, &tid) in queries.chunks_exact(index.dim()).zip(tids) {
        let query = index.prepare(q)?;
        if !query.unordered() {
            prepared.push(query);
            own.push(tid);
        }
    }
    let nearest = neighbours(s, index, &prepared, DEEP + 1)?;
    let mut ranks: Vec<Vec<u32>> = Vec::with_capacity(prepared.len());
    for ((query, own), nearest) in prepared.iter().zip(own).zip(&nearest) {
        s.check_interrupts()?;
        ranks.push(neighbour_ranks(s, index, query, own, nearest)?);
    }
    ranks.retain(|ranks| !ranks.is_empty());
    Ok(curve(&ranks, index.n_lists()))
}

/// Writes the curve (at most `MAX_CALIBRATION` points) to the metapage. Indexes opened before keep the old one.
pub fn store_calibration<S: PageStoreMut>(
    s: &S,
    points: &[CalibrationPoint],
    n_queries: u32,
) -> Result<()> {
    assert!(
        points.len() <= MAX_CALIBRATION,
        "{} points of calibration",
        points.len()
    );
    let mut read = Ok(());
    s.update(&[META_BLOCK], |pages| match get_meta(pages[0]) {
        Ok(mut meta) => {
            meta.calibration = Zeroable::zeroed();
            meta.calibration[..points.len()].copy_from_slice(points);
            meta.calibration_points = points.len() as u32;
            meta.calibration_queries = if points.is_empty() { 0 } else { n_queries };
            put_meta(pages[0], &meta);
            true
        }
        Err(e) => {
            read = Err(e);
            false
        }
    })?;
    read
}

/// For each of `nearest` (ascending, each with its list) but the query's own row, the number of lists that come before its own.
fn neighbour_ranks<S: PageStore>(
    s: &S,
    index: &Index,
    query: &Query,
    own: Tid,
    nearest: &[(Candidate, u32)],
) -> Result<Vec<u32>> {
    let mut rank_of = vec![0; index.n_lists() as usize];
    for (rank, probe) in select_lists(s, index, query, index.n_lists())?
        .iter()
        .enumerate()
    {
        rank_of[probe.list as usize] = rank as u32;
    }
    let others = nearest.iter().filter(|(candidate, _)| candidate.tid != own);
    Ok(others
        .take(DEEP)
        .map(|(_, list)| rank_of[*list as usize])
        .collect())
}

/// The curve from the ranks of each query's neighbours.
fn curve(ranks: &[Vec<u32>], lists: u32) -> Vec<CalibrationPoint> {
    if ranks.is_empty() {
        return Vec::new();
    }
    let deep_measured = ranks.iter().all(|ranks| ranks.len() == DEEP);
    let mut points: Vec<CalibrationPoint> = Vec::new();
    for probes in grid(lists) {
        let mut recall_10 = recall(ranks, SHALLOW, probes);
        let mut recall_100 = if deep_measured {
            recall(ranks, DEEP, probes)
        } else {
            -1.0
        };
        if probes == lists {
            recall_10 = 1.0;
            recall_100 = if deep_measured { 1.0 } else { -1.0 };
        }
        if let Some(last) = points.last() {
            recall_10 = recall_10.max(last.recall_10);
            recall_100 = recall_100.max(last.recall_100);
        }
        points.push(CalibrationPoint {
            probes,
            recall_10,
            recall_100,
        });
    }
    points
}

/// Lower confidence bound of the share of the `k` nearest that lie in the first `probes` lists.
fn recall(ranks: &[Vec<u32>], k: usize, probes: u32) -> f32 {
    let n = ranks.len() as f64;
    let (mut sum, mut sum_sq) = (0f64, 0f64);
    for ranks in ranks {
        let nearest = &ranks[..ranks.len().min(k)];
        let found =
            nearest.iter().filter(|&&rank| rank < probes).count() as f64 / nearest.len() as f64;
        sum += found;
        sum_sq += found * found;
    }
    let mean = sum / n;
    // One query says nothing about the spread: then the largest there can be, 1/2.
    let variance = if n > 1.0 {
        ((sum_sq - sum * mean) / (n - 1.0)).max(0.0)
    } else {
        0.25
    };
    (mean - CONFIDENCE * (variance / n).sqrt()).clamp(0.0, 1.0) as f32
}

/// Ascending probes from 1 to `lists`, each about a quarter above the last.
fn grid(lists: u32) -> Vec<u32> {
    let mut grid = vec![1];
    let mut probes = 1u32;
    while probes < lists {
        probes = (probes + probes.div_ceil(4)).min(lists);
        grid.push(probes);
    }
    debug_assert!(grid.len() <= MAX_CALIBRATION);
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_fits_and_ends() {
        for lists in [1, 2, 3, 100, 4096, crate::params::MAX_LISTS] {
            let grid = grid(lists);
            assert!(grid.len() <= MAX_CALIBRATION && grid[0] == 1 && grid[grid.len() - 1] == lists);
            assert!(grid.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn curve_of_known_ranks() {
        // Half of the queries find everything in the first list, half in the third.
        let ranks: Vec<Vec<u32>> = (0..100)
            .map(|i| vec![if i % 2 == 0 { 0 } else { 2 }; DEEP])
            .collect();
        let points = curve(&ranks, 4);
        let expected = 0.5 - CONFIDENCE * (0.25f64 / 0.99 / 100.0).sqrt();
        assert_eq!(
            points.iter().map(|p| p.probes).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert!(
            (f64::from(points[0].recall_10) - expected).abs() < 0.01,
            "{points:?}"
        );
        assert_eq!((points[2].recall_10, points[3].recall_100), (1.0, 1.0));
        let few = vec![vec![0, 1]; 5];
        assert!(curve(&few, 2).iter().all(|p| p.recall_100 < 0.0));
        assert!(curve(&[], 2).is_empty());
    }
}
