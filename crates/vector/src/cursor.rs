//! Reading a literal from left to right. Numbers are read as C's `strtof` and `strtol` do.

use crate::{InputError, Result, VectorType};
use core::ffi::{CStr, c_char};

#[allow(unsafe_code)]
unsafe extern "C" {
    /// Of C. The caller keeps LC_NUMERIC at "C".
    fn strtof(text: *const c_char, end: *mut *mut c_char) -> f32;
}

/// A place in a literal of a type.
pub(crate) struct Cursor<'a> {
    vector_type: VectorType,
    literal: &'a CStr,
    /// Offset of the next byte.
    at: usize,
}

/// A number as it was read.
pub(crate) struct Number<'a> {
    /// Its value, rounded to f32; infinite or zero where it is beyond the range.
    pub(crate) x: f32,
    /// Its text.
    pub(crate) text: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// The start of `literal`.
    pub(crate) fn new(vector_type: VectorType, literal: &'a CStr) -> Self {
        Self {
            vector_type,
            literal,
            at: 0,
        }
    }

    /// The next byte; 0 at the end.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.literal.to_bytes_with_nul()[self.at]
    }

    /// Goes on by one byte, which is not the end.
    #[inline]
    pub(crate) fn skip(&mut self) {
        self.at += 1;
    }

    /// Goes on to the next byte that is no white space.
    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while is_space(self.peek()) {
            self.at += 1;
        }
    }

    /// What is left, with the byte 0 at its end.
    fn rest(&self) -> &'a [u8] {
        &self.literal.to_bytes_with_nul()[self.at..]
    }

    /// One number in any form that C reads. Errors: there is none.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number<'a>> {
        let rest = self.rest();
        let n_plain = rest.iter().take_while(|&&c| is_plain(c)).count();
        let plain = core::str::from_utf8(&rest[..n_plain])
            .ok()
            .and_then(|s| s.parse().ok());
        let (x, n_read) = match plain {
            Some(x) if ends_number(rest[n_plain]) => (x, n_plain),
            _ => self.number_by_c()?,
        };
        self.at += n_read;
        Ok(Number {
            x,
            text: &rest[..n_read],
        })
    }

    /// One number and its length: hexadecimal, `inf`, `nan`, or the longest prefix that is a number.
    #[allow(unsafe_code)]
    fn number_by_c(&self) -> Result<(f32, usize)> {
        let text = self.rest().as_ptr().cast::<c_char>();
        let mut end = core::ptr::null_mut();
        // SAFETY: `text` is NUL-terminated; strtof sets `end` to an address within it.
        let (x, n_read) = unsafe {
            let x = strtof(text, &mut end);
            (x, end.cast_const().offset_from(text) as usize)
        };
        if n_read == 0 {
            return Err(self.syntax_error(None));
        }
        Ok((x, n_read))
    }

    /// A whole number in decimal; where it is beyond the range of i32, the nearest. Errors: there is none.
    pub(crate) fn integer(&mut self) -> Result<i32> {
        let rest = self.rest();
        let n_sign = usize::from(matches!(rest[0], b'-' | b'+'));
        let digits = &rest[n_sign..];
        let n_digits = digits.iter().take_while(|c| c.is_ascii_digit()).count();
        if n_digits == 0 {
            return Err(self.syntax_error(None));
        }
        let magnitude = digits[..n_digits].iter().fold(0_i64, |n, &c| {
            // Beyond this it is out of range whatever follows.
            n.min(1 << 40) * 10 + i64::from(c - b'0')
        });
        self.at += n_sign + n_digits;
        let n = if rest[0] == b'-' {
            -magnitude
        } else {
            magnitude
        };
        Ok(n.clamp(i32::MIN.into(), i32::MAX.into()) as i32)
    }

    /// The literal has another form.
    #[cold]
    pub(crate) fn syntax_error(&self, detail: Option<&'static str>) -> InputError {
        InputError::Syntax {
            vector_type: self.vector_type,
            literal: printable(self.literal.to_bytes()),
            detail,
        }
    }
}

impl Number<'_> {
    /// Whether it is spelt out (`inf`, `-Infinity`) rather than too large.
    pub(crate) fn names_infinity(&self) -> bool {
        matches!(self.unsigned().first(), Some(b'i' | b'I'))
    }

    /// Whether all its digits are zero, rather than it being too small.
    pub(crate) fn names_zero(&self) -> bool {
        let unsigned = self.unsigned();
        let (digits, exponent): (_, &[u8]) = match unsigned {
            [b'0', b'x' | b'X', digits @ ..] => (digits, b"pP"),
            digits => (digits, b"eE"),
        };
        let mut mantissa = digits.iter().take_while(|c| !exponent.contains(c));
        mantissa.all(|c| matches!(c, b'0' | b'.'))
    }

    fn unsigned(&self) -> &[u8] {
        let text = self.text;
        text.strip_prefix(b"-")
            .or(text.strip_prefix(b"+"))
            .unwrap_or(text)
    }

    /// The number is beyond the range.
    #[cold]
    pub(crate) fn out_of_range(&self, vector_type: VectorType) -> InputError {
        InputError::OutOfRange {
            vector_type,
            number: printable(self.text),
        }
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
    matches!(c, b',' | b']' | b'}' | 0) || is_space(c)
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
