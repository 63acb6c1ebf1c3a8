#!/usr/bin/env python3
"""Microseconds of each kernel of a batch, from `ncu --metrics gpu__time_duration.sum --csv` over gpu_search:

    ncu --clock-control none --metrics gpu__time_duration.sum --csv gpu_search FOLDER --seconds 0 ... | python3 benches/gpu/steps.py

One line a kind of batch (grid of the first kernel, number of kernels, the kernel of the rounds): its last run.
"""

import csv
import sys

UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}


def batches(lines):
    """Kernels of each batch, (name, grid, microseconds); a batch begins with prepare_queries."""
    rows = csv.DictReader(line for line in lines if line.startswith('"'))
    found = []
    for row in rows:
        name = row["Kernel Name"].split("(")[0]
        micros = float(row["Metric Value"].replace(",", "")) * UNITS[row["Metric Unit"]]
        if name == "prepare_queries":
            found.append([])
        if found:
            found[-1].append((name, row["Grid Size"], micros))
    return found


def main():
    last = {}
    for batch in batches(sys.stdin):
        names = tuple(name for name, _, _ in batch)
        last[(batch[0][1], names)] = batch
    for (grid, _), batch in last.items():
        total = sum(micros for _, _, micros in batch)
        steps = "  ".join(f"{name} {micros:.0f}" for name, _, micros in batch)
        print(f"{grid.strip('()').split(',')[0]:>6} queries {total:8.0f} us: {steps}")


if __name__ == "__main__":
    main()
