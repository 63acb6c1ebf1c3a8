//! What the current role may see of a table.
#![allow(unsafe_code)]

use std::ffi::CStr;

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::{PgError, Result};

/// Checks, before anything is locked, that the role may read the whole table. `what`, with the name of `named`, is what the error speaks of: `table`, say.
pub(crate) fn check_select(table: pg_sys::Oid, what: &str, named: pg_sys::Oid) -> Result<()> {
    let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
    // SAFETY: on the main thread, in a transaction; the name is null or a string in the current memory context.
    let name = unsafe {
        let user = pg_sys::GetUserId();
        if pg_sys::pg_class_aclcheck(table, user, select) == pg_sys::AclResult::ACLCHECK_OK {
            return Ok(());
        }
        let name = pg_sys::get_rel_name(named);
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    };
    Err(PgError::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied for {what} \"{name}\""),
    )
    .with_hint("SELECT on the whole table is needed."))
}

/// Whether row-level security may hide rows of the table from the role.
pub(crate) fn hides_rows(table: pg_sys::Oid) -> bool {
    // SAFETY: on the main thread, in a transaction; raises no error with this last argument.
    let hidden = unsafe { pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true) };
    hidden as u32 == pg_sys::CheckEnableRlsResult::RLS_ENABLED
}

/// Whether the current role is `owner`, or has its rights by being a member: not by being a superuser.
pub(crate) fn acts_for(owner: pg_sys::Oid) -> bool {
    // SAFETY: on the main thread, in a transaction.
    unsafe { pg_sys::is_member_of_role_nosuper(pg_sys::GetUserId(), owner) }
}
