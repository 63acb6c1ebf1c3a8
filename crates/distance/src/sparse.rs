//! Sums over sparse rows: the elements that are not zero, in ascending order of their indices.
//!
//! Terms are added one by one in the order of the indices, each operation rounded by itself: the same bits on every machine. A sum over `n` terms
//! differs from the sum over the reals by at most `(n + 3) u / (1 - (n + 3) u) * sum |term|`, `u = 2^-24`.

/// A sparse row: indices and values of the same length, indices ascending.
#[derive(Debug, Clone, Copy)]
pub struct Sparse<'a> {
    /// The index of each element.
    pub indices: &'a [i32],
    /// The value of each element.
    pub x: &'a [f32],
}

impl Sparse<'_> {
    /// The sum, in the order of the indices, of `term(a_i, b_i)` over the indices that either row has; the value of one that a row lacks is 0.
    #[inline(always)]
    fn sum_over_either(self, other: Self, term: impl Fn(f32, f32) -> f32) -> f32 {
        let (a, b) = (self, other);
        let (mut i, mut j, mut sum) = (0, 0, 0.0_f32);
        while i < a.x.len() && j < b.x.len() {
            let (at_a, at_b) = (a.indices[i], b.indices[j]);
            let x = if at_a <= at_b { a.x[i] } else { 0.0 };
            let y = if at_b <= at_a { b.x[j] } else { 0.0 };
            sum += term(x, y);
            i += usize::from(at_a <= at_b);
            j += usize::from(at_b <= at_a);
        }
        let sum = a.x[i..].iter().fold(sum, |sum, &x| sum + term(x, 0.0));
        b.x[j..].iter().fold(sum, |sum, &y| sum + term(0.0, y))
    }

    /// `sum (a_i - b_i)^2`.
    pub fn l2sq(self, other: Self) -> f32 {
        self.sum_over_either(other, |x, y| (x - y) * (x - y))
    }

    /// `sum |a_i - b_i|`.
    pub fn l1(self, other: Self) -> f32 {
        self.sum_over_either(other, |x, y| (x - y).abs())
    }

    /// `sum a_i b_i`.
    pub fn dot(self, other: Self) -> f32 {
        let (a, b) = (self, other);
        let (mut i, mut j, mut sum) = (0, 0, 0.0_f32);
        while i < a.x.len() && j < b.x.len() {
            let (at_a, at_b) = (a.indices[i], b.indices[j]);
            if at_a == at_b {
                sum += a.x[i] * b.x[j];
            }
            i += usize::from(at_a <= at_b);
            j += usize::from(at_b <= at_a);
        }
        sum
    }

    /// `sum a_i^2`.
    pub fn norm_sq(self) -> f32 {
        self.x.iter().fold(0.0, |sum, x| sum + x * x)
    }
}
