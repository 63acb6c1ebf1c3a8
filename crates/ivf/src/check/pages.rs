//! Pages as such: who has them, what their headers and tails say.

use super::report::{Finding, Findings};
use crate::Result;
use crate::index::Index;
use crate::layout::directory::ListEntry;
use crate::layout::page::{self, PAGE_ID, PageKind, PageTail};
use crate::store::{NO_BLOCK, PageStore};

/// Which pages have been named so far.
pub(super) struct Owners(Vec<bool>);

impl Owners {
    /// None of `n_blocks`.
    pub(super) fn new(n_blocks: u32) -> Self {
        Self(vec![false; n_blocks as usize])
    }

    /// Notes that somebody has `block`; false if somebody had it before, or if there is no such page.
    pub(super) fn take<S: PageStore>(&mut self, s: &S, block: u32) -> Result<bool> {
        if block as usize >= self.0.len() {
            // A file may have grown.
            self.0.resize(s.n_blocks()? as usize, false);
        }
        Ok(match self.0.get_mut(block as usize) {
            Some(taken) => !std::mem::replace(taken, true),
            None => false,
        })
    }

    /// How many there are.
    pub(super) fn n_taken(&self) -> u64 {
        self.0.iter().filter(|taken| **taken).count() as u64
    }
}

/// What a page of a list must be.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub kind: PageKind,
    pub list: u32,
    pub stamp: u32,
    pub seq: u32,
    /// Bytes of content in use, at least: what lies behind is lost when the page is logged.
    pub n_bytes: usize,
}

/// Reads a page and says what of its header and tail is not right. False if it is another page.
pub(super) fn check_place<S: PageStore>(
    s: &S,
    block: u32,
    place: &Place,
    findings: &mut Findings,
) -> Result<bool> {
    let owner = (place.list != page::NO_LIST).then_some(place.list);
    s.check_interrupts()?;
    let (tail, header_is_right, n_bytes) = s.read(block, |bytes| {
        (
            page::tail(bytes),
            page::has_our_header(bytes),
            page::content_bytes(bytes),
        )
    })?;
    let mut found = |what: String| findings.add(Finding::of_page(owner, block, what));
    if !tail.is(place.kind, place.list, place.stamp, place.seq) {
        found(format!(
            "not page {} of kind {:?} with stamp {}: {}",
            place.seq,
            place.kind,
            place.stamp,
            describe(&tail)
        ));
        return Ok(false);
    }
    if !header_is_right {
        found("its header is not one of ours".into());
    } else if n_bytes < place.n_bytes {
        found(format!("{n_bytes} bytes of content, not {}", place.n_bytes));
    }
    if !is_chained(place.kind) && (tail.next, tail.n_records) != (NO_BLOCK, 0) {
        found("it has records, or a page that follows it".into());
    }
    Ok(true)
}

fn is_chained(kind: PageKind) -> bool {
    matches!(kind, PageKind::Append | PageKind::Map)
}

fn describe(tail: &PageTail) -> String {
    if tail.page_id != PAGE_ID {
        return "it has no tail of ours".into();
    }
    format!(
        "it is page {} of kind {} of list {} with stamp {}",
        tail.seq, tail.kind, tail.list, tail.stamp
    )
}

/// The pages that no list names.
#[derive(Default)]
pub(super) struct Unowned {
    pub free: u64,
    pub leaked: u64,
    pub findings: Findings,
}

/// Counts them, and tells free ones from leaked ones. `entries`: of each list that was read.
pub(super) fn check_unowned<S: PageStore>(
    s: &S,
    index: &Index,
    owners: &Owners,
    entries: &[Option<ListEntry>],
) -> Result<Unowned> {
    let mut found = Unowned::default();
    let unowned = owners.0.iter().enumerate().filter(|(_, taken)| !**taken);
    for (block, _) in unowned {
        let block = block as u32;
        s.check_interrupts()?;
        let look = |bytes: &[u8]| {
            let is_new = page::is_new(bytes);
            let is_dirty = is_new && bytes.iter().any(|&byte| byte != 0);
            (page::tail(bytes), page::is_free(bytes), is_dirty)
        };
        let what = match s.read(block, look) {
            Err(crate::IvfError::Corrupt { what, .. }) => Some(what),
            Err(error) => return Err(error),
            Ok((_, _, true)) => Some("it has no header, yet is not empty".into()),
            Ok((_, true, false)) => {
                found.free += 1;
                None
            }
            Ok((tail, false, false)) => {
                found.leaked += 1;
                not_leaked(&tail, index, entries)
            }
        };
        if let Some(what) = what {
            found.findings.add(Finding::of_page(None, block, what));
        }
    }
    Ok(found)
}

/// Why this cannot be a page that a crash left over.
fn not_leaked(tail: &PageTail, index: &Index, entries: &[Option<ListEntry>]) -> Option<String> {
    let is_of_lists = !matches!(
        PageKind::from_u16(tail.kind),
        None | Some(PageKind::Meta | PageKind::Directory | PageKind::Free)
    );
    if tail.page_id != PAGE_ID || !is_of_lists || tail.list >= index.n_lists() {
        return Some(format!("nothing refers to it, and {}", describe(tail)));
    }
    let layout_gen = entries[tail.list as usize]?.layout_gen;
    // A rewrite that a crash ended has left pages of the next layout.
    (u64::from(tail.stamp) > u64::from(layout_gen) + 1).then(|| {
        format!(
            "stamp {} of list {}, whose layout is {layout_gen}",
            tail.stamp, tail.list
        )
    })
}
