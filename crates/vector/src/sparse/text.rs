//! Text form: `{1:1.5,3:-2}/5`, indices from 1, then the dimension. White space is allowed around each part; elements may come in any order, and those
//! that are zero are left out.

use super::{MAX_NNZ, check_index};
use crate::cursor::{Cursor, Number};
use crate::{InputError, Result, VectorType};
use core::ffi::CStr;

const TYPE: VectorType = VectorType::Sparsevec;

/// What a literal holds: its dimension has been checked, the indices have not.
#[derive(Debug, Clone, PartialEq)]
pub struct Elements {
    dim: usize,
    /// Index from 0, value.
    elements: Vec<(i32, f32)>,
}

/// Reads `literal`. Errors: as pgvector's, in the order of the text.
pub fn parse_text(literal: &CStr) -> Result<Elements> {
    let n_commas = literal.to_bytes().iter().filter(|&&c| c == b',').count();
    if n_commas + 1 > MAX_NNZ {
        return Err(InputError::TooManyElements);
    }
    let mut cursor = Cursor::new(TYPE, literal);
    cursor.skip_space();
    if cursor.peek() != b'{' {
        return Err(cursor.syntax_error(Some("Vector contents must start with \"{\".")));
    }
    cursor.skip();
    cursor.skip_space();
    let mut elements = Vec::with_capacity(n_commas + 1);
    if cursor.peek() != b'}' {
        loop {
            let (index, x) = element(&mut cursor)?;
            if x != 0.0 {
                elements.push((index, x));
            }
            cursor.skip_space();
            match cursor.peek() {
                b',' => cursor.skip(),
                b'}' => break,
                _ => return Err(cursor.syntax_error(None)),
            }
        }
    }
    cursor.skip();
    cursor.skip_space();
    if cursor.peek() != b'/' {
        return Err(cursor.syntax_error(Some("Unexpected end of input.")));
    }
    cursor.skip();
    cursor.skip_space();
    let dim = cursor.integer()?;
    cursor.skip_space();
    if cursor.peek() != 0 {
        return Err(cursor.syntax_error(Some("Junk after closing.")));
    }
    let dim = usize::try_from(dim).unwrap_or(0);
    TYPE.check_dim(dim)?;
    Ok(Elements { dim, elements })
}

/// `index:value`, the index from 0.
fn element(cursor: &mut Cursor) -> Result<(i32, f32)> {
    cursor.skip_space();
    // The lowest of all would have none below it.
    let index = cursor.integer()?.max(i32::MIN + 1);
    cursor.skip_space();
    if cursor.peek() != b':' {
        return Err(cursor.syntax_error(None));
    }
    cursor.skip();
    cursor.skip_space();
    Ok((index - 1, value(&cursor.number()?)?))
}

/// Errors: not finite, or beyond the range on either side.
fn value(number: &Number) -> Result<f32> {
    let too_large = number.x.is_infinite() && !number.names_infinity();
    if too_large || number.x == 0.0 && !number.names_zero() {
        return Err(number.out_of_range(TYPE));
    }
    TYPE.check_finite(number.x)?;
    Ok(number.x)
}

impl Elements {
    /// Number of dimensions.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Index and value of each element, in ascending order of the indices. Errors: an index is none of the dimensions, or comes twice.
    pub fn sorted(mut self) -> Result<Vec<(i32, f32)>> {
        self.elements.sort_by_key(|&(index, _)| index);
        let mut before = None;
        for &(index, _) in &self.elements {
            check_index(index, before, self.dim)?;
            before = Some(index);
        }
        Ok(self.elements)
    }
}
