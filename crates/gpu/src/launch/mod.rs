//! One launcher per kernel: each owns its symbol, argument and grid. Nobody else launches.

pub mod rerank;
pub mod scan;
pub mod select;

use crate::params::{RerankParams, ScanParams, SelectParams};

/// A kernel as its launcher sees it; `tests/tests/kernel_table.rs` compares this with the compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Symbol.
    pub symbol: &'static str,
    /// Bytes of each parameter, in order.
    pub param_bytes: &'static [usize],
}

/// All kernels, in the order of the numbers the launchers use.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        symbol: "scan_mma_4",
        param_bytes: &[size_of::<ScanParams>()],
    },
    Kernel {
        symbol: "scan_mma_8",
        param_bytes: &[size_of::<ScanParams>()],
    },
    Kernel {
        symbol: "scan_mma_16",
        param_bytes: &[size_of::<ScanParams>()],
    },
    Kernel {
        symbol: "scan_mma_32",
        param_bytes: &[size_of::<ScanParams>()],
    },
    Kernel {
        symbol: "scan_fma",
        param_bytes: &[size_of::<ScanParams>()],
    },
    Kernel {
        symbol: "select_smallest",
        param_bytes: &[size_of::<SelectParams>()],
    },
    Kernel {
        symbol: "rerank_selected",
        param_bytes: &[size_of::<RerankParams>()],
    },
];
