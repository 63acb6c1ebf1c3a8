//! Pieces of arrays on their way to the tier, many in one staging area.

use crate::engine::{MAX_PARTS, TierWriter, WritePart};
use crate::error::GpuError;
use crate::staging::bounded;

/// Fills areas in turns.
pub(super) struct Pieces<'a, W: ?Sized> {
    writer: &'a mut W,
    n_areas: usize,
    /// Bytes of an area for pieces; behind them is room for their places.
    area_bytes: usize,
    which: usize,
    used: usize,
    parts: Vec<WritePart>,
}

impl<'a, W: TierWriter + ?Sized> Pieces<'a, W> {
    pub(super) fn new(writer: &'a mut W, n_areas: usize, area_bytes: usize) -> Self {
        Self {
            writer,
            n_areas,
            area_bytes: area_bytes - MAX_PARTS * size_of::<WritePart>(),
            which: 0,
            used: 0,
            parts: Vec::new(),
        }
    }

    /// Writes `bytes` to byte `at` of the tier, now or with what follows.
    pub(super) fn write(&mut self, mut bytes: &[u8], mut at: usize) -> Result<(), GpuError> {
        while !bytes.is_empty() {
            if self.used == self.area_bytes || self.parts.len() == MAX_PARTS {
                self.send()?;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.area_bytes - self.used));
            let area = if self.parts.is_empty() {
                let which = self.which;
                bounded(|wait| self.writer.stage(which, wait))?
            } else {
                self.writer.stage_open(self.which)?
            };
            area[self.used..][..part.len()].copy_from_slice(part);
            self.parts.push(WritePart {
                start: self.used as u64,
                len: part.len() as u64,
                at: at as u64,
            });
            self.used += part.len();
            at += part.len();
            bytes = rest;
        }
        Ok(())
    }

    /// Sends what is left.
    pub(super) fn send(&mut self) -> Result<(), GpuError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        self.writer
            .write_parts(self.which, self.used, &self.parts)?;
        self.parts.clear();
        self.used = 0;
        self.which = (self.which + 1) % self.n_areas;
        Ok(())
    }
}
