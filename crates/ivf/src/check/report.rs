//! What a check found.

use std::fmt;

use crate::IvfError;
use crate::layout::page::ROOT_LIST;

/// So many findings are kept; the others are counted.
const MAX_FINDINGS: usize = 100;

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The list it concerns, [`ROOT_LIST`] for that of the centroids.
    pub list: Option<u32>,
    /// The page it was seen on, or in whose place it matters.
    pub block: Option<u32>,
    /// What is wrong, in words.
    pub what: String,
}

impl Finding {
    /// One of a list as a whole.
    pub fn of_list(list: u32, what: impl Into<String>) -> Self {
        Self {
            list: Some(list),
            block: None,
            what: what.into(),
        }
    }

    /// One of a page.
    pub fn of_page(list: Option<u32>, block: u32, what: impl Into<String>) -> Self {
        Self {
            list,
            block: Some(block),
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.list {
            Some(ROOT_LIST) => f.write_str("list of centroids")?,
            Some(list) => write!(f, "list {list}")?,
            None => {}
        }
        if let Some(block) = self.block {
            let comma = if self.list.is_some() { ", " } else { "" };
            write!(f, "{comma}page {block}")?;
        }
        if self.list.is_some() || self.block.is_some() {
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}

/// Findings on their way to the report.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    pub kept: Vec<Finding>,
    pub n: u64,
}

impl Findings {
    pub(super) fn add(&mut self, finding: Finding) {
        self.n += 1;
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        }
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong; empty for a sound index. The first hundred.
    pub problems: Vec<Finding>,
    /// How many there are.
    pub n_findings: u64,
    /// Live entries of frozen parts.
    pub frozen: u64,
    /// Dead entries of frozen parts.
    pub frozen_dead: u64,
    /// Live entries of appendable parts.
    pub appended: u64,
    /// Dead entries of appendable parts.
    pub appended_dead: u64,
    /// Pages in use.
    pub used_pages: u64,
    /// Free pages.
    pub free_pages: u64,
    /// Pages that nothing refers to and that are not free: left over from a crash (see `reclaim.rs`). 0 if not all lists could
    /// be read.
    pub leaked_pages: u64,
    /// Lists that were not read to their end, because of what was found there.
    pub unread_lists: u64,
    /// Lists that changed each time they were read; nothing is known of them.
    pub unsettled_lists: u64,
    /// Whether lists changed meanwhile, so that nothing that concerns several of them could be checked.
    pub has_changed: bool,
    /// Rows of the table that were compared.
    pub rows_checked: u64,
}

impl CheckReport {
    /// Of an index that cannot be opened. Gives the error back if it says nothing about the index.
    pub fn of_error(error: IvfError) -> crate::Result<Self> {
        let mut report = Self::default();
        report.add(match error {
            IvfError::Corrupt { block, what } => Finding::of_page(None, block, what),
            IvfError::Version { .. } => Finding {
                list: None,
                block: None,
                what: error.to_string(),
            },
            IvfError::Dimension { .. } | IvfError::Elements { .. } | IvfError::Store(_) => {
                return Err(error);
            }
        });
        Ok(report)
    }

    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.n_findings == 0
    }

    /// Adds a finding, from outside the index.
    pub fn add(&mut self, finding: Finding) {
        self.n_findings += 1;
        if self.problems.len() < MAX_FINDINGS {
            self.problems.push(finding);
        }
    }

    /// Adds some.
    pub(super) fn add_all(&mut self, findings: Findings) {
        self.n_findings += findings.n;
        let room = MAX_FINDINGS - self.problems.len();
        self.problems.extend(findings.kept.into_iter().take(room));
    }
}
