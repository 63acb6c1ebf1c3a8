//! Text form: `{1:1.5,3:-2}/5`, read by `omen_vector`.

use super::{SparsevecBuf, SparsevecRef, TYPE};
use crate::datatype::function::pg_functions;
use crate::datatype::modifier::{check_typmod, typmod_in};
use crate::datatype::text::{NUMBER_BYTES, TextBuf};
use core::ffi::c_char;
use omen_vector::sparse::parse_text;

/// Most digits of an index or a dimension.
const INTEGER_BYTES: usize = 10;

pg_functions! {
    /// Input: `sparsevec_in(cstring, oid, integer)`.
    fn sparsevec_in(args) -> SparsevecBuf {
        // Postgres keeps LC_NUMERIC at "C".
        let parsed = parse_text(args.cstr(0))?;
        let dim = parsed.dim();
        check_typmod(args.int(2), dim)?;
        let elements = parsed.sorted()?;
        SparsevecBuf::from_elements(dim, elements.len(), elements.into_iter())
    }

    /// Output: `sparsevec_out(sparsevec)`.
    fn sparsevec_out(args) -> *mut c_char {
        let value = args.read::<SparsevecRef>(0)?;
        let element_bytes = INTEGER_BYTES + NUMBER_BYTES + 2;
        let mut text = TextBuf::with_capacity(value.nnz() * element_bytes + INTEGER_BYTES + 3);
        text.push(b'{');
        for (i, (&index, &x)) in value.indices().iter().zip(value.x()).enumerate() {
            if i > 0 {
                text.push(b',');
            }
            // Indices are below the dimension, which is an i32.
            text.push_integer(index as u32 + 1);
            text.push(b':');
            text.push_float(x);
        }
        text.push(b'}');
        text.push(b'/');
        text.push_integer(value.dim() as u32);
        Ok(text.into_cstring())
    }

    /// Type modifier input: `sparsevec_typmod_in(cstring[])`.
    fn sparsevec_typmod_in(args) -> i32 {
        typmod_in(TYPE, args)
    }
}
