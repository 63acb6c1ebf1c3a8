//! Binary form: `dim: i16, unused: i16 = 0, x: [E; dim]`, big-endian.

use crate::{Element, InputError, Result};
use core::marker::PhantomData;

/// Bytes before the coordinates.
pub const HEAD_BYTES: usize = 4;

/// Bytes of the binary form of `dim` coordinates.
pub const fn binary_bytes<E: Element>(dim: usize) -> usize {
    HEAD_BYTES + dim * size_of::<E::Bytes>()
}

/// The binary form of a value of which only the dimension has been looked at.
#[derive(Debug, Clone, Copy)]
pub struct Binary<'a, E> {
    dim: usize,
    unused: i16,
    /// What follows the head.
    rest: &'a [u8],
    element: PhantomData<E>,
}

/// The value that `message` begins with. Errors: it is shorter than a head, or has a dimension that no value has.
pub fn read_binary<E: Element>(message: &[u8]) -> Result<Binary<'_, E>> {
    let Some((&[d1, d0, u1, u0], rest)) = message.split_first_chunk() else {
        return Err(InputError::Short { needed: HEAD_BYTES });
    };
    // As pgvector has it, a dimension of 32,768 or more is negative.
    let dim = usize::try_from(i16::from_be_bytes([d1, d0])).unwrap_or(0);
    E::TYPE.check_dim(dim)?;
    Ok(Binary {
        dim,
        unused: i16::from_be_bytes([u1, u0]),
        rest,
        element: PhantomData,
    })
}

impl<E: Element> Binary<'_, E> {
    /// Number of coordinates.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes of the message that it takes.
    pub fn n_bytes(&self) -> usize {
        binary_bytes::<E>(self.dim)
    }

    /// Errors: the reserved field is in use.
    pub fn check_unused(&self) -> Result<()> {
        match self.unused {
            0 => Ok(()),
            unused => Err(InputError::Unused(unused.into())),
        }
    }

    /// Writes the coordinates to `x`, `[dim]`. Errors, in the order of the message: one is not finite, or the message ends.
    pub fn read_to(&self, x: &mut [E]) -> Result<()> {
        let there = E::split(self.rest);
        // Without a way out of the loop the compiler makes it several numbers at a time.
        let mut are_finite = true;
        for (x, bytes) in x.iter_mut().zip(there) {
            *x = E::from_be_bytes(*bytes);
            are_finite &= x.is_finite();
        }
        if !are_finite {
            let mut read = x.iter().take(there.len());
            read.try_for_each(|x| E::TYPE.check_finite(x.to_f32()))?;
        }
        if there.len() < self.dim {
            return Err(InputError::Short {
                needed: self.n_bytes(),
            });
        }
        Ok(())
    }
}

/// Writes the binary form of `x` to `to`, [`binary_bytes`].
pub fn put_binary<E: Element>(unused: u16, x: &[E], to: &mut [u8]) {
    to[..2].copy_from_slice(&(x.len() as u16).to_be_bytes());
    to[2..HEAD_BYTES].copy_from_slice(&unused.to_be_bytes());
    let places = to[HEAD_BYTES..].chunks_exact_mut(size_of::<E::Bytes>());
    for (to, x) in places.zip(x) {
        to.copy_from_slice(x.to_be_bytes().as_ref());
    }
}
