//! The calling convention of SQL functions: [`pg_functions!`] makes each Rust function a version-1 C function with
//! the symbol `<name>_wrapper`; [`Args`] reads its arguments; [`Returned`] makes its result a datum.
//!
//! Distance operators run once per row, so nothing is allocated or looked up between Postgres and the Rust function.
//! All functions are declared STRICT: arguments are never NULL.

use super::varlena::Detoasted;
use crate::error::Result;
use core::ffi::CStr;
use pgrx::pg_sys;

/// Declares SQL functions: `fn name(args) -> T { ... Ok(value) }` becomes the C symbol `name_wrapper`.
///
/// An `Err` is raised as a Postgres error after the function's own destructors have run.
macro_rules! pg_functions {
    ($($(#[$meta:meta])* fn $name:ident($args:ident) -> $returned:ty $body:block)+) => {$(
        $(#[$meta])*
        #[inline]
        fn $name($args: &$crate::datatype::function::Args) -> $crate::error::Result<$returned> $body

        #[allow(unsafe_code)]
        const _: () = {
            #[unsafe(export_name = concat!(stringify!($name), "_wrapper"))]
            unsafe extern "C-unwind" fn call(
                fcinfo: ::pgrx::pg_sys::FunctionCallInfo,
            ) -> ::pgrx::pg_sys::Datum {
                // SAFETY: only Postgres calls this symbol, by the convention that `info` announces.
                unsafe { $crate::datatype::function::run(fcinfo, $name) }
            }

            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name), "_wrapper"))]
            extern "C" fn info() -> &'static ::pgrx::pg_sys::Pg_finfo_record {
                &::pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
            }
        };
    )+};
}
pub(super) use pg_functions;

/// The arguments of the call in progress. Index and type of each access follow the declaration in `sql/`.
pub(crate) struct Args {
    fcinfo: pg_sys::FunctionCallInfo,
}

#[allow(unsafe_code)]
impl Args {
    /// Argument `index` as it came.
    #[inline]
    pub(super) fn datum(&self, index: usize) -> pg_sys::Datum {
        // SAFETY: Postgres passes as many arguments as the SQL declaration has; `index` is below that.
        unsafe { (*(*self.fcinfo).args.as_ptr().add(index)).value }
    }

    /// Argument `index`, declared integer.
    #[inline]
    pub(super) fn int(&self, index: usize) -> i32 {
        self.datum(index).value() as u32 as i32
    }

    /// Argument `index`, declared cstring.
    #[inline]
    pub(super) fn cstr(&self, index: usize) -> &CStr {
        // SAFETY: a cstring datum points to a NUL-terminated string that outlives the call.
        unsafe { CStr::from_ptr(self.datum(index).cast_mut_ptr()) }
    }

    /// Argument `index`, declared internal: a pointer that Postgres passes through.
    #[inline]
    pub(super) fn pointer<T>(&self, index: usize) -> *mut T {
        self.datum(index).cast_mut_ptr()
    }

    /// Argument `index`, of any variable-length type, with an aligned four-byte header.
    #[inline(always)]
    pub(super) fn varlena(&self, index: usize) -> Detoasted {
        // SAFETY: the declared type has variable length, so the datum points to a varlena that outlives the call.
        unsafe { Detoasted::new(self.datum(index)) }
    }

    /// Argument `index`, of the type that `T` reads.
    #[inline(always)]
    pub(super) fn read<T: Stored>(&self, index: usize) -> Result<T> {
        T::read(self.varlena(index))
    }

    /// The first two arguments, both of the type that `T` reads.
    #[inline(always)]
    pub(super) fn two<T: Stored>(&self) -> Result<(T, T)> {
        Ok((self.read(0)?, self.read(1)?))
    }

    /// Whether an aggregate is running, so that its first argument, the state, may be changed in place.
    pub(super) fn in_aggregate(&self) -> bool {
        // SAFETY: `fcinfo` belongs to the call in progress; a null context pointer asks for the answer alone.
        unsafe { pg_sys::AggCheckCallContext(self.fcinfo, core::ptr::null_mut()) != 0 }
    }
}

/// A value of one SQL type, read in place.
pub(crate) trait Stored: Sized {
    /// Checks that `value` has the layout of the type. Errors: damaged data.
    fn read(value: Detoasted) -> Result<Self>;
}

/// A function result.
pub(crate) trait Returned {
    /// The datum; `None` for SQL NULL.
    fn into_datum(self) -> Option<pg_sys::Datum>;
}

impl Returned for f64 {
    #[inline]
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.to_bits()))
    }
}

impl Returned for i32 {
    #[inline]
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self))
    }
}

impl Returned for bool {
    #[inline]
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self))
    }
}

/// A value allocated in the current memory context.
impl<T> Returned for *mut T {
    #[inline]
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self))
    }
}

impl<T: Returned> Returned for Option<T> {
    #[inline]
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.and_then(T::into_datum)
    }
}

/// Runs `function` for one call of Postgres and turns errors and panics into Postgres errors.
///
/// # Safety
/// `fcinfo` is the argument of a version-1 function that Postgres is calling, declared as `function` expects.
#[allow(unsafe_code)]
#[inline]
pub(super) unsafe fn run<T: Returned>(
    fcinfo: pg_sys::FunctionCallInfo,
    function: impl FnOnce(&Args) -> Result<T>,
) -> pg_sys::Datum {
    // SAFETY: this is the outermost Rust frame, as the guard demands; `fcinfo` is valid by this function's contract.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let returned = match function(&Args { fcinfo }) {
                Ok(value) => value.into_datum(),
                Err(error) => error.raise(),
            };
            (*fcinfo).isnull = returned.is_none();
            returned.unwrap_or(pg_sys::Datum::null())
        })
    }
}
