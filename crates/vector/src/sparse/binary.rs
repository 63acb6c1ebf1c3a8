//! Binary form: `dim: i32, nnz: i32, unused: i32 = 0, indices: [i32; nnz], x: [f32; nnz]`, big-endian, indices from 0.

use super::{check_index, check_nnz};
use crate::{InputError, Result, VectorType};

/// Bytes before the indices.
pub const HEAD_BYTES: usize = 12;

const TYPE: VectorType = VectorType::Sparsevec;

/// Bytes of the binary form of `nnz` elements.
pub const fn binary_bytes(nnz: usize) -> usize {
    HEAD_BYTES + 8 * nnz
}

/// The binary form of a value of which only dimension and number of elements have been looked at.
#[derive(Debug, Clone, Copy)]
pub struct Binary<'a> {
    dim: usize,
    nnz: usize,
    unused: i32,
    /// Indices, then values, as far as the message goes.
    words: &'a [[u8; 4]],
}

/// The value that `message` begins with. Errors: it is shorter than a head, or has numbers of dimensions or elements that no value has.
pub fn read_binary(message: &[u8]) -> Result<Binary<'_>> {
    let (words, _) = message.as_chunks();
    let [dim, nnz, unused, words @ ..] = words else {
        return Err(InputError::Short { needed: HEAD_BYTES });
    };
    let dim = usize::try_from(i32::from_be_bytes(*dim)).unwrap_or(0);
    TYPE.check_dim(dim)?;
    let nnz = i32::from_be_bytes(*nnz);
    check_nnz(nnz.into(), dim)?;
    Ok(Binary {
        dim,
        nnz: nnz as usize,
        unused: i32::from_be_bytes(*unused),
        words,
    })
}

impl Binary<'_> {
    /// Number of dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of elements.
    pub fn nnz(&self) -> usize {
        self.nnz
    }

    /// Bytes of the message that it takes.
    pub fn n_bytes(&self) -> usize {
        binary_bytes(self.nnz)
    }

    /// Errors: the reserved field is in use.
    pub fn check_unused(&self) -> Result<()> {
        match self.unused {
            0 => Ok(()),
            unused => Err(InputError::Unused(unused)),
        }
    }

    /// Writes indices and values to `indices` and `x`, `[nnz]`. Errors, in the order of the message: an index is none of the dimensions or out of
    /// order, a value is not finite or is zero, or the message ends.
    pub fn read_to(&self, indices: &mut [i32], x: &mut [f32]) -> Result<()> {
        let mut words = self.words.iter();
        let mut next = || {
            words.next().copied().ok_or(InputError::Short {
                needed: self.n_bytes(),
            })
        };
        let mut before = None;
        for to in indices {
            let index = i32::from_be_bytes(next()?);
            check_index(index, before, self.dim)?;
            before = Some(index);
            *to = index;
        }
        for to in x {
            *to = f32::from_be_bytes(next()?);
            TYPE.check_finite(*to)?;
            if *to == 0.0 {
                return Err(InputError::ZeroElement);
            }
        }
        Ok(())
    }
}

/// Writes the binary form of a value to `to`, [`binary_bytes`].
pub fn put_binary(dim: i32, unused: i32, indices: &[i32], x: &[f32], to: &mut [u8]) {
    let head = [dim, indices.len() as i32, unused];
    let words = head.iter().chain(indices).map(|n| n.to_be_bytes());
    let words = words.chain(x.iter().map(|x| x.to_be_bytes()));
    for (to, word) in to.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word;
    }
}
