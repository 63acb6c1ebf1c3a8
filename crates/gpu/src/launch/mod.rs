//! One launcher per kernel: each owns its symbol, argument and grid. Nobody else launches.

pub mod prepare_codes;
pub mod rerank;
pub mod rerank_survivors;
pub mod scan;
pub mod scan_codes;
pub mod select;

use crate::params::{
    PrepareCodesParams, RerankParams, RerankSurvivorsParams, ScanCodesParams, ScanParams,
    SelectParams,
};

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
        symbol: "prepare_codes",
        param_bytes: &[size_of::<PrepareCodesParams>()],
    },
    Kernel {
        symbol: "scan_codes_mma_4",
        param_bytes: &[size_of::<ScanCodesParams>()],
    },
    Kernel {
        symbol: "scan_codes_mma_16",
        param_bytes: &[size_of::<ScanCodesParams>()],
    },
    Kernel {
        symbol: "scan_codes_popc",
        param_bytes: &[size_of::<ScanCodesParams>()],
    },
    Kernel {
        symbol: "rerank_survivors",
        param_bytes: &[size_of::<RerankSurvivorsParams>()],
    },
];

/// Index in [`KERNELS`] of a symbol; a symbol that is not there stops the compiler.
const fn index_of(symbol: &str) -> usize {
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
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    a.len() == b.len()
}
