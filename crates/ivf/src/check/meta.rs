//! The metapage's fields and the directory's pages.

use std::mem::offset_of;

use super::pages::{Place, check_place};
use super::report::{Finding, Findings};
use crate::Result;
use crate::index::Index;
use crate::layout::directory::{ENTRIES_PER_PAGE, ListEntry};
use crate::layout::meta::{META_BLOCK, MetaPage};
use crate::layout::page::{NO_LIST, PageKind};
use crate::store::PageStore;

/// Checks what is fixed since the build. Returns the blocks.
pub(super) fn check_fixed<S: PageStore>(
    s: &S,
    index: &Index,
    findings: &mut Findings,
) -> Result<Vec<u32>> {
    let meta = &index.meta;
    let place = |kind, seq, n_bytes| Place {
        kind,
        list: NO_LIST,
        stamp: 0,
        seq,
        n_bytes,
    };
    // Older indexes end before the spreads.
    let meta_bytes = offset_of!(MetaPage, spreads);
    check_or_note(
        s,
        META_BLOCK,
        &place(PageKind::Meta, 0, meta_bytes),
        findings,
    )?;
    for what in impossible(index) {
        findings.add(Finding::of_page(None, META_BLOCK, what));
    }
    let mut blocks = vec![META_BLOCK];
    for seq in 0..meta.directory.len {
        let left = meta.lists as usize - seq as usize * ENTRIES_PER_PAGE;
        let n_bytes = left.min(ENTRIES_PER_PAGE) * size_of::<ListEntry>();
        let block = meta.directory.start + seq;
        let place = place(PageKind::Directory, seq, n_bytes);
        check_or_note(s, block, &place, findings)?;
        blocks.push(block);
    }
    Ok(blocks)
}

/// Checks a page; one that cannot be read is a finding.
fn check_or_note<S: PageStore>(
    s: &S,
    block: u32,
    place: &Place,
    findings: &mut Findings,
) -> Result<()> {
    match check_place(s, block, place, findings) {
        Err(crate::IvfError::Corrupt { block, what }) => {
            findings.add(Finding::of_page(None, block, what));
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// What cannot be, beyond what opening an index refuses.
fn impossible(index: &Index) -> Vec<String> {
    let (meta, mut found) = (&index.meta, Vec::new());
    if meta.rounding.to_bits() != index.form.rounding().to_bits() {
        found.push(format!("rounding is {}", meta.rounding));
    }
    let root = &meta.root;
    let generations = (root.layout_gen, root.delete_gen, root.append_delete_gen);
    if generations != (1, 0, 0) || root.frozen_dead != 0 {
        found.push("the list of centroids is not as built".into());
    }
    let n = meta.calibration_points as usize;
    let (points, spreads) = (&meta.calibration[..n], &meta.spreads[..n]);
    if n > 0 && meta.calibration_queries == 0 {
        found.push("a calibration without queries".into());
    }
    let mut probes = 0;
    for (point, spread) in points.iter().zip(spreads) {
        let measured = |recall: f32| (0.0..=1.0).contains(&recall);
        if point.probes <= probes || point.probes > meta.lists {
            found.push(format!(
                "calibration: {} lists after {probes}",
                point.probes
            ));
        }
        if !measured(point.recall_10) || !(measured(point.recall_100) || point.recall_100 == -1.0) {
            found.push(format!(
                "calibration: recall {} and {}",
                point.recall_10, point.recall_100
            ));
        }
        let is_spread = |x: f32| x >= 0.0;
        if !is_spread(spread.spread_10) || !is_spread(spread.spread_100) {
            found.push(format!(
                "calibration: spread {} and {}",
                spread.spread_10, spread.spread_100
            ));
        }
        probes = point.probes;
    }
    found
}
