//! The kernels of a batch that the device plans, each launcher against its CPU twin, on a real GPU. Without one, every test prints
//! `skipped: <reason>` and passes. `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "gpu_steps/arrays.rs"]
mod arrays;
#[path = "gpu_steps/assign.rs"]
mod assign;
#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_codes/device.rs"]
mod device;
#[path = "gpu_steps/finish.rs"]
mod finish;
#[path = "gpu_steps/plan.rs"]
mod plan;
#[path = "gpu_steps/prepare.rs"]
mod prepare;
#[path = "gpu_steps/probes.rs"]
mod probes;
#[path = "gpu_steps/queries.rs"]
mod queries;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;
#[path = "gpu_steps/samples.rs"]
mod samples;
#[path = "gpu_steps/scans.rs"]
mod scans;
#[path = "gpu_steps/select.rs"]
mod select;
#[path = "gpu_parity/tier_arrays.rs"]
mod tier_arrays;
