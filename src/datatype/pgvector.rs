//! Beside pgvector: where its extension is installed, its types are the ones that are indexed.
#![allow(unsafe_code)]

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::error::PgError;

/// Notes that the extension being created needs pgvector, if that is installed: `pg_dump` then restores pgvector first, and `DROP EXTENSION vector` says what would go
/// with it. Called by the install script alone, which drops it again.
#[pg_extern(sql = false)]
fn omen_depend_on_pgvector() {
    // SAFETY: on the main thread, in a transaction; the name is a constant, and both addresses outlive the call that copies them.
    unsafe {
        if !pg_sys::creating_extension {
            PgError::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "only the install script of pg_omen calls this function",
            )
            .raise();
        }
        let pgvector = pg_sys::get_extension_oid(c"vector".as_ptr(), true);
        if pgvector == pg_sys::InvalidOid {
            return;
        }
        let address = |extension| pg_sys::ObjectAddress {
            classId: pg_sys::ExtensionRelationId,
            objectId: extension,
            objectSubId: 0,
        };
        pg_sys::recordDependencyOn(
            &address(pg_sys::CurrentExtensionObject),
            &address(pgvector),
            pg_sys::DependencyType::DEPENDENCY_NORMAL,
        );
    }
}
