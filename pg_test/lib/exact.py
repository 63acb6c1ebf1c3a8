"""Exact search in float64, the oracle of the server tests."""

import numpy as np

OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}


def distances(metric: str, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Distance of `query` [dim] to each of `rows` [n, dim], in float64, as the SQL operator defines it."""
    q = np.asarray(query, np.float64)
    if metric == "l2":
        x = np.subtract(rows, q, dtype=np.float64)
        return np.sqrt(np.einsum("ij,ij->i", x, x))
    x = np.asarray(rows, np.float64)
    dot = x @ q
    if metric == "ip":
        return -dot
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1.0 - dot / (np.linalg.norm(x, axis=1) * np.linalg.norm(q))


def nearest(metric: str, rows: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """Positions of the `k` nearest rows, nearest first; NaN distances last."""
    return np.argsort(distances(metric, rows, query), kind="stable")[:k]


def recall(metric: str, rows: np.ndarray, query: np.ndarray, found, k: int) -> float:
    """Share of the `k` true neighbours among the positions `found`; a row as near as the k-th counts as true."""
    d = distances(metric, rows, query)
    kth = np.partition(d, k - 1)[k - 1]
    tolerance = 1e-6 * max(1.0, abs(kth))
    good = {int(i) for i in found if d[int(i)] <= kth + tolerance}
    return min(len(good), k) / k
