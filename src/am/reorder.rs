//! Rows whose place the index does not prove wait here until nothing that comes later can belong before them.
//!
//! The executor has such a queue too (`xs_recheckorderby`). But rows that go through it lose their place in the table, in most PostgreSQL
//! releases (14.23, 16.15, 17.11 and 18.6 are such, 15.20 is not): `ctid` is (4294967295,0), so that nothing is found by it, and `FOR UPDATE` fails with
//! "attempted to lock invisible tuple". So rows leave this access method in their final order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use omen_ivf::Tid;

use super::row_values::Values;

/// A row with its order values.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub tid: Tid,
    pub values: Values,
    /// The first value is no larger than this, where it is a lower bound.
    upper: Option<f64>,
    /// Rows with equal values leave as they came.
    number: u64,
}

impl Waiting {
    /// As ORDER BY has it: ascending, NaN after all numbers, NULL after that.
    fn order(&self, other: &Self) -> Ordering {
        compare_all(&self.values, &other.values).then(self.number.cmp(&other.number))
    }
}

fn compare_all(a: &Values, b: &Values) -> Ordering {
    let mut orders = a.iter().zip(b).map(|(a, b)| compare(*a, *b));
    orders
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn compare(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a
            .partial_cmp(&b)
            .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
        (a, b) => a.is_none().cmp(&b.is_none()),
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    /// Reversed: the heap's greatest is the row that leaves first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.order(self)
    }
}

/// Rows that wait.
#[derive(Debug)]
pub(super) struct Reorder {
    /// Rows that belong before one that has left are left out.
    is_strict: bool,
    heap: BinaryHeap<Waiting>,
    /// No row that comes later has a first value below this, but for those that come too late.
    bound: Option<f64>,
    /// In strict order: rows before this come too late.
    left: Option<Values>,
    ended: bool,
    n_rows: u64,
}

impl Reorder {
    /// None yet.
    pub(super) fn new(is_strict: bool) -> Self {
        Self {
            is_strict,
            heap: BinaryHeap::new(),
            bound: None,
            left: None,
            ended: false,
            n_rows: 0,
        }
    }

    /// A row came; later ones are as [`Self::advance`] says. Its first value is a lower bound if there is an `upper` one. False: it came too
    /// late and is left out.
    pub(super) fn add(&mut self, tid: Tid, values: Values, upper: Option<f64>, bound: f64) -> bool {
        self.advance(bound);
        let is_late = |left| compare_all(&values, left).is_lt();
        if self.left.as_ref().is_some_and(is_late) {
            return false;
        }
        self.n_rows += 1;
        self.heap.push(Waiting {
            tid,
            values,
            upper,
            number: self.n_rows,
        });
        true
    }

    /// No row that comes later has a first value below `bound`. In strict order that may have been said of a larger one: what comes all the same
    /// is placed by its value.
    pub(super) fn advance(&mut self, bound: f64) {
        let said = self.bound.filter(|_| self.is_strict);
        self.bound = Some(said.map_or(bound, |said| said.max(bound)));
    }

    /// No more rows will come.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether [`Self::end`] was called.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next row, if it is certain which one that is. Of several ORDER BY keys, rows that are equal by the first wait for each other.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let first = self.heap.peek()?;
        let is_next = self.ended
            || self.bound.is_some_and(|bound| {
                let order = compare(first.values[0], Some(bound));
                order.is_lt() || order.is_eq() && first.values.len() == 1
            });
        let row = if is_next { self.heap.pop() } else { None }?;
        if self.is_strict {
            let mut values = row.values.clone();
            if row.upper.is_some() {
                values[0] = row.upper;
            }
            self.left = Some(values);
        }
        Some(row)
    }
}
