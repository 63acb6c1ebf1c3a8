//! Text form: `[1,2,3]`. White space is allowed around brackets, commas and numbers; numbers are read as C's `strtof`
//! does, and written with the fewest digits that read back the same.

use super::{MAX_DIM, VectorBuf, VectorRef, check_dim, check_finite, check_typmod};
use super::{no_dimension, too_many_dimensions};
use crate::datatype::function::pg_functions;
use crate::error::{PgError, Result};
use core::ffi::{CStr, c_char, c_int};
use pgrx::{PgSqlErrorCode, pg_sys};

/// Most bytes of one number in text, with a terminator (Postgres' FLOAT_SHORTEST_DECIMAL_LEN).
const NUMBER_BYTES: usize = 16;

#[allow(unsafe_code)]
unsafe extern "C" {
    /// Of Postgres (common/shortest_dec.h): writes at most 15 bytes, no terminator, returns how many.
    fn float_to_shortest_decimal_bufn(f: f32, result: *mut c_char) -> c_int;
    /// Of C. Postgres keeps LC_NUMERIC at "C".
    fn strtof(text: *const c_char, end: *mut *mut c_char) -> f32;
}

pg_functions! {
    /// Input: `vector_in(cstring, oid, integer)`.
    fn vector_in(args) -> VectorBuf {
        let literal = args.cstr(0);
        // The count of commas bounds the dimension, so the numbers go straight into the result.
        let n_commas = literal.to_bytes().iter().filter(|&&c| c == b',').count();
        let mut vector = VectorBuf::zeroed(MAX_DIM.min(n_commas + 1))?;
        let dim = Parser { literal, at: 0 }.parse(vector.x_mut())?;
        check_dim(dim)?;
        check_typmod(args.int(2), dim)?;
        vector.truncate(dim)?;
        Ok(vector)
    }

    /// Output: `vector_out(vector)`.
    fn vector_out(args) -> *mut c_char {
        Ok(write(&args.vector(0)?))
    }
}

/// The text of `vector` as a palloc'd C string.
#[allow(unsafe_code)]
fn write(vector: &VectorRef) -> *mut c_char {
    let n_bytes = vector.dim() * NUMBER_BYTES + 3;
    // SAFETY: each number takes at most NUMBER_BYTES - 1 bytes and one comma or bracket; the last bracket and the
    // terminator are in the 3 extra bytes. So `at` stays within `n_bytes`.
    unsafe {
        let text = pg_sys::palloc(n_bytes).cast::<c_char>();
        let mut at = text;
        let mut separator = b'[';
        for &x in vector.x() {
            *at = separator as c_char;
            at = at.add(1);
            at = at.add(float_to_shortest_decimal_bufn(x, at) as usize);
            separator = b',';
        }
        *at = b']' as c_char;
        *at.add(1) = 0;
        text
    }
}

/// Reads a literal from left to right; `at` is the offset of the next byte.
struct Parser<'a> {
    literal: &'a CStr,
    at: usize,
}

impl Parser<'_> {
    /// Writes the coordinates to `x`, which has room for one more than the literal has commas, or [`MAX_DIM`].
    /// Returns how many there are. Errors: as pgvector's, in the order of the text.
    fn parse(mut self, x: &mut [f32]) -> Result<usize> {
        self.skip_space();
        if self.peek() != b'[' {
            return Err(self
                .syntax_error()
                .with_detail("Vector contents must start with \"[\"."));
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == b']' {
            return Err(no_dimension());
        }
        let mut dim = 0;
        loop {
            if dim == MAX_DIM {
                return Err(too_many_dimensions());
            }
            self.skip_space();
            x[dim] = self.number()?;
            dim += 1;
            self.skip_space();
            match self.peek() {
                b',' => self.at += 1,
                b']' => break,
                _ => return Err(self.syntax_error()),
            }
        }
        self.at += 1;
        self.skip_space();
        if self.peek() != 0 {
            return Err(self
                .syntax_error()
                .with_detail("Junk after closing right brace."));
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
            return Err(self.syntax_error());
        }
        self.at += n_read;
        Ok(x)
    }

    #[cold]
    fn syntax_error(&self) -> PgError {
        PgError::new(
            PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
            format!(
                "invalid input syntax for type vector: \"{}\"",
                printable(self.literal.to_bytes())
            ),
        )
    }

    /// The number from `start` to here is beyond the range of f32.
    #[cold]
    fn range_error(&self, start: usize) -> PgError {
        let number = printable(&self.literal.to_bytes()[start..self.at]);
        PgError::new(
            PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{number}\" is out of range for type vector"),
        )
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
