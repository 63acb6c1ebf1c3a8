"""Makes the folder that a benchmark works on (see folder.py): vectors, their lists, queries, true neighbours.

  data.py DIR [--n 1000000] [--dim 768] [--nq 10000] [--seed 1] [--k 100] [--lists N]     clustered vectors (generate.py)
  data.py DIR --npz FILE.npz                                                              a real set packed by real.py

Uses torch, on the GPU if there is one: 1M x 768 take some 4 GB of its memory, 10M x 768 some 60 GB. Without torch, small sizes are
made with numpy (tiny.py), from another distribution.
"""

import argparse
import json
import math
import sys
import time

import numpy as np

import tiny
from folder import Writer
from real import unpack

try:
    import torch

    import generate
    import kmeans
except ImportError:
    torch = None

ROWS_AT_ONCE = 262_144  # copied from the device


class Steps:
    """Seconds of each step, printed as they end."""

    def __init__(self):
        self.seconds, self.began = {}, time.perf_counter()

    def end(self, name: str):
        if torch and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name], self.began = round(now - self.began, 2), now
        print(f"data: {name:10} {self.seconds[name]:7.2f} s", file=sys.stderr, flush=True)


def default_lists(n: int) -> int:
    """About 4 sqrt(n), a power of two: 4,096 for a million rows, 16,384 for ten."""
    return 2 ** round(math.log2(4 * math.sqrt(n)))


def with_torch(args, steps: Steps) -> dict:
    """The folder's arrays by name; `rows.f16` as a generator of parts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    if args.npz:
        base, queries = unpack(args.npz)
        rows, queries = torch.from_numpy(base).to(device), torch.from_numpy(queries[:args.nq]).to(device)
    else:
        rows, queries = generate.clustered(args.n, args.nq, args.dim, args.seed, device)
    steps.end("vectors")
    near = generate.neighbors(rows, queries, args.k)
    steps.end("neighbors")
    lists = args.lists or default_lists(len(rows))
    centroids, list_of = kmeans.partition(rows, lists, args.seed, args.iterations)
    order = torch.argsort(list_of, stable=True)
    counts = torch.bincount(list_of, minlength=lists)
    steps.end("lists")
    return {"rows.f16": (rows[part].half().cpu().numpy() for part in order.split(ROWS_AT_ONCE)), "ids.u32": order.cpu().numpy(),
            "counts": counts.cpu().numpy(), "centroids.f16": centroids.cpu().numpy(), "queries.f32": queries.cpu().numpy(),
            "neighbors.u32": near.cpu().numpy()}


def with_numpy(args, steps: Steps) -> dict:
    """The same without torch."""
    if args.npz:
        rows, queries = unpack(args.npz)
        rows, queries = rows.astype(np.float16).astype(np.float32), queries[:args.nq]
    else:
        rows, queries = tiny.clustered(args.n, args.nq, args.dim, args.seed) if args.n <= tiny.MOST_ROWS else (np.empty(0), None)
    if not 0 < len(rows) <= tiny.MOST_ROWS:
        sys.exit(f"no torch here, and without it at most {tiny.MOST_ROWS:,} rows")
    steps.end("vectors")
    near = tiny.neighbors(rows, queries, args.k)
    steps.end("neighbors")
    lists = args.lists or default_lists(len(rows))
    centroids, list_of = tiny.partition(rows, lists, args.seed)
    order = np.argsort(list_of, kind="stable")
    steps.end("lists")
    return {"rows.f16": [rows[order]], "ids.u32": order, "counts": np.bincount(list_of, minlength=lists), "centroids.f16": centroids,
            "queries.f32": queries, "neighbors.u32": near}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--npz")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--nq", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--lists", type=int, default=0, help="0: about 4 sqrt(n), a power of two")
    parser.add_argument("--iterations", type=int, default=10, help="of k-means")
    args = parser.parse_args()

    steps = Steps()
    writer = Writer(args.folder)
    arrays = (with_torch if torch else with_numpy)(args, steps)
    counts, ids = arrays.pop("counts"), arrays["ids.u32"]
    if len(ids) < args.k:
        sys.exit(f"{len(ids)} rows, fewer than k = {args.k}")
    writer.arrays("rows.f16", arrays.pop("rows.f16"))
    writer.array("offsets.u64", np.concatenate([[0], np.cumsum(counts)]))
    for name, values in arrays.items():
        writer.array(name, values)
    steps.end("writing")
    nq, dim = arrays["queries.f32"].shape
    origin = args.npz.rpartition("/")[2] if args.npz else f"clustered, seed {args.seed}" + ("" if torch else " (numpy)")
    meta = {"n": len(ids), "dim": dim, "lists": len(counts), "nq": nq, "k": arrays["neighbors.u32"].shape[1], "origin": origin,
            "largest_list": int(counts.max()), "smallest_list": int(counts.min()), "seconds": steps.seconds}
    writer.finish(meta)
    print(json.dumps({"part": "data"} | meta))


if __name__ == "__main__":
    main()
