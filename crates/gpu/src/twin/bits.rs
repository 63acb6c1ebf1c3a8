//! Twin of `kernels/bit_distance.h`: distances of strings of bits, from how many bits differ, and the bounds of what the operators return.

use half::f16;
use omen_ivf::Metric;

/// How many bits differ between a row (`[pitch]`) and a query's words (`[pitch / 2]`).
pub fn differing(query: &[f32], row: &[f16]) -> u32 {
    let words = row.as_chunks::<2>().0.iter();
    let of_row =
        words.map(|[low, high]| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16);
    let pairs = query.iter().zip(of_row);
    pairs.map(|(q, h)| (q.to_bits() ^ h).count_ones()).sum()
}

/// The distance of a query and a row that have so many bits set: Hamming's exactly, Jaccard's rounded to the nearest f32.
pub fn bit_distance(metric: Metric, differing: u32, of_query: f32, of_row: f32) -> f32 {
    if metric == Metric::Hamming {
        return differing as f32;
    }
    match (of_query as u32 + of_row as u32 - differing) / 2 {
        0 => 1.0,
        common => {
            let share = f64::from(common) / (f64::from(common) + f64::from(differing));
            (1.0 - share) as f32
        }
    }
}

/// Key and ceiling, as `omen_ivf`'s `bound.rs` has them: the distance where it is exact, else its neighbours.
pub fn bit_bounds(metric: Metric, distance: f32) -> (f32, f32) {
    if metric == Metric::Hamming || (distance * 256.0).fract() == 0.0 {
        (distance, distance)
    } else {
        (distance.next_down(), distance.next_up())
    }
}
