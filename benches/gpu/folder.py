"""The folder a benchmark works on: rows sorted by list, and what is needed to search them and to count recall.

| file | what |
|---|---|
| rows.f16 | [n, dim] rows in half precision, sorted by list |
| ids.u32 | [n] number of each row in the data, the number that neighbors.u32 speaks of |
| offsets.u64 | [lists + 1] first row of each list in rows.f16, and n |
| centroids.f16 | [lists, dim] |
| queries.f32 | [nq, dim] |
| neighbors.u32 | [nq, k] the true nearest rows by Euclidean distance, nearest first |
| meta.json | n, dim, lists, nq, k, origin, seconds of each step |

Raw numbers in the machine's byte order (little endian).
"""

import json
import os
from pathlib import Path

import numpy as np

KINDS = {"rows.f16": np.float16, "ids.u32": np.uint32, "offsets.u64": np.uint64, "centroids.f16": np.float16,
         "queries.f32": np.float32, "neighbors.u32": np.uint32}


class Folder:
    """A folder as arrays; rows are mapped, not read."""

    def __init__(self, path):
        self.path = Path(path)
        self.meta = json.loads((self.path / "meta.json").read_text())
        self.n, self.dim, self.lists, self.nq, self.k = (self.meta[name] for name in ("n", "dim", "lists", "nq", "k"))
        self.rows = np.memmap(self.path / "rows.f16", np.float16, "r", shape=(self.n, self.dim))
        self.ids = self._read("ids.u32", self.n)
        self.offsets = self._read("offsets.u64", self.lists + 1)
        self.centroids = self._read("centroids.f16", self.lists, self.dim)
        self.queries = self._read("queries.f32", self.nq, self.dim)
        self.neighbors = self._read("neighbors.u32", self.nq, self.k)

    def _read(self, name, *shape) -> np.ndarray:
        return np.fromfile(self.path / name, KINDS[name]).reshape(shape)

    def slot_of(self) -> np.ndarray:
        """[n] where in `rows` each row of the data is: the inverse of `ids`."""
        slots = np.empty(self.n, np.uint32)
        slots[self.ids] = np.arange(self.n, dtype=np.uint32)
        return slots


class Writer:
    """Writes a folder; meta.json comes last, so a folder that has one is complete."""

    def __init__(self, path):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "meta.json").unlink(missing_ok=True)

    def array(self, name: str, values):
        self.arrays(name, [values])

    def arrays(self, name: str, parts):
        """One file from parts that follow each other."""
        with open(self.path / name, "wb") as f:
            for part in parts:
                np.ascontiguousarray(part, KINDS[name]).tofile(f)

    def finish(self, meta: dict):
        (self.path / "writing.json").write_text(json.dumps(meta))
        os.replace(self.path / "writing.json", self.path / "meta.json")


def recall(found: np.ndarray, neighbors: np.ndarray) -> float:
    """Share of the true k nearest (`neighbors` [n, >= k]) among `found` [n, k]."""
    k = found.shape[1]
    return sum(len(np.intersect1d(a, b)) for a, b in zip(found, neighbors[:, :k])) / found.size
