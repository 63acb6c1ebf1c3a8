"""What the card can do, and exact search by torch (cuBLAS, then topk) on the same data.

  torch_baseline.py DIR [--batches 1,16,256,1024] [--seconds 1]

Prints JSON lines: `ceilings` (copying within device memory, bytes read and written; an fp16 product of 8192^3) and, for each batch
size, `torch`. All times are medians by CUDA events, on random or real data, with the queries changing from one search to the next.
"""

import argparse
import json
import sys
import time

import numpy as np

from folder import Folder, recall

try:
    import torch
except ImportError:
    sys.exit("skipped: no torch here")

K = 10
SIDE = 8192
COPY_BYTES = 8 << 30
LEAST, MOST = 10, 1000  # repeats


def median_ms(run, seconds: float) -> float:
    """Median of many runs of `run(i)`, milliseconds by events, after three that do not count."""
    for i in range(3):
        run(i)
    times, until = [], time.perf_counter() + seconds
    while len(times) < LEAST or (time.perf_counter() < until and len(times) < MOST):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run(len(times) + 3)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times))


def ceilings(seconds: float) -> dict:
    """Bytes and operations a second."""
    size = min(COPY_BYTES, torch.cuda.mem_get_info()[0] // 3)
    source = torch.randint(256, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = median_ms(lambda i: target.copy_(source), seconds)
    del source, target
    a, b = (torch.randn(SIDE, SIDE, device="cuda").half() for _ in range(2))
    c = torch.empty_like(a)
    gemm = median_ms(lambda i: torch.mm(a, b, out=c), seconds)
    del a, b, c
    torch.cuda.empty_cache()
    return {"part": "ceilings", "copy_gb_s": 2 * size / copy / 1e6, "gemm_tflop_s": 2 * SIDE**3 / gemm / 1e9}


def exact(data: Folder, batches: list[int], seconds: float):
    """Lines of exact search: all products in half precision, then the largest. For unit vectors these are the nearest."""
    rows = torch.from_numpy(np.array(data.rows)).cuda()
    queries = torch.from_numpy(data.queries).cuda().half()
    half_squares = -0.5 * rows.float().square().sum(1)
    unit = bool((half_squares + 0.5).abs().max() < 5e-3)
    half_squares = half_squares.half()

    def search(first: int, batch: int):
        part = queries[first:first + batch]
        score = part @ rows.T if unit else torch.addmm(half_squares, part, rows.T)
        return torch.topk(score, K, dim=1).indices

    for batch in batches:
        batch = min(batch, len(queries))
        places = len(queries) // batch
        ms = median_ms(lambda i, batch=batch, places=places: search(i % places * batch, batch), seconds)
        found = np.concatenate([data.ids[search(i * batch, batch).cpu().numpy()] for i in range(min(places, 1000))])
        yield {"part": "torch", "batch": batch, "k": K, "p50_ms": ms, "qps": batch / ms * 1e3, "recall": recall(found, data.neighbors)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--batches", default="1,16,256,1024")
    parser.add_argument("--seconds", type=float, default=1)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("skipped: torch sees no GPU here")
    print(json.dumps(ceilings(args.seconds)), flush=True)
    data = Folder(args.folder)
    if 3 * data.rows.nbytes + 4 * data.n * 1024 > torch.cuda.mem_get_info()[0]:
        print("torch: no room for exact search of these rows", file=sys.stderr)
        return
    for line in exact(data, [int(b) for b in args.batches.split(",")], args.seconds):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
