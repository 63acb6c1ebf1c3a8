//! A real index of random rows, its pages back to back in ordinary memory; pinning one costs nothing.

use half::f16;
use omen_ivf::index::Index;
use omen_ivf::layout::group::Filter;
use omen_ivf::mem_store::MemStore;
use omen_ivf::store::{PAGE_BYTES, PageStore, PinStore};
use omen_ivf::write_index::{BuildEntry, IndexSpec, write_index};
use omen_ivf::{IvfError, Metric, Tid};

/// Pages back to back.
pub struct Flat {
    words: Vec<u64>,
    /// So many pages may be pinned at a time.
    pub max_pins: usize,
}

impl Flat {
    /// All pages.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    fn page(&self, block: u32) -> &[u8] {
        &self.bytes()[block as usize * PAGE_BYTES..][..PAGE_BYTES]
    }
}

impl PageStore for Flat {
    fn n_blocks(&self) -> Result<u32, IvfError> {
        Ok((self.words.len() * 8 / PAGE_BYTES) as u32)
    }

    fn read<R>(&self, block: u32, f: impl FnOnce(&[u8]) -> R) -> Result<R, IvfError> {
        Ok(f(self.page(block)))
    }

    fn prefetch(&self, _block: u32) {}

    fn wants_announcements(&self) -> bool {
        false
    }

    fn announce(&self, _blocks: Vec<u32>) {}

    fn check_interrupts(&self) -> Result<(), IvfError> {
        Ok(())
    }
}

// SAFETY: the pages never change nor move.
#[allow(unsafe_code)]
unsafe impl PinStore for Flat {
    type Pin = u32;

    fn max_pins(&self) -> usize {
        self.max_pins
    }

    fn pin(&self, block: u32) -> Result<u32, IvfError> {
        Ok(block)
    }

    fn address(&self, pin: &u32) -> *const u8 {
        self.page(*pin).as_ptr()
    }

    fn release<R>(&self, pin: u32, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.page(pin))
    }
}

/// An index of random rows, evenly spread over its lists.
pub fn build(rows: usize, dim: usize, lists: usize) -> Result<(Flat, Index), IvfError> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f16::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 200.0)
    };
    let spec = IndexSpec {
        kind: omen_ivf::VectorKind::Half,
        entries: 0,
        metric: Metric::L2,
        dim: dim as u32,
        lists: lists as u32,
        filter: Filter::for_dim(dim as u32),
        lists_option: 0,
        scale_exp: 0,
        rotation_seed: 1,
        centroids: (0..lists * dim).map(|_| random()).collect(),
        built_at: 1,
    };
    let mut i = 0;
    let mut next = || {
        let entry = (i < rows).then(|| BuildEntry {
            list: (i * lists / rows) as u32,
            tid: Tid::new(i as u32, 1),
            err: 0.01,
            row: (0..dim).map(|_| random()).collect(),
        });
        i += 1;
        Ok(entry)
    };
    let mut store = MemStore::new();
    write_index(&mut store, &spec, &mut next, &mut |_| ())?;
    let n_blocks = store.n_blocks()?;
    let mut flat = Flat {
        words: vec![0; n_blocks as usize * PAGE_BYTES / 8],
        max_pins: 512,
    };
    for (block, page) in flat.words.chunks_exact_mut(PAGE_BYTES / 8).enumerate() {
        store.read(block as u32, |bytes| {
            bytemuck::cast_slice_mut::<u64, u8>(page).copy_from_slice(bytes);
        })?;
    }
    drop(store);
    let index = Index::open(&flat)?;
    Ok((flat, index))
}
