//! A tier is filled while its index is written: pieces of lists go to staging areas as they go to pages, so that nothing is read again.

use std::io::Read;
use std::ops::Range;

use super::LoadError;
use crate::engine::{Engine, TierWriter};
use crate::error::GpuError;
use crate::staging::Part;
use crate::tier::TierList;
use crate::tier_builder::TierBuilder;
use omen_ivf::index::{Index, see_lists};
use omen_ivf::layout::group::GROUP;
use omen_ivf::list_reader::AppendedTo;
use omen_ivf::store::{NO_BLOCK, PageStore};
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
            self.put_rows(piece.rows(), slot, n)?;
        }
        self.put_groups(piece.groups(), slot, n)
    }

    fn put_rows(&mut self, mut rows: Contents, slot: usize, n: usize) -> Result<(), GpuError> {
        let row_bytes = 2 * self.builder.spec().row_words;
        let mut first = 0;
        while first < n {
            let Some(part) = self.builder.staging.rows(slot + first, n - first) else {
                self.turn()?;
                continue;
            };
            read(&mut rows, &part, 0, part.n * row_bytes)?;
            first += part.n;
        }
        Ok(())
    }

    /// The device may need less of each group than pages have.
    fn put_groups(&mut self, mut groups: Contents, slot: usize, n: usize) -> Result<(), GpuError> {
        let wanted = self.builder.staging.shape().group_bytes;
        let mut first = 0;
        while first < n {
            let Some(part) = self.builder.staging.groups(slot + first, n - first) else {
                self.turn()?;
                continue;
            };
            for group in 0..part.n.div_ceil(GROUP) {
                read(&mut groups, &part, group * wanted, wanted)?;
                groups.skip(self.group_bytes - wanted);
            }
            first += part.n;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), GpuError> {
        self.builder.staging.turn(self.builder.writer.as_mut())
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
        let of_lists = self.taken.iter().zip(seen);
        for (((taken, n_put), seen), list) in of_lists.zip(&mut self.builder.lists) {
            let entry = seen.entry;
            if u64::from(entry.frozen_count) != *n_put {
                let n = entry.frozen_count;
                let what = format!("a list has {n} entries, of which {n_put} were seen");
                return Err(GpuError::Other(what).into());
            }
            // Nothing was appended yet.
            let version = match entry.append_head {
                NO_BLOCK => seen.version,
                _ => 0,
            };
            *list = Some(TierList {
                first_slot: taken.start as u32,
                n_slots: entry.frozen_count,
                n_live: entry.n_live(),
                n_room: taken.len() as u32,
                layout_gen: entry.layout_gen,
                delete_gen: entry.delete_gen,
                last_live: 0,
                appended: AppendedTo {
                    version,
                    ..AppendedTo::NOTHING
                },
            });
        }
        Ok(self.builder)
    }
}

/// Copies the next `n` bytes of a stream to byte `at` of a part.
#[allow(unsafe_code)]
fn read(from: &mut Contents, part: &Part, at: usize, n: usize) -> Result<(), GpuError> {
    // SAFETY: the callers write no more than the entries that the part was asked for have; it is theirs alone, and ordinary memory of the writer,
    // which they hold.
    let to = unsafe { std::slice::from_raw_parts_mut(part.start.add(at), n) };
    let lacks = |_| GpuError::Other("a piece ends too early".into());
    from.read_exact(to).map_err(lacks)
}
