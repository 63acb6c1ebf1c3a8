//! Text form: `[1,2,3]`, read by `omen_vector`, and written with the fewest digits that read back the same.

use super::{VectorBuf, VectorRef, check_typmod};
use crate::datatype::function::pg_functions;
use core::ffi::{c_char, c_int};
use omen_vector::{parse_text, room_for};
use pgrx::pg_sys;

/// Most bytes of one number in text, with a terminator (Postgres' FLOAT_SHORTEST_DECIMAL_LEN).
const NUMBER_BYTES: usize = 16;

#[allow(unsafe_code)]
unsafe extern "C" {
    /// Of Postgres (common/shortest_dec.h): writes at most 15 bytes, no terminator, returns how many.
    fn float_to_shortest_decimal_bufn(f: f32, result: *mut c_char) -> c_int;
}

pg_functions! {
    /// Input: `vector_in(cstring, oid, integer)`.
    fn vector_in(args) -> VectorBuf {
        let literal = args.cstr(0);
        let mut vector = VectorBuf::zeroed(room_for(literal))?;
        // Postgres keeps LC_NUMERIC at "C".
        let dim = parse_text(literal, vector.x_mut())?;
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
