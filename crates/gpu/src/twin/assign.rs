//! Twin of `assign_rows`.

/// The centroid of each row: the one of the least `ranks` (`[n_centroids, n_rows]`) plus `offsets` (`[n_centroids]`), the lower one of equals;
/// 0 where none is below infinity.
pub fn assign_rows(ranks: &[f32], offsets: &[f32], n_rows: usize) -> Vec<u32> {
    let list_of = |row: usize| {
        let scores = offsets
            .iter()
            .enumerate()
            .map(|(c, offset)| (ranks[c * n_rows + row] + offset, c as u32));
        scores
            .fold((f32::INFINITY, 0), |best, next| {
                if next.0 < best.0 { next } else { best }
            })
            .1
    };
    (0..n_rows).map(list_of).collect()
}
