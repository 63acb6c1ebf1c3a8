//! Checks that `kernels.pack` was made from the sources in `kernels/`, and has it embedded. Compiles nothing.

use sha2::{Digest, Sha256};
use std::path::Path;

/// SHA-256 over name, zero byte, 8-byte length and content of each source, sorted by name: as tools/build_kernels.py does.
fn source_hash(folder: &Path) -> std::io::Result<[u8; 32]> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".cu") || name.ends_with(".h") {
            names.push(name);
        }
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let content = std::fs::read(folder.join(&name))?;
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(&content);
    }
    Ok(hash.finalize().into())
}

fn main() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.join("../../kernels");
    let pack = here.join("kernels.pack");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed={}", pack.display());
    println!("cargo::rerun-if-changed=build.rs");
    let content = std::fs::read(&pack)
        .unwrap_or_else(|e| panic!("{}: {e}; run tools/build_kernels.py", pack.display()));
    let hash = source_hash(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    assert!(
        content.len() > 44 && content[..8] == *b"OMENKRN1" && content[8..40] == hash,
        "crates/gpu/kernels.pack was not made from the sources in kernels/: run tools/build_kernels.py and commit the pack"
    );
}
