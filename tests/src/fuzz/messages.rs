//! What the processes of the shared service read from memory that others write: requests, answers, and the region through which tiers are loaded.

use omen_service::load::LoadRegion;
use omen_service::message::{SlotPlaces, decode_answer, decode_request};

/// Bytes of a message at most.
pub const MOST_BYTES: usize = 4096;

/// Aligned as payloads are.
#[repr(align(64))]
struct Payload([u8; MOST_BYTES]);

/// Reads a request: everything that it refers to lies within it. Whether it is one.
pub fn request(input: &[u8]) -> bool {
    aligned(input, |bytes| {
        let Ok(view) = decode_request(bytes) else {
            return false;
        };
        assert_eq!(view.stale.len(), view.head.n_stale as usize);
        assert_eq!(view.lists.len(), view.head.n_lists as usize);
        assert_eq!(view.bounds.len(), view.head.n_queries as usize);
        let n = view.head.n_queries as usize * view.head.words as usize;
        assert_eq!(view.vectors.len(), n);
        // A head that was checked before counts, not the one in the payload.
        let mut other = view.head;
        other.n_lists = other.n_lists.wrapping_mul(3).wrapping_add(1);
        if let Ok(view) = other.arrays(bytes) {
            assert_eq!(view.lists.len(), other.n_lists as usize);
        }
        true
    })
}

/// Reads an answer: as [`request`]; all lists of its queries are among those that it tells of.
pub fn answer(input: &[u8]) -> bool {
    aligned(input, |bytes| {
        let Ok(view) = decode_answer(bytes) else {
            return false;
        };
        if let Err(refusal) = view.outcome() {
            assert!(!refusal.to_string().is_empty());
        }
        let slots = SlotPlaces::new(view.lists);
        for query in view.each() {
            assert!(query.found.is_empty() || query.named.is_empty());
            let mut places = query.places.unwrap_or_default().iter();
            assert!(places.all(|&place| (place as usize) < view.lists.len()));
            for named in query.named {
                if let Some((_, slot)) = slots.place_of(named.slot) {
                    assert!(slot <= named.slot);
                }
            }
        }
        true
    })
}

/// Attaches to a region that begins with these bytes: what is accepted lies within the memory there is. Whether it is.
pub fn region(input: &[u8]) -> bool {
    let n_bytes = LoadRegion::bytes(2, 1 << 20);
    let layout = std::alloc::Layout::from_size_align(n_bytes, 4096).expect("a power of two");
    let n = input.len().min(MOST_BYTES);
    #[allow(unsafe_code)]
    // SAFETY: the memory is allocated, zeroed, with these bytes at its start, freed once, and used by this function alone.
    let (region, limit) = unsafe {
        let memory = std::alloc::alloc_zeroed(layout);
        assert!(!memory.is_null(), "no memory");
        memory.copy_from_nonoverlapping(input.as_ptr(), n);
        let region = LoadRegion::attach(memory, n_bytes)
            .map(|region| (region.n_areas(), region.area_bytes(), region.room().is_ok()));
        std::alloc::dealloc(memory, layout);
        (region, n_bytes)
    };
    let Ok((n_areas, area_bytes, _)) = region else {
        return false;
    };
    assert!(n_areas >= 1 && n_areas.saturating_mul(area_bytes) <= limit);
    true
}

/// Runs `f` with the bytes (but the first, which says where) at an address that is a multiple of 64, or a little beyond one.
fn aligned(input: &[u8], f: impl FnOnce(&[u8]) -> bool) -> bool {
    let Some((&place, input)) = input.split_first() else {
        return f(&[]);
    };
    let from = if place < 0xE0 {
        0
    } else {
        usize::from(place % 8)
    };
    let mut payload = Payload([0; MOST_BYTES]);
    let n = input.len().min(MOST_BYTES - from);
    payload.0[from..from + n].copy_from_slice(&input[..n]);
    f(&payload.0[from..from + n])
}
