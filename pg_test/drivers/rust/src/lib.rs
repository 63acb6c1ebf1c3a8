//! What the Rust clients have in common: random values, exact answers, and how a run over the types is told.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::Debug;

use pgvector::{Bit, HalfVector, SparseVector, Vector};

/// Rows returned.
pub const K: usize = 10;
/// Rows of a table.
pub const ROWS: usize = 200;

/// What a check returns.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Random numbers from the run's seed (splitmix64).
pub struct Rng(u64);

impl Rng {
    /// From OMEN_TEST_SEED.
    pub fn from_env() -> Self {
        let seed = std::env::var("OMEN_TEST_SEED").expect("OMEN_TEST_SEED is set");
        Self(seed.parse().expect("the seed is a number"))
    }

    /// 0 to n - 1.
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// Numbers that half precision represents too, not all zero.
    fn eighths(&mut self, dim: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (1..dim)
            .map(|_| (self.below(81) as f32 - 40.0) / 8.0)
            .collect();
        values.push(0.125);
        values
    }
}

/// A type of the server, and the index that is made on it.
pub trait Value: Clone + PartialEq + Debug {
    /// Of the type.
    const NAME: &'static str;
    /// The type of the column.
    const COLUMN: &'static str;
    /// Of the index.
    const OPCLASS: &'static str;
    /// Of the index.
    const OPERATOR: &'static str;
    /// A random value.
    fn draw(rng: &mut Rng) -> Self;
    /// What the operator returns.
    fn distance(&self, other: &Self) -> f64;
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum()
}

impl Value for Vector {
    const NAME: &'static str = "vector";
    const COLUMN: &'static str = "vector(12)";
    const OPCLASS: &'static str = "vector_l2_ops";
    const OPERATOR: &'static str = "<->";

    fn draw(rng: &mut Rng) -> Self {
        rng.eighths(12).into()
    }

    fn distance(&self, other: &Self) -> f64 {
        let (a, b) = (self.as_slice(), other.as_slice());
        (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt()
    }
}

impl Value for HalfVector {
    const NAME: &'static str = "halfvec";
    const COLUMN: &'static str = "halfvec(12)";
    const OPCLASS: &'static str = "halfvec_cosine_ops";
    const OPERATOR: &'static str = "<=>";

    fn draw(rng: &mut Rng) -> Self {
        Self::from_f32_slice(&rng.eighths(12))
    }

    fn distance(&self, other: &Self) -> f64 {
        let floats = |v: &Self| v.as_slice().iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        let (a, b) = (floats(self), floats(other));
        1.0 - dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    }
}

impl Value for SparseVector {
    const NAME: &'static str = "sparsevec";
    const COLUMN: &'static str = "sparsevec(40)";
    const OPCLASS: &'static str = "sparsevec_ip_ops";
    const OPERATOR: &'static str = "<#>";

    fn draw(rng: &mut Rng) -> Self {
        let sparse = |x: f32, keep: bool| if keep { x.abs() } else { 0.0 };
        let values: Vec<f32> = rng
            .eighths(40)
            .into_iter()
            .enumerate()
            .map(|(i, x)| sparse(x, i % 5 == 4))
            .collect();
        Self::from_dense(&values)
    }

    fn distance(&self, other: &Self) -> f64 {
        -dot(&self.to_vec(), &other.to_vec())
    }
}

impl Value for Bit {
    const NAME: &'static str = "bit";
    const COLUMN: &'static str = "bit(24)";
    const OPCLASS: &'static str = "bit_hamming_ops";
    const OPERATOR: &'static str = "<~>";

    fn draw(rng: &mut Rng) -> Self {
        Self::new(&std::array::from_fn::<bool, 24, _>(|_| rng.below(2) == 1))
    }

    fn distance(&self, other: &Self) -> f64 {
        let differ = |(a, b): (&u8, &u8)| f64::from((a ^ b).count_ones());
        self.as_bytes()
            .iter()
            .zip(other.as_bytes())
            .map(differ)
            .sum()
    }
}

/// The search; its parameter is the query.
pub fn nearest_sql<T: Value>(table: &str) -> String {
    let distance = format!("embedding {} $1", T::OPERATOR);
    format!("SELECT id, {distance} FROM {table} ORDER BY {distance} LIMIT {K}")
}

/// The statements that make the index and the table it is on.
pub fn table_sql<T: Value>(table: &str) -> [String; 2] {
    [
        format!("CREATE TABLE {table} (id integer, embedding {})", T::COLUMN),
        format!(
            "CREATE INDEX {table}_omen ON {table} USING omen (embedding {})",
            T::OPCLASS
        ),
    ]
}

/// Fails unless `found`, id and distance of each row, are the nearest of `values`, in order.
pub fn check_answer<T: Value>(values: &[T], query: &T, found: &[(i32, f64)]) {
    let mut exact: Vec<f64> = values.iter().map(|value| value.distance(query)).collect();
    exact.sort_by(f64::total_cmp);
    let ids: HashSet<i32> = found.iter().map(|(id, _)| *id).collect();
    assert_eq!((found.len(), ids.len()), (K, K), "{found:?}");
    for ((id, returned), wanted) in found.iter().zip(&exact) {
        assert!((returned - wanted).abs() < 1e-4, "{found:?}, not {exact:?}");
        let true_distance = values[*id as usize].distance(query);
        assert!(
            (true_distance - wanted).abs() < 1e-4,
            "row {id} is at {true_distance}, not {wanted}"
        );
    }
}

/// Fails unless the plan is an ordered scan of the omen index.
pub fn check_plan(plan: &str) {
    assert!(
        plan.contains("_omen on ") && plan.contains("Order By") && !plan.contains("Sort"),
        "{plan}"
    );
}

/// Runs the checks of the types one after the other, tells how they went, and ends the process with 1 if one failed.
#[macro_export]
macro_rules! main_of {
    ($check:ident) => {
        fn main() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut failed = false;
            $crate::main_of!(@each runtime, failed, $check, Vector, HalfVector, SparseVector, Bit);
            std::process::exit(i32::from(failed));
        }
    };
    (@each $runtime:ident, $failed:ident, $check:ident, $($value:ty),*) => {
        $(
            // A panic, which a failed assertion is, was told by the time it is caught.
            let check = std::panic::AssertUnwindSafe(|| $runtime.block_on($check::<$value>()));
            match std::panic::catch_unwind(check) {
                Ok(Ok(())) => println!("{}: ok", <$value as $crate::Value>::NAME),
                Ok(Err(error)) => {
                    println!("{}: FAILED\n{error} {error:?}", <$value as $crate::Value>::NAME);
                    $failed = true;
                }
                Err(_) => {
                    println!("{}: FAILED", <$value as $crate::Value>::NAME);
                    $failed = true;
                }
            }
        )*
    };
}
