//! Binary form, as `omen_vector` reads and writes it.

use super::{DenseBuf, DenseRef};
use crate::datatype::function::Args;
use crate::datatype::message::{Message, new_bytea};
use crate::datatype::modifier::check_typmod;
use crate::error::Result;
use omen_vector::Element;
use omen_vector::dense::{binary_bytes, put_binary, read_binary};

/// Binary input: `(internal, oid, integer)`.
pub(in crate::datatype) fn receive<E: Element>(args: &Args) -> Result<DenseBuf<E>> {
    let message = Message::new(args.pointer(0));
    let binary = read_binary::<E>(message.rest()).map_err(|error| message.refused(error))?;
    check_typmod(args.int(2), binary.dim())?;
    binary.check_unused()?;
    let mut value = DenseBuf::zeroed(binary.dim())?;
    binary
        .read_to(value.x_mut())
        .map_err(|error| message.refused(error))?;
    message.take(binary.n_bytes());
    Ok(value)
}

/// Binary output: a bytea.
pub(in crate::datatype) fn send<E: Element>(value: &DenseRef<E>) -> *mut u8 {
    new_bytea(binary_bytes::<E>(value.dim()), |bytes| {
        put_binary(value.unused(), value.x(), bytes);
    })
}
