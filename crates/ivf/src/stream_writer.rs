//! Writes one stream of a list's frozen part to pages, in order, from pieces of any size.

use crate::Result;
use crate::layout::directory::Run;
use crate::layout::page::{self, CONTENT_BYTES, PageKind};
use crate::store::PAGE_BYTES;

/// Where finished pages go: a page store (fold) or a bulk writer (build). Gets an initialised page, returns its block.
pub(crate) type PagePut<'a> = &'a mut dyn FnMut(&[u8]) -> Result<u32>;

/// A stream being written.
pub(crate) struct StreamWriter {
    page: Vec<u8>,
    used: usize,
    kind: PageKind,
    list: u32,
    stamp: u32,
    n_pages: u32,
    runs: Vec<Run>,
}

impl StreamWriter {
    /// A stream of `list` in its layout `stamp`.
    pub(crate) fn new(kind: PageKind, list: u32, stamp: u32) -> Self {
        Self {
            page: vec![0; PAGE_BYTES],
            used: 0,
            kind,
            list,
            stamp,
            n_pages: 0,
            runs: Vec::new(),
        }
    }

    /// Adds bytes.
    pub(crate) fn push(&mut self, mut bytes: &[u8], put: PagePut) -> Result<()> {
        while !bytes.is_empty() {
            if self.used == 0 {
                page::init_page(
                    &mut self.page,
                    self.kind,
                    self.list,
                    self.stamp,
                    self.n_pages,
                );
            }
            let n = bytes.len().min(CONTENT_BYTES - self.used);
            let (now, later) = bytes.split_at(n);
            page::content_mut(&mut self.page)[self.used..self.used + n].copy_from_slice(now);
            self.used += n;
            bytes = later;
            if self.used == CONTENT_BYTES {
                self.flush(put)?;
            }
        }
        Ok(())
    }

    /// Writes what is left and returns the stream's runs.
    pub(crate) fn finish(mut self, put: PagePut) -> Result<Vec<Run>> {
        if self.used > 0 {
            self.flush(put)?;
        }
        Ok(self.runs)
    }

    fn flush(&mut self, put: PagePut) -> Result<()> {
        page::set_content_bytes(&mut self.page, self.used);
        let block = put(&self.page)?;
        match self.runs.last_mut() {
            Some(run) if run.start + run.len == block => run.len += 1,
            _ => self.runs.push(Run {
                start: block,
                len: 1,
            }),
        }
        self.n_pages += 1;
        self.used = 0;
        Ok(())
    }
}
