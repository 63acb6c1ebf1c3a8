//! Counts of what is changed of lists, in memory that all processes of a server share: a tier that was loaded at a list's count, and finds it
//! unchanged, has the list as it is, and no page need be looked at to know.
//!
//! | who | counts, or reads the count |
//! |---|---|
//! | appends an entry | after it is on its page, before its transaction ends |
//! | marks entries dead | after that is on their pages, before their tids may be used again |
//! | rewrites a list | after the directory has the new one |
//! | loads a list | before its directory entry |
//! | searches | after its snapshot was taken, and after the device has searched |
//!
//! So a row that a search may see is in the tier, or was counted since; and a tid that a search finds there is that of the row it was loaded with, or
//! was counted since. Lists share counts: then pages are looked at in vain. What a standby replays is not counted.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts, each for some lists of all indexes.
const N_COUNTS: usize = 1 << 16;

/// All zero at first; even numbers, which wrap around.
#[repr(C)]
pub struct ChangeCounts {
    counts: [AtomicU32; N_COUNTS],
}

impl ChangeCounts {
    /// A list of the index with this file was changed.
    pub fn note(&self, file: u64, list: u32) {
        self.count_of(file, list).fetch_add(2, Ordering::Release);
    }

    /// The count of a list, as a number that is not 0.
    pub fn version(&self, file: u64, list: u32) -> u32 {
        self.count_of(file, list).load(Ordering::Acquire) | 1
    }

    fn count_of(&self, file: u64, list: u32) -> &AtomicU32 {
        // Neighbouring lists of a file are apart, so that they share no cache line.
        let word = (file ^ u64::from(list) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.counts[(word >> 48) as usize % N_COUNTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn lists_have_counts_of_their_own_mostly() {
        let counts: Box<ChangeCounts> = Box::new(ChangeCounts {
            counts: [const { AtomicU32::new(0) }; N_COUNTS],
        });
        for file in [16_384u64, 5 << 32 | 16_385, u64::MAX] {
            let places: HashSet<*const AtomicU32> = (0..4096)
                .map(|list| std::ptr::from_ref(counts.count_of(file, list)))
                .collect();
            assert!(places.len() > 3800, "{}", places.len());
        }
        let before = counts.version(1, 2);
        assert_eq!(before, counts.version(1, 2));
        counts.note(1, 2);
        assert_ne!(before, counts.version(1, 2));
        counts.count_of(1, 2).store(u32::MAX - 1, Ordering::Relaxed);
        let last = counts.version(1, 2);
        counts.note(1, 2);
        assert_ne!(counts.version(1, 2), last);
        assert_ne!(counts.version(1, 2), 0);
    }
}
