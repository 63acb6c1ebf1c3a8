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
}

impl Order {
    /// `keeps_late`: late candidates are handed out nevertheless; else they are left out, so that the order is strict.
    pub fn new(keeps_late: bool) -> Self {
        Self {
            keeps_late,
            last_key: f32::NEG_INFINITY,
        }
    }

    /// Whether to hand out `candidate`, which is next; if not, it is as if it had not been there. Counts late ones in `late`.
    ///
    /// Late is what is nearer than a row before it for certain. Of others the key may be lower, that of a row with a large radius by far: their place
    /// is for who knows the operator's value to tell. (Nor may a row be lost because keys of two engines differ by rounding.)
    pub fn admits(&mut self, candidate: &Candidate, late: &mut u64) -> bool {
        if candidate.ceiling < self.last_key {
            *late += 1;
            if !self.keeps_late {
                return false;
            }
        }
        self.last_key = self.last_key.max(candidate.key);
        true
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
    fn a_row_whose_place_is_not_known_is_not_lost() {
        let mut order = Order::new(false);
        handed_out(&mut order, &[1.0, 5.0]);
        let loose = Candidate {
            key: 0.0,
            ceiling: f32::INFINITY,
            tid: Tid::new(1, 1),
        };
        let mut late = 0;
        assert!(order.admits(&loose, &mut late) && late == 0);
        // It does not take the scan back.
        assert_eq!(
            handed_out(&mut order, &[4.4, 4.6, 5.5]),
            (vec![4.6, 5.5], 1)
        );
    }
}
