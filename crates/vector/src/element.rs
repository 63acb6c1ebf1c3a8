//! What the values of `vector` and `halfvec` are made of.

use crate::VectorType;
use half::f16;

/// A coordinate of a type that stores all of them.
pub trait Element: Copy + PartialEq + core::fmt::Debug + 'static {
    /// The type whose coordinates these are.
    const TYPE: VectorType;
    /// Plus zero.
    const ZERO: Self;
    /// Its binary form.
    type Bytes: AsRef<[u8]> + Copy;

    /// The nearest to `x`, of two the even one; infinite where `x` is beyond the range.
    fn from_f32(x: f32) -> Self;
    /// The same number.
    fn to_f32(self) -> f32;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// A number whose order is that of the coordinates, which are not NaN; the same for plus and minus zero.
    fn order_key(self) -> i32;
    /// Most significant byte first.
    fn from_be_bytes(bytes: Self::Bytes) -> Self;
    /// Most significant byte first.
    fn to_be_bytes(self) -> Self::Bytes;
    /// The binary forms that `bytes` begins with, as many as there are.
    fn split(bytes: &[u8]) -> &[Self::Bytes];
}

impl Element for f32 {
    const TYPE: VectorType = VectorType::Vector;
    const ZERO: Self = 0.0;
    type Bytes = [u8; 4];

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
    #[inline(always)]
    fn order_key(self) -> i32 {
        let bits = self.to_bits() as i32;
        if bits < 0 { -(bits & i32::MAX) } else { bits }
    }
    #[inline(always)]
    fn from_be_bytes(bytes: [u8; 4]) -> Self {
        f32::from_be_bytes(bytes)
    }
    #[inline(always)]
    fn to_be_bytes(self) -> [u8; 4] {
        f32::to_be_bytes(self)
    }
    #[inline(always)]
    fn split(bytes: &[u8]) -> &[[u8; 4]] {
        bytes.as_chunks().0
    }
}

impl Element for f16 {
    const TYPE: VectorType = VectorType::Halfvec;
    const ZERO: Self = f16::ZERO;
    type Bytes = [u8; 2];

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f16::is_finite(self)
    }
    #[inline(always)]
    fn order_key(self) -> i32 {
        let bits = self.to_bits() as i16;
        let magnitude = i32::from(bits & i16::MAX);
        if bits < 0 { -magnitude } else { magnitude }
    }
    #[inline(always)]
    fn from_be_bytes(bytes: [u8; 2]) -> Self {
        f16::from_be_bytes(bytes)
    }
    #[inline(always)]
    fn to_be_bytes(self) -> [u8; 2] {
        f16::to_be_bytes(self)
    }
    #[inline(always)]
    fn split(bytes: &[u8]) -> &[[u8; 2]] {
        bytes.as_chunks().0
    }
}
