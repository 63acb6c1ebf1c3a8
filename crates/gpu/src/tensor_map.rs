//! Tensor maps: how the bulk copy engine learns of a matrix.

use crate::driver::run;
use crate::error::GpuError;
use crate::params::TensorMap;
use cudarc::driver::sys;

/// The map of an f16 array at a device address. `dims`: lengths, fastest first (row-major arrays backwards), the first a multiple of 8;
/// `strides`: bytes from one to the next, of all dimensions but the first; `boxes`: what one copy takes of each, 64 of the first, swizzled
/// by 128 bytes. What lies beyond the array comes as zeroes.
#[allow(unsafe_code)]
pub(crate) fn matrix(
    address: u64,
    dims: &[u64],
    strides: &[u64],
    boxes: &[u32],
) -> Result<TensorMap, GpuError> {
    assert!(dims.len() == boxes.len() && dims.len() == strides.len() + 1);
    assert!(dims[0].is_multiple_of(8) && address.is_multiple_of(16));
    let steps = vec![1u32; dims.len()];
    let mut map = TensorMap::default();
    // SAFETY: the arrays have `dims.len()` elements (strides one less), as the rank says; the map has the driver's size and alignment.
    run("cuTensorMapEncodeTiled", || unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            dims.len() as u32,
            address as *mut std::ffi::c_void,
            dims.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
    })?;
    Ok(map)
}

const _: () = assert!(size_of::<TensorMap>() == size_of::<sys::CUtensorMap>());
