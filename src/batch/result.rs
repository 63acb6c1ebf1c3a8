//! The rows of `omen_search()`: all of them at once, in a tuple store that goes to disk beyond `work_mem`.
#![allow(unsafe_code)]

use omen_ivf::Tid;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::am;
use crate::error::{PgError, Result};

/// Rows (query_no integer, ctid tid, distance double precision).
pub(super) struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
}

impl Rows {
    /// Begins the result of the call `fcinfo`. Errors: called where no set can be returned.
    ///
    /// # Safety
    /// `fcinfo` is that of the call in progress, of a function with the columns above, and the value does not outlive it.
    pub(super) unsafe fn begin(fcinfo: pg_sys::FunctionCallInfo) -> Result<Self> {
        // SAFETY: by this function's contract; `resultinfo` is checked before it is taken for what it is. Store and
        // descriptor live as long as the query, which is what the caller reads them in.
        unsafe {
            let info = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            if info.is_null()
                || (*info).type_ != pg_sys::NodeTag::T_ReturnSetInfo
                || (*info).allowedModes as u32 & materialize == 0
            {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "omen_search() is called where no set of rows can be returned",
                )
                .with_hint("Call it in FROM."));
            }
            let old = pg_sys::MemoryContextSwitchTo((*(*info).econtext).ecxt_per_query_memory);
            let mut desc = core::ptr::null_mut();
            let class = pg_sys::get_call_result_type(fcinfo, core::ptr::null_mut(), &mut desc);
            if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                return Err(PgError::new(
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    "omen_search() is not declared to return rows",
                ));
            }
            let random = pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random;
            let random = (*info).allowedModes as u32 & random != 0;
            let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
            (*info).returnMode = materialize;
            (*info).setResult = store;
            (*info).setDesc = desc;
            pg_sys::MemoryContextSwitchTo(old);
            Ok(Self { store, desc })
        }
    }

    /// Adds a row.
    pub(super) fn put(&mut self, query_no: i32, row: Tid, distance: f64) {
        let mut ctid = am::tid_of(row);
        let mut values = [
            pg_sys::Datum::from(query_no),
            pg_sys::Datum::from(&raw mut ctid),
            pg_sys::Datum::from(distance.to_bits()),
        ];
        let mut nulls = [false; 3];
        // SAFETY: store and descriptor are those of the call in progress, with these three columns; Postgres copies them.
        unsafe {
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::tuplestore_putvalues(self.store, self.desc, values, nulls);
        }
    }
}
