//! Which indexes were hot, in a file of the data directory: after a restart they are loaded again. As `pg_prewarm` does with its blocks.

use std::fs::{self, File};
use std::io::{self, Write};

/// An index: OIDs of its database and its own.
pub(super) type Hot = (u32, u32);

const FILE: &str = "pg_omen.hot";
/// Renamed when it is complete.
const NEW_FILE: &str = "pg_omen.hot.new";
/// First line; the number is that of the format.
const HEADER: &str = "pg_omen hot tiers 1";
/// Lines that are read at most.
const MAX_LINES: usize = 1024;

/// Replaces the file. The process stands in the data directory.
pub(super) fn write(hot: &[Hot]) -> io::Result<()> {
    let mut text = format!("{HEADER}\n");
    for (database, index) in hot {
        text += &format!("{database} {index}\n");
    }
    let mut file = File::create(NEW_FILE)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(NEW_FILE, FILE)?;
    File::open(".")?.sync_all()
}

/// The indexes in the file; none if there is no file. Errors: it cannot be read, or is not of this format.
pub(super) fn read() -> io::Result<Vec<Hot>> {
    match fs::read(FILE) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| {
            let what = format!("file \"{FILE}\" is not of this version");
            io::Error::new(io::ErrorKind::InvalidData, what)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8]) -> Option<Vec<Hot>> {
    let mut lines = core::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let hot = |line: &str| {
        let (database, index) = line.split_once(' ')?;
        Some((database.parse().ok()?, index.parse().ok()?))
    };
    lines.take(MAX_LINES).map(hot).collect()
}
