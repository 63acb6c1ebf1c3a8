//! What a batch has found: rows of all its queries in one array.

use omen_ivf::Tid;

/// A row found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    /// What the operator returns, but for the rounding of the stored vector.
    pub distance: f64,
    /// The visible version.
    pub row: Tid,
}

/// The rows of a batch.
pub(super) struct Neighbours {
    k: usize,
    /// `[n, k]`, the first `counts[i]` of each.
    rows: Vec<Neighbour>,
    counts: Vec<u32>,
}

impl Neighbours {
    /// Of `n` queries for `k` rows each; none yet.
    pub(super) fn new(n: usize, k: usize) -> Self {
        let nothing = Neighbour {
            distance: f64::NAN,
            row: Tid::new(0, 0),
        };
        Self {
            k,
            rows: vec![nothing; n * k],
            counts: vec![0; n],
        }
    }

    /// The rows of each query, ascending by distance.
    pub(super) fn by_query(&self) -> impl Iterator<Item = &[Neighbour]> {
        let of_query = |(i, &count): (usize, &u32)| {
            let first = i * self.k;
            &self.rows[first..first + count as usize]
        };
        self.counts.iter().enumerate().map(of_query)
    }

    /// Sets the rows of a query, which come ascending; those beyond k are left out.
    pub(super) fn set(&mut self, query: u32, rows: impl Iterator<Item = Neighbour>) {
        let first = query as usize * self.k;
        let places = self.rows[first..first + self.k].iter_mut();
        let count = places.zip(rows).map(|(place, row)| *place = row).count();
        self.counts[query as usize] = count as u32;
    }
}
