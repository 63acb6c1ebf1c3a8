//! Pinned pages: images as they were when the page was pinned.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Access, Image, MemStore, enter, image_of};
use crate::Result;
use crate::store::{PageStore, PinStore};

/// A page of a [`MemStore`], and its image when it was pinned.
pub struct MemPin {
    cell: Arc<RwLock<Arc<Image>>>,
    image: Arc<Image>,
}

// SAFETY: the image is never changed (changes replace it), and lives as long as the pin.
#[allow(unsafe_code)]
unsafe impl PinStore for MemStore {
    type Pin = MemPin;

    fn max_pins(&self) -> usize {
        self.most_pins.map_or(512, |most| most as usize)
    }

    fn pin(&self, block: u32) -> Result<MemPin> {
        self.check_interrupts()?;
        self.run_hook(block);
        let _inside = enter();
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        self.record(|| Access::Read(block));
        let cell = self.cell(block)?;
        let image = image_of(&cell);
        let others = self.n_pins.fetch_add(1, Ordering::Relaxed);
        assert!(
            self.most_pins.is_none_or(|most| others < most),
            "{others} pins and one more"
        );
        Ok(MemPin { cell, image })
    }

    fn address(&self, pin: &MemPin) -> *const u8 {
        pin.image.as_ptr().cast()
    }

    fn release<R>(&self, pin: MemPin, f: impl FnOnce(&[u8]) -> R) -> R {
        let _inside = enter();
        self.n_pins.fetch_sub(1, Ordering::Relaxed);
        let image = pin.cell.read().unwrap_or_else(PoisonError::into_inner);
        f(bytemuck::cast_slice(image.as_slice()))
    }
}
