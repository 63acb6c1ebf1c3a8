//! What the machine can do, and which variant serves.

use crate::variant;

/// An instruction set with a variant of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable code, whatever the compiler's baseline is.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ (and all of [`Isa::Avx2`]).
    Avx512,
    /// AArch64 with NEON.
    Neon,
}

impl Isa {
    /// All of them, narrow ones first.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The name in messages and in `OMEN_SIMD`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// The inverse of [`Isa::name`].
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }
}

/// The instruction set the functions of this crate use in this process.
///
/// The widest available one, or the one that the environment variable `OMEN_SIMD` names. It is settled, and the variable
/// read, once per process, at the first call of any function of the crate.
pub fn isa() -> Isa {
    variant::active().isa()
}

/// Why [`isa`] is not what the environment variable `OMEN_SIMD` asks for, in a sentence for the user.
///
/// `None` where there is nothing to tell: the variable is unset or empty, or what it names is in use. An unknown or
/// unavailable name is no reason to stop a server, so the widest available set serves, and this says so.
pub fn isa_note() -> Option<String> {
    variant::refused().map(|name| {
        let available: Vec<&str> = Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .map(Isa::name)
            .collect();
        format!(
            "OMEN_SIMD={name}: this machine has {}; {} is in use",
            available.join(", "),
            isa().name()
        )
    })
}
