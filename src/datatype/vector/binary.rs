//! Binary form, as `omen_vector` reads and writes it; and the type modifier, which is the dimension.

use super::{VectorBuf, check_typmod};
use crate::datatype::function::pg_functions;
use crate::datatype::varlena::{HEADER_BYTES, new_varlena};
use crate::error::PgError;
use core::ffi::c_int;
use omen_vector::{HEAD_BYTES, InputError, MAX_DIM, put_binary, read_binary};
use pgrx::{PgSqlErrorCode, pg_sys};

pg_functions! {
    /// Binary input: `vector_recv(internal, oid, integer)`.
    fn vector_recv(args) -> VectorBuf {
        let message = args.pointer(0);
        let binary = match read_binary(rest_of(message)) {
            Ok(binary) => binary,
            Err(InputError::Short { needed }) => return Err(too_short(message, needed)),
            Err(error) => return Err(error.into()),
        };
        check_typmod(args.int(2), binary.dim())?;
        let mut vector = VectorBuf::zeroed(binary.dim())?;
        binary.read_to(vector.x_mut())?;
        take(message, binary.n_bytes());
        Ok(vector)
    }

    /// Binary output: `vector_send(vector)`, a bytea.
    fn vector_send(args) -> *mut u8 {
        let vector = args.vector(0)?;
        let n_bytes = HEADER_BYTES + HEAD_BYTES + 4 * vector.dim();
        let bytea = new_varlena(n_bytes);
        #[allow(unsafe_code)]
        // SAFETY: `new_varlena` gave `n_bytes` initialised bytes that nothing else refers to.
        let bytes = unsafe { core::slice::from_raw_parts_mut(bytea, n_bytes) };
        put_binary(vector.unused(), vector.x(), &mut bytes[HEADER_BYTES..]);
        Ok(bytea)
    }

    /// Type modifier input: `vector_typmod_in(cstring[])`.
    fn vector_typmod_in(args) -> i32 {
        match typmods(args.varlena(0).as_ptr()) {
            [dim] if *dim < 1 => Err(bad_typmod("dimensions for type vector must be at least 1".into())),
            [dim] if *dim as usize > MAX_DIM => {
                Err(bad_typmod(format!("dimensions for type vector cannot exceed {MAX_DIM}")))
            }
            [dim] => Ok(*dim),
            _ => Err(bad_typmod("invalid type modifier".into())),
        }
    }
}

/// What of a message has not been taken.
#[allow(unsafe_code)]
fn rest_of<'a>(message: pg_sys::StringInfo) -> &'a [u8] {
    // SAFETY: `message` is the argument that Postgres declares as a StringInfo: `cursor` is at most `len`, the bytes outlive the call.
    unsafe {
        let (cursor, len) = ((*message).cursor as usize, (*message).len as usize);
        core::slice::from_raw_parts((*message).data.add(cursor).cast(), len - cursor)
    }
}

/// Takes `n_bytes` of a message. Raises Postgres' error when it is too short.
#[allow(unsafe_code)]
fn take(message: pg_sys::StringInfo, n_bytes: usize) {
    // SAFETY: `message` as above. A vector has at most MAX_DIM coordinates.
    unsafe { pg_sys::pq_getmsgbytes(message, n_bytes as c_int) };
}

/// A message of less than `n_bytes`: Postgres' own error, raised here.
#[cold]
fn too_short(message: pg_sys::StringInfo, n_bytes: usize) -> PgError {
    take(message, n_bytes);
    unreachable!("a message had bytes that it does not have")
}

/// The numbers in a cstring[] of modifiers. Raises Postgres' error for what is no integer.
#[allow(unsafe_code)]
fn typmods<'a>(array: *mut pg_sys::ArrayType) -> &'a [i32] {
    let mut n = 0;
    // SAFETY: `array` is the argument that Postgres declares as a cstring[]; ArrayGetIntegerTypmods checks its shape
    // and returns `n` palloc'd integers.
    unsafe {
        let typmods = pg_sys::ArrayGetIntegerTypmods(array, &mut n);
        core::slice::from_raw_parts(typmods, n as usize)
    }
}

#[cold]
fn bad_typmod(message: String) -> PgError {
    PgError::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message)
}
