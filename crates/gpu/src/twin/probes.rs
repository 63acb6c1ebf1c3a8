//! Twin of `select_probes`.

use crate::params::{OVERFLOW_SURVIVORS, QueryConsts};
use omen_ivf::Metric;

/// What the choice of lists depends on besides the query.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Metric of the index.
    pub metric: Metric,
    /// `[n_lists]`: squared norms of the centroids.
    pub list_norms: &'a [f32],
    /// `[n_lists]`: slots of each list.
    pub list_rows: &'a [u32],
    /// Lists wanted.
    pub probes: usize,
    /// Rows at which the first round is large enough.
    pub first_rows: u32,
    /// Room for survivors of one query.
    pub cap: u32,
    /// Lists farther than this from the nearest one are left out.
    pub spread: f32,
}

/// The lists of one query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chosen {
    /// `[probes]`, nearest first, ties by list number.
    pub lists: Vec<u32>,
    /// `[n_first]`: rows of the lists before each.
    pub places: Vec<u32>,
    /// `[probes]`: ranks, lowered by what rounding may have added.
    pub adds: Vec<f32>,
    /// `[probes]`: query to centroid.
    pub distances: Vec<f32>,
    /// Lists within the spread.
    pub n_probes: u32,
    /// Lists of the first round.
    pub n_first: u32,
    /// Rows of the first round, at most `cap`.
    pub count: u32,
    /// 0 or [`OVERFLOW_SURVIVORS`].
    pub overflow: u32,
}

/// Chooses a query's lists by the ranks of all centroids (`[n_lists]`).
pub fn select_probes(choice: &Choice<'_>, consts: &QueryConsts, ranks: &[f32]) -> Chosen {
    let mut order: Vec<u32> = (0..ranks.len() as u32).collect();
    order.sort_by(|&a, &b| ranks[a as usize].total_cmp(&ranks[b as usize]));
    order.truncate(choice.probes);
    let nearest = ranks[order[0] as usize];
    let farther = |rank: f32| match choice.metric {
        Metric::NegIp => (rank - nearest) / consts.norm_up.max(f32::MIN_POSITIVE),
        _ => rank.sqrt() - nearest.sqrt(),
    };
    let mut chosen = Chosen::default();
    for (i, &list) in order.iter().enumerate() {
        let rank = ranks[list as usize];
        let list_norm_sq = choice.list_norms[list as usize];
        let l2sq = match choice.metric {
            Metric::NegIp => consts.norm_sq + list_norm_sq + 2.0 * rank,
            _ => rank,
        };
        let slack = consts.slack * list_norm_sq.sqrt() * 1.000_001;
        chosen.adds.push(match choice.metric {
            Metric::NegIp => rank - slack,
            _ => rank - 4.768_371_6e-7f32.mul_add(consts.norm_sq + list_norm_sq, slack),
        });
        chosen.distances.push(l2sq.max(0.0).sqrt());
        if i == 0 || farther(rank) <= choice.spread {
            chosen.n_probes += 1;
        }
    }
    let mut rows = 0;
    for (i, &list) in order[..chosen.n_probes as usize].iter().enumerate() {
        let here = choice.list_rows[list as usize];
        if i > 0 && (rows >= choice.first_rows || rows + here > choice.cap) {
            break;
        }
        chosen.places.push(rows);
        rows += here;
        chosen.n_first += 1;
    }
    if rows > choice.cap {
        chosen.overflow = OVERFLOW_SURVIVORS;
    }
    chosen.count = rows.min(choice.cap);
    chosen.lists = order;
    chosen
}
