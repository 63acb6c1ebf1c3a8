//! How many entries and pages an index has; what VACUUM and the status function report.

use crate::Result;
use crate::index::{Index, read_entries, reread_entry};
use crate::list_reader::{AppendedTo, ListReader, Visit};
use crate::store::PageStore;

/// Counts over all lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live entries of frozen parts.
    pub frozen: u64,
    /// Dead entries of frozen parts, to be dropped by the next fold.
    pub frozen_dead: u64,
    /// Live entries of appendable parts.
    pub appended: u64,
    /// Pages of appendable parts (overflow pages not counted).
    pub append_pages: u64,
}

impl Counts {
    /// Live entries.
    pub fn live(&self) -> u64 {
        self.frozen + self.appended
    }
}

/// Counts the entries: frozen ones from the directory, appended ones by reading the appendable parts.
pub fn count<S: PageStore>(s: &S, index: &Index) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut reader = ListReader::new();
    let lists: Vec<u32> = (0..index.n_lists()).collect();
    for (&list, mut entry) in lists.iter().zip(read_entries(s, index, &lists)?) {
        let appended = loop {
            let mut n = 0;
            let all = AppendedTo::NOTHING;
            let visit = reader.for_each_appended(s, index, list, &entry, &all, |_, _, _| n += 1)?;
            if visit == Visit::Done {
                break n;
            }
            entry = reread_entry(s, index, list, &entry)?;
        };
        counts.frozen += u64::from(entry.n_live());
        counts.frozen_dead += u64::from(entry.frozen_dead);
        counts.appended += appended;
        counts.append_pages += u64::from(entry.append_pages);
    }
    Ok(counts)
}
