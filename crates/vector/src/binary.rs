//! Binary form: `dim: u16, unused: u16 = 0, x: [f32; dim]`, big-endian.

use crate::{InputError, Result, check_dim, check_finite};

/// Bytes before the coordinates.
pub const HEAD_BYTES: usize = 4;

/// The binary form of a vector whose coordinates have not been looked at.
#[derive(Debug, Clone, Copy)]
pub struct Binary<'a>(&'a [[u8; 4]]);

/// The vector that `message` begins with. Errors: it is shorter than it says, has a dimension that no vector has, or uses the reserved field.
pub fn read_binary(message: &[u8]) -> Result<Binary<'_>> {
    let short = |needed| InputError::Short { needed };
    let Some((&[d1, d0, u1, u0], rest)) = message.split_first_chunk() else {
        return Err(short(HEAD_BYTES));
    };
    let dim = usize::from(u16::from_be_bytes([d1, d0]));
    check_dim(dim)?;
    match u16::from_be_bytes([u1, u0]) {
        0 => {}
        unused => return Err(InputError::Unused(unused)),
    }
    let (floats, _) = rest.as_chunks();
    let floats = floats
        .get(..dim)
        .ok_or_else(|| short(HEAD_BYTES + 4 * dim))?;
    Ok(Binary(floats))
}

impl Binary<'_> {
    /// Number of coordinates.
    pub fn dim(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the message that it takes.
    pub fn n_bytes(&self) -> usize {
        HEAD_BYTES + 4 * self.dim()
    }

    /// Writes the coordinates to `x`, `[dim]`. Errors: one is not finite.
    pub fn read_to(&self, x: &mut [f32]) -> Result<()> {
        // Without a way out of the loop the compiler makes it several numbers at a time.
        let mut are_finite = true;
        for (x, bytes) in x.iter_mut().zip(self.0) {
            *x = f32::from_be_bytes(*bytes);
            are_finite &= x.is_finite();
        }
        if !are_finite {
            x.iter().try_for_each(|&x| check_finite(x))?;
        }
        Ok(())
    }
}

/// Writes the binary form of `x` to `to`, [`HEAD_BYTES`] and four for each coordinate.
pub fn put_binary(unused: u16, x: &[f32], to: &mut [u8]) {
    to[..2].copy_from_slice(&(x.len() as u16).to_be_bytes());
    to[2..HEAD_BYTES].copy_from_slice(&unused.to_be_bytes());
    for (to, x) in to[HEAD_BYTES..].chunks_exact_mut(4).zip(x) {
        to.copy_from_slice(&x.to_be_bytes());
    }
}
