//! Binary form, as `omen_vector` reads and writes it.

use super::{SparsevecBuf, SparsevecRef};
use crate::datatype::function::pg_functions;
use crate::datatype::message::{Message, new_bytea};
use crate::datatype::modifier::check_typmod;
use omen_vector::sparse::{binary_bytes, put_binary, read_binary};

pg_functions! {
    /// Binary input: `sparsevec_recv(internal, oid, integer)`.
    fn sparsevec_recv(args) -> SparsevecBuf {
        let message = Message::new(args.pointer(0));
        let binary = read_binary(message.rest()).map_err(|error| message.refused(error))?;
        check_typmod(args.int(2), binary.dim())?;
        binary.check_unused()?;
        let mut value = SparsevecBuf::zeroed(binary.dim(), binary.nnz())?;
        let (indices, x) = value.parts_mut();
        binary.read_to(indices, x).map_err(|error| message.refused(error))?;
        message.take(binary.n_bytes());
        Ok(value)
    }

    /// Binary output: `sparsevec_send(sparsevec)`, a bytea.
    fn sparsevec_send(args) -> *mut u8 {
        let value = args.read::<SparsevecRef>(0)?;
        Ok(new_bytea(binary_bytes(value.nnz()), |bytes| {
            put_binary(value.dim() as i32, value.unused(), value.indices(), value.x(), bytes);
        }))
    }
}
