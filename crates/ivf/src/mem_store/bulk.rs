//! Building an index in memory.

use super::{MemStore, zero_hole};
use crate::Result;
use crate::store::BulkWriter;

impl BulkWriter for MemStore {
    fn reserve(&mut self, n: u32) -> Result<u32> {
        let first = self.cells().len() as u32;
        self.grow(first + n);
        Ok(first)
    }

    fn append(&mut self, page: &[u8]) -> Result<u32> {
        let block = self.reserve(1)?;
        self.write_at(block, page)?;
        Ok(block)
    }

    fn write_at(&mut self, block: u32, page: &[u8]) -> Result<()> {
        self.may_fail()?;
        self.damage(block, |image| {
            image.copy_from_slice(page);
            zero_hole(image);
        });
        Ok(())
    }

    fn check_interrupts(&mut self) -> Result<()> {
        self.may_fail()
    }
}
