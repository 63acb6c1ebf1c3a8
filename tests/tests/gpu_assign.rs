//! Assigning rows to centroids on the simulated device, whose kernels are the CPU twins, and on a real GPU, where there is one: against
//! distances in f64 (the kernel against its twin: `gpu_steps/assign.rs`). `OMEN_GPU_TEST_SMALL=1` shrinks the sizes (for compute-sanitizer).

#[path = "gpu_assign/checks.rs"]
mod checks;
#[path = "../../crates/gpu/tests/common/mod.rs"]
mod common;
#[path = "gpu_parity/real_gpu.rs"]
mod real_gpu;

use omen_gpu::Gpu;

fn on_both(check: impl Fn(&Gpu)) {
    check(&Gpu::open_simulated());
    if let Some(gpu) = real_gpu::gpu() {
        check(&gpu);
    }
}

#[test]
fn rows_go_to_their_nearest() {
    on_both(checks::rows_go_to_their_nearest);
}

#[test]
fn rows_that_are_kept_go_to_their_nearest() {
    on_both(checks::rows_that_are_kept_go_to_their_nearest);
}

#[test]
fn ties_go_to_the_lower_number() {
    on_both(checks::ties_go_to_the_lower_number);
}

#[test]
fn training_is_as_good_as_on_threads() {
    on_both(checks::training_is_as_good_as_on_threads);
}

#[test]
fn interrupted_and_used_again() {
    on_both(checks::interrupted_and_used_again);
}

#[test]
fn memory_is_asked_for() {
    on_both(checks::memory_is_asked_for);
}
