//! How often codes, whose bounds hold but for one entry in tens of thousands, may err in a test.

use super::Query;
use omen_ivf::Tid;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

/// The length below which a query counts as the origin.
const ORIGIN: f32 = 0.01;

/// The errors still allowed, shared by all clones. What errs is the code of an entry for a direction, so an entry counts once for each
/// query, however often that query is searched, and once for all queries at the origin: from there, all of them look the same way.
#[derive(Debug, Clone, Default)]
pub struct Losses(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    left: Cell<usize>,
    seen: RefCell<HashSet<(Tid, Option<usize>)>>,
}

impl Losses {
    /// Allows `n` from here on.
    pub fn allow(&self, n: usize) {
        self.0.left.set(n);
    }

    /// Whether query `number` may go wrong about an entry.
    pub fn forgive(&self, number: usize, query: &Query, tid: Tid) -> bool {
        let direction = (query.norm > ORIGIN).then_some(number);
        if self.0.seen.borrow().contains(&(tid, direction)) {
            return true;
        }
        let Some(left) = self.0.left.get().checked_sub(1) else {
            return false;
        };
        self.0.left.set(left);
        self.0.seen.borrow_mut().insert((tid, direction));
        true
    }
}
