//! Pages pinned while other threads copy them.
#![allow(unsafe_code)]

use omen_ivf::Result;
use omen_ivf::store::PinStore;
use pgrx::pg_sys;

use super::{IndexPages, buffer};
use crate::compat;

/// Most pages pinned at a time: 4 MB, so that copying them hides behind pinning the next.
const MOST: usize = 512;
/// One pin is left for so many buffers.
const SHARE: usize = 32;

// SAFETY: a pinned buffer stays where it is, in memory that is mapped while the process lives. Pins that are not given back
// while an error unwinds are released by the abort of the transaction, which comes after the unwinding.
unsafe impl PinStore for IndexPages {
    type Pin = pg_sys::Buffer;

    fn max_pins(&self) -> usize {
        // SAFETY: settings and counts of this process, read on the main thread; `rel` is open, by `new`.
        let buffers = unsafe {
            if (*(*self.rel()).rd_rel).relpersistence
                == pg_sys::RELPERSISTENCE_TEMP as core::ffi::c_char
            {
                pg_sys::num_temp_buffers
            } else {
                pg_sys::NBuffers
            }
        };
        (buffers.max(0) as usize / SHARE).clamp(1, MOST)
    }

    fn pin(&self, block: u32) -> Result<pg_sys::Buffer> {
        // An index that came into memory in order lies there in order: looking at the next buffer costs 60 ns, a look-up 300,
        // and while 150 ns pass the bus takes a page.
        let next = self.last_pin.get().wrapping_add(1);
        // SAFETY: `rel` is open, by `new`; `next` is the number of a shared buffer.
        let hit = unsafe {
            next > 1
                && next <= pg_sys::NBuffers
                && compat::read_recent_buffer(self.rel(), block, next)
        };
        let buffer = if hit {
            // SAFETY: as above.
            unsafe { compat::count_buffer_hit(self.rel()) };
            next
        } else {
            self.pin_to_copy(block)?
        };
        self.last_pin.set(buffer);
        Ok(buffer)
    }

    fn address(&self, pin: &pg_sys::Buffer) -> *const u8 {
        // SAFETY: pinned.
        unsafe { pg_sys::BufferGetPage(*pin).cast() }
    }

    fn release<R>(&self, pin: pg_sys::Buffer, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: pinned by `pin`, locked while `f` reads; `f` cannot keep the slice.
        unsafe {
            buffer::lock_shared(pin);
            let result = f(buffer::bytes(pin));
            pg_sys::UnlockReleaseBuffer(pin);
            result
        }
    }
}
