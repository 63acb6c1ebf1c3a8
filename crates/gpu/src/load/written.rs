//! A tier is filled while its index is written: pieces of lists go to staging areas as they go to pages, so that nothing is read again.

use std::io::Read;
use std::ops::Range;

use super::LoadError;
use crate::engine::{Engine, TierWriter};
use crate::error::GpuError;
use crate::tier::TierList;
use crate::tier_builder::TierBuilder;
use omen_ivf::index::{Index, see_lists};
use omen_ivf::list_reader::ListReader;
use omen_ivf::store::PageStore;
use omen_ivf::write_index::{Contents, IndexSpec, Piece};

/// Lists of an index on their way to a tier, as they are written.
pub struct WrittenLists<W: TierWriter + ?Sized = dyn Engine> {
    builder: TierBuilder<W>,
    /// Slots of each list, with those to grow, and entries that have been put there.
    taken: Vec<(Range<usize>, u64)>,
    /// Bytes of a group on pages.
    group_bytes: usize,
}

impl<W: TierWriter + ?Sized> WrittenLists<W> {
    /// Of the lists of `index`, of so many entries each; nothing else has been given to `builder`, which is for that index. `None`: it has not the room.
    pub fn new(mut builder: TierBuilder<W>, index: &IndexSpec, sizes: &[u32]) -> Option<Self> {
        let take = |&n: &u32| {
            let n = builder.with_growth(n as usize);
            Some((builder.take_slots(n)?, 0))
        };
        let taken = sizes.iter().map(take).collect::<Option<_>>()?;
        Some(Self {
            builder,
            taken,
            group_bytes: index.shape().bytes(),
        })
    }

    /// Sends a piece, the next of its list, to the slots of its entries. Waits for the device, 10 s at most for each staging area. Errors: the device's, and `Other`
    /// for another piece.
    pub fn put(&mut self, piece: &Piece) -> Result<(), GpuError> {
        let (n, first) = (piece.n_entries as usize, piece.first as usize);
        let of_list = self.taken.get_mut(piece.list as usize);
        let fits = |of_list: &&mut (Range<usize>, u64)| {
            of_list.1 == piece.first && first + n <= of_list.0.len()
        };
        let Some((taken, n_put)) = of_list.filter(fits) else {
            return Err(GpuError::Other(format!(
                "a piece of list {} that was not expected",
                piece.list
            )));
        };
        *n_put += n as u64;
        let slot = taken.start + first;
        if self.builder.parts().rows() {
            let mut rows = piece.rows();
            self.builder
                .stage_rows(slot, n, |_, to| read(&mut rows, to))?;
        }
        // The device may need less of each group than pages have.
        let (mut groups, on_pages) = (piece.groups(), self.group_bytes);
        let wanted = self.builder.staging.shape().group_bytes;
        self.builder.stage_groups(slot, n, |_, to| {
            for group in to.chunks_exact_mut(wanted) {
                read(&mut groups, group)?;
                groups.skip(on_pages - wanted);
            }
            Ok(())
        })
    }

    /// All is written, and nobody else knows of the index: takes over from its pages what lists and centroids are.
    pub fn finish<S: PageStore>(
        mut self,
        s: &S,
        index: &Index,
    ) -> Result<TierBuilder<W>, LoadError> {
        self.builder.check_index(index)?;
        self.builder.load_centroids(s, index)?;
        let lists: Vec<u32> = (0..index.n_lists()).collect();
        let seen = see_lists(s, index, &lists)?;
        let mut reader = ListReader::new();
        let of_lists = lists.into_iter().zip(&self.taken).zip(seen);
        for (((no, (taken, n_put)), seen), list) in of_lists.zip(&mut self.builder.lists) {
            let entry = seen.entry;
            if u64::from(entry.frozen_count) != *n_put {
                let n = entry.frozen_count;
                let what = format!("a list has {n} entries, of which {n_put} were seen");
                return Err(GpuError::Other(what).into());
            }
            // Nothing was appended yet: none of it is read, and there is nothing else to know of the list.
            let appended = reader
                .appended_up_to(s, index, no, &seen, 0, 0, |_, _, _, _| ())?
                .unwrap_or_default();
            let n_slots = entry.frozen_count as usize;
            *list = Some(TierList::of(&entry, taken.clone(), n_slots, appended));
        }
        Ok(self.builder)
    }
}

/// Reads the next bytes of a stream.
fn read(from: &mut Contents, to: &mut [u8]) -> Result<(), GpuError> {
    let lacks = |_| GpuError::Other("a piece ends too early".into());
    from.read_exact(to).map_err(lacks)
}
