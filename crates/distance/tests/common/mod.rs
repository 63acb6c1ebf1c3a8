//! Random inputs of the tests of this crate.

#![allow(dead_code, reason = "each test file uses a part")]

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Lengths around the widths of the registers and of the unrolled loops.
pub const LENGTHS: [usize; 24] = [
    0, 1, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257, 384, 513, 768,
    1536, 16000,
];

/// A generator with a fresh seed, printed so that `OMEN_TEST_SEED` can repeat the run.
pub fn rng() -> ChaCha8Rng {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(seed) => seed.parse().expect("OMEN_TEST_SEED is a u64"),
        Err(_) => rand::rng().random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// `n` numbers between -1 and 1.
pub fn uniform(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}
