//! The folder that `benches/gpu/data.py` makes; `benches/gpu/folder.py` describes its files.

use half::f16;
use serde_json::Value;
use std::fs::File;
use std::io::{Error, Read, Result};
use std::path::{Path, PathBuf};

/// A folder without its rows, which [`Folder::rows`] reads piece by piece.
pub struct Folder {
    path: PathBuf,
    /// Rows.
    pub n: usize,
    /// Dimensions.
    pub dim: usize,
    /// True neighbours known of each query.
    pub k: usize,
    /// `[n]`: number of each row in the data, in the order of the rows.
    pub ids: Vec<u32>,
    /// `[lists + 1]`: first row of each list.
    pub offsets: Vec<u64>,
    /// `[lists, dim]`.
    pub centroids: Vec<f16>,
    /// `[nq, dim]`.
    pub queries: Vec<f32>,
    /// `[nq, k]`: numbers of the nearest rows.
    pub neighbors: Vec<u32>,
}

impl Folder {
    /// Reads everything but the rows. Errors: as reading files; `InvalidData` if sizes do not fit each other.
    pub fn open(path: &Path) -> Result<Self> {
        let meta: Value = serde_json::from_reader(File::open(path.join("meta.json"))?)?;
        let size = |name: &str| meta[name].as_u64().unwrap_or(0) as usize;
        let folder = Self {
            path: path.to_owned(),
            n: size("n"),
            dim: size("dim"),
            k: size("k"),
            ids: read(path, "ids.u32", size("n"))?,
            offsets: read(path, "offsets.u64", size("lists") + 1)?,
            centroids: read(path, "centroids.f16", size("lists") * size("dim"))?,
            queries: read(path, "queries.f32", size("nq") * size("dim"))?,
            neighbors: read(path, "neighbors.u32", size("nq") * size("k"))?,
        };
        if folder.n == 0
            || folder.n_queries() == 0
            || folder.offsets.last() != Some(&(folder.n as u64))
        {
            return Err(invalid("meta.json"));
        }
        Ok(folder)
    }

    /// Number of lists.
    pub fn n_lists(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of queries.
    pub fn n_queries(&self) -> usize {
        self.queries.len() / self.dim
    }

    /// A reader of the rows, `[n, dim]`, to be read from the first on.
    pub fn rows(&self) -> Result<File> {
        let file = File::open(self.path.join("rows.f16"))?;
        if file.metadata()?.len() == (self.n * self.dim * 2) as u64 {
            Ok(file)
        } else {
            Err(invalid("rows.f16"))
        }
    }
}

fn invalid(name: &str) -> Error {
    Error::other(format!("{name} does not fit the other files"))
}

fn read<T: bytemuck::Pod>(path: &Path, name: &str, n: usize) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); n];
    let mut file = File::open(path.join(name))?;
    if file.metadata()?.len() != size_of_val(values.as_slice()) as u64 {
        return Err(invalid(name));
    }
    file.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
