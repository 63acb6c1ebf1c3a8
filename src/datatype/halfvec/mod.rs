//! The type `halfvec`: f16 coordinates of one row. What its functions do, and the layout, is in [`dense`].

use super::dense::{self, DenseBuf, DenseRef, dense_functions};
use super::function::pg_functions;
use omen_vector::f16;

/// A value of the type.
pub(crate) type HalfvecRef = DenseRef<f16>;

dense_functions!(f16 => {
    input: halfvec_in,
    output: halfvec_out,
    typmod_in: halfvec_typmod_in,
    receive: halfvec_recv,
    send: halfvec_send,
    l2_distance: halfvec_l2_distance,
    l2_squared_distance: halfvec_l2_squared_distance,
    inner_product: halfvec_inner_product,
    negative_inner_product: halfvec_negative_inner_product,
    cosine_distance: halfvec_cosine_distance,
    spherical_distance: halfvec_spherical_distance,
    l1_distance: halfvec_l1_distance,
    dims: halfvec_vector_dims,
    norm: halfvec_l2_norm,
    add: halfvec_add,
    subtract: halfvec_sub,
    multiply: halfvec_mul,
    concat: halfvec_concat,
    subvector: halfvec_subvector,
    l2_normalize: halfvec_l2_normalize,
    binary_quantize: halfvec_binary_quantize,
    lt: halfvec_lt,
    le: halfvec_le,
    eq: halfvec_eq,
    ne: halfvec_ne,
    ge: halfvec_ge,
    gt: halfvec_gt,
    cmp: halfvec_cmp,
    accumulate: halfvec_accum,
    average: halfvec_avg,
    to_typmod: halfvec,
    from_array: array_to_halfvec,
    to_float4: halfvec_to_float4,
});

pg_functions! {
    /// `halfvec_to_vector(halfvec, integer, boolean)`: exact.
    fn halfvec_to_vector(args) -> DenseBuf<f32> {
        dense::convert::<f16, f32>(args)
    }

    /// `vector_to_halfvec(vector, integer, boolean)`: each coordinate rounded.
    fn vector_to_halfvec(args) -> DenseBuf<f16> {
        dense::convert::<f32, f16>(args)
    }
}
