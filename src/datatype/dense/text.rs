//! Text form, as `omen_vector` reads it.

use super::{DenseBuf, DenseRef};
use crate::datatype::function::Args;
use crate::datatype::modifier::check_typmod;
use crate::datatype::text::{NUMBER_BYTES, TextBuf};
use crate::error::Result;
use core::ffi::c_char;
use omen_vector::Element;
use omen_vector::dense::{parse_text, room_for};

/// Input: `(cstring, oid, integer)`.
pub(in crate::datatype) fn input<E: Element>(args: &Args) -> Result<DenseBuf<E>> {
    let literal = args.cstr(0);
    let mut value = DenseBuf::zeroed(room_for::<E>(literal))?;
    // Postgres keeps LC_NUMERIC at "C".
    let dim = parse_text(literal, value.x_mut())?;
    check_typmod(args.int(2), dim)?;
    value.truncate(dim)?;
    Ok(value)
}

/// Output.
pub(in crate::datatype) fn output<E: Element>(value: &DenseRef<E>) -> *mut c_char {
    let mut text = TextBuf::with_capacity(value.dim() * (NUMBER_BYTES + 1) + 2);
    let mut separator = b'[';
    for x in value.x() {
        text.push(separator);
        text.push_float(x.to_f32());
        separator = b',';
    }
    text.push(b']');
    text.into_cstring()
}
