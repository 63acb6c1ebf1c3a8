//! Rounds of a batch: which rows meet which queries in which launch. Pure functions.
//!
//! Lists are cut into pieces of [`PIECE_ROWS`] rows. Each query walks its pieces, nearest list first, in rounds. The first
//! round has no threshold, so it is small enough for all its rows to survive; after each round the select kernel keeps the
//! best and lowers the threshold, and the next round may be larger. A later round can pass the survivors' room all the
//! same (rows ordered adversely): the kernels count it, and the query is searched again in guaranteed rounds, none of
//! which has more rows than there is room.
//! Within a round, queries that walk the same piece share its rows: one item is one row tile and a group of queries.

use crate::launch::scan::Width;
use crate::memory::PIECE_ROWS;
use crate::params::ScanItem;

/// Rows of a query's first round, unless `keep` asks for more.
const FIRST_ROWS: usize = 4096;
/// If a query has no more rows than this, one round takes them all.
const ONE_ROUND_ROWS: usize = 8192;
/// A round has at most this many times the rows seen before.
const MAX_GROWTH: usize = 15;

/// Consecutive rows of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First slot.
    pub first_slot: u32,
    /// Rows, 1 to [`PIECE_ROWS`].
    pub n_rows: u32,
}

/// Cuts the slots of a list into pieces.
pub fn pieces_of(first_slot: u32, n_slots: u32) -> impl Iterator<Item = Piece> {
    let step = PIECE_ROWS as u32;
    (0..n_slots.div_ceil(step)).map(move |i| Piece {
        first_slot: first_slot + i * step,
        n_rows: step.min(n_slots - i * step),
    })
}

/// Items `first_item..first_item + n_items` for one launch of the scan kernel of `width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLaunch {
    /// Which kernel.
    pub width: Width,
    /// First of its items.
    pub first_item: usize,
    /// Number of items, at least 1.
    pub n_items: usize,
}

/// All rounds of a batch. After the launches of a round comes one select.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    /// Items of all launches.
    pub items: Vec<ScanItem>,
    /// Query numbers the items refer to.
    pub group: Vec<u32>,
    /// Launches of each round.
    pub rounds: Vec<Vec<ScanLaunch>>,
}

/// Room for survivors, and how a query's rounds use it.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Survivors kept after each round.
    pub keep: usize,
    /// Room for survivors.
    pub cap: usize,
    /// No round may have more rows than room is left, whatever the data.
    pub guaranteed: bool,
}

impl Room {
    /// Most rows of the next round when `seen` rows of `total` are done.
    fn rows_of_round(&self, seen: usize, total: usize) -> usize {
        let free = self.cap - self.keep;
        if seen == 0 {
            let small = if total <= ONE_ROUND_ROWS {
                total
            } else {
                FIRST_ROWS.max(2 * self.keep)
            };
            return if self.guaranteed {
                free
            } else {
                small.min(free)
            };
        }
        if self.guaranteed {
            return free;
        }
        // Rows in random order leave keep / seen of them below the threshold: let those fill half of the room at most.
        (seen.saturating_mul(free) / (2 * self.keep)).min(seen * MAX_GROWTH)
    }
}

/// A query's way through the pieces.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    /// Indices of pieces, in the order the query takes them; all different.
    pub pieces: Vec<u32>,
    /// Rows of these pieces.
    pub n_rows: usize,
}

/// Plans a batch. `pieces`: all pieces that may be referred to; `walks[q]`: query q's way through them.
/// `widths`: the scan kernels to choose among, narrowest first.
pub fn plan_rounds(pieces: &[Piece], walks: &[Walk], room: Room, widths: &[Width]) -> Rounds {
    let mut seen = vec![0; walks.len()];
    let mut parts: Vec<&[u32]> = vec![&[]; walks.len()];
    let mut left: Vec<&[u32]> = walks.iter().map(|walk| &walk.pieces[..]).collect();
    let mut planned = Rounds::default();
    while left.iter().any(|left| !left.is_empty()) {
        for (q, walk) in walks.iter().enumerate() {
            let limit = room.rows_of_round(seen[q], walk.n_rows);
            let (mut n, mut rows) = (0, 0);
            while n < left[q].len() {
                let more = pieces[left[q][n] as usize].n_rows as usize;
                if n > 0 && rows + more > limit {
                    break;
                }
                rows += more;
                n += 1;
            }
            (parts[q], left[q]) = left[q].split_at(n);
            seen[q] += rows;
        }
        add_round(pieces, &parts, widths, &mut planned);
    }
    planned
}

/// Appends to `group` the queries of each piece of a round, ascending, and returns for each piece that any query takes its
/// number, and where in `group` its queries begin and end. `parts[q]`: the pieces query q takes in this round.
fn group_by_piece(
    n_pieces: usize,
    parts: &[&[u32]],
    group: &mut Vec<u32>,
) -> Vec<(u32, usize, usize)> {
    let n_pairs: usize = parts.iter().map(|part| part.len()).sum();
    let first = group.len();
    let mut found: Vec<(u32, usize, usize)> = Vec::with_capacity(n_pairs.min(n_pieces));
    if n_pairs < n_pieces / 8 {
        let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(n_pairs);
        for (part, q) in parts.iter().zip(0..) {
            pairs.extend(part.iter().map(|&piece| (piece, q)));
        }
        pairs.sort_unstable();
        for same in pairs.chunk_by(|a, b| a.0 == b.0) {
            found.push((same[0].0, group.len(), group.len() + same.len()));
            group.extend(same.iter().map(|pair| pair.1));
        }
        return found;
    }
    // Many pairs: count, then put each query into its place.
    let mut ends = vec![0u32; n_pieces];
    for &piece in parts.iter().copied().flatten() {
        ends[piece as usize] += 1;
    }
    let mut at = first;
    for (piece, end) in (0..).zip(ends.iter_mut()) {
        let n = *end as usize;
        if n > 0 {
            found.push((piece, at, at + n));
        }
        *end = at as u32; // where the next query of this piece goes
        at += n;
    }
    group.resize(at, 0);
    for (part, q) in parts.iter().zip(0..) {
        for &piece in *part {
            let place = &mut ends[piece as usize];
            group[*place as usize] = q;
            *place += 1;
        }
    }
    found
}

/// Adds one round: cuts each piece's queries by kernel width and its rows into tiles.
fn add_round(pieces: &[Piece], parts: &[&[u32]], widths: &[Width], planned: &mut Rounds) {
    let mut by_width: Vec<Vec<ScanItem>> = vec![Vec::new(); widths.len()];
    for (piece, begin, end) in group_by_piece(pieces.len(), parts, &mut planned.group) {
        let piece = pieces[piece as usize];
        let mut first_query = begin as u32;
        // Full groups of the widest kernel first, then the narrowest that takes the rest. Groups of one tile stay
        // together so that the tile's rows come from L2 after the first.
        let mut left = end - begin;
        while left > 0 {
            let w = widths
                .iter()
                .position(|w| w.queries() >= left)
                .unwrap_or(widths.len() - 1);
            let per_group = widths[w].queries();
            let n_groups = if w + 1 == widths.len() {
                (left / per_group).max(1)
            } else {
                1
            };
            let covered = left.min(n_groups * per_group);
            let tile = widths[w].rows() as u32;
            for row in (0..piece.n_rows).step_by(tile as usize) {
                for group in 0..n_groups {
                    by_width[w].push(ScanItem {
                        first_slot: piece.first_slot + row,
                        first_row: 0, // nothing is placed by rows
                        first_query: first_query + (group * per_group) as u32,
                        n_rows: tile.min(piece.n_rows - row) as u16,
                        n_queries: per_group.min(covered - group * per_group) as u16,
                    });
                }
            }
            first_query += covered as u32;
            left -= covered;
        }
    }
    let mut launches = Vec::new();
    for (&width, items) in widths.iter().zip(&by_width) {
        if !items.is_empty() {
            launches.push(ScanLaunch {
                width,
                first_item: planned.items.len(),
                n_items: items.len(),
            });
            planned.items.extend_from_slice(items);
        }
    }
    planned.rounds.push(launches);
}
