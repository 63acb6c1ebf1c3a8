//! What unit tests share.

/// A fresh seed, printed so that a failure can be repeated through OMEN_TEST_SEED.
pub fn seed() -> u64 {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(text) => text.parse().expect("OMEN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    seed
}
