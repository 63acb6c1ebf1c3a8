//! Which candidates of an ordered scan come too late for their place.
//!
//! A row may be nearer than rows handed out before it: its list was added later, or the codes' filter missed it in an earlier round
//! over the same lists, which for one row in tens of thousands it may.

use crate::topk::Candidate;

/// Follows the candidates that are handed out, ascending by key within each round.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    keeps_late: bool,
    last_key: f32,
    /// Where the scan was when lists were last added: what they hold below it comes too late. (Not `last_key` itself: when a round
    /// on one engine follows a round on the other, keys differ by rounding, and no row may be lost to that.)
    late_below: f32,
}

impl Order {
    /// `keeps_late`: late candidates are handed out nevertheless; else they are left out, so that the order is strict.
    pub fn new(keeps_late: bool) -> Self {
        Self {
            keeps_late,
            last_key: f32::NEG_INFINITY,
            late_below: f32::NEG_INFINITY,
        }
    }

    /// Whether to hand out `candidate`, which is next; if not, it is as if it had not been there. Counts late ones in `late`.
    pub fn admits(&mut self, candidate: &Candidate, late: &mut u64) -> bool {
        if candidate.key < self.late_below || candidate.ceiling < self.last_key {
            *late += 1;
            if !self.keeps_late {
                return false;
            }
        }
        self.last_key = self.last_key.max(candidate.key);
        true
    }

    /// Says that lists are added now. `settled_below`: see [`crate::settle::Settler::settled_below`].
    pub fn add_lists(&mut self, settled_below: f32) {
        self.late_below = self.last_key.max(settled_below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tid;

    /// The keys handed out of these, each with a ceiling 0.5 above it, and how many were late.
    fn handed_out(order: &mut Order, keys: &[f32]) -> (Vec<f32>, u64) {
        let mut late = 0;
        let mut admitted = keys.to_vec();
        admitted.retain(|&key| {
            let candidate = Candidate {
                key,
                ceiling: key + 0.5,
                tid: Tid::new(1, 1),
            };
            order.admits(&candidate, &mut late)
        });
        (admitted, late)
    }

    #[test]
    fn a_row_missed_before_is_out_of_order() {
        // The second round finds 2, which the first one missed; 4.75 may be as near as 5.
        let keys = [1.0, 3.0, 5.0, 2.0, 4.75, 6.0];
        let strict = handed_out(&mut Order::new(false), &keys);
        assert_eq!(strict, (vec![1.0, 3.0, 5.0, 4.75, 6.0], 1));
        assert_eq!(handed_out(&mut Order::new(true), &keys), (keys.to_vec(), 1));
    }

    #[test]
    fn added_lists_begin_where_the_scan_is() {
        for (settled_below, from) in [(f32::NEG_INFINITY, 5.0), (5.4, 5.4)] {
            let mut order = Order::new(false);
            handed_out(&mut order, &[1.0, 5.0]);
            order.add_lists(settled_below);
            let (admitted, late) = handed_out(&mut order, &[4.9, 5.1, 5.5]);
            assert!(admitted.iter().all(|&key| key >= from), "{admitted:?}");
            assert_eq!(admitted.len() as u64 + late, 3);
        }
    }
}
