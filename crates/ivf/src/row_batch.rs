//! Stored rows in bulk: what those who read a table hand to the one who assigns the rows to lists.
//!
//! As bytes, in the machine's order: number of rows and dimension, u32; block and offset, u32, and radius, f32, of each row; the rows,
//! f16 `[n, dim]`.

use crate::stored::StoredVector;
use crate::{IvfError, Result, Tid};
use half::f16;

const HEAD_BYTES: usize = 8;
const ROW_HEAD_BYTES: usize = 12;

/// Stored rows of one dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct RowBatch {
    dim: usize,
    heads: Vec<(Tid, f32)>,
    rows: Vec<f16>,
}

impl RowBatch {
    /// No rows, of `dim` dimensions.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            heads: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// No rows, with room for `n` of them.
    pub fn with_capacity(dim: usize, n: usize) -> Self {
        Self {
            dim,
            heads: Vec::with_capacity(n),
            rows: Vec::with_capacity(n * dim),
        }
    }

    /// As [`Self::with_capacity`], in memory that the system has already given: whoever fills it does not wait for that.
    pub fn ready(dim: usize, n: usize) -> Self {
        let mut batch = Self::with_capacity(dim, n);
        batch.rows.resize(n * dim, f16::ZERO);
        batch.rows.clear();
        batch
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Heap row and radius of each, `[n]`.
    pub fn heads(&self) -> &[(Tid, f32)] {
        &self.heads
    }

    /// The rows, `[n, dim]`.
    pub fn rows(&self) -> &[f16] {
        &self.rows
    }

    /// A row, `[dim]`.
    pub fn row(&self, i: usize) -> &[f16] {
        &self.rows[i * self.dim..][..self.dim]
    }

    /// Bytes of memory it takes, with the room it has.
    pub fn capacity_bytes(&self) -> usize {
        self.heads.capacity() * size_of::<(Tid, f32)>() + self.rows.capacity() * size_of::<f16>()
    }

    /// Rows that a batch of so many bytes has.
    pub fn rows_of_bytes(&self, n_bytes: usize) -> usize {
        n_bytes.saturating_sub(HEAD_BYTES) / (ROW_HEAD_BYTES + self.dim * size_of::<f16>())
    }

    /// Adds a row, of this dimension.
    pub fn push(&mut self, tid: Tid, stored: &StoredVector) {
        self.push_row(tid, stored.err, &stored.row);
    }

    /// Adds a row, `[dim]`, with its radius.
    pub fn push_row(&mut self, tid: Tid, err: f32, row: &[f16]) {
        debug_assert_eq!(row.len(), self.dim);
        self.heads.push((tid, err));
        self.rows.extend_from_slice(row);
    }

    /// Leaves no rows.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.rows.clear();
    }

    /// Bytes it takes encoded.
    pub fn n_bytes(&self) -> usize {
        HEAD_BYTES + self.len() * (ROW_HEAD_BYTES + self.dim * size_of::<f16>())
    }

    /// Its bytes, in place of what `to` holds.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.clear();
        to.reserve(self.n_bytes());
        for n in [self.len(), self.dim] {
            to.extend_from_slice(&(n as u32).to_ne_bytes());
        }
        for (tid, err) in &self.heads {
            to.extend_from_slice(&tid.block.to_ne_bytes());
            to.extend_from_slice(&tid.offset.to_ne_bytes());
            to.extend_from_slice(&err.to_ne_bytes());
        }
        to.extend_from_slice(bytemuck::cast_slice(&self.rows));
    }

    /// Adds the rows of `bytes`. Errors: `Store` for what is no batch of this dimension; then it stays as it was.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let broken = || IvfError::Store("a batch of rows that is none".into());
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(broken)?;
        let word = |at: usize| bytemuck::pod_read_unaligned::<u32>(&head[at..at + 4]) as usize;
        let (n, dim) = (word(0), word(4));
        let row_bytes = self.dim * size_of::<f16>();
        let is_whole = rest.len() == n.saturating_mul(ROW_HEAD_BYTES + row_bytes);
        if dim != self.dim || !is_whole {
            return Err(broken());
        }
        let (heads, rows) = rest.split_at(n * ROW_HEAD_BYTES);
        let (heads, _) = heads.as_chunks::<ROW_HEAD_BYTES>();
        self.heads.extend(heads.iter().map(|head| {
            let [block, offset, err]: [u32; 3] = bytemuck::pod_read_unaligned(head);
            (Tid { block, offset }, f32::from_bits(err))
        }));
        match bytemuck::try_cast_slice(rows) {
            Ok(rows) => self.rows.extend_from_slice(rows),
            // At an odd address.
            Err(_) => {
                let at = self.rows.len();
                self.rows.resize(at + n * self.dim, f16::ZERO);
                bytemuck::cast_slice_mut(&mut self.rows[at..]).copy_from_slice(rows);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch_of(dim: usize, rows: &[(u32, u32, f32, u16)]) -> RowBatch {
        let mut batch = RowBatch::new(dim);
        for &(block, offset, err, x) in rows {
            let row = (0..dim as u16).map(|i| f16::from_bits(x ^ i)).collect();
            batch.push(Tid { block, offset }, &StoredVector { row, err });
        }
        batch
    }

    fn bits(batch: &RowBatch) -> (Vec<(Tid, u32)>, Vec<u16>) {
        (
            batch.heads.iter().map(|(t, e)| (*t, e.to_bits())).collect(),
            batch.rows.iter().map(|x| x.to_bits()).collect(),
        )
    }

    proptest! {
        #[test]
        fn batches_come_back(dim in 1usize..40, rows in proptest::collection::vec(any::<(u32, u32, f32, u16)>(), 0..20), cut in 0usize..12) {
            let batch = batch_of(dim, &rows);
            let (mut bytes, mut back) = (vec![7; 3], RowBatch::new(dim));
            batch.encode(&mut bytes);
            prop_assert_eq!(bytes.len(), batch.n_bytes());
            back.append(&bytes).unwrap();
            prop_assert_eq!(bits(&back), bits(&batch));
            // Another is added; what is none leaves it as it is.
            back.append(&bytes).unwrap();
            let twice = bits(&batch_of(dim, &[&rows[..], &rows[..]].concat()));
            prop_assert_eq!(bits(&back), twice.clone());
            prop_assert!(RowBatch::new(dim + 1).append(&bytes).is_err());
            bytes.extend_from_slice(&vec![0; cut + 1]);
            prop_assert!(back.append(&bytes).is_err());
            bytes.truncate(bytes.len().saturating_sub(2 * cut + 2));
            prop_assert!(back.append(&bytes).is_err());
            prop_assert_eq!(bits(&back), twice);
        }
    }
}
