//! Measures recall as a function of probes, on rows of the table itself.
//!
//! Each query's true neighbours are found by a search of all lists; the rank of a neighbour's list among the query's lists says
//! from how many probes on it is found. One search of each query so gives the whole curve. What is stored is a lower
//! confidence bound of the mean, so that a small sample does not promise too much.

mod neighbours;
mod page_batch;

use bytemuck::Zeroable;
use rayon::ThreadPool;
use rayon::prelude::*;

use self::neighbours::neighbours;

use crate::coarse::{farther, rank_all, select_lists};
use crate::index::Index;
use crate::layout::meta::{
    CalibrationPoint, CalibrationSpread, MAX_CALIBRATION, META_BLOCK, get_meta, put_meta,
};
use crate::query::Query;
use crate::store::{PageStore, PageStoreMut};
use crate::{Result, Tid};

/// Standard errors below the measured mean. A build takes a thousand queries and more, whose error is a few thousandths, as
/// that of whoever measures the recall again: half of it makes shortfalls rarer without probing for more than was asked.
const CONFIDENCE: f64 = 0.5;
/// Queries whose lists are ranked between two looks for interrupts.
const PLACES_AT_A_TIME: usize = 128;
/// Neighbours looked at, nearest first.
const DEEP: usize = 100;
const SHALLOW: usize = 10;

/// What a calibration measured: as many spreads as points.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// Probes and recall.
    pub points: Vec<CalibrationPoint>,
    /// The spread of each point.
    pub spreads: Vec<CalibrationSpread>,
}

/// For each query its nearest entries, nearest first, each with its list.
pub type Nearest = Vec<Vec<(Tid, u32)>>;

/// Neighbours of a query that a calibration wants to know, itself included.
pub const NEIGHBOURS: usize = DEEP + 1;

/// The recall curve of an index, from its rows `queries` (inputs, see [`crate::form`]: of vectors `[n, dim]`, the user's numbers) at `tids` (`[n]`), which do not count as
/// their own neighbours. `nearest`: the [`NEIGHBOURS`] nearest entries of each, where somebody has found them. Points have ascending probes and non-decreasing recall; the last has all lists and recall 1.
/// Empty if there is nothing to measure (no query with a neighbour).
///
/// Without them, searches every list for every query: seconds to minutes. The threads of `pool` compare; everything else, calls of the store included, happens
/// on the calling thread, which checks the store's interrupts every few tens of milliseconds. The curve does not depend on the number of threads.
/// Takes some 32 MB.
pub fn calibrate<S: PageStore>(
    s: &S,
    index: &Index,
    queries: &[f32],
    tids: &[Tid],
    nearest: Option<Nearest>,
    pool: &ThreadPool,
) -> Result<Curve> {
    assert_eq!(
        queries.len(),
        tids.len() * index.form.input_words(),
        "a tid for each query"
    );
    let mut prepared = Vec::with_capacity(tids.len());
    let mut own = Vec::with_capacity(tids.len());
    let mut is_ordered = Vec::with_capacity(tids.len());
    for (q, &tid) in queries.chunks_exact(index.form.input_words()).zip(tids) {
        let query = index.prepare(q)?;
        is_ordered.push(!query.unordered());
        if !query.unordered() {
            prepared.push(query);
            own.push(tid);
        }
    }
    let nearest = match nearest {
        Some(nearest) => {
            let ordered = nearest.into_iter().zip(is_ordered);
            ordered.filter_map(|(n, is)| is.then_some(n)).collect()
        }
        None => neighbours(s, index, &prepared, NEIGHBOURS, pool)?,
    };
    let mut all_places: Vec<Vec<Place>> = Vec::with_capacity(prepared.len());
    let parts = prepared.chunks(PLACES_AT_A_TIME);
    let others = own
        .chunks(PLACES_AT_A_TIME)
        .zip(nearest.chunks(PLACES_AT_A_TIME));
    for (queries, (own, nearest)) in parts.zip(others) {
        s.check_interrupts()?;
        let Some(centroids) = index.centroids(s)? else {
            for ((query, own), nearest) in queries.iter().zip(own).zip(nearest) {
                let lists = select_lists(s, index, query, index.n_lists())?;
                let ranked = lists.iter().map(|probe| (probe.rank(query), probe.list));
                all_places.push(places(query, ranked, *own, nearest));
            }
            continue;
        };
        let found = pool.install(|| {
            let queries = queries.par_iter().zip(own).zip(nearest);
            queries
                .map(|((query, own), nearest)| {
                    let ranked = rank_all(centroids, index.n_lists(), query);
                    places(query, ranked.into_iter(), *own, nearest)
                })
                .collect::<Vec<_>>()
        });
        all_places.extend(found);
    }
    all_places.retain(|places| !places.is_empty());
    Ok(curve(&all_places, index.n_lists()))
}

/// Writes the curve (at most `MAX_CALIBRATION` points) to the metapage. Indexes opened before keep the old one.
pub fn store_calibration<S: PageStoreMut>(s: &S, curve: &Curve, n_queries: u32) -> Result<()> {
    let points = &curve.points;
    assert!(
        points.len() <= MAX_CALIBRATION && points.len() == curve.spreads.len(),
        "{} points of calibration",
        points.len()
    );
    let mut read = Ok(());
    s.update(&[META_BLOCK], |pages| match get_meta(pages[0]) {
        Ok(mut meta) => {
            meta.calibration = Zeroable::zeroed();
            meta.calibration[..points.len()].copy_from_slice(points);
            meta.spreads = Zeroable::zeroed();
            meta.spreads[..points.len()].copy_from_slice(&curve.spreads);
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

/// Where a query finds one of its neighbours.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Lists of the query that come before the neighbour's.
    rank: u32,
    /// How much farther the list's centroid is than the nearest one.
    farther: f32,
}

/// The places of `nearest` (ascending, each with its list) but the query's own row. `ranked`: all lists, ascending, with their ranks.
fn places(
    query: &Query,
    ranked: impl ExactSizeIterator<Item = (f32, u32)>,
    own: Tid,
    nearest: &[(Tid, u32)],
) -> Vec<Place> {
    let no_place = Place {
        rank: 0,
        farther: 0.0,
    };
    let mut place_of = vec![no_place; ranked.len()];
    let mut first = None;
    for (number, (rank, list)) in ranked.enumerate() {
        let first = *first.get_or_insert(rank);
        place_of[list as usize] = Place {
            rank: number as u32,
            farther: farther(query, rank, first),
        };
    }
    let others = nearest.iter().filter(|(tid, _)| *tid != own);
    others
        .take(DEEP)
        .map(|(_, list)| place_of[*list as usize])
        .collect()
}

/// The curve from the places of each query's neighbours.
///
/// A point limits the number of lists and how far they may be. The lists that its number has beyond the point before would find
/// a few more neighbours; the spread is the least that loses as many. So its recall is that of the point before without a
/// spread, at fewer lists on average, because queries differ: those that lie in the middle of a cluster are spared most.
fn curve(places: &[Vec<Place>], lists: u32) -> Curve {
    let mut curve = Curve::default();
    if places.is_empty() {
        return curve;
    }
    let deep_measured = places.iter().all(|places| places.len() == DEEP);
    let mut before = 0;
    for probes in grid(lists) {
        let side = |k: usize| {
            let spread = spread(places, k, before, probes);
            (recall(places, k, probes, spread), spread)
        };
        let (mut recall_10, mut spread_10) = side(SHALLOW);
        let (mut recall_100, mut spread_100) = if deep_measured {
            side(DEEP)
        } else {
            (-1.0, f32::INFINITY)
        };
        if probes == lists {
            (spread_10, spread_100) = (f32::INFINITY, f32::INFINITY);
            recall_10 = 1.0;
            recall_100 = if deep_measured { 1.0 } else { -1.0 };
        }
        if let Some(last) = curve.points.last() {
            recall_10 = recall_10.max(last.recall_10);
            recall_100 = recall_100.max(last.recall_100);
        }
        curve.points.push(CalibrationPoint {
            probes,
            recall_10,
            recall_100,
        });
        curve.spreads.push(CalibrationSpread {
            spread_10,
            spread_100,
        });
        before = probes;
    }
    curve
}

/// The least spread at which the first `probes` lists hold as many of the `k` nearest as the first `before` lists do without
/// one; no limit where that would be none.
fn spread(places: &[Vec<Place>], k: usize, before: u32, probes: u32) -> f32 {
    let nearest = |places: &'_ [Place]| places.len().min(k);
    let all = places.iter().flat_map(|places| &places[..nearest(places)]);
    let mut spreads: Vec<f32> = Vec::new();
    let mut keep = 0;
    for place in all {
        keep += usize::from(place.rank < before);
        if place.rank < probes {
            spreads.push(place.farther);
        }
    }
    if keep == 0 {
        return f32::INFINITY;
    }
    let (_, spread, _) = spreads.select_nth_unstable_by(keep - 1, f32::total_cmp);
    // 0 is how a page says "no limit".
    spread.max(f32::MIN_POSITIVE)
}

/// Lower confidence bound of the share of the `k` nearest that lie in the first `probes` lists within `spread`.
fn recall(places: &[Vec<Place>], k: usize, probes: u32, spread: f32) -> f32 {
    let n = places.len() as f64;
    let (mut sum, mut sum_sq) = (0f64, 0f64);
    for places in places {
        let nearest = &places[..places.len().min(k)];
        let found = |place: &&Place| place.rank < probes && place.farther <= spread;
        let found = nearest.iter().filter(found).count() as f64 / nearest.len() as f64;
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

    fn place(rank: u32) -> Place {
        Place {
            rank,
            farther: rank as f32 / 8.0,
        }
    }

    #[test]
    fn curve_of_known_places() {
        // Half of the queries find everything in the first list, half in the third.
        let places: Vec<Vec<Place>> = (0..100)
            .map(|i| vec![place(if i % 2 == 0 { 0 } else { 2 }); DEEP])
            .collect();
        let Curve { points, spreads } = curve(&places, 4);
        let expected = 0.5 - CONFIDENCE * (0.25f64 / 0.99 / 100.0).sqrt();
        assert_eq!(
            points.iter().map(|p| p.probes).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert!(
            (f64::from(points[0].recall_10) - expected).abs() < 0.01,
            "{points:?}"
        );
        assert_eq!((points[3].recall_10, points[3].recall_100), (1.0, 1.0));
        // The third list would find the other half, but the spread takes it away again.
        assert_eq!(points[2].recall_10, points[0].recall_10);
        assert!(spreads[2].spread_10 < 0.01 && spreads[3].spread_10 == f32::INFINITY);
        let few = vec![vec![place(0), place(1)]; 5];
        assert!(curve(&few, 2).points.iter().all(|p| p.recall_100 < 0.0));
        assert!(curve(&[], 2).points.is_empty());
    }

    #[test]
    fn the_spread_spares_queries_whose_lists_lie_apart() {
        // Every query finds its neighbours in its first ten lists; for half of them all but the first are far away, and empty
        // of neighbours.
        let near: Vec<Place> = (0..DEEP as u32).map(|i| place(i % 10)).collect();
        let far = vec![place(0); DEEP];
        let places = [near.clone(), far.clone(), near, far];
        let Curve { points, spreads } = curve(&places, 100);
        let at = points.iter().position(|p| p.probes >= 13).unwrap();
        assert!(points[at].recall_10 > 0.99, "{points:?}");
        assert!((1.0..1.2).contains(&spreads[at].spread_10), "{spreads:?}");
    }
}
