//! Text form: `[1,2,3]`. White space is allowed around brackets, commas and numbers; numbers are read as C's `strtof`
//! does.

use crate::{InputError, MAX_DIM, Result, check_dim, check_finite};
use core::ffi::{CStr, c_char};

#[allow(unsafe_code)]
unsafe extern "C" {
    /// Of C. The caller keeps LC_NUMERIC at "C".
    fn strtof(text: *const c_char, end: *mut *mut c_char) -> f32;
}

/// Numbers that [`parse_text`] wants room for: the count of commas bounds the dimension, so that the numbers go straight to where they are wanted.
pub fn room_for(literal: &CStr) -> usize {
    let n_commas = literal.to_bytes().iter().filter(|&&c| c == b',').count();
    MAX_DIM.min(n_commas + 1)
}

/// Writes the coordinates of `literal` to `x`, which has [`room_for`] them; how many there are. Errors: as pgvector's, in the order of the text.
pub fn parse_text(literal: &CStr, x: &mut [f32]) -> Result<usize> {
    let dim = Parser { literal, at: 0 }.parse(x)?;
    check_dim(dim)?;
    Ok(dim)
}

/// Reads a literal from left to right; `at` is the offset of the next byte.
struct Parser<'a> {
    literal: &'a CStr,
    at: usize,
}

impl Parser<'_> {
    /// As [`parse_text`].
    fn parse(mut self, x: &mut [f32]) -> Result<usize> {
        self.skip_space();
        if self.peek() != b'[' {
            return Err(self.syntax_error(Some("Vector contents must start with \"[\".")));
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == b']' {
            return Err(InputError::NoDimension);
        }
        let mut dim = 0;
        loop {
            if dim == MAX_DIM {
                return Err(InputError::TooManyDimensions);
            }
            self.skip_space();
            x[dim] = self.number()?;
            dim += 1;
            self.skip_space();
            match self.peek() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.syntax_error(None)),
            }
        }
        self.at += 1;
        self.skip_space();
        if self.peek() != 0 {
            return Err(self.syntax_error(Some("Junk after closing right brace.")));
        }
        Ok(dim)
    }

    /// The next byte; 0 at the end.
    #[inline]
    fn peek(&self) -> u8 {
        self.literal.to_bytes_with_nul()[self.at]
    }

    #[inline]
    fn skip_space(&mut self) {
        while is_space(self.peek()) {
            self.at += 1;
        }
    }

    /// One finite number.
    fn number(&mut self) -> Result<f32> {
        let start = self.at;
        let rest = &self.literal.to_bytes_with_nul()[start..];
        let n_plain = rest.iter().take_while(|&&c| is_plain(c)).count();
        let plain = core::str::from_utf8(&rest[..n_plain])
            .ok()
            .and_then(|s| s.parse().ok());
        let x = match plain {
            Some(x) if ends_number(rest[n_plain]) => {
                self.at += n_plain;
                x
            }
            _ => self.number_by_c()?,
        };
        if x.is_infinite() && !names_infinity(rest) {
            return Err(self.range_error(start));
        }
        check_finite(x)?;
        Ok(x)
    }

    /// One number in any form that C reads: hexadecimal, `inf`, `nan`, or the longest prefix that is a number.
    #[allow(unsafe_code)]
    fn number_by_c(&mut self) -> Result<f32> {
        let text = self.literal.to_bytes_with_nul()[self.at..]
            .as_ptr()
            .cast::<c_char>();
        let mut end = core::ptr::null_mut();
        // SAFETY: `text` is NUL-terminated; strtof sets `end` to an address within it.
        let (x, n_read) = unsafe {
            let x = strtof(text, &mut end);
            (x, end.cast_const().offset_from(text) as usize)
        };
        if n_read == 0 {
            return Err(self.syntax_error(None));
        }
        self.at += n_read;
        Ok(x)
    }

    #[cold]
    fn syntax_error(&self, detail: Option<&'static str>) -> InputError {
        InputError::Syntax {
            literal: printable(self.literal.to_bytes()),
            detail,
        }
    }

    /// The number from `start` to here is beyond the range of f32.
    #[cold]
    fn range_error(&self, start: usize) -> InputError {
        InputError::OutOfRange(printable(&self.literal.to_bytes()[start..self.at]))
    }
}

/// White space of the SQL scanner.
#[inline]
fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// A byte of a decimal number; a run of them that Rust reads as f32 is one for C too, with the same value.
#[inline]
fn is_plain(c: u8) -> bool {
    matches!(c, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')
}

/// Whether C would end a number at `c` whatever the digits before (it would not at the `x` of `0x1F`).
#[inline]
fn ends_number(c: u8) -> bool {
    matches!(c, b',' | b']' | 0) || is_space(c)
}

/// Whether the number at the start of `text` is spelt out (`inf`, `-Infinity`) rather than too large.
fn names_infinity(text: &[u8]) -> bool {
    let unsigned = text
        .strip_prefix(b"-")
        .or(text.strip_prefix(b"+"))
        .unwrap_or(text);
    matches!(unsigned.first(), Some(b'i' | b'I'))
}

/// User text for a message. The bytes are the database's encoding: kept when they also are UTF-8, else ASCII remains.
fn printable(text: &[u8]) -> String {
    match core::str::from_utf8(text) {
        Ok(text) => text.to_owned(),
        Err(_) => text
            .iter()
            .map(|&c| if c.is_ascii() { char::from(c) } else { '?' })
            .collect(),
    }
}
