//! The compiled kernels, embedded: which image a device gets, and its bytes. Format: `tools/build_kernels.py`.

use crate::context::Scans;
use crate::error::GpuError;

static PACK: &[u8] = include_bytes!("../kernels.pack");
const HEADER_BYTES: usize = 44;
const ENTRY_BYTES: usize = 28;

/// One image of all kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sm_80`, `sm_90a`, ... for machine code; `compute_90` for PTX.
    pub arch: String,
    /// PTX text (the driver compiles it) instead of machine code.
    pub is_ptx: bool,
    unpacked_bytes: usize,
    packed: std::ops::Range<usize>,
}

fn u32_at(at: usize) -> usize {
    u32::from_le_bytes(PACK[at..at + 4].try_into().expect("four bytes")) as usize
}

/// The images in the pack. The build script has checked the pack's magic and that it belongs to the sources.
pub fn images() -> Vec<Image> {
    let n = u32_at(40);
    let mut at = HEADER_BYTES + n * ENTRY_BYTES;
    (0..n)
        .map(|i| {
            let entry = HEADER_BYTES + i * ENTRY_BYTES;
            let name = &PACK[entry..entry + 16];
            let packed_bytes = u32_at(entry + 24);
            at += packed_bytes;
            Image {
                arch: String::from_utf8_lossy(name)
                    .trim_end_matches('\0')
                    .to_string(),
                is_ptx: u32_at(entry + 16) == 1,
                unpacked_bytes: u32_at(entry + 20),
                packed: at - packed_bytes..at,
            }
        })
        .collect()
}

impl Image {
    /// The image's bytes; PTX comes with the closing zero byte the driver wants.
    pub fn bytes(&self) -> Result<Vec<u8>, GpuError> {
        let mut bytes = miniz_oxide::inflate::decompress_to_vec_zlib(&PACK[self.packed.clone()])
            .map_err(|e| {
                GpuError::Other(format!("kernels for {} cannot be unpacked: {e}", self.arch))
            })?;
        if bytes.len() != self.unpacked_bytes {
            return Err(GpuError::Other(format!(
                "kernels for {} have {} bytes",
                self.arch,
                bytes.len()
            )));
        }
        if self.is_ptx {
            bytes.push(0);
        }
        Ok(bytes)
    }

    /// (major, minor, runs on exactly this capability only)
    fn capability(&self) -> Option<(i32, i32, bool)> {
        let digits = self.arch.split('_').nth(1)?;
        let exact = digits.ends_with('a');
        let number: i32 = digits.trim_end_matches('a').parse().ok()?;
        Some((number / 10, number % 10, exact))
    }

    fn runs_on(&self, major: i32, minor: i32) -> bool {
        match self.capability() {
            None => false,
            Some((a, b, _)) if self.is_ptx => (a, b) <= (major, minor),
            Some((a, b, true)) => (a, b) == (major, minor),
            Some((a, b, false)) => a == major && b <= minor,
        }
    }
}

/// The image for a compute capability: the nearest machine code of its generation, else PTX. None: too old.
pub fn image_for(major: i32, minor: i32) -> Option<Image> {
    let mut fitting: Vec<Image> = images()
        .into_iter()
        .filter(|image| image.runs_on(major, minor))
        .collect();
    fitting.sort_by_key(|image| (!image.is_ptx, image.capability()));
    fitting.pop()
}

/// The scan kernels that a device of compute capability `major`.x runs from `image`.
pub fn scans_of(image: &Image, major: i32) -> Scans {
    match (image.arch.as_str(), major) {
        ("sm_90a", 9) => Scans::Wgmma,
        (_, 8..) => Scans::Mma,
        _ => Scans::Fma,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generation_gets_its_code() {
        let arch = |major, minor| image_for(major, minor).map(|image| image.arch);
        for ((major, minor), expected) in [
            ((7, 0), "sm_70"),
            ((7, 5), "sm_75"),
            ((8, 0), "sm_80"),
            ((8, 6), "sm_86"),
            ((8, 7), "sm_86"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90a"),
            ((10, 0), "sm_100"),
            ((10, 3), "sm_100"),
            ((12, 1), "sm_120"),
            ((11, 0), "compute_90"),
            ((13, 0), "compute_90"),
        ] {
            assert_eq!(
                arch(major, minor).as_deref(),
                Some(expected),
                "{major}.{minor}"
            );
        }
        assert_eq!(arch(6, 1), None);
    }

    #[test]
    fn images_unpack() {
        for image in images() {
            let bytes = image.bytes().unwrap();
            if image.is_ptx {
                assert!(String::from_utf8_lossy(&bytes).contains(".target sm_90"));
            } else {
                assert_eq!(bytes[..4], *b"\x7fELF", "{}", image.arch);
            }
        }
    }
}
