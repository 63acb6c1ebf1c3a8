//! The type `vector`: f32 coordinates of one row. What its functions do, and the layout, is in [`dense`].
//!
//! `array.rs` reads many vectors as one argument.

mod array;

pub(crate) use super::dense::distance;
pub(crate) use array::VectorArray;

use super::dense::{self, DenseBuf, DenseRef};
use super::function::pg_functions;
use super::modifier::typmod_in;
use core::ffi::c_char;
use omen_ivf::Metric;
use omen_vector::Element;
use pgrx::pg_sys;

/// A value of the type.
pub(crate) type VectorRef = DenseRef<f32>;

// Input and output.
pg_functions! {
    /// Input: `vector_in(cstring, oid, integer)`.
    fn vector_in(args) -> DenseBuf<f32> {
        dense::input(args)
    }

    /// Output: `vector_out(vector)`.
    fn vector_out(args) -> *mut c_char {
        Ok(dense::output(&args.read::<VectorRef>(0)?))
    }

    /// Type modifier input: `vector_typmod_in(cstring[])`.
    fn vector_typmod_in(args) -> i32 {
        typmod_in(f32::TYPE, args)
    }

    /// Binary input: `vector_recv(internal, oid, integer)`.
    fn vector_recv(args) -> DenseBuf<f32> {
        dense::receive(args)
    }

    /// Binary output: `vector_send(vector)`, a bytea.
    fn vector_send(args) -> *mut u8 {
        Ok(dense::send(&args.read::<VectorRef>(0)?))
    }
}

// Distances and measures.
pg_functions! {
    /// Operator `<->`: Euclidean distance.
    fn l2_distance(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::distance(Metric::L2, a, b))
    }

    /// Square of the Euclidean distance.
    fn vector_l2_squared_distance(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::l2sq(a, b))
    }

    /// Inner product.
    fn inner_product(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::inner_product(a, b))
    }

    /// Operator `<#>`: negative inner product.
    fn vector_negative_inner_product(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::distance(Metric::NegIp, a, b))
    }

    /// Operator `<=>`: cosine distance; NaN when a norm is zero or overflows.
    fn cosine_distance(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::distance(Metric::Cosine, a, b))
    }

    /// Angle between unit vectors as a share of pi.
    fn vector_spherical_distance(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::spherical(a, b))
    }

    /// Operator `<+>`: taxicab distance.
    fn l1_distance(args) -> f64 {
        dense::of_two(args, |a: &[f32], b| dense::l1(a, b))
    }

    /// Number of dimensions.
    fn vector_dims(args) -> i32 {
        Ok(args.read::<VectorRef>(0)?.dim() as i32)
    }

    /// Euclidean norm.
    fn vector_norm(args) -> f64 {
        Ok(dense::norm(args.read::<VectorRef>(0)?.x()))
    }
}

// New values from values.
pg_functions! {
    /// Operator `+`; also the transition function of `sum`.
    fn vector_add(args) -> DenseBuf<f32> {
        dense::add(args)
    }

    /// Operator `-`.
    fn vector_sub(args) -> DenseBuf<f32> {
        dense::subtract(args)
    }

    /// Operator `*`: elementwise product.
    fn vector_mul(args) -> DenseBuf<f32> {
        dense::multiply(args)
    }

    /// Operator `||`.
    fn vector_concat(args) -> DenseBuf<f32> {
        dense::concat(args)
    }

    /// `subvector(vector, start, count)`: `count` coordinates from `start` (the first is 1) as far as the value goes.
    fn subvector(args) -> DenseBuf<f32> {
        dense::subvector(args)
    }

    /// Divides by the Euclidean norm; zero stays zero.
    fn l2_normalize(args) -> DenseBuf<f32> {
        dense::l2_normalize(args)
    }

    /// One bit per coordinate, set where it is positive; a Postgres bit string.
    fn binary_quantize(args) -> *mut u8 {
        dense::binary_quantize::<f32>(args)
    }
}

// Order, for btree.
pg_functions! {
    /// Operator `<`.
    fn vector_lt(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_lt())
    }

    /// Operator `<=`.
    fn vector_le(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_le())
    }

    /// Operator `=`.
    fn vector_eq(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_eq())
    }

    /// Operator `<>`.
    fn vector_ne(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_ne())
    }

    /// Operator `>=`.
    fn vector_ge(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_ge())
    }

    /// Operator `>`.
    fn vector_gt(args) -> bool {
        Ok(dense::compare::<f32>(args)?.is_gt())
    }

    /// Support function 1 of btree: -1, 0 or 1.
    fn vector_cmp(args) -> i32 {
        Ok(dense::compare::<f32>(args)? as i32)
    }
}

// Behind `avg`.
pg_functions! {
    /// Transition: `vector_accum(double precision[], vector)`.
    fn vector_accum(args) -> *mut pg_sys::ArrayType {
        dense::accumulate::<f32>(args, "vector_accum")
    }

    /// Combine, of all types: `vector_combine(double precision[], double precision[])`; merges the states of parallel workers.
    fn vector_combine(args) -> *mut pg_sys::ArrayType {
        dense::combine(args, "vector_combine")
    }

    /// Final: `vector_avg(double precision[])`; NULL for no rows.
    fn vector_avg(args) -> Option<DenseBuf<f32>> {
        dense::average(args, "vector_avg")
    }
}

// Casts.
pg_functions! {
    /// `vector(vector, integer, boolean)`: checks the dimension.
    fn vector(args) -> VectorRef {
        dense::to_typmod(args)
    }

    /// `array_to_vector(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
    fn array_to_vector(args) -> DenseBuf<f32> {
        dense::from_array(args)
    }

    /// `vector_to_float4(vector, integer, boolean)`.
    fn vector_to_float4(args) -> *mut pg_sys::ArrayType {
        dense::to_float4::<f32>(args)
    }
}
