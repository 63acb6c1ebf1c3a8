//! One table of functions per instruction set. Holding a [`Variant`] proves that the machine has its instructions.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use half::f16;

use crate::bits::GROUP;
use crate::bounds::{Estimate, GroupFactors, Limit};
use crate::nibbles::{BLOCK, BLOCK_DIMS};
use crate::{Isa, scalar};

/// The functions of one instruction set; see the free functions of the same names.
///
/// Only [`variants`] gives these out, and only those that the machine can run.
#[derive(Clone, Copy)]
pub struct Variant {
    pub(crate) isa: Isa,
    pub(crate) name: &'static str,
    pub(crate) l2sq: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l1: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2sq_f16: unsafe fn(&[f32], &[f16]) -> f32,
    pub(crate) dot_f16: unsafe fn(&[f32], &[f16]) -> f32,
    pub(crate) l2sq_halves: unsafe fn(&[f16], &[f16]) -> f32,
    pub(crate) dot_halves: unsafe fn(&[f16], &[f16]) -> f32,
    pub(crate) l1_halves: unsafe fn(&[f16], &[f16]) -> f32,
    pub(crate) l1_f16: unsafe fn(&[f32], &[f16]) -> f32,
    pub(crate) differing: unsafe fn(&[u8], &[u8]) -> u32,
    pub(crate) common: unsafe fn(&[u8], &[u8]) -> u32,
    pub(crate) f16_from_f32: unsafe fn(&[f32], &mut [f16]),
    pub(crate) f32_from_f16: unsafe fn(&[f16], &mut [f32]),
    pub(crate) fastscan: unsafe fn(&[u8], &[u8], &mut [i32; GROUP]),
    pub(crate) nibble_scan: unsafe fn(&[u8], &[i8], &mut [i32; GROUP]),
    pub(crate) group_bounds: GroupBounds,
    pub(crate) hadamard: unsafe fn(&mut [f32]),
    pub(crate) rotate: unsafe fn(&mut [f32], &[u32]),
}

type GroupBounds =
    unsafe fn(&[i32; GROUP], &GroupFactors, &Estimate, &Limit, &mut [f32; GROUP]) -> u32;

impl std::fmt::Debug for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Variant({})", self.name)
    }
}

impl Variant {
    /// Its instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Its name among [`variants`]: its instruction set's, with what it uses beyond that.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// See [`crate::l2sq`].
    #[inline]
    pub fn l2sq(&self, a: &[f32], b: &[f32]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: `available` checked the instruction set; the function reads the common length only.
        unsafe { (self.l2sq)(a, b) }
    }

    /// See [`crate::dot`].
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.dot)(a, b) }
    }

    /// See [`crate::l1`].
    #[inline]
    pub fn l1(&self, a: &[f32], b: &[f32]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.l1)(a, b) }
    }

    /// See [`crate::l2sq_f16`].
    #[inline]
    pub fn l2sq_f16(&self, q: &[f32], h: &[f16]) -> f32 {
        debug_assert_eq!(q.len(), h.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.l2sq_f16)(q, h) }
    }

    /// See [`crate::dot_f16`].
    #[inline]
    pub fn dot_f16(&self, q: &[f32], h: &[f16]) -> f32 {
        debug_assert_eq!(q.len(), h.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.dot_f16)(q, h) }
    }

    /// See [`crate::l2sq_halves`].
    #[inline]
    pub fn l2sq_halves(&self, a: &[f16], b: &[f16]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.l2sq_halves)(a, b) }
    }

    /// See [`crate::dot_halves`].
    #[inline]
    pub fn dot_halves(&self, a: &[f16], b: &[f16]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.dot_halves)(a, b) }
    }

    /// See [`crate::l1_halves`].
    #[inline]
    pub fn l1_halves(&self, a: &[f16], b: &[f16]) -> f32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.l1_halves)(a, b) }
    }

    /// See [`crate::l1_f16`].
    #[inline]
    pub fn l1_f16(&self, q: &[f32], h: &[f16]) -> f32 {
        debug_assert_eq!(q.len(), h.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.l1_f16)(q, h) }
    }

    /// See [`crate::differing`].
    #[inline]
    pub fn differing(&self, a: &[u8], b: &[u8]) -> u32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.differing)(a, b) }
    }

    /// See [`crate::common`].
    #[inline]
    pub fn common(&self, a: &[u8], b: &[u8]) -> u32 {
        debug_assert_eq!(a.len(), b.len());
        // SAFETY: as in `l2sq`.
        unsafe { (self.common)(a, b) }
    }

    /// See [`crate::f16_from_f32`].
    #[inline]
    pub fn f16_from_f32(&self, src: &[f32], dst: &mut [f16]) {
        assert_eq!(src.len(), dst.len(), "f16_from_f32: lengths differ");
        // SAFETY: `available` checked the instruction set, the line above the lengths.
        unsafe { (self.f16_from_f32)(src, dst) }
    }

    /// See [`crate::f32_from_f16`].
    #[inline]
    pub fn f32_from_f16(&self, src: &[f16], dst: &mut [f32]) {
        assert_eq!(src.len(), dst.len(), "f32_from_f16: lengths differ");
        // SAFETY: as in `f16_from_f32`.
        unsafe { (self.f32_from_f16)(src, dst) }
    }

    /// See [`crate::fastscan`].
    #[inline]
    pub fn fastscan(&self, codes: &[u8], lut: &[u8], sums: &mut [i32; GROUP]) {
        assert!(
            codes.len() == lut.len() && codes.len().is_multiple_of(16),
            "fastscan: {} code bytes, {} table bytes",
            codes.len(),
            lut.len()
        );
        // SAFETY: `available` checked the instruction set, the lines above the lengths.
        unsafe { (self.fastscan)(codes, lut, sums) }
    }

    /// See [`crate::nibble_scan`].
    #[inline]
    pub fn nibble_scan(&self, codes: &[u8], query: &[i8], sums: &mut [i32; GROUP]) {
        assert!(
            codes.len().is_multiple_of(BLOCK)
                && query.len().is_multiple_of(BLOCK_DIMS)
                && codes.len() / BLOCK == query.len() / BLOCK_DIMS,
            "nibble_scan: {} code bytes, {} numbers of a query",
            codes.len(),
            query.len()
        );
        // SAFETY: `available` checked the instruction set, the lines above the lengths.
        unsafe { (self.nibble_scan)(codes, query, sums) }
    }

    /// See [`crate::group_bounds`].
    #[inline]
    pub fn group_bounds(
        &self,
        sums: &[i32; GROUP],
        factors: &GroupFactors,
        estimate: &Estimate,
        limit: &Limit,
        bounds: &mut [f32; GROUP],
    ) -> u32 {
        // SAFETY: `available` checked the instruction set.
        unsafe { (self.group_bounds)(sums, factors, estimate, limit, bounds) }
    }

    /// See [`crate::hadamard`].
    #[inline]
    pub fn hadamard(&self, x: &mut [f32]) {
        assert!(
            x.len().is_power_of_two(),
            "hadamard: length {} is no power of two",
            x.len()
        );
        // SAFETY: `available` checked the instruction set, the lines above the length.
        unsafe { (self.hadamard)(x) }
    }

    /// See [`crate::rotate`].
    #[inline]
    pub fn rotate(&self, x: &mut [f32], flips: &[u32]) {
        let n = x.len();
        assert!(
            n.is_power_of_two() || n.is_multiple_of(2) && n > 0,
            "rotate: length {n}"
        );
        assert!(
            flips.len().is_multiple_of(n),
            "rotate: {} flips for {n} numbers",
            flips.len()
        );
        // SAFETY: `available` checked the instruction set, the lines above the lengths.
        unsafe { (self.rotate)(x, flips) }
    }
}

/// The variants this machine can run, narrow ones first; the first is the scalar reference, and of several of one
/// instruction set the last serves.
pub fn variants() -> &'static [Variant] {
    static VARIANTS: OnceLock<Vec<Variant>> = OnceLock::new();
    VARIANTS.get_or_init(|| Isa::ALL.into_iter().flat_map(available).collect())
}

/// What serves the free functions, and the value of `OMEN_SIMD` where it names nothing that this machine has.
struct Choice {
    variant: Variant,
    refused: Option<String>,
}

static CHOICE: OnceLock<Choice> = OnceLock::new();

/// The variant that serves the free functions.
#[inline]
pub(crate) fn active() -> &'static Variant {
    &CHOICE.get_or_init(choose).variant
}

/// The value of `OMEN_SIMD`, if it could not be honoured.
pub(crate) fn refused() -> Option<&'static str> {
    CHOICE.get_or_init(choose).refused.as_deref()
}

/// The only way to a `Variant`: those of an instruction set that the machine can run, none if it lacks the instructions.
fn available(isa: Isa) -> Vec<Variant> {
    if !isa.is_available() {
        return Vec::new();
    }
    match isa {
        Isa::Scalar => vec![scalar::VARIANT],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => vec![crate::x86_64::avx2::VARIANT],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            let mut all = vec![crate::x86_64::avx512::VARIANT];
            if is_x86_feature_detected!("avx512vnni") {
                all.push(crate::x86_64::avx512vnni::VARIANT);
                if is_x86_feature_detected!("avx512vpopcntdq") {
                    all.push(crate::x86_64::avx512popcnt::VARIANT);
                }
            }
            all
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => vec![crate::aarch64::VARIANT],
        _ => Vec::new(),
    }
}

#[cold]
fn choose() -> Choice {
    let name = std::env::var_os("OMEN_SIMD").unwrap_or_default();
    let name = name.to_string_lossy();
    let forced = Isa::from_name(&name).and_then(|isa| available(isa).pop());
    let widest = || {
        let last = variants().last();
        *last.expect("the scalar variant is always there")
    };
    Choice {
        variant: forced.unwrap_or_else(widest),
        refused: (forced.is_none() && !name.is_empty()).then(|| name.into_owned()),
    }
}
