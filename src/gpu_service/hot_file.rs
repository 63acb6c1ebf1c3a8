//! Which indexes were hot, in a file of the data directory: after a restart they are loaded again. As `pg_prewarm` does with its blocks.

use std::fs::{self, File};
use std::io::{self, Read, Write};

use super::claim::IndexId;

const FILE: &str = "pg_omen.hot";
/// Renamed when it is complete.
const NEW_FILE: &str = "pg_omen.hot.new";
/// First line; the number is that of the format.
const HEADER: &str = "pg_omen hot tiers 1";
/// It never is larger.
const MAX_BYTES: u64 = 64 << 10;

/// Replaces the file. The process stands in the data directory.
pub(super) fn write(hot: &[IndexId]) -> io::Result<()> {
    let mut text = format!("{HEADER}\n");
    for IndexId { database, index } in hot {
        text += &format!("{database} {index}\n");
    }
    let mut file = File::create(NEW_FILE)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(NEW_FILE, FILE)?;
    File::open(".")?.sync_all()
}

/// The indexes in the file; none if there is no file. Errors: it cannot be read, or is not of this format.
pub(super) fn read() -> io::Result<Vec<IndexId>> {
    let file = match File::open(FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let is_whole = bytes.len() as u64 <= MAX_BYTES;
    is_whole.then(|| parse(&bytes)).flatten().ok_or_else(|| {
        let what = format!("file \"{FILE}\" is damaged, or of another version");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

fn parse(bytes: &[u8]) -> Option<Vec<IndexId>> {
    let mut lines = core::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let hot = |line: &str| {
        let (database, index) = line.split_once(' ')?;
        // No OID is 0.
        let oid = |word: &str| word.parse().ok().filter(|&oid: &u32| oid > 0);
        Some(IndexId {
            database: oid(database)?,
            index: oid(index)?,
        })
    };
    lines.map(hot).collect()
}
