//! Heap rows: none twice, and those of the table against the index.

use super::entry::fingerprint;
use super::report::{CheckReport, Finding};
use super::sorted_rows::{Ordered, Record, SortedRows};
use crate::spilled::RunFile;
use crate::stored::StoredVector;
use crate::{IvfError, Result, Tid};

/// Entries between two looks for interrupts.
const LOOK_ENTRIES: u64 = 4096;

/// Says what is wrong with a heap row that the index has and nobody sees in the table, if anything is.
pub type Lookup<'a> = &'a mut dyn FnMut(Tid) -> Result<Option<&'static str>>;

/// The end of a check.
pub struct CrossCheck<F> {
    report: CheckReport,
    rows: Ordered<F>,
    /// Whether no list changed while the lists were read.
    is_settled: bool,
    /// Read, and of a later block.
    next: Option<Record>,
    /// Of one block of the table, and whether the table has shown each.
    block: Option<u32>,
    here: Vec<(Record, bool)>,
}

impl<F: RunFile> CrossCheck<F> {
    pub(super) fn new(report: CheckReport, rows: SortedRows<F>, is_settled: bool) -> Self {
        Self {
            report,
            rows: rows.into_order(),
            is_settled,
            next: None,
            block: None,
            here: Vec::new(),
        }
    }

    /// A row of the table that must be in the index, and how. Rows come in the order of their blocks. `lookup` is asked about entries of earlier
    /// blocks.
    pub fn row(&mut self, tid: Tid, stored: &StoredVector, lookup: Lookup) -> Result<()> {
        self.report.rows_checked += 1;
        if self.block.is_none_or(|block| block < tid.block) {
            self.go_to(tid.block, lookup)?;
        } else if self.block != Some(tid.block) {
            return Err(IvfError::Store(
                "the rows of the table come out of order".into(),
            ));
        }
        let number = tid.as_u64();
        let first = self.here.partition_point(|(record, _)| record[0] < number);
        let wanted = fingerprint(&stored.row, stored.err);
        let mut of_row = self.here[first..].iter_mut();
        let Some((record, seen)) = of_row.next().filter(|(record, _)| record[0] == number) else {
            // Lists that were not read may have it.
            if self.report.unread_lists + self.report.unsettled_lists == 0 {
                let what = format!("lacks an entry of heap row {}", text(number));
                self.report.add(Finding {
                    list: None,
                    block: None,
                    what,
                });
            }
            return Ok(());
        };
        *seen = true;
        if record[2] != wanted {
            let what = format!(
                "the entry of heap row {} is not that of the row's vector",
                text(number)
            );
            self.report.add(Finding::of_list(record[1] as u32, what));
        }
        Ok(())
    }

    /// After the last row of the table.
    pub fn end_of_table(
        &mut self,
        lookup: Lookup,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.leave_block(lookup)?;
        let mut n = 0u64;
        while let Some(record) = self.take()? {
            n += 1;
            if n.is_multiple_of(LOOK_ENTRIES) {
                look()?;
            }
            let block = Tid::from_u64(record[0]).block;
            if self.block != Some(block) {
                self.leave_block(lookup)?;
                self.block = Some(block);
            }
            self.here.push((record, false));
        }
        self.leave_block(lookup)
    }

    /// The outcome, without a look at the table or after it. `look` is called now and then, and may end it by an error.
    pub fn finish(self, look: &mut dyn FnMut() -> Result<()>) -> Result<CheckReport> {
        self.finish_with_file(look).map(|(report, _)| report)
    }

    /// As [`Self::finish`], with the file to be given back.
    pub fn finish_with_file(
        mut self,
        look: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(CheckReport, Option<F>)> {
        self.end_of_table(&mut |_| Ok(None), look)?;
        Ok((self.report, self.rows.into_file()))
    }

    /// Leaves the block, and takes the entries of `block`; those between are of rows that nobody sees.
    fn go_to(&mut self, block: u32, lookup: Lookup) -> Result<()> {
        self.leave_block(lookup)?;
        while let Some(record) = self.take()? {
            let of = Tid::from_u64(record[0]).block;
            if of > block {
                self.next = Some(record);
                break;
            }
            if self.block != Some(of) {
                self.leave_block(lookup)?;
                self.block = Some(of);
            }
            self.here.push((record, false));
        }
        if self.block != Some(block) {
            self.leave_block(lookup)?;
            self.block = Some(block);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Record>> {
        match self.next.take() {
            Some(record) => Ok(Some(record)),
            None => self.rows.next(),
        }
    }

    /// Checks the entries of the block that nothing more is to come of.
    fn leave_block(&mut self, lookup: Lookup) -> Result<()> {
        let here = std::mem::take(&mut self.here);
        for (i, &(record, seen)) in here.iter().enumerate() {
            let tid = Tid::from_u64(record[0]);
            let list = record[1] as u32;
            if i > 0 && here[i - 1].0[0] == record[0] {
                if self.is_settled {
                    let what = match here[i - 1].0[1] {
                        other if other == record[1] => String::new(),
                        other => format!(", first in list {other}"),
                    };
                    let what = format!("heap row {} occurs twice{what}", text(record[0]));
                    self.report.add(Finding::of_list(list, what));
                }
            } else if !seen && let Some(what) = lookup(tid)? {
                let what = format!("it has an entry of heap row {}, {what}", text(record[0]));
                self.report.add(Finding::of_list(list, what));
            }
        }
        Ok(())
    }
}

/// A heap row as Postgres writes it.
fn text(tid: u64) -> String {
    format!("({},{})", tid >> 16, tid & 0xFFFF)
}
