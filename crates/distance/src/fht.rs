//! The passes of the fast Hadamard transform, shared by all variants.
//!
//! Pass `h` replaces `(x_i, x_{i+h})` by their sum and difference, for `h = 1, 2, 4, …`. Some passes are done in one
//! sweep; since every result is still one addition of the same two operands, all variants agree
//! bit for bit. Plain loops: the compiler vectorises them with the instructions of the function they are inlined into.

/// Length up to which a block stays in the first-level cache for all its passes (16 KiB).
const BLOCK: usize = 4096;

/// Transforms `x` (length a power of two), given a function that fully transforms a block of up to [`BLOCK`].
#[inline(always)]
pub(crate) fn transform(x: &mut [f32], small: impl Fn(&mut [f32])) {
    let block = x.len().min(BLOCK);
    for part in x.chunks_exact_mut(block) {
        small(part);
    }
    passes(x, block);
}

/// The passes `h = first, 2 first, …` up to half the length; where registers are narrow and few.
#[inline(always)]
pub(crate) fn passes(x: &mut [f32], first: usize) {
    let mut h = first;
    while 4 * h <= x.len() {
        for part in x.chunks_exact_mut(4 * h) {
            let (low, high) = part.split_at_mut(2 * h);
            let ((a, b), (c, d)) = (low.split_at_mut(h), high.split_at_mut(h));
            for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                let (ab, a_b, cd, c_d) = (*a + *b, *a - *b, *c + *d, *c - *d);
                (*a, *b, *c, *d) = (ab + cd, a_b + c_d, ab - cd, a_b - c_d);
            }
        }
        h *= 4;
    }
    if 2 * h <= x.len() {
        let (low, high) = x.split_at_mut(h);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}

/// The same for registers of `LANES` numbers, of which `first` is a multiple; three passes in one sweep where possible.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn wide_passes<const LANES: usize>(x: &mut [f32], first: usize) {
    let (x, _) = x.as_chunks_mut::<LANES>();
    let mut h = first / LANES;
    while 8 * h <= x.len() {
        sweep::<LANES, 8>(x, h);
        h *= 8;
    }
    if 4 * h <= x.len() {
        sweep::<LANES, 4>(x, h);
    } else if 2 * h <= x.len() {
        sweep::<LANES, 2>(x, h);
    }
}

/// The passes `h, 2 h, …` up to half of `R h` (in registers), with `R` of them in hand.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn sweep<const LANES: usize, const R: usize>(x: &mut [[f32; LANES]], h: usize) {
    for part in x.chunks_exact_mut(R * h) {
        for i in 0..h {
            let mut hand: [[f32; LANES]; R] = std::array::from_fn(|r| part[i + r * h]);
            let mut step = 1;
            while step < R {
                for r in (0..R).filter(|r| r & step == 0) {
                    let (a, b) = (hand[r], hand[r + step]);
                    hand[r] = std::array::from_fn(|lane| a[lane] + b[lane]);
                    hand[r + step] = std::array::from_fn(|lane| a[lane] - b[lane]);
                }
                step *= 2;
            }
            for (r, register) in hand.into_iter().enumerate() {
                part[i + r * h] = register;
            }
        }
    }
}

/// The passes `h = 1` and `h = 2` (length a multiple of 4), where [`passes`] would run loops of one round.
#[inline(always)]
pub(crate) fn first_passes(x: &mut [f32]) {
    for part in x.chunks_exact_mut(4) {
        let (ab, a_b) = (part[0] + part[1], part[0] - part[1]);
        let (cd, c_d) = (part[2] + part[3], part[2] - part[3]);
        part.copy_from_slice(&[ab + cd, a_b + c_d, ab - cd, a_b - c_d]);
    }
}
