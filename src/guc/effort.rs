//! How much of an index a search visits: `omen.probes`, `omen.recall`, or what is set for pgvector's indexes.

use super::{PROBES, RECALL, pgvector};

/// Default of `omen.recall`.
pub(super) const DEFAULT_RECALL: f64 = 0.95;

/// How much of an index a search visits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Effort {
    /// So many lists, at least 1.
    Lists(u32),
    /// This share of the lists.
    Share(f64),
    /// As many lists as hold this share of the nearest rows, by the calibration.
    Recall(f32),
}

impl Effort {
    /// Lists to visit of `lists`, at least 1, if the number is given.
    pub(crate) fn probes(self, lists: u32) -> Option<u32> {
        match self {
            Self::Lists(probes) => Some(probes),
            Self::Share(share) => Some(((share * f64::from(lists)).ceil() as u32).max(1)),
            Self::Recall(_) => None,
        }
    }

    /// Share of the nearest rows to be found, where the number of lists is not given: that of the settings.
    pub(crate) fn recall(self) -> f32 {
        match self {
            Self::Recall(recall) => recall,
            Self::Lists(_) | Self::Share(_) => recall(),
        }
    }
}

/// What the settings say for an index that was built from `rows` rows: `omen.probes`, else `omen.recall` if that is not at its default, else
/// `hnsw.ef_search`, `ivfflat.probes`, `omen.recall`.
pub(crate) fn effort(rows: u64) -> Effort {
    match PROBES.get() {
        0 => {}
        probes => return Effort::Lists(probes as u32),
    }
    if RECALL.get() == DEFAULT_RECALL {
        if let Some(recall) = pgvector::recall() {
            return Effort::Recall(recall);
        }
        if let Some(share) = pgvector::share(rows) {
            return Effort::Share(share);
        }
    }
    Effort::Recall(recall())
}

/// `omen.recall`.
pub(crate) fn recall() -> f32 {
    RECALL.get() as f32
}
