//! Binary form: `dim: u16, unused: u16 = 0, x: [f32; dim]`, big-endian; and the type modifier, which is the dimension.

use super::{MAX_DIM, VectorBuf, check_dim, check_finite, check_typmod};
use crate::datatype::function::pg_functions;
use crate::datatype::varlena::{HEADER_BYTES, new_varlena};
use crate::error::PgError;
use core::ffi::c_int;
use pgrx::{PgSqlErrorCode, pg_sys};

pg_functions! {
    /// Binary input: `vector_recv(internal, oid, integer)`.
    fn vector_recv(args) -> VectorBuf {
        let message = args.pointer(0);
        let dim = usize::from(read_u16(message));
        let unused = read_u16(message);
        check_dim(dim)?;
        check_typmod(args.int(2), dim)?;
        if unused != 0 {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
                format!("expected unused to be 0, not {unused}"),
            ));
        }
        let mut vector = VectorBuf::zeroed(dim)?;
        // Without a way out of the loop the compiler makes it several numbers at a time.
        let mut are_finite = true;
        for (x, bytes) in vector.x_mut().iter_mut().zip(read_floats(message, dim)) {
            *x = f32::from_be_bytes(*bytes);
            are_finite &= x.is_finite();
        }
        if !are_finite {
            vector.x().iter().try_for_each(|&x| check_finite(x))?;
        }
        Ok(vector)
    }

    /// Binary output: `vector_send(vector)`, a bytea.
    fn vector_send(args) -> *mut u8 {
        let vector = args.vector(0)?;
        let n_bytes = HEADER_BYTES + 4 + 4 * vector.dim();
        let bytea = new_varlena(n_bytes);
        #[allow(unsafe_code)]
        // SAFETY: `new_varlena` gave `n_bytes` initialised bytes that nothing else refers to.
        let bytes = unsafe { core::slice::from_raw_parts_mut(bytea, n_bytes) };
        bytes[4..6].copy_from_slice(&(vector.dim() as u16).to_be_bytes());
        bytes[6..8].copy_from_slice(&vector.unused().to_be_bytes());
        for (out, x) in bytes[8..].chunks_exact_mut(4).zip(vector.x()) {
            out.copy_from_slice(&x.to_be_bytes());
        }
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

/// The next two bytes of a message. Raises Postgres' error when it is too short.
#[allow(unsafe_code)]
fn read_u16(message: pg_sys::StringInfo) -> u16 {
    // SAFETY: `message` is the argument that Postgres declares as a StringInfo.
    unsafe { pg_sys::pq_getmsgint(message, 2) as u16 }
}

/// The next `n_floats` floats of a message, not swapped. Raises Postgres' error when it is too short.
#[allow(unsafe_code)]
fn read_floats<'a>(message: pg_sys::StringInfo, n_floats: usize) -> &'a [[u8; 4]] {
    // SAFETY: `message` as above; pq_getmsgbytes returns that many bytes of the message, which outlives the call,
    // or raises an error. `n_floats` is at most MAX_DIM.
    unsafe {
        let bytes = pg_sys::pq_getmsgbytes(message, 4 * n_floats as c_int);
        core::slice::from_raw_parts(bytes.cast(), n_floats)
    }
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
