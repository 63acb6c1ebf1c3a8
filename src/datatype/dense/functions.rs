//! The SQL functions that both types have: each type gives the names of its own.

/// Declares the functions of the type of `$E` under these names; each is also a C symbol, with `_wrapper` behind it.
macro_rules! dense_functions {
    ($E:ty => {
        input: $input:ident,
        output: $output:ident,
        typmod_in: $typmod_in:ident,
        receive: $receive:ident,
        send: $send:ident,
        l2_distance: $l2_distance:ident,
        l2_squared_distance: $l2_squared_distance:ident,
        inner_product: $inner_product:ident,
        negative_inner_product: $negative_inner_product:ident,
        cosine_distance: $cosine_distance:ident,
        spherical_distance: $spherical_distance:ident,
        l1_distance: $l1_distance:ident,
        dims: $dims:ident,
        norm: $norm:ident,
        add: $add:ident,
        subtract: $subtract:ident,
        multiply: $multiply:ident,
        concat: $concat:ident,
        subvector: $subvector:ident,
        l2_normalize: $l2_normalize:ident,
        binary_quantize: $binary_quantize:ident,
        lt: $lt:ident,
        le: $le:ident,
        eq: $eq:ident,
        ne: $ne:ident,
        ge: $ge:ident,
        gt: $gt:ident,
        cmp: $cmp:ident,
        accumulate: $accumulate:ident,
        average: $average:ident,
        to_typmod: $to_typmod:ident,
        from_array: $from_array:ident,
        to_float4: $to_float4:ident $(,)?
    }) => {
        const _: () = {
            use ::core::ffi::c_char;
            use ::omen_ivf::Metric;
            use ::omen_vector::Element;
            use ::pgrx::pg_sys;
            use $crate::datatype::dense::{self, DenseBuf, DenseRef};
            use $crate::datatype::modifier::typmod_in;

            $crate::datatype::function::pg_functions! {
                /// Input: `(cstring, oid, integer)`.
                fn $input(args) -> DenseBuf<$E> {
                    dense::input(args)
                }

                /// Output.
                fn $output(args) -> *mut c_char {
                    Ok(dense::output(&args.read::<DenseRef<$E>>(0)?))
                }

                /// Type modifier input: `(cstring[])`.
                fn $typmod_in(args) -> i32 {
                    typmod_in(<$E as Element>::TYPE, args)
                }

                /// Binary input: `(internal, oid, integer)`.
                fn $receive(args) -> DenseBuf<$E> {
                    dense::receive(args)
                }

                /// Binary output, a bytea.
                fn $send(args) -> *mut u8 {
                    Ok(dense::send(&args.read::<DenseRef<$E>>(0)?))
                }

                /// Operator `<->`: Euclidean distance.
                fn $l2_distance(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::distance(Metric::L2, a, b))
                }

                /// Square of the Euclidean distance.
                fn $l2_squared_distance(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::l2sq(a, b))
                }

                /// Inner product.
                fn $inner_product(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::inner_product(a, b))
                }

                /// Operator `<#>`: negative inner product.
                fn $negative_inner_product(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::distance(Metric::NegIp, a, b))
                }

                /// Operator `<=>`: cosine distance; NaN when a norm is zero or overflows.
                fn $cosine_distance(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::distance(Metric::Cosine, a, b))
                }

                /// Angle between unit vectors as a share of pi.
                fn $spherical_distance(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::spherical(a, b))
                }

                /// Operator `<+>`: taxicab distance.
                fn $l1_distance(args) -> f64 {
                    dense::of_two(args, |a: &[$E], b| dense::l1(a, b))
                }

                /// Number of dimensions.
                fn $dims(args) -> i32 {
                    Ok(args.read::<DenseRef<$E>>(0)?.dim() as i32)
                }

                /// Euclidean norm.
                fn $norm(args) -> f64 {
                    Ok(dense::norm(args.read::<DenseRef<$E>>(0)?.x()))
                }

                /// Operator `+`; also the transition function of `sum`.
                fn $add(args) -> DenseBuf<$E> {
                    dense::add(args)
                }

                /// Operator `-`.
                fn $subtract(args) -> DenseBuf<$E> {
                    dense::subtract(args)
                }

                /// Operator `*`: elementwise product.
                fn $multiply(args) -> DenseBuf<$E> {
                    dense::multiply(args)
                }

                /// Operator `||`.
                fn $concat(args) -> DenseBuf<$E> {
                    dense::concat(args)
                }

                /// `(E, start, count)`: `count` coordinates from `start` (the first is 1) as far as the value goes.
                fn $subvector(args) -> DenseBuf<$E> {
                    dense::subvector(args)
                }

                /// Divides by the Euclidean norm; zero stays zero.
                fn $l2_normalize(args) -> DenseBuf<$E> {
                    dense::l2_normalize(args)
                }

                /// One bit per coordinate, set where it is positive; a Postgres bit string.
                fn $binary_quantize(args) -> *mut u8 {
                    dense::binary_quantize::<$E>(args)
                }

                /// Operator `<`.
                fn $lt(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_lt())
                }

                /// Operator `<=`.
                fn $le(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_le())
                }

                /// Operator `=`.
                fn $eq(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_eq())
                }

                /// Operator `<>`.
                fn $ne(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_ne())
                }

                /// Operator `>=`.
                fn $ge(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_ge())
                }

                /// Operator `>`.
                fn $gt(args) -> bool {
                    Ok(dense::compare::<$E>(args)?.is_gt())
                }

                /// Support function 1 of btree: -1, 0 or 1.
                fn $cmp(args) -> i32 {
                    Ok(dense::compare::<$E>(args)? as i32)
                }

                /// Transition of `avg`: `(double precision[], E)`.
                fn $accumulate(args) -> *mut pg_sys::ArrayType {
                    dense::accumulate::<$E>(args, stringify!($accumulate))
                }

                /// Final of `avg`: `(double precision[])`; NULL for no rows.
                fn $average(args) -> Option<DenseBuf<$E>> {
                    dense::average(args, stringify!($average))
                }

                /// `(E, integer, boolean)`: checks the dimension.
                fn $to_typmod(args) -> DenseRef<$E> {
                    dense::to_typmod(args)
                }

                /// `(T[], integer, boolean)`, T one of integer, real, double precision, numeric.
                fn $from_array(args) -> DenseBuf<$E> {
                    dense::from_array(args)
                }

                /// `(E, integer, boolean)`: a real[].
                fn $to_float4(args) -> *mut pg_sys::ArrayType {
                    dense::to_float4::<$E>(args)
                }
            }
        };
    };
}
pub(in crate::datatype) use dense_functions;
