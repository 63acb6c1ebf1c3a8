//! One launcher per kernel: each owns its symbol, argument and grid. Nobody else launches.

pub mod assign;
pub mod finish;
pub mod plan;
pub mod prepare;
pub mod prepare_codes;
pub mod probes;
pub mod rerank;
pub mod rerank_survivors;
pub mod scan;
pub mod scan_codes;
pub mod select;
pub mod unpack;

use crate::error::GpuError;
use crate::params::{
    AssignParams, PlanParams, PrepareCodesParams, PrepareParams, ProbeParams, RerankParams,
    RerankSurvivorsParams, ScanCodesParams, ScanParams, SelectParams, UnpackParams,
};

/// A kernel as its launcher sees it; `tests/tests/kernel_table.rs` compares this with the compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Symbol.
    pub symbol: &'static str,
    /// Bytes of each parameter, in order.
    pub param_bytes: &'static [usize],
    /// Most dynamic shared memory that its launcher asks for; a device may have less.
    pub shared_bytes: usize,
}

const fn kernel(symbol: &'static str, param_bytes: &'static [usize]) -> Kernel {
    Kernel {
        symbol,
        param_bytes,
        shared_bytes: 0,
    }
}

const fn kernel_with_shared(
    symbol: &'static str,
    param_bytes: &'static [usize],
    shared_bytes: usize,
) -> Kernel {
    Kernel {
        symbol,
        param_bytes,
        shared_bytes,
    }
}

/// All kernels, in the order of the numbers the launchers use.
pub const KERNELS: &[Kernel] = &[
    kernel("scan_mma_4", &[size_of::<ScanParams>()]),
    kernel("scan_mma_8", &[size_of::<ScanParams>()]),
    kernel("scan_mma_16", &[size_of::<ScanParams>()]),
    kernel("scan_mma_32", &[size_of::<ScanParams>()]),
    kernel("scan_fma", &[size_of::<ScanParams>()]),
    kernel_with_shared(
        "scan_wgmma",
        &[size_of::<ScanParams>()],
        scan::WGMMA_SHARED_BYTES,
    ),
    kernel_with_shared(
        "scan_wgmma_dense",
        &[size_of::<ScanParams>()],
        scan::WGMMA_SHARED_BYTES,
    ),
    kernel("scan_l1", &[size_of::<ScanParams>()]),
    kernel("scan_bits", &[size_of::<ScanParams>()]),
    kernel("select_smallest", &[size_of::<SelectParams>()]),
    kernel("select_smallest_wide", &[size_of::<SelectParams>()]),
    kernel("rerank_selected", &[size_of::<RerankParams>()]),
    kernel_with_shared(
        "finish_selected",
        &[size_of::<RerankParams>()],
        finish::MAX_SHARED_BYTES,
    ),
    kernel("prepare_queries", &[size_of::<PrepareParams>()]),
    kernel_with_shared(
        "select_probes",
        &[size_of::<ProbeParams>()],
        probes::MAX_SHARED_BYTES,
    ),
    kernel_with_shared(
        "select_probes_wide",
        &[size_of::<ProbeParams>()],
        probes::MAX_SHARED_BYTES,
    ),
    kernel("plan_count", &[size_of::<PlanParams>()]),
    kernel("plan_items", &[size_of::<PlanParams>()]),
    kernel("plan_one", &[size_of::<PlanParams>()]),
    kernel("plan_scatter", &[size_of::<PlanParams>()]),
    kernel("prepare_codes", &[size_of::<PrepareCodesParams>()]),
    kernel("scan_codes_mma_4", &[size_of::<ScanCodesParams>()]),
    kernel("scan_codes_mma_16", &[size_of::<ScanCodesParams>()]),
    kernel("scan_codes_popc", &[size_of::<ScanCodesParams>()]),
    kernel("rerank_survivors", &[size_of::<RerankSurvivorsParams>()]),
    kernel("unpack_rows", &[size_of::<UnpackParams>()]),
    kernel("unpack_groups", &[size_of::<UnpackParams>()]),
    kernel("assign_rows", &[size_of::<AssignParams>()]),
];

/// The number of a kernel by its symbol.
const fn number_of(symbol: &str) -> usize {
    let mut i = 0;
    while i < KERNELS.len() {
        let (a, b) = (KERNELS[i].symbol.as_bytes(), symbol.as_bytes());
        let mut same = a.len() == b.len();
        let mut j = 0;
        while same && j < a.len() {
            same = a[j] == b[j];
            j += 1;
        }
        if same {
            return i;
        }
        i += 1;
    }
    panic!("no kernel of this name");
}

/// A number of queries as the first dimension of a grid.
fn query_grid(n_queries: usize) -> Result<u32, GpuError> {
    i32::try_from(n_queries)
        .map(|n| n as u32)
        .map_err(|_| GpuError::Unsupported(format!("{n_queries} queries")))
}
