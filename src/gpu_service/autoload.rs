//! Hot again after a restart: the worker writes down which indexes have tiers, and when it is started has them loaded again, one after the
//! other, by loaders.

use std::time::{Duration, Instant};

use omen_service::serve::Server;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::claim::{Claim, IndexId, Outcome};
use super::memory::Service;
use super::{hot_file, loader};
use crate::error::PgError;
use crate::guc;

/// The file is written at most so often.
const WRITE: Duration = Duration::from_secs(10);
/// So often a load is tried that ends neither with a tier nor for want of an index.
const TRIES: u32 = 3;

/// What is to be loaded again, and what the file says.
pub(super) struct Autoload {
    wanted: Vec<Wanted>,
    /// The loader that is loading one of them.
    under_way: Option<(Claim, IndexId)>,
    /// In ascending order.
    written: Vec<IndexId>,
    written_at: Instant,
    has_failed: bool,
}

struct Wanted {
    id: IndexId,
    tries: u32,
}

impl Autoload {
    /// Reads the file.
    pub(super) fn start(service: &Service) -> Self {
        let mut written = hot_file::read().unwrap_or_else(|error| {
            report(format!(
                "indexes that were hot before are not loaded again: {error}"
            ));
            Vec::new()
        });
        written.sort_unstable();
        written.dedup();
        // Should one of them be what brings the worker down, it is not loaded at each start.
        let is_wanted = guc::gpu_autoload() && !service.has_failed_starts();
        let wanted = |&id: &IndexId| Wanted { id, tries: TRIES };
        Self {
            wanted: written.iter().filter(|_| is_wanted).map(wanted).collect(),
            under_way: None,
            written,
            written_at: Instant::now(),
            has_failed: false,
        }
    }

    /// Has the next one loaded, if nobody loads.
    pub(super) fn step(&mut self, service: &Service) {
        if self.wanted.is_empty() {
            return;
        }
        if !guc::gpu_autoload() {
            self.wanted.clear();
            return;
        }
        if let Some((claim, id)) = self.under_way {
            let Some(outcome) = service.control.loaders.outcome_of(claim) else {
                return;
            };
            self.under_way = None;
            self.note(id, outcome);
        }
        let next = self
            .wanted
            .iter()
            .find(|wanted| service.control.loaders.may_claim(wanted.id, 0));
        if let Some(&Wanted { id, .. }) = next {
            let claim = loader::start_for(service, id, None);
            self.under_way = claim.map(|claim| (claim, id));
        }
    }

    fn note(&mut self, id: IndexId, outcome: Outcome) {
        self.wanted.retain_mut(|wanted| {
            if wanted.id == id {
                wanted.tries -= 1;
            }
            let is_over = matches!(outcome, Outcome::Loaded | Outcome::Gone);
            wanted.id != id || !is_over && wanted.tries > 0
        });
    }

    /// Writes the file now and then, if it is out of date.
    pub(super) fn write_if_due(&mut self, server: &Server) {
        if self.written_at.elapsed() > WRITE {
            self.write(server);
        }
    }

    /// Writes the file, if it is out of date. What is still to be loaded counts as hot.
    pub(super) fn write(&mut self, server: &Server) {
        let mut hot: Vec<IndexId> = server.keys().map(IndexId::of_tier).collect();
        hot.extend(self.wanted.iter().map(|wanted| wanted.id));
        hot.sort_unstable();
        hot.dedup();
        self.written_at = Instant::now();
        if hot == self.written {
            return;
        }
        match hot_file::write(&hot) {
            Ok(()) => (self.written, self.has_failed) = (hot, false),
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                report(format!("could not write which indexes are hot: {error}"));
            }
            Err(_) => {}
        }
    }
}

fn report(message: String) {
    PgError::new(PgSqlErrorCode::ERRCODE_WARNING, message)
        .with_hint("After a restart, indexes are loaded when searches want them.")
        .report(PgLogLevel::LOG);
}
