//! `amvalidate`: whether an operator class has what the access method needs.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::opclass::STRATEGY;
use crate::storage::SUPPORT_PROC;

#[pg_guard]
pub(super) unsafe extern "C-unwind" fn amvalidate(opclass: pg_sys::Oid) -> bool {
    // SAFETY: main thread; the catalog lookups take plain numbers and fill the variables given.
    let complaint = unsafe {
        let (mut family, mut column_type) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        if !pg_sys::get_opclass_opfamily_and_input_type(opclass, &mut family, &mut column_type) {
            pgrx::error!(
                "cache lookup failed for operator class {}",
                opclass.to_u32()
            );
        }
        let (strategy, proc) = (STRATEGY as i16, SUPPORT_PROC as i16);
        let operator = pg_sys::get_opfamily_member(family, column_type, column_type, strategy);
        let function = pg_sys::get_opfamily_proc(family, column_type, column_type, proc);
        if operator == pg_sys::InvalidOid {
            format!("is missing ordering operator {STRATEGY}")
        } else if pg_sys::get_op_rettype(operator) != pg_sys::FLOAT8OID {
            format!("has an ordering operator {STRATEGY} that does not return double precision")
        } else if function == pg_sys::InvalidOid {
            format!("is missing support function {SUPPORT_PROC}")
        } else if pg_sys::get_func_rettype(function) != pg_sys::INT4OID {
            format!("has a support function {SUPPORT_PROC} that does not return integer")
        } else {
            return true;
        }
    };
    pgrx::info!(
        "operator class {} of access method omen {complaint}",
        opclass.to_u32()
    );
    false
}
