//! Text form: `[1,2,3]`. White space is allowed around brackets, commas and numbers.

use crate::cursor::{Cursor, Number};
use crate::{Element, InputError, Result};
use core::ffi::CStr;

/// Numbers that [`parse_text`] wants room for: the count of commas bounds the dimension, so that the numbers go straight to where they are wanted.
pub fn room_for<E: Element>(literal: &CStr) -> usize {
    let n_commas = literal.to_bytes().iter().filter(|&&c| c == b',').count();
    E::TYPE.max_dim().min(n_commas + 1)
}

/// Writes the coordinates of `literal` to `x`, which has [`room_for`] them; how many there are. Errors: as pgvector's, in the order of the text.
pub fn parse_text<E: Element>(literal: &CStr, x: &mut [E]) -> Result<usize> {
    let mut cursor = Cursor::new(E::TYPE, literal);
    cursor.skip_space();
    if cursor.peek() != b'[' {
        return Err(cursor.syntax_error(Some("Vector contents must start with \"[\".")));
    }
    cursor.skip();
    cursor.skip_space();
    if cursor.peek() == b']' {
        return Err(InputError::NoDimension(E::TYPE));
    }
    let mut dim = 0;
    loop {
        if dim == E::TYPE.max_dim() {
            return Err(InputError::TooManyDimensions(E::TYPE));
        }
        cursor.skip_space();
        x[dim] = coordinate(&cursor.number()?)?;
        dim += 1;
        cursor.skip_space();
        match cursor.peek() {
            b',' => cursor.skip(),
            b']' => break,
            _ => return Err(cursor.syntax_error(None)),
        }
    }
    cursor.skip();
    cursor.skip_space();
    if cursor.peek() != 0 {
        return Err(cursor.syntax_error(Some("Junk after closing right brace.")));
    }
    E::TYPE.check_dim(dim)?;
    Ok(dim)
}

/// Errors: not finite, or beyond the range.
#[inline]
fn coordinate<E: Element>(number: &Number) -> Result<E> {
    let x = E::from_f32(number.x);
    if x.is_finite() {
        return Ok(x);
    }
    if !number.x.is_nan() && !number.names_infinity() {
        return Err(number.out_of_range(E::TYPE));
    }
    E::TYPE.check_finite(x.to_f32())?;
    Ok(x)
}
