//! `plan_count`, `plan_items`, `plan_scatter`, and `plan_one` for single queries, against `twin::plan`.

use crate::arrays::{OnDevice, OnHost};
use crate::common::rng;
use crate::device::Device;
use crate::real_gpu::{gpu, small};
use omen_gpu::launch::plan::plan;
use omen_gpu::params::{ListSlots, PlanParams, ScanItem};
use omen_gpu::twin::plan::{Round, plan_round};
use rand::Rng;
use rand::seq::index::sample;

/// The lists of a batch.
struct Case {
    n_queries: usize,
    probes: usize,
    tile_rows: [u32; 2],
    width: [u32; 2],
    slots: Vec<ListSlots>,
    /// `[n_queries, probes]`
    lists: Vec<u32>,
    /// `[n_queries]`
    n_probes: Vec<u32>,
    /// `[n_queries]`
    n_first: Vec<u32>,
}

impl Case {
    fn random(rng: &mut impl Rng, n_queries: usize, n_lists: usize, probes: usize) -> Self {
        let longest = [2, 130, 900][rng.random_range(0..3)];
        let mut first_slot = rng.random_range(0..5);
        let slots = (0..n_lists)
            .map(|_| {
                // Some lists have no entries.
                let n_slots = rng.random_range(0..=longest);
                let slots = ListSlots {
                    first_slot,
                    n_slots,
                };
                first_slot += n_slots;
                slots
            })
            .collect();
        // Queries that visit the same few lists, or any.
        let among = if rng.random() { probes } else { n_lists };
        let lists = (0..n_queries)
            .flat_map(|_| {
                sample(rng, among, probes)
                    .into_iter()
                    .map(|list| list as u32)
            })
            .collect();
        let n_probes: Vec<u32> = (0..n_queries)
            .map(|_| rng.random_range(1..=probes as u32))
            .collect();
        let n_first = n_probes
            .iter()
            .map(|&n| {
                if rng.random() {
                    rng.random_range(1..=n)
                } else {
                    n.min(2)
                }
            })
            .collect();
        let tile = |rng: &mut dyn rand::RngCore| {
            [
                (128, 4),
                (128, 8),
                (256, 16),
                (256, 32),
                (128, 256),
                (256, 512),
            ][rng.next_u32() as usize % 6]
        };
        let (first, second) = (tile(rng), tile(rng));
        Self {
            n_queries,
            probes,
            tile_rows: [first.0, second.0],
            width: [first.1, second.1],
            slots,
            lists,
            n_probes,
            n_first,
        }
    }

    /// Whether a pair belongs to a round.
    fn wanted(&self, round: usize, query: usize, place: usize) -> bool {
        let first = place < self.n_first[query] as usize;
        if round == 0 {
            first
        } else {
            !first && place < self.n_probes[query] as usize
        }
    }

    fn twin(&self, round: usize) -> Round {
        plan_round(
            &self.lists,
            self.probes,
            &self.slots,
            self.tile_rows[round],
            self.width[round],
            |query, place| self.wanted(round, query, place),
        )
    }

    fn name(&self) -> String {
        format!(
            "{} queries, {} of {} lists, tiles {:?} x {:?}",
            self.n_queries,
            self.probes,
            self.slots.len(),
            self.tile_rows,
            self.width
        )
    }
}

/// What a plan left on the device.
struct Planned {
    group: Vec<u32>,
    pairs: Vec<u32>,
    items: Vec<ScanItem>,
    n_items: Vec<u32>,
    overflow: u32,
}

fn run(device: &Device, case: &Case, max_items: usize, what: &str) -> Planned {
    let (n_pairs, n_lists) = (case.lists.len(), case.slots.len());
    let inputs = (
        device.put(&case.lists),
        device.put(&case.n_probes),
        device.put(&case.n_first),
        device.put(&case.slots),
    );
    let list_pairs = OnDevice::new(device, &vec![0u32; 2 * n_lists]);
    let starts = OnDevice::new(device, &vec![u32::MAX; 2 * n_lists]);
    let pair_at = OnDevice::new(device, &vec![u32::MAX; n_pairs]);
    let group = OnDevice::new(device, &vec![u32::MAX; 2 * n_pairs]);
    let pairs = OnDevice::new(device, &vec![u32::MAX; 2 * n_pairs]);
    let item_starts = OnDevice::new(device, &vec![u32::MAX; 2 * n_lists]);
    let items = OnDevice::new(device, &vec![ScanItem::default(); 2 * max_items]);
    let n_items = OnDevice::new(device, &[u32::MAX; 2]);
    let overflow = OnHost::new(device, &[0u32]);
    // What other steps of a plan may need is zero.
    #[allow(clippy::needless_update)]
    let params = PlanParams {
        lists: inputs.0.address(),
        n_probes: inputs.1.address(),
        n_first: inputs.2.address(),
        slots: inputs.3.address(),
        list_pairs: list_pairs.address(),
        pair_at: pair_at.address(),
        starts: starts.address(),
        group: group.address(),
        pairs: pairs.address(),
        item_starts: item_starts.address(),
        items: items.address(),
        n_items: n_items.address(),
        overflow: overflow.address(),
        n_queries: case.n_queries as u32,
        probes: case.probes as u32,
        n_lists: n_lists as u32,
        max_items: max_items as u32,
        tile_rows: case.tile_rows,
        width: case.width,
        ..PlanParams::default()
    };
    plan(&device.ctx, &device.stream, params).unwrap();
    let planned = Planned {
        overflow: overflow.get(device, &format!("{what}: overflow"))[0],
        group: group.get(device, &format!("{what}: group")),
        pairs: pairs.get(device, &format!("{what}: pairs")),
        items: items.get(device, &format!("{what}: items")),
        n_items: n_items.get(device, &format!("{what}: n_items")),
    };
    list_pairs.get(device, &format!("{what}: list_pairs"));
    starts.get(device, &format!("{what}: starts"));
    item_starts.get(device, &format!("{what}: item_starts"));
    pair_at.get(device, &format!("{what}: pair_at"));
    planned
}

/// What items scan: (pair, row of the list, slot, rows), in order.
fn pieces(items: &[ScanItem], pairs: &[u32]) -> Vec<(u32, u32, u32, u16)> {
    let of_item = |item: &ScanItem| {
        let item = *item;
        let queries =
            item.first_query as usize..item.first_query as usize + usize::from(item.n_queries);
        pairs[queries]
            .iter()
            .map(move |&pair| (pair, item.first_row, item.first_slot, item.n_rows))
    };
    let mut pieces: Vec<_> = items.iter().flat_map(of_item).collect();
    pieces.sort_unstable();
    pieces
}

/// The items of a round do what the twin's do, and belong to the pairs they name.
fn check_round(case: &Case, planned: &Planned, max_items: usize, round: usize, what: &str) {
    let twin = case.twin(round);
    let n = planned.n_items[round] as usize;
    assert_eq!(n, twin.items.len(), "{what}: items");
    let items = &planned.items[round * max_items..][..n];
    for (i, item) in items.iter().enumerate() {
        let end = item.first_query as usize + usize::from(item.n_queries);
        assert!(
            (1..=case.tile_rows[round]).contains(&u32::from(item.n_rows))
                && (1..=case.width[round]).contains(&u32::from(item.n_queries))
                && end <= planned.group.len(),
            "{what}: item {i}: {item:?}"
        );
        for at in item.first_query as usize..end {
            let (query, pair) = (planned.group[at], planned.pairs[at] as usize);
            let list = case.lists.get(pair).map(|&list| case.slots[list as usize]);
            assert!(
                query as usize == pair / case.probes
                    && list.is_some_and(|list| {
                        item.first_slot.wrapping_sub(item.first_row) == list.first_slot
                            && item.first_row + u32::from(item.n_rows) <= list.n_slots
                    }),
                "{what}: item {i}: {item:?}: query {query}, pair {pair}, {list:?}"
            );
        }
    }
    let (ours, theirs) = (
        pieces(items, &planned.pairs),
        pieces(&twin.items, &twin.pairs),
    );
    if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        panic!("{what}: (pair, first row, first slot, rows) {ours:?}, twin {theirs:?}");
    }
    assert_eq!(ours.len(), theirs.len(), "{what}: pieces");
}

fn check_case(device: &Device, case: &Case) {
    let what = case.name();
    let wanted = [case.twin(0).items.len(), case.twin(1).items.len()];
    let enough = wanted[0].max(wanted[1]).max(1);
    let planned = run(device, case, enough, &what);
    assert_eq!(planned.overflow, 0, "{what}: overflow, with room for all");
    for round in 0..2 {
        check_round(
            case,
            &planned,
            enough,
            round,
            &format!("{what}: round {round}"),
        );
    }
    if enough < 2 {
        return;
    }
    let too_few = enough - 1;
    let what = format!("{what}: room for {too_few} items");
    let planned = run(device, case, too_few, &what);
    assert_ne!(
        planned.overflow, 0,
        "{what}, wanted {wanted:?}: no overflow"
    );
    for (round, &wanted) in wanted.iter().enumerate() {
        let what = format!("{what}: round {round}");
        if wanted > too_few {
            assert_eq!(planned.n_items[round], 0, "{what}: items, wanted {wanted}");
        } else {
            check_round(case, &planned, too_few, round, &what);
        }
    }
}

#[test]
fn plan_matches_its_twin() {
    let Some(gpu) = gpu() else { return };
    let device = Device::new(&gpu);
    let mut rng = rng("plan_matches_its_twin");
    // Queries, lists, probes.
    let mut shapes = vec![
        (1, 1, 1),
        (1, 40, 7),
        (2, 3, 3),
        (5, 1030, 20),
        (70, 33, 12),
    ];
    if !small() {
        shapes.extend([
            (1, 5000, 5000),
            (1, 4096, 128),
            (3, 1024, 500),
            (7, 1025, 1025),
        ]);
        shapes.extend([
            (300, 2, 2),
            (1000, 64, 9),
            (2000, 4096, 32),
            (9, 70_000, 2000),
        ]);
        for _ in 0..20 {
            let n_lists = rng.random_range(1..3000);
            let probes = rng.random_range(1..=n_lists.min(200));
            shapes.push((rng.random_range(1..400), n_lists, probes));
        }
    }
    for (n_queries, n_lists, probes) in shapes {
        let case = Case::random(&mut rng, n_queries, n_lists, probes);
        check_case(&device, &case);
    }
}
