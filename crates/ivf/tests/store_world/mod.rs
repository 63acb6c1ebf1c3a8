//! What the store tests share: an index in memory together with a model of what must be in it.
#![allow(dead_code)]

pub mod victim;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use half::f16;
use omen_ivf::build_entries::OneByOne;
use omen_ivf::bulk_delete::bulk_delete;
use omen_ivf::check::check;
use omen_ivf::fold::fold_list;
use omen_ivf::index::{Index, read_entry, reread_entry};
use omen_ivf::insert::insert;
use omen_ivf::layout::group::Filter;
use omen_ivf::list_reader::{AppendedTo, ListReader, Visit};
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::PageStore;
use omen_ivf::stored::{Scaling, StoredVector};
use omen_ivf::write_index::{BuildEntry, Follower, IndexSpec, write_index_from};
use omen_ivf::{Metric, Result, Tid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Dimensions around every border of the format.
pub const DIMS: [u32; 16] = [
    1, 2, 3, 63, 64, 65, 100, 768, 1024, 2004, 4024, 4025, 4032, 4033, 4096, 16_000,
];

/// A fresh seed, printed so that a failure can be repeated through OMEN_TEST_SEED.
pub fn seed() -> u64 {
    let seed = match std::env::var("OMEN_TEST_SEED") {
        Ok(text) => text.parse().expect("OMEN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("OMEN_TEST_SEED={seed}");
    seed
}

/// What must be found: tid to stored vector.
pub type Model = BTreeMap<Tid, StoredVector>;

/// An index and its model.
pub struct World {
    pub store: MemStore,
    pub index: Index,
    pub model: Model,
    pub rng: StdRng,
    next_row: u32,
    dead: Vec<Tid>,
}

/// A random vector of the user's.
pub fn vector(rng: &mut StdRng, dim: u32) -> Vec<f32> {
    (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Writes an index with `n` random entries.
pub fn build(
    store: &mut MemStore,
    metric: Metric,
    dim: u32,
    lists: u32,
    n: u32,
    rng: &mut StdRng,
) -> Model {
    build_in(store, None, metric, dim, lists, n, rng)
}

/// As [`build`], with the threads of a pool.
pub fn build_in(
    store: &mut MemStore,
    pool: Option<&rayon::ThreadPool>,
    metric: Metric,
    dim: u32,
    lists: u32,
    n: u32,
    rng: &mut StdRng,
) -> Model {
    let (spec, entries, model) = plan(metric, dim, lists, n, rng);
    write(store, pool, &spec, entries, &mut |_: u64| ());
    model
}

/// Writes an index of these entries, in order.
pub fn write(
    store: &mut MemStore,
    pool: Option<&rayon::ThreadPool>,
    spec: &IndexSpec,
    entries: Vec<BuildEntry>,
    follower: &mut dyn Follower,
) {
    let mut entries = entries.into_iter();
    let mut next = || Ok(entries.next());
    let mut source = OneByOne::new(spec.dim as usize, &mut next);
    // Little ahead: the memory of pieces is used again.
    let pool = pool.map(|pool| (pool, 1 << 20));
    write_index_from(store, spec, pool, &mut source, follower).unwrap();
}

/// What is to be an index of `n` random vectors, and its entries, by list.
pub fn plan(
    metric: Metric,
    dim: u32,
    lists: u32,
    n: u32,
    rng: &mut StdRng,
) -> (IndexSpec, Vec<BuildEntry>, Model) {
    let scaling = Scaling {
        metric,
        dim,
        scale_exp: 7,
    };
    let stored = |rng: &mut StdRng| {
        scaling
            .to_stored(&vector(rng, dim))
            .unwrap()
            .expect("not zero")
    };
    let centroids: Vec<f16> = (0..lists).flat_map(|_| stored(rng).row).collect();
    let model: Model = (0..n).map(|i| (tid(i), stored(rng))).collect();
    let nearest = |row: &[f16]| {
        let wide: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
        let l2sq = |list: u32| {
            omen_distance::l2sq_f16(&wide, &centroids[(list * dim) as usize..][..dim as usize])
        };
        (0..lists)
            .min_by(|&a, &b| l2sq(a).total_cmp(&l2sq(b)))
            .unwrap()
    };
    let mut entries: Vec<BuildEntry> = model
        .iter()
        .map(|(&tid, v)| BuildEntry {
            list: nearest(&v.row),
            tid,
            err: v.err,
            row: v.row.clone(),
        })
        .collect();
    entries.sort_by_key(|entry| entry.list);
    let spec = IndexSpec {
        kind: omen_ivf::VectorKind::Half,
        entries: 0,
        metric,
        dim,
        lists,
        filter: match metric {
            Metric::L1 => Filter::None,
            _ => Filter::from_u32(rng.random_range(0..3)).unwrap(),
        },
        lists_option: 0,
        scale_exp: 7,
        rotation_seed: rng.random(),
        centroids: centroids.clone(),
        built_at: 1,
    };
    (spec, entries, model)
}

/// The tid of the i-th heap row.
pub fn tid(i: u32) -> Tid {
    Tid::new(i / 200, (i % 200) as u16 + 1)
}

impl World {
    /// An index with `n` entries, on fragmented pages.
    pub fn new(metric: Metric, dim: u32, lists: u32, n: u32, seed: u64) -> Self {
        Self::on(MemStore::fragmented(seed), metric, dim, lists, n, seed)
    }

    /// An index with `n` entries in the given empty store.
    pub fn on(
        mut store: MemStore,
        metric: Metric,
        dim: u32,
        lists: u32,
        n: u32,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let model = build(&mut store, metric, dim, lists, n, &mut rng);
        Self::of(store, model, n, rng)
    }

    /// The index in this store, with these entries: the first `n` rows.
    pub fn of(store: MemStore, model: Model, n: u32, rng: StdRng) -> Self {
        let index = Index::open(&store).unwrap();
        Self {
            store,
            index,
            model,
            rng,
            next_row: n,
            dead: Vec::new(),
        }
    }

    /// A tid for a new row: often that of a dead one, as heaps do.
    pub fn new_tid(&mut self) -> Tid {
        if !self.dead.is_empty() && self.rng.random_bool(0.5) {
            let i = self.rng.random_range(0..self.dead.len());
            return self.dead.swap_remove(i);
        }
        self.next_row += 1;
        tid(self.next_row - 1)
    }

    /// Inserts a random vector.
    pub fn insert(&mut self) -> Tid {
        let v = vector(&mut self.rng, self.index.meta.dim);
        let tid = self.new_tid();
        assert!(insert(&self.store, &self.index, &v, tid).unwrap());
        self.model
            .insert(tid, self.index.to_stored(&v).unwrap().unwrap());
        tid
    }

    /// Deletes about a `share` of the entries.
    pub fn delete(&mut self, share: f64) {
        let dead: Vec<Tid> = self
            .model
            .keys()
            .copied()
            .filter(|_| self.rng.random_bool(share))
            .collect();
        self.delete_tids(&dead);
    }

    /// Deletes the entries of these tids (ascending).
    pub fn delete_tids(&mut self, dead: &[Tid]) {
        let stats = bulk_delete(&self.store, &self.index, &mut |tid| {
            dead.binary_search(&tid).is_ok()
        })
        .unwrap();
        assert_eq!(stats.removed, dead.len() as u64);
        for tid in dead {
            self.model.remove(tid);
        }
        self.dead.extend(dead);
        assert_eq!(stats.remaining, self.model.len() as u64);
    }

    /// Folds a random list.
    pub fn fold(&mut self) {
        let list = self.rng.random_range(0..self.index.n_lists());
        fold_list(&self.store, &self.index, list).unwrap();
    }

    /// Checks that the index holds exactly the model and is sound.
    pub fn verify(&self) {
        verify(&self.store, &self.model);
        assert_eq!(self.store.n_locks(), 0);
        let report = check(&self.store, &self.index).unwrap();
        assert_eq!(report.leaked_pages, 0, "without a crash no page is lost");
    }
}

/// Checks that the store is a sound index that holds exactly the model.
pub fn verify(store: &MemStore, model: &Model) {
    let index = Index::open(store).unwrap();
    let report = check(store, &index).unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    let found = read_all(store, &index).unwrap();
    assert_eq!(found.len(), model.len());
    assert_eq!(report.frozen + report.appended, model.len() as u64);
    for (tid, stored) in found {
        assert_eq!(model.get(&tid), Some(&stored), "{tid:?}");
    }
}

/// All live entries, list by list. Tids that occur twice are returned twice.
pub fn read_all<S: PageStore>(s: &S, index: &Index) -> Result<Vec<(Tid, StoredVector)>> {
    let mut reader = ListReader::new();
    let mut all = Vec::new();
    for list in 0..index.n_lists() {
        all.append(&mut read_list(s, index, list, &mut reader)?);
    }
    Ok(all)
}

/// The live entries of a list, read as a scan reads them: without its lock, again if it changed.
pub fn read_list<S: PageStore>(
    s: &S,
    index: &Index,
    list: u32,
    reader: &mut ListReader,
) -> Result<Vec<(Tid, StoredVector)>> {
    let mut entry = read_entry(s, index, list)?;
    for _ in 0..1000 {
        let (mut heads, mut slots, mut found) = (Vec::new(), Vec::new(), Vec::new());
        let visit = reader.for_each_group(s, index, list, &entry, |group, header| {
            for i in (0..32).filter(|i| header.live & (1 << i) != 0) {
                slots.push(group * 32 + i as u32);
                heads.push((
                    Tid::new(header.tid_block[i], header.tid_offset[i]),
                    header.err[i],
                ));
            }
            ControlFlow::Continue(())
        })?;
        if visit == Visit::Done {
            let mut left = heads.iter();
            let rows = reader.read_rows(s, index, list, &entry, &slots, |_, row| {
                let &(tid, err) = left.next().unwrap();
                found.push((
                    tid,
                    StoredVector {
                        row: row.to_vec(),
                        err,
                    },
                ));
            })?;
            let appended = if rows == Visit::Done {
                reader.for_each_appended(
                    s,
                    index,
                    list,
                    &entry,
                    &AppendedTo::NOTHING,
                    |tid, err, row| {
                        found.push((
                            tid,
                            StoredVector {
                                row: row.to_vec(),
                                err,
                            },
                        ));
                    },
                )?
            } else {
                rows
            };
            if appended == Visit::Done {
                return Ok(found);
            }
        }
        entry = reread_entry(s, index, list, &entry)?;
    }
    panic!("list {list} never holds still");
}
