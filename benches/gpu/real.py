"""Packs a real data set small enough to carry: a byte a coordinate with a scale a row, about a quarter of single precision.

  real.py FILE.hdf5 OUT.npz [--megabytes 56] [--queries 10000]

HDF5 in the layout of ann-benchmarks (`train`, `test`, attribute `distance`). As many of the first rows are taken as fit. Where `test`
has too few queries, the last rows of `train` are the others, but no more than a tenth, and are not among the rows. Vectors of angular data
are brought to unit length, so that the Euclidean order is the cosine's. What a benchmark measures are the rows as
packed: it computes their neighbours itself.
"""

import argparse
import os
import sys

import numpy as np

PIECE = 8_192  # rows compressed to see how well they do


def pack(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [n, dim] and the scale of each row, [n]."""
    scale = np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny) / 127
    return np.round(values / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def unpack(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, dim] and queries [nq, dim], float32, of a file made by this script (or by demo/data.py kit)."""
    with np.load(path) as f:
        rows, queries = (f[name].astype(np.float32) * f[f"{name}_scale"][:, None] for name in ("base", "queries"))
        angular = bool(f["angular"]) if "angular" in f else True
    if angular:
        rows, queries = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30) for values in (rows, queries))
    return rows, queries


def write(path: str, angular: bool, **arrays: np.ndarray):
    packed = {}
    for name, values in arrays.items():
        packed[name], packed[f"{name}_scale"] = pack(values)
    np.savez_compressed(path, angular=angular, **packed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hdf5")
    parser.add_argument("out")
    parser.add_argument("--megabytes", type=float, default=56, help="most for the file")
    parser.add_argument("--queries", type=int, default=10_000)
    args = parser.parse_args()
    import h5py

    with h5py.File(args.hdf5, "r") as f:
        angular = f.attrs.get("distance") in ("angular", "cosine")
        n, queries = len(f["train"]), f["test"][:args.queries]
        held_out = min(n // 10, args.queries - len(queries))
        n -= held_out
        queries = np.concatenate([queries, f["train"][n:]]).astype(np.float32)
        write(args.out, angular, base=f["train"][:PIECE].astype(np.float32), queries=queries[:1])
        row_bytes = os.path.getsize(args.out) / min(PIECE, n)
        n = min(n, int((0.98 * args.megabytes * 1e6 - len(queries) * row_bytes) / row_bytes))
        if n < 1:
            sys.exit(f"{args.megabytes} MB hold no rows beside {len(queries)} queries")
        write(args.out, angular, base=f["train"][:n].astype(np.float32), queries=queries)
    print(f"{args.out}: {n:,} of {args.hdf5}'s rows, {len(queries):,} queries, {os.path.getsize(args.out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
