//! Slots of a tier that no list uses, and what is taken of them: for a whole load all, for the refresh of some lists what the others leave.

use crate::error::GpuError;
use crate::tier::TierList;
use std::ops::Range;

/// Slots of a word of live bits.
const WORD: usize = u32::BITS as usize;

/// What is free, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeSlots {
    ranges: Vec<Range<usize>>,
    /// Whether a list takes whole words of live bits, so that it can be written beside lists that are being searched.
    whole_words: bool,
    n_slots: usize,
}

impl FreeSlots {
    /// All slots of a tier, taken one after the other.
    pub fn all(n_slots: usize) -> Self {
        let all = 0..n_slots;
        Self {
            ranges: vec![all],
            whole_words: false,
            n_slots,
        }
    }

    /// The same, from now on taken in whole words of live bits: then these can be written beside lists that are being searched.
    pub(crate) fn in_whole_words(mut self) -> Self {
        self.whole_words = true;
        self
    }

    /// What these lists leave of a tier's slots, in whole words of live bits. Errors: `Other` if two lists share slots, or one ends beyond the tier.
    pub fn beside(lists: &[Option<TierList>], n_slots: usize) -> Result<Self, GpuError> {
        let mut used: Vec<Range<usize>> = lists
            .iter()
            .flatten()
            .filter(|list| list.n_slots > 0)
            .map(TierList::room)
            .collect();
        used.sort_unstable_by_key(|slots| slots.start);
        let mut ranges = Vec::new();
        let mut end = 0;
        for slots in used.into_iter().chain(std::iter::once(n_slots..n_slots)) {
            if slots.start < end || slots.end > n_slots {
                return Err(GpuError::Other("the lists do not fit the tier".into()));
            }
            // The last word of a tier may be cut short; nobody else has it.
            let to = match slots.start == n_slots {
                true => n_slots,
                false => slots.start / WORD * WORD,
            };
            let from = end.next_multiple_of(WORD);
            if from < to {
                ranges.push(from..to);
            }
            end = slots.end;
        }
        Ok(Self {
            ranges,
            whole_words: true,
            n_slots,
        })
    }

    /// How many are free.
    pub fn n(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether all of these are free.
    pub fn has(&self, slots: &Range<usize>) -> bool {
        let next = self.ranges.partition_point(|free| free.end <= slots.start);
        let free = self.ranges.get(next);
        slots.is_empty() || free.is_some_and(|f| f.start <= slots.start && slots.end <= f.end)
    }

    /// Whether a list takes whole words of live bits.
    pub(crate) fn are_whole_words(&self) -> bool {
        self.whole_words
    }

    /// Takes `n` in a row, or a few more. None: there are not so many in a row.
    pub(crate) fn take(&mut self, n: usize) -> Option<Range<usize>> {
        if n == 0 {
            return Some(0..0);
        }
        let at = self.ranges.iter().position(|free| free.len() >= n)?;
        let free = &mut self.ranges[at];
        let (first, mut end) = (free.start, free.start + n);
        if self.whole_words {
            end = end.next_multiple_of(WORD).min(free.end);
        }
        free.start = end;
        if free.start == free.end {
            self.ranges.remove(at);
        }
        Some(first..end)
    }

    /// Words of live bits that have been taken from `before`, of which this is what is left.
    pub(crate) fn words_taken_from(&self, before: &Self) -> Vec<Range<usize>> {
        let mut taken: Vec<Range<usize>> = Vec::new();
        let mut left = self.ranges.iter().peekable();
        for range in &before.ranges {
            // What is taken of a range is its beginning.
            let rest = left.next_if(|rest| rest.end == range.end);
            let end = rest.map_or(range.end, |rest| rest.start);
            if range.start < end {
                taken.push(range.start / WORD..end.div_ceil(WORD));
            }
        }
        taken
    }

    /// Slots of the tier.
    pub(crate) fn n_slots(&self) -> usize {
        self.n_slots
    }
}

/// Per list, the words of live bits that are its alone: these can be written while it is searched. `None`: it has no slots, or others have a part
/// of a word.
pub fn own_words(lists: &[Option<TierList>]) -> Vec<Option<Range<usize>>> {
    let mut by_slot: Vec<(Range<usize>, usize)> = (0..lists.len())
        .filter_map(|at| Some((lists[at]?, at)))
        .filter(|(list, _)| list.n_slots > 0)
        .map(|(list, at)| (list.room(), at))
        .collect();
    by_slot.sort_unstable_by_key(|(slots, _)| slots.start);
    let mut own = vec![None; lists.len()];
    let mut next_start = usize::MAX;
    for (slots, at) in by_slot.into_iter().rev() {
        let words = slots.start / WORD..slots.end.div_ceil(WORD);
        if slots.start % WORD == 0 && words.end * WORD <= next_start {
            own[at] = Some(words);
        }
        next_start = slots.start;
    }
    own
}

/// Ranges that do not overlap, ascending, neighbours as one.
pub fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn list(first_slot: usize, n_slots: usize) -> Option<TierList> {
        Some(TierList {
            first_slot: first_slot as u32,
            n_slots: n_slots as u32,
            n_live: n_slots as u32,
            n_room: n_slots as u32,
            layout_gen: 1,
            delete_gen: 1,
            last_live: 0,
            appended: Default::default(),
        })
    }

    #[test]
    fn a_whole_tier_is_taken_in_order() {
        let mut free = FreeSlots::all(100);
        assert_eq!(
            [free.take(3), free.take(0), free.take(90)],
            [Some(0..3), Some(0..0), Some(3..93)]
        );
        assert_eq!((free.take(8), free.n()), (None, 7));
        assert_eq!(
            (free.take(7), free.take(1), free.n()),
            (Some(93..100), None, 0)
        );
        let all = FreeSlots::all(100);
        let words = 0..4;
        assert_eq!(free.words_taken_from(&all), [words]);
        assert!(all.words_taken_from(&all).is_empty());
    }

    #[test]
    fn words_of_one_list() {
        let lists = [
            list(0, 40),
            list(64, 32),
            list(96, 10),
            list(106, 22),
            list(128, 1),
            list(200, 0),
            None,
            list(161, 3),
        ];
        let own = own_words(&lists);
        let words = |first: usize, end: usize| Some(first..end);
        // List 2 shares its word with list 3, which does not start with one, as list 7.
        let expected = [
            words(0, 2),
            words(2, 3),
            None,
            None,
            words(4, 5),
            None,
            None,
            None,
        ];
        assert_eq!(own, expected);
        let mut free = FreeSlots::all(100).in_whole_words();
        assert_eq!(
            [free.take(3), free.take(33), free.take(5)],
            [Some(0..32), Some(32..96), None]
        );
        assert_eq!(free.take(4), Some(96..100));
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        for lists in [
            [list(0, 10), list(9, 1)],
            [list(90, 11), None],
            [list(200, 1), None],
        ] {
            assert!(FreeSlots::beside(&lists, 100).is_err(), "{lists:?}");
        }
        let free = FreeSlots::beside(&[list(3, 0), None, list(40, 60)], 100).unwrap();
        let first = 0..32;
        assert_eq!(free.ranges, [first]);
        assert!(free.has(&(0..32)) && free.has(&(77..77)) && !free.has(&(31..33)));
    }

    /// Lists come and go at random: no two ever share a word of live bits, unless they did at first, and what was written is what was taken.
    #[test]
    fn refreshed_lists_never_touch_others() {
        let seed = rand::random();
        println!("OMEN_TEST_SEED={seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..100 {
            let n_slots = rng.random_range(500..3000);
            let mut first = FreeSlots::all(n_slots);
            let mut lists: Vec<Option<TierList>> = (0..20)
                .map(|_| {
                    let n = rng.random_range(0..n_slots / 22);
                    first.take(n).and_then(|at| list(at.start, n))
                })
                .collect();
            for _ in 0..20 {
                let before = FreeSlots::beside(&lists, n_slots).unwrap();
                let mut free = before.clone();
                let mut new = lists.clone();
                let mut written = Vec::new();
                for _ in 0..rng.random_range(1..5) {
                    let n = rng.random_range(0..n_slots / 15);
                    let Some(at) = free.take(n).map(|at| at.start) else {
                        continue;
                    };
                    assert!(before.has(&(at..at + n)) || n == 0);
                    new[rng.random_range(0..20)] = list(at, n);
                    written.push(at..at + n);
                }
                let words = free.words_taken_from(&before);
                for slots in written.iter().filter(|s| !s.is_empty()) {
                    let (a, b) = (slots.start / WORD, slots.end.div_ceil(WORD));
                    assert!(
                        words.iter().any(|w| w.start <= a && b <= w.end),
                        "{slots:?} {words:?}"
                    );
                }
                for old in lists.iter().flatten().filter(|l| l.n_slots > 0) {
                    let slots = old.slots();
                    let (a, b) = (slots.start / WORD, slots.end.div_ceil(WORD));
                    assert!(
                        words.iter().all(|w| w.end <= a || b <= w.start),
                        "{old:?} {words:?}"
                    );
                }
                assert!(FreeSlots::beside(&new, n_slots).is_ok());
                lists = new;
            }
        }
    }
}
