//! One launcher per kernel: each owns its symbol, argument and grid. Nobody else launches.

pub mod rerank;
pub mod scan;
pub mod select;
pub mod unpack;

use crate::params::{RerankParams, ScanParams, SelectParams, UnpackParams};

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
    Kernel {
        symbol: "unpack_rows",
        param_bytes: &[size_of::<UnpackParams>()],
    },
    Kernel {
        symbol: "unpack_groups",
        param_bytes: &[size_of::<UnpackParams>()],
    },
];

/// Index in [`KERNELS`] of the kernel of this name; fails to compile if there is none.
pub(crate) const fn number_of(symbol: &str) -> usize {
    let mut i = 0;
    while i < KERNELS.len() {
        if same(KERNELS[i].symbol.as_bytes(), symbol.as_bytes()) {
            return i;
        }
        i += 1;
    }
    panic!("no such kernel")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
