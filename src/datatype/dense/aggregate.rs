//! Functions behind `avg`. The state is a `double precision[]`: number of rows, then the sum of each
//! coordinate; `{0}` at first, as the dimension comes with the first row.
//!
//! While an aggregate runs, the state belongs to it alone and is changed in place (as core's `float8_accum` does).

use super::{DenseBuf, DenseRef};
use crate::datatype::array::{ArrayRef, new_array};
use crate::datatype::function::Args;
use crate::datatype::modifier::check_typmod;
use crate::datatype::range::{out_of_range, rounded};
use crate::error::{PgError, Result};
use omen_vector::{Element, VectorType};
use pgrx::{PgSqlErrorCode, pg_sys};

/// Transition: `(double precision[], E)`. `function` is its name.
pub(in crate::datatype) fn accumulate<E: Element>(
    args: &Args,
    function: &str,
) -> Result<*mut pg_sys::ArrayType> {
    let state = State::new(args, 0, function)?;
    let value = args.read::<DenseRef<E>>(1)?;
    let x = value.x();
    if state.dim()? == 0 {
        let n_rows = state.n_rows()?;
        return new_state(x.len(), |sums| {
            sums[0] = n_rows + 1.0;
            for (sum, x) in sums[1..].iter_mut().zip(x) {
                *sum = f64::from(x.to_f32());
            }
            Ok(())
        });
    }
    check_typmod(state.dim()? as i32, x.len())?;
    state.update(args, |sums| {
        sums[0] += 1.0;
        add(&mut sums[1..], x.iter().map(|x| f64::from(x.to_f32())))
    })
}

/// Combine: `(double precision[], double precision[])`, of all types; merges the states of parallel workers.
pub(in crate::datatype) fn combine(args: &Args, function: &str) -> Result<*mut pg_sys::ArrayType> {
    let a = State::new(args, 0, function)?;
    let b = State::new(args, 1, function)?;
    match (a.dim()?, b.dim()?) {
        (0, 0) => {}
        (0, dim) | (dim, 0) => VectorType::Vector.check_dim(dim)?,
        (dim_a, dim_b) => {
            VectorType::Vector.check_dim(dim_a)?;
            check_typmod(dim_a as i32, dim_b)?;
        }
    }
    let sums_b = b.sums()?;
    if a.dim()? == 0 {
        let n_rows = a.n_rows()?;
        return new_state(b.dim()?, |sums| {
            sums.copy_from_slice(sums_b);
            sums[0] += n_rows;
            Ok(())
        });
    }
    a.update(args, |sums| {
        sums[0] += sums_b[0];
        add(&mut sums[1..], sums_b[1..].iter().copied())
    })
}

/// Final: `(double precision[])`; NULL for no rows. `function` is its name.
pub(in crate::datatype) fn average<E: Element>(
    args: &Args,
    function: &str,
) -> Result<Option<DenseBuf<E>>> {
    let state = State::new(args, 0, function)?;
    let sums = state.sums()?;
    let n_rows = sums[0];
    if n_rows == 0.0 {
        return Ok(None);
    }
    let mut mean = DenseBuf::zeroed(sums.len() - 1)?;
    for (to, sum) in mean.x_mut().iter_mut().zip(&sums[1..]) {
        *to = rounded::<E>((sum / n_rows) as f32)?;
        E::TYPE.check_finite(to.to_f32())?;
    }
    Ok(Some(mean))
}

/// A state argument: an array of at least one float8, none null.
struct State(ArrayRef);

#[allow(unsafe_code)]
impl State {
    /// Argument `index` of `function`. Errors: a user's call with something else.
    fn new(args: &Args, index: usize, function: &str) -> Result<Self> {
        let array = ArrayRef::new(args.varlena(index));
        if array.n_dims() != 1
            || array.len() < 1
            || array.has_null_bitmap()
            || array.element_type() != pg_sys::FLOAT8OID
        {
            return Err(PgError::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("{function}: expected state array"),
            ));
        }
        Ok(Self(array))
    }

    /// Number of rows, then the sums.
    fn sums(&self) -> Result<&[f64]> {
        // SAFETY: `new` checked that the elements are float8.
        unsafe { self.0.elements() }
    }

    /// Number of rows so far.
    fn n_rows(&self) -> Result<f64> {
        Ok(self.sums()?[0])
    }

    /// Dimension; 0 before the first row.
    fn dim(&self) -> Result<usize> {
        Ok(self.sums()?.len() - 1)
    }

    /// The state after `change`: the same array within an aggregate, else a new one.
    fn update(
        mut self,
        args: &Args,
        change: impl FnOnce(&mut [f64]) -> Result<()>,
    ) -> Result<*mut pg_sys::ArrayType> {
        if args.in_aggregate() {
            // SAFETY: float8 by `new`; the state of a running aggregate may be changed.
            change(unsafe { self.0.elements_mut() }?)?;
            return Ok(self.0.into_ptr());
        }
        let sums = self.sums()?;
        new_state(sums.len() - 1, |new| {
            new.copy_from_slice(sums);
            change(new)
        })
    }
}

/// A new state for `dim` coordinates, zero before `fill`.
#[allow(unsafe_code)]
fn new_state(
    dim: usize,
    fill: impl FnOnce(&mut [f64]) -> Result<()>,
) -> Result<*mut pg_sys::ArrayType> {
    // SAFETY: double precision is f64.
    unsafe { new_array(pg_sys::FLOAT8OID, dim + 1, fill) }
}

/// Adds `x` to `sums`. Errors: a sum overflows.
fn add(sums: &mut [f64], x: impl Iterator<Item = f64>) -> Result<()> {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum += x;
        if sum.is_infinite() {
            return Err(out_of_range("overflow"));
        }
    }
    Ok(())
}
