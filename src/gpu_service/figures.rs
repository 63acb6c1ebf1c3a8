//! What is counted for each index, by its database and OID.

use omen_service::indexes::{By, Figures, Hot, Searched};
use omen_service::message::TierKey;
use omen_service::serve::Server;

use super::breaker::now;
use super::claim::IndexId;
use super::memory::Service;
use crate::engine::stats::ScanRecord;
use crate::options;
use crate::storage::IndexPages;

impl Service {
    /// A scan has ended, or a call for many queries.
    pub(crate) fn note_search(&self, record: &ScanRecord, is_call: bool) {
        let by = match (record.gpu_rounds, record.cpu_rounds) {
            (0, _) => By::Cpu,
            (_, 0) => By::Gpu,
            _ => By::Both,
        };
        let searched = Searched {
            n: if is_call { record.queries } else { 1 },
            by,
            is_call,
            fell_back: record.fallback.is_some(),
            rows: record.rows,
            candidates: record.candidates,
            at: now(),
        };
        let id = IndexId::here(record.relation);
        self.indexes.note_search(id.word(), &searched);
    }

    /// Has the tier of the index in `pages` go last, or not, as the index's option says now.
    pub(crate) fn note_option(&self, pages: &IndexPages) {
        let goes_last = options::hot_of(pages) == options::Hot::On;
        let id = IndexId::of(pages);
        self.indexes.note_goes_last(id.word(), goes_last);
    }

    /// Bytes of the tiers that go last, but for that of the index in `pages`.
    pub(super) fn last_bytes_beside(&self, pages: &IndexPages) -> u64 {
        self.indexes.last_bytes_beside(IndexId::of(pages).word())
    }

    /// Whether the index of this tier was last seen with an option by which the tier goes last.
    pub(super) fn goes_last(&self, key: &TierKey) -> bool {
        self.indexes.goes_last(IndexId::of_tier(key).word())
    }

    /// The worker has a new tier.
    pub(super) fn note_tier(&self, key: &TierKey) {
        self.indexes.note_load(IndexId::of_tier(key).word(), now());
    }

    /// So many lists of a tier were brought up to date.
    pub(super) fn note_refresh(&self, key: &TierKey, n_lists: usize) {
        let id = IndexId::of_tier(key).word();
        self.indexes.note_refresh(id, n_lists as u64);
    }

    /// Lets everyone know what the worker has of each index.
    pub(super) fn publish_hot(&self, server: &Server) {
        let uses = server.uses();
        let hot = uses.iter().map(|tier| {
            let hot = Hot {
                bytes: tier.bytes,
                lists: tier.n_lists as u64,
                stale_lists: tier.n_stale as u64,
            };
            (IndexId::of_tier(&tier.key).word(), hot)
        });
        self.indexes.set_hot(&hot.collect::<Vec<_>>());
    }

    /// The figures of an index of this session's database.
    pub(crate) fn figures_of(&self, index: u32) -> Figures {
        self.indexes.read(IndexId::here(index).word())
    }
}
