"""Plain k-means with torch: what makes the lists of a benchmark."""

import torch

SAMPLE = 256  # rows a list that k-means looks at
SCORES = 1 << 30  # products held at once


def nearest(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Number of the nearest centroid of each row, [n]."""
    half_squares = -0.5 * centroids.square().sum(1)
    found = torch.empty(len(rows), dtype=torch.long, device=rows.device)
    step = max(1, SCORES // len(centroids))
    for first in range(0, len(rows), step):
        part = rows[first:first + step]
        found[first:first + step] = torch.addmm(half_squares, part, centroids.T).argmax(1)
    return found


def train(rows: torch.Tensor, lists: int, seed: int, iterations: int) -> torch.Tensor:
    """Centroids [lists, dim] of a sample of the rows, by Lloyd's iterations from random rows. A centroid without rows takes half of
    a large one's, by standing next to it."""
    random = torch.Generator(rows.device).manual_seed(seed)
    size = min(len(rows), SAMPLE * lists)
    order = torch.randperm(len(rows), generator=random, device=rows.device)
    sample = rows if size == len(rows) else rows[order[:size]]
    centroids = rows[order[:lists]].clone()
    for _ in range(iterations):
        list_of = nearest(sample, centroids)
        counts = torch.bincount(list_of, minlength=lists)
        sums = torch.zeros_like(centroids).index_add_(0, list_of, sample)
        centroids = sums / counts.clamp(min=1)[:, None]
        empty = torch.nonzero(counts == 0).squeeze(1)
        if len(empty):
            large = counts.argsort(descending=True)[:len(empty)]
            step = centroids[large] * 1e-3 * torch.randn(len(empty), rows.shape[1], generator=random, device=rows.device).sign()
            centroids[empty] = centroids[large] + step
            centroids[large] -= step
    return centroids


def partition(rows: torch.Tensor, lists: int, seed: int, iterations: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Centroids [lists, dim] rounded to half precision, and the list of each row, [n]; no list is empty."""
    if lists > len(rows):
        raise ValueError(f"{lists} lists for {len(rows)} rows")
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        # What a search compares queries with are the rounded centroids: rows go by them too.
        centroids = train(rows, lists, seed, iterations).half().float()
        list_of = nearest(rows, centroids)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    counts = torch.bincount(list_of, minlength=lists)
    for empty in torch.nonzero(counts == 0).flatten().tolist():
        row = torch.nonzero(list_of == counts.argmax())[0, 0]
        counts[list_of[row]] -= 1
        counts[empty] = 1
        list_of[row] = empty
        centroids[empty] = rows[row].half().float()
    return centroids, list_of
