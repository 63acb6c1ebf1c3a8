//! What an operator class tells the access method: type of the column and metric, in support function 1.
#![allow(unsafe_code)]

use omen_ivf::Metric;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::datatype::vector::VectorRef;
use crate::error::{PgError, Result};
use crate::storage::{UNITS, opclass_code};

/// Number of the ordering operator of each class.
pub(super) const STRATEGY: u16 = 1;

const TYPE_VECTOR: i32 = 1;

/// Metric and element type of an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpClass {
    /// Metric of the ordering operator.
    pub metric: Metric,
}

impl OpClass {
    /// The operator class of an index's only column. Errors: a class this version does not know.
    ///
    /// # Safety
    /// `index` is an open index of this access method.
    pub(crate) unsafe fn of(index: pg_sys::Relation) -> Result<Self> {
        // SAFETY: by this function's contract.
        let code = unsafe { opclass_code(index) };
        match (code / UNITS, Metric::from_u32((code % UNITS) as u32)) {
            (TYPE_VECTOR, Some(metric)) => Ok(Self { metric }),
            _ => Err(PgError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("operator class code {code} is not known to this version of pg_omen"),
            )),
        }
    }

    /// One for values of type vector, whatever their metric.
    pub(super) fn any() -> Self {
        Self { metric: Metric::L2 }
    }

    /// Calls `f` with the coordinates of a value of the indexed column.
    ///
    /// # Safety
    /// `datum` is not null and of the type the operator class is for.
    pub(crate) unsafe fn with_vector<R>(
        &self,
        datum: pg_sys::Datum,
        f: impl FnOnce(&[f32]) -> R,
    ) -> Result<R> {
        // SAFETY: by this function's contract; all classes of this version are for type vector.
        let vector = unsafe { VectorRef::from_datum(datum) }?;
        Ok(f(vector.x()))
    }
}

/// Support function of `vector_l2_ops`.
#[pg_extern(sql = false)]
fn omen_vector_l2_support(_fcinfo: pg_sys::FunctionCallInfo) -> i32 {
    TYPE_VECTOR * UNITS + Metric::L2 as i32
}

/// Support function of `vector_ip_ops`.
#[pg_extern(sql = false)]
fn omen_vector_ip_support(_fcinfo: pg_sys::FunctionCallInfo) -> i32 {
    TYPE_VECTOR * UNITS + Metric::NegIp as i32
}

/// Support function of `vector_l1_ops`.
#[pg_extern(sql = false)]
fn omen_vector_l1_support(_fcinfo: pg_sys::FunctionCallInfo) -> i32 {
    TYPE_VECTOR * UNITS + Metric::L1 as i32
}

/// Support function of `vector_cosine_ops`.
#[pg_extern(sql = false)]
fn omen_vector_cosine_support(_fcinfo: pg_sys::FunctionCallInfo) -> i32 {
    TYPE_VECTOR * UNITS + Metric::Cosine as i32
}
