"""Clustered vectors with an embedding-like spectrum, and exact neighbours, with torch: on a GPU 1M x 768 take seconds.

A row is its cluster's centre, plus a step within that cluster's low-rank subspace, plus a step in all dimensions, brought to unit
length. Centres fall into groups; centres and full steps share a decaying spectrum in a random basis; sizes and widths of clusters
vary. Hard on purpose: with 4,096 lists an exact IVF finds 0.70 / 0.86 / 0.95 / 0.99 of the 10 nearest of 1M x 768 in
16 / 64 / 192 / 768 lists. The same seed gives the same vectors on the same kind of device.
"""

import torch

CLUSTERS, GROUPS, BANKS, RANK = 10_000, 100, 64, 24
STEP = 131_072  # rows drawn at once: part of what a seed means
TRUTH_STEP = 65_536  # rows compared at once


class Mixture:
    """The distribution of one seed; `draw` gives its next rows. The order of the draws is what makes two runs equal."""

    def __init__(self, n: int, dim: int, seed: int, device: str):
        self.dim, self.device = dim, device
        self.random = torch.Generator(device).manual_seed(seed)
        clusters = min(CLUSTERS, max(16, n // 100))
        spectrum = (torch.arange(dim, device=device) + 8.0) ** -0.9
        self.basis = torch.linalg.qr(self._normal(dim, dim))[0] * (spectrum / spectrum.norm())[:, None]
        group = torch.randint(GROUPS, (clusters,), generator=self.random, device=device)
        of_group = 0.5 * self._normal(GROUPS, dim)[group]
        self.centres = (of_group + 0.75**0.5 * self._normal(clusters, dim)) @ self.basis
        fade = (torch.arange(RANK, device=device) + 2.0) ** -0.5
        directions = torch.nn.functional.normalize(self._normal(BANKS, RANK, dim), dim=2)
        self.subspaces = directions * (fade / fade.norm())[:, None]
        self.weights = torch.exp(0.8 * self._normal(clusters))
        self.widths = torch.exp(0.15 * self._normal(clusters))

    def _normal(self, *shape) -> torch.Tensor:
        return torch.randn(*shape, generator=self.random, device=self.device)

    def draw(self, n: int) -> torch.Tensor:
        """[n, dim] float32, unit length."""
        cluster = torch.multinomial(self.weights, n, replacement=True, generator=self.random)
        along = self._normal(n, RANK)
        low = torch.zeros(n, self.dim, device=self.device)
        for bank in range(BANKS):
            rows = torch.nonzero(cluster % BANKS == bank).squeeze(1)
            low[rows] = along[rows] @ self.subspaces[bank]
        full = self._normal(n, self.dim) @ self.basis
        rows = self.centres[cluster] + self.widths[cluster, None] * (0.55 * low + 0.85 * full)
        return torch.nn.functional.normalize(rows, dim=1)


def clustered(n: int, nq: int, dim: int, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, dim] and queries [nq, dim], float32: the queries are the last rows drawn."""
    mixture = Mixture(n, dim, seed, device)
    rows = torch.empty(n + nq, dim, device=device)
    for first in range(0, n + nq, STEP):
        part = rows[first:first + STEP]
        part[:] = mixture.draw(len(part))
    return rows[:n], rows[n:].clone()


def neighbors(rows: torch.Tensor, queries: torch.Tensor, k: int) -> torch.Tensor:
    """Numbers of the k nearest rows of each query by Euclidean distance in single precision, nearest first, [nq, k]."""
    best = None
    # Blocks of a size that keeps the distances of one within a few GB.
    step = max(k, min(TRUTH_STEP, 2_000_000_000 // len(queries)))
    for first in range(0, len(rows), step):
        part = rows[first:first + step]
        score = torch.addmm(-0.5 * part.square().sum(1), queries, part.T)
        found = torch.topk(score, min(k, len(part)), dim=1)
        score, number = found.values, found.indices + first
        if best is not None:
            score, number = torch.cat([best[0], score], 1), torch.cat([best[1], number], 1)
            score, order = torch.topk(score, min(k, score.shape[1]), dim=1)
            number = number.gather(1, order)
        best = score, number
    return best[1]
