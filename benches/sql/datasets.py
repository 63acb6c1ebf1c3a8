"""The data of a benchmark: vectors, queries, and the true neighbours that recall is counted against.

Files are HDF5 in the layout of ann-benchmarks: `train` [n, dim], `test` [n_queries, dim], the attribute `distance`, and row
numbers of each query's nearest rows, nearest first: `neighbors` [n_queries, >= k] by the file's own distance, or
`neighbors_cosine`, `neighbors_l2`, `neighbors_ip`. What is not in the file is computed exactly.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[2]
sys.path.append(str(REPO / "demo"))
import data as demo_data  # noqa: E402

METRIC_OF = {"angular": "cosine", "euclidean": "l2", "cosine": "cosine", "l2": "l2", "ip": "ip", "dot": "ip"}
BLOCK = 50_000_000  # distances held at once while exact neighbours are computed
TIE = 1e-7  # rows nearer than the k-th by rounding alone count as tied with it; about one unit of single precision


@dataclass
class Dataset:
    name: str
    metric: str  # cosine, l2 or ip
    base: np.ndarray  # [n, dim] float32; row number = id in the table
    queries: np.ndarray  # [n_queries, dim] float32
    neighbors: np.ndarray | None  # [n_queries, >= k] row numbers, nearest first; None: to be computed
    origin: str


def load_hdf5(path: Path, metric: str | None, n_queries: int) -> Dataset:
    """A file in the layout of ann-benchmarks; the first `n_queries` of its queries (0: all)."""
    import h5py

    with h5py.File(path, "r") as f:
        own = METRIC_OF.get(str(f.attrs.get("distance", "")))
        metric = metric or own
        if metric is None:
            raise SystemExit(f"{path}: no attribute `distance` that is angular or euclidean; give --metric")
        part = slice(n_queries or None)
        name = next((name for name in (f"neighbors_{metric}", *(["neighbors"] if metric == own else [])) if name in f), None)
        return Dataset(path.stem, metric, f["train"][:].astype(np.float32), f["test"][part].astype(np.float32),
                       f[name][part].astype(np.int64) if name else None, f"{path.name}, neighbours {'from ' + name if name else 'computed'}")


def load_glove(cache: Path, metric: str | None, n_queries: int) -> Dataset:
    """The demo's data: GloVe word vectors of 100 dimensions."""
    data = demo_data.load(cache)
    return Dataset("glove-100", metric or "cosine", data["base"], data["queries"][:n_queries or None], None, data["origin"])


def distances(rows: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """Distance of each row [m, dim] to a query [dim] in float64, [m]; a zero vector has cosine distance 1."""
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(rows - query, axis=1)
    products = rows @ query
    if metric == "ip":
        return -products
    return 1 - products / np.maximum(np.linalg.norm(rows, axis=1) * np.linalg.norm(query), np.finfo(np.float64).tiny)


def exact_neighbors(base: np.ndarray, queries: np.ndarray, metric: str, k: int) -> np.ndarray:
    """Row numbers of the k nearest rows of each query, nearest first, [n_queries, k]: candidates in float32, ranked in float64."""
    n, candidates = len(base), min(5 * k, len(base))
    if metric == "cosine":
        units = base / np.maximum(np.linalg.norm(base, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    else:
        units = base
    squares = np.einsum("ij,ij->i", base, base) if metric == "l2" else 0
    block, found = max(1, BLOCK // n), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), block):
        # Least first: squared distance less the query's square, or the product's negative.
        keys = queries[start:start + block] @ units.T
        keys *= -2 if metric == "l2" else -1
        keys += squares
        near = np.argpartition(keys, candidates - 1, axis=1)[:, :candidates]
        for i, rows in enumerate(near, start):
            found[i] = rows[np.argsort(distances(base[rows], queries[i], metric), kind="stable")[:k]]
    return found


class Truth:
    """Counts recall@k: a row as near as the true k-th nearest is a hit, whichever it is."""

    def __init__(self, data: Dataset, k: int):
        if len(data.base) < k:
            raise SystemExit(f"{data.name}: {len(data.base)} rows, fewer than k = {k}")
        near = data.neighbors
        if near is None or near.shape[1] < k:
            near = exact_neighbors(data.base, data.queries, data.metric, k)
        self.data, self.k = data, k
        self.limit = np.empty(len(data.queries))  # [n_queries] distance up to which a row is a hit
        for i, (query, rows) in enumerate(zip(data.queries, near[:, :k])):
            kth = distances(data.base[rows], query, data.metric).max()
            scale = {"cosine": 1, "l2": kth, "ip": np.linalg.norm(query) * np.linalg.norm(data.base[rows], axis=1).max()}
            self.limit[i] = kth + TIE * scale[data.metric]

    def recall(self, found: np.ndarray) -> float:
        """Share of hits among `found` [n_queries, k], row numbers, -1 where a query returned fewer rows."""
        hits = 0
        for query, rows, limit in zip(self.data.queries, found, self.limit):
            rows = np.unique(rows[rows >= 0])
            hits += int((distances(self.data.base[rows], query, self.data.metric) <= limit).sum())
        return hits / (self.k * len(found))
