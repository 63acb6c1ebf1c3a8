//! The GPU the tests run on, if there is one.

use omen_gpu::Gpu;

/// The first GPU, or None after saying why there is none.
pub fn gpu() -> Option<Gpu> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Whether sizes should be small (`OMEN_GPU_TEST_SMALL`).
pub fn small() -> bool {
    std::env::var_os("OMEN_GPU_TEST_SMALL").is_some()
}
