"""What generate.py and kmeans.py do, with numpy: for small sizes on machines without torch, to try the scripts there."""

import numpy as np

MOST_ROWS = 50_000


def clustered(n: int, nq: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, dim] and queries [nq, dim] around random centres, unit length; rows are halves, so a search finds exactly the neighbours."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(4, n // 100), dim))
    rows = centres[random.integers(len(centres), size=n + nq)] + 0.7 * random.standard_normal((n + nq, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:n].astype(np.float16).astype(np.float32), rows[n:].astype(np.float32)


def neighbors(rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k nearest rows of each query, nearest first, [nq, k]."""
    rows = rows.astype(np.float64)
    squares = (rows**2).sum(1)
    return np.stack([np.argsort(squares - 2 * (rows @ q), kind="stable")[:k] for q in queries.astype(np.float64)])


def partition(rows: np.ndarray, lists: int, seed: int, iterations: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Centroids [lists, dim], which are rows or means of rows, and the list of each row, [n]; no list is empty."""
    if lists > len(rows):
        raise ValueError(f"{lists} lists for {len(rows)} rows")
    chosen = np.random.default_rng(seed).permutation(len(rows))[:lists]
    centroids = rows[chosen].astype(np.float64)
    for round in range(iterations + 1):
        list_of = (rows @ centroids.T - 0.5 * (centroids**2).sum(1)).argmax(1)
        list_of[chosen] = np.arange(lists)
        if round < iterations:
            centroids = np.stack([rows[list_of == i].mean(0) for i in range(lists)])
            centroids = centroids.astype(np.float16).astype(np.float64)
    return centroids, list_of
