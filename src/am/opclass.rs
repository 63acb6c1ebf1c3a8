//! What an operator class tells the access method: type of the column and metric, in support function 1.
#![allow(unsafe_code)]

use omen_ivf::form::{bits, sparse};
use omen_ivf::{Metric, VectorKind};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_sys};

use crate::datatype::bit::BitRef;
use crate::datatype::halfvec::HalfvecRef;
use crate::datatype::sparsevec::SparsevecRef;
use crate::datatype::vector::VectorRef;
use crate::error::{PgError, Result};
use crate::storage::{SUPPORT_PROC, UNITS, opclass_code};

/// Number of the ordering operator of each class.
pub(super) const STRATEGY: u16 = 1;

/// Elements of a sparse vector, where nothing is known of them.
const USUAL_NNZ: u64 = 128;

/// Type of the column, as support functions tell it. The numbers are in no index, but in what every class returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum ColumnType {
    Vector = 1,
    Halfvec = 2,
    Bit = 3,
    Sparsevec = 4,
}

impl ColumnType {
    fn from_i32(number: i32) -> Option<Self> {
        [Self::Vector, Self::Halfvec, Self::Bit, Self::Sparsevec]
            .into_iter()
            .find(|&known| known as i32 == number)
    }
}

/// Metric and element type of an index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpClass {
    /// Metric of the ordering operator.
    pub metric: Metric,
    column: ColumnType,
}

impl OpClass {
    /// The operator class of an index's only column. Errors: a class this version does not know.
    ///
    /// # Safety
    /// `index` is an open index of this access method.
    pub(crate) unsafe fn of(index: pg_sys::Relation) -> Result<Self> {
        // SAFETY: by this function's contract.
        Self::of_code(unsafe { opclass_code(index) })
    }

    /// The class whose support function returns `code`. Errors: one that this version does not know.
    pub(crate) fn of_code(code: i32) -> Result<Self> {
        let column = ColumnType::from_i32(code / UNITS);
        match (column, Metric::from_u32((code % UNITS) as u32)) {
            (Some(column), Some(metric)) => Ok(Self { metric, column }),
            _ => Err(PgError::new(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("operator class code {code} is not known to this version of pg_omen"),
            )),
        }
    }

    /// The default class of a column's type; `None` if there is none.
    ///
    /// # Safety
    /// `method` is this access method; on the main thread.
    pub(crate) unsafe fn default_for(
        type_id: pg_sys::Oid,
        method: pg_sys::Oid,
    ) -> Result<Option<Self>> {
        // SAFETY: by this function's contract. Looks at the catalog; the argument of a support function is ignored.
        let code = unsafe {
            let class = pg_sys::GetDefaultOpClass(type_id, method);
            if class == pg_sys::InvalidOid {
                return Ok(None);
            }
            let (family, input) = (
                pg_sys::get_opclass_family(class),
                pg_sys::get_opclass_input_type(class),
            );
            let function = pg_sys::get_opfamily_proc(family, input, input, SUPPORT_PROC as i16);
            let none = pg_sys::Datum::from(0);
            pg_sys::OidFunctionCall1Coll(function, pg_sys::InvalidOid, none).value() as i32
        };
        Self::of_code(code).map(Some)
    }

    /// What the rows of its indexes are.
    pub(crate) fn kind(&self) -> VectorKind {
        match self.column {
            ColumnType::Vector | ColumnType::Halfvec => VectorKind::Half,
            ColumnType::Bit => VectorKind::Bits,
            ColumnType::Sparsevec => VectorKind::Sparse,
        }
    }

    /// Bytes of a value of so many dimensions in the table, its head not counted.
    pub(crate) fn value_bytes(&self, dim: u32) -> u64 {
        let dim = u64::from(dim);
        match self.column {
            ColumnType::Vector => 4 * dim,
            ColumnType::Halfvec => 2 * dim,
            ColumnType::Bit => dim.div_ceil(8),
            // Of a value as they usually are.
            ColumnType::Sparsevec => 8 * dim.min(USUAL_NNZ),
        }
    }

    /// How a column of its type is declared, for messages.
    pub(crate) fn type_example(&self) -> &'static str {
        match self.column {
            ColumnType::Vector => "vector(768)",
            ColumnType::Halfvec => "halfvec(768)",
            ColumnType::Bit => "bit(768)",
            ColumnType::Sparsevec => "sparsevec(30000)",
        }
    }

    /// The default class of its type, for messages.
    pub(super) fn default_name(&self) -> &'static str {
        match self.column {
            ColumnType::Vector => "vector_l2_ops",
            ColumnType::Halfvec => "halfvec_l2_ops",
            ColumnType::Bit => "bit_hamming_ops",
            ColumnType::Sparsevec => "sparsevec_l2_ops",
        }
    }

    /// The operator's message for values of different dimensions.
    pub(super) fn differs(&self, expected: u32, found: u32) -> String {
        let what = match self.column {
            ColumnType::Vector => "vector dimensions",
            ColumnType::Halfvec => "halfvec dimensions",
            ColumnType::Bit => "bit lengths",
            ColumnType::Sparsevec => "sparsevec dimensions",
        };
        format!("different {what} {expected} and {found}")
    }

    /// Calls `f` with the input (see [`omen_ivf::form`]) of a value of the indexed column: of vectors the coordinates.
    ///
    /// # Safety
    /// `datum` is not null and of the type the operator class is for.
    pub(crate) unsafe fn with_input<R>(
        &self,
        datum: pg_sys::Datum,
        f: impl FnOnce(&[f32]) -> R,
    ) -> Result<R> {
        // SAFETY: by this function's contract.
        unsafe {
            match self.column {
                ColumnType::Vector => Ok(f(VectorRef::from_datum(datum)?.x())),
                ColumnType::Halfvec => {
                    let value = HalfvecRef::from_datum(datum)?;
                    let mut wide = vec![0.0; value.dim()];
                    omen_distance::f32_from_f16(value.x(), &mut wide);
                    Ok(f(&wide))
                }
                ColumnType::Bit => {
                    let value = BitRef::from_datum(datum)?;
                    let input = bits::input_of(value.n_bits() as u32, value.bytes());
                    Ok(f(&input))
                }
                ColumnType::Sparsevec => {
                    let value = SparsevecRef::from_datum(datum)?;
                    let input = sparse::input_of(value.dim() as u32, value.indices(), value.x());
                    Ok(f(&input))
                }
            }
        }
    }
}

/// Support functions: `name: column type, metric;` each.
macro_rules! support_functions {
    ($($(#[$doc:meta])* $name:ident: $column:ident, $metric:ident;)*) => {$(
        $(#[$doc])*
        #[pg_extern(sql = false)]
        fn $name(_fcinfo: pg_sys::FunctionCallInfo) -> i32 {
            ColumnType::$column as i32 * UNITS + Metric::$metric as i32
        }
    )*};
}

support_functions! {
    /// Support function of `vector_l2_ops`.
    omen_vector_l2_support: Vector, L2;
    /// Support function of `vector_ip_ops`.
    omen_vector_ip_support: Vector, NegIp;
    /// Support function of `vector_cosine_ops`.
    omen_vector_cosine_support: Vector, Cosine;
    /// Support function of `vector_l1_ops`.
    omen_vector_l1_support: Vector, L1;
    /// Support function of `halfvec_l2_ops`.
    omen_halfvec_l2_support: Halfvec, L2;
    /// Support function of `halfvec_ip_ops`.
    omen_halfvec_ip_support: Halfvec, NegIp;
    /// Support function of `halfvec_cosine_ops`.
    omen_halfvec_cosine_support: Halfvec, Cosine;
    /// Support function of `halfvec_l1_ops`.
    omen_halfvec_l1_support: Halfvec, L1;
    /// Support function of `bit_hamming_ops`.
    omen_bit_hamming_support: Bit, Hamming;
    /// Support function of `bit_jaccard_ops`.
    omen_bit_jaccard_support: Bit, Jaccard;
    /// Support function of `sparsevec_l2_ops`.
    omen_sparsevec_l2_support: Sparsevec, L2;
    /// Support function of `sparsevec_ip_ops`.
    omen_sparsevec_ip_support: Sparsevec, NegIp;
    /// Support function of `sparsevec_cosine_ops`.
    omen_sparsevec_cosine_support: Sparsevec, Cosine;
    /// Support function of `sparsevec_l1_ops`.
    omen_sparsevec_l1_support: Sparsevec, L1;
}
