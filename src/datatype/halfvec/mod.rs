//! The type `halfvec`: f16 coordinates of one row. What its functions do, and the layout, is in [`dense`].

use super::dense::{self, DenseBuf, DenseRef};
use super::function::pg_functions;
use super::modifier::typmod_in;
use core::ffi::c_char;
use omen_ivf::Metric;
use omen_vector::{Element, f16};
use pgrx::pg_sys;

/// A value of the type.
pub(crate) type HalfvecRef = DenseRef<f16>;

// Input and output.
pg_functions! {
    /// Input: `halfvec_in(cstring, oid, integer)`.
    fn halfvec_in(args) -> DenseBuf<f16> {
        dense::input(args)
    }

    /// Output: `halfvec_out(halfvec)`.
    fn halfvec_out(args) -> *mut c_char {
        Ok(dense::output(&args.read::<HalfvecRef>(0)?))
    }

    /// Type modifier input: `halfvec_typmod_in(cstring[])`.
    fn halfvec_typmod_in(args) -> i32 {
        typmod_in(f16::TYPE, args)
    }

    /// Binary input: `halfvec_recv(internal, oid, integer)`.
    fn halfvec_recv(args) -> DenseBuf<f16> {
        dense::receive(args)
    }

    /// Binary output: `halfvec_send(halfvec)`, a bytea.
    fn halfvec_send(args) -> *mut u8 {
        Ok(dense::send(&args.read::<HalfvecRef>(0)?))
    }
}

// Distances and measures.
pg_functions! {
    /// Operator `<->`: Euclidean distance.
    fn halfvec_l2_distance(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::distance(Metric::L2, a, b))
    }

    /// Square of the Euclidean distance.
    fn halfvec_l2_squared_distance(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::l2sq(a, b))
    }

    /// Inner product.
    fn halfvec_inner_product(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::inner_product(a, b))
    }

    /// Operator `<#>`: negative inner product.
    fn halfvec_negative_inner_product(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::distance(Metric::NegIp, a, b))
    }

    /// Operator `<=>`: cosine distance; NaN when a norm is zero or overflows.
    fn halfvec_cosine_distance(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::distance(Metric::Cosine, a, b))
    }

    /// Angle between unit vectors as a share of pi.
    fn halfvec_spherical_distance(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::spherical(a, b))
    }

    /// Operator `<+>`: taxicab distance.
    fn halfvec_l1_distance(args) -> f64 {
        dense::of_two(args, |a: &[f16], b| dense::l1(a, b))
    }

    /// Number of dimensions.
    fn halfvec_vector_dims(args) -> i32 {
        Ok(args.read::<HalfvecRef>(0)?.dim() as i32)
    }

    /// Euclidean norm.
    fn halfvec_l2_norm(args) -> f64 {
        Ok(dense::norm(args.read::<HalfvecRef>(0)?.x()))
    }
}

// New values from values.
pg_functions! {
    /// Operator `+`; also the transition function of `sum`.
    fn halfvec_add(args) -> DenseBuf<f16> {
        dense::add(args)
    }

    /// Operator `-`.
    fn halfvec_sub(args) -> DenseBuf<f16> {
        dense::subtract(args)
    }

    /// Operator `*`: elementwise product.
    fn halfvec_mul(args) -> DenseBuf<f16> {
        dense::multiply(args)
    }

    /// Operator `||`.
    fn halfvec_concat(args) -> DenseBuf<f16> {
        dense::concat(args)
    }

    /// `subvector(halfvec, start, count)`: `count` coordinates from `start` (the first is 1) as far as the value goes.
    fn halfvec_subvector(args) -> DenseBuf<f16> {
        dense::subvector(args)
    }

    /// Divides by the Euclidean norm; zero stays zero.
    fn halfvec_l2_normalize(args) -> DenseBuf<f16> {
        dense::l2_normalize(args)
    }

    /// One bit per coordinate, set where it is positive; a Postgres bit string.
    fn halfvec_binary_quantize(args) -> *mut u8 {
        dense::binary_quantize::<f16>(args)
    }
}

// Order, for btree.
pg_functions! {
    /// Operator `<`.
    fn halfvec_lt(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_lt())
    }

    /// Operator `<=`.
    fn halfvec_le(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_le())
    }

    /// Operator `=`.
    fn halfvec_eq(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_eq())
    }

    /// Operator `<>`.
    fn halfvec_ne(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_ne())
    }

    /// Operator `>=`.
    fn halfvec_ge(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_ge())
    }

    /// Operator `>`.
    fn halfvec_gt(args) -> bool {
        Ok(dense::compare::<f16>(args)?.is_gt())
    }

    /// Support function 1 of btree: -1, 0 or 1.
    fn halfvec_cmp(args) -> i32 {
        Ok(dense::compare::<f16>(args)? as i32)
    }
}

// Behind `avg`.
pg_functions! {
    /// Transition: `halfvec_accum(double precision[], halfvec)`.
    fn halfvec_accum(args) -> *mut pg_sys::ArrayType {
        dense::accumulate::<f16>(args, "halfvec_accum")
    }

    /// Final: `halfvec_avg(double precision[])`; NULL for no rows.
    fn halfvec_avg(args) -> Option<DenseBuf<f16>> {
        dense::average(args, "halfvec_avg")
    }
}

// Casts.
pg_functions! {
    /// `halfvec(halfvec, integer, boolean)`: checks the dimension.
    fn halfvec(args) -> HalfvecRef {
        dense::to_typmod(args)
    }

    /// `array_to_halfvec(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
    fn array_to_halfvec(args) -> DenseBuf<f16> {
        dense::from_array(args)
    }

    /// `halfvec_to_float4(halfvec, integer, boolean)`.
    fn halfvec_to_float4(args) -> *mut pg_sys::ArrayType {
        dense::to_float4::<f16>(args)
    }

    /// `halfvec_to_vector(halfvec, integer, boolean)`: exact.
    fn halfvec_to_vector(args) -> DenseBuf<f32> {
        dense::convert::<f16, f32>(args)
    }

    /// `vector_to_halfvec(vector, integer, boolean)`: each coordinate rounded.
    fn vector_to_halfvec(args) -> DenseBuf<f16> {
        dense::convert::<f32, f16>(args)
    }
}
