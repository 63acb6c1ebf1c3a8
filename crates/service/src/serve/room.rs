//! Which tiers make room for one that is to be loaded.

use super::TierUse;
use crate::message::TierKey;

/// The room that a tier needs.
#[derive(Debug, Clone, Copy)]
pub struct RoomWanted {
    /// The tier; one of this name that is here is to be replaced.
    pub key: TierKey,
    /// Its bytes.
    pub bytes: u64,
    /// Whether tiers that go last may go for it.
    pub displaces_last: bool,
    /// Bytes that all tiers together may take.
    pub limit: u64,
    /// Tiers that there may be.
    pub max_tiers: usize,
}

/// The tiers that are to go: none where there is room for all, so that the one to be replaced serves until then; else that one, then of `uses` (as [`super::Server::uses`] has them) the first, those that `goes_last` names
/// after all others. `None`: what may go is not enough, so that nothing should.
pub fn make_way(
    uses: &[TierUse],
    wanted: &RoomWanted,
    goes_last: impl Fn(&TierKey) -> bool,
) -> Option<Vec<TierKey>> {
    let (replaced, others): (Vec<&TierUse>, Vec<&TierUse>) =
        uses.iter().partition(|tier| tier.key == wanted.key);
    let (last, first): (Vec<&TierUse>, Vec<&TierUse>) = others
        .iter()
        .copied()
        .partition(|tier| goes_last(&tier.key));
    let last = if wanted.displaces_last {
        last
    } else {
        Vec::new()
    };
    let mut bytes: u64 = uses.iter().map(|tier| tier.bytes).sum();
    let mut n_others = others.len();
    let mut going = Vec::new();
    let mut next = replaced.into_iter().chain(first).chain(last);
    while bytes.saturating_add(wanted.bytes) > wanted.limit || n_others >= wanted.max_tiers {
        let tier = next.next()?;
        bytes -= tier.bytes;
        n_others -= usize::from(tier.key != wanted.key);
        going.push(tier.key);
    }
    Some(going)
}
