//! Writes queries where the device reads them.

use omen_gpu::params::QueryBound;
use omen_ivf::index::Index;

use crate::threads;

/// A thread for so many numbers: less work than that is done before a thread has started.
const NUMBERS_A_THREAD: usize = 1 << 18;
/// Threads at most: memory is the limit beyond.
const MAX_THREADS: usize = 8;

/// Prepares `vectors` (`[n]` inputs, the user's numbers) into `to` (`[n, query_words]`, scaled space) and `bounds` (`[n]`), a large batch
/// with several threads. `is_ordinary` (`[n]`) says which of them the device can answer; it gets other numbers in place of the others.
pub(in crate::engine) fn prepare(
    index: &Index,
    vectors: &[&[f32]],
    to: &mut [f32],
    bounds: &mut [QueryBound],
    is_ordinary: &mut [bool],
) {
    let words = index.query_words();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_threads = (to.len() / NUMBERS_A_THREAD).clamp(1, cores.min(MAX_THREADS));
    let share = vectors.len().div_ceil(n_threads).max(1);
    let mut parts = vectors
        .chunks(share)
        .zip(to.chunks_mut(share * words))
        .zip(bounds.chunks_mut(share).zip(is_ordinary.chunks_mut(share)));
    let part = |((vectors, to), (bounds, is_ordinary)): (_, (_, _))| {
        prepare_part(index, vectors, to, bounds, is_ordinary);
    };
    let Some(first) = parts.next() else { return };
    std::thread::scope(|scope| {
        threads::with_signals_blocked(|| {
            for other in parts {
                scope.spawn(move || part(other));
            }
        });
        part(first);
    });
}

fn prepare_part(
    index: &Index,
    vectors: &[&[f32]],
    to: &mut [f32],
    bounds: &mut [QueryBound],
    is_ordinary: &mut [bool],
) {
    let rows = vectors.iter().zip(to.chunks_exact_mut(index.query_words()));
    for ((vector, to), (bound, is_ordinary)) in rows.zip(bounds.iter_mut().zip(is_ordinary)) {
        // The CPU, which answers the others, says what is wrong with them.
        let prepared = index.prepare_into(vector, to).unwrap_or_default();
        *is_ordinary = prepared.is_some();
        *bound = match prepared {
            Some(bound) => QueryBound::from(&bound),
            None => {
                // Any query would do: its answer is not used.
                to.fill(1.0);
                QueryBound::default()
            }
        };
    }
}
