//! Registers and scans of x86-64.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod avx512popcnt;
pub(crate) mod avx512vnni;
