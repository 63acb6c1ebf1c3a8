//! The type `vector`: f32 coordinates of one row. What its functions do, and the layout, is in [`dense`].
//!
//! `array.rs` reads many vectors as one argument.

mod array;

pub(crate) use super::dense::distance;
pub(crate) use array::VectorArray;

use super::dense::{self, DenseRef, dense_functions};
use super::function::pg_functions;
use pgrx::pg_sys;

/// A value of the type.
pub(crate) type VectorRef = DenseRef<f32>;

dense_functions!(f32 => {
    input: vector_in,
    output: vector_out,
    typmod_in: vector_typmod_in,
    receive: vector_recv,
    send: vector_send,
    l2_distance: l2_distance,
    l2_squared_distance: vector_l2_squared_distance,
    inner_product: inner_product,
    negative_inner_product: vector_negative_inner_product,
    cosine_distance: cosine_distance,
    spherical_distance: vector_spherical_distance,
    l1_distance: l1_distance,
    dims: vector_dims,
    norm: vector_norm,
    add: vector_add,
    subtract: vector_sub,
    multiply: vector_mul,
    concat: vector_concat,
    subvector: subvector,
    l2_normalize: l2_normalize,
    binary_quantize: binary_quantize,
    lt: vector_lt,
    le: vector_le,
    eq: vector_eq,
    ne: vector_ne,
    ge: vector_ge,
    gt: vector_gt,
    cmp: vector_cmp,
    accumulate: vector_accum,
    average: vector_avg,
    to_typmod: vector,
    from_array: array_to_vector,
    to_float4: vector_to_float4,
});

pg_functions! {
    /// Combine, of all types: `vector_combine(double precision[], double precision[])`; merges the states of parallel workers.
    fn vector_combine(args) -> *mut pg_sys::ArrayType {
        dense::combine(args, "vector_combine")
    }
}
