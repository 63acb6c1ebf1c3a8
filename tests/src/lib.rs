//! What the tests across the crates share.

pub mod fuzz;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator with a fresh seed, printed so that `OMEN_TEST_SEED` can repeat the run.
pub fn rng() -> ChaCha8Rng {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(seed) => seed.parse().expect("OMEN_TEST_SEED is a u64"),
        Err(_) => rand::rng().random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}
