"""Compares omen with other vector indexes on one server, from SQL: recall, queries/s, CPU a query, build, size, insertions.

  benches/sql/run.py --dsn '...' --data FILE.hdf5 [--data ...] [--metric cosine|l2|ip] [--systems omen,hnsw,vchordrq]

Without --data: the demo's GloVe vectors. Makes the databases bench_omen and bench_pgvector anew, so it needs a superuser;
the server has to run on this machine for CPU times. See README.md beside this file.
"""

import argparse
import os
import shlex
import sys
from datetime import datetime
from pathlib import Path

import datasets
import measure
import report
import server
from systems import SYSTEMS, System


def machine(conn) -> dict:
    """Where the figures come from."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    names = ("shared_buffers", "max_wal_size", "fsync", "autovacuum", "shared_preload_libraries")
    return {"date": datetime.now().isoformat(" ", "minutes"), "cpu": cpu, "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "postgresql": conn.execute("SELECT version()").fetchone()[0].split(" on ")[0],
            "settings": {name: conn.execute(f"SHOW {name}").fetchone()[0] for name in names}}


def measure_dataset(bench: measure.Bench, systems: list[System], rounds: int, result: dict, save):
    """Every system on one data set; `save` is called whenever there is something new to be written.

    First each builds its index and is swept alone. Then all are compared at the targets, in rounds through all of them, so that
    a time in which the machine is slower does not count against one system alone. Insertions come last, since they change the index.
    """
    for database in dict.fromkeys(system.database for system in systems):
        server.make_database(bench.dsn, [system for system in systems if system.database == database])
    compared = []
    for system in systems:
        measured = measure.Measured(bench, system)
        measured.build()
        build = measured.result["build"]
        print(f"{system.name} {measured.result['version']}: built in {build['wall_s']:.1f} s ({report.number(build['cpu_s'], 1)} s of CPU), "
              f"{build['index_bytes'] / report.MB:.1f} MB", flush=True)
        for curve in measured.curves:
            for point in measured.sweep(curve):
                print(f"  {report.setting(point):40} recall {point['recall']:.4f}   CPU {report.number(point['cpu_us']):>8} us"
                      f"   {point['qps']:8.0f} queries/s", flush=True)
        compared.append((measured, measured.at_targets()))
        result["systems"][system.name] = measured.result
        save()
    for number in range(rounds):
        result["load"].append(round(os.getloadavg()[0], 1))
        print(f"comparing at the targets, round {number + 1} of {rounds}", flush=True)
        for measured, targets in compared:
            chosen = [settings for kinds in targets.values() for some in kinds.values() for settings in some]
            for settings in {str(settings): settings for settings in chosen}.values():
                measured.point(settings)
    for measured, targets in compared:
        measured.finish(targets)
    save()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda of: lambda text: sorted(of(part) for part in text.split(","))  # noqa: E731
    parser.add_argument("--dsn", default="", help="server, as libpq takes it; default: its environment variables")
    parser.add_argument("--data", action="append", type=Path, help="HDF5 in the layout of ann-benchmarks; may be repeated")
    parser.add_argument("--metric", choices=["cosine", "l2", "ip"], help="default: the file's attribute `distance`")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="some of %(default)s")
    parser.add_argument("--targets", type=numbers(float), default=[0.95, 0.99], help="recall to be reached; default 0.95,0.99")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=1000, help="the first so many; 0: all; default %(default)s")
    parser.add_argument("--clients", type=numbers(int), default=[1, 2], help="numbers of clients; default 1,2")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison at the targets; default %(default)s")
    parser.add_argument("--maintenance-work-mem", default="2GB", help="for the builds; default %(default)s")
    parser.add_argument("--cache", type=Path, default=datasets.REPO / "build/cache", help="where the demo keeps its data")
    parser.add_argument("--out", type=Path, default=datasets.REPO / "build/bench")
    args = parser.parse_args()
    if unknown := set(args.systems.split(",")) - set(SYSTEMS):
        parser.error(f"no system {', '.join(unknown)} (have {', '.join(SYSTEMS)})")

    with server.connect(args.dsn) as conn:
        results = {"command": shlex.join(sys.argv), "machine": machine(conn), "datasets": []}
        why = {name: SYSTEMS[name].missing(conn) for name in args.systems.split(",")}
    skipped = {name: text for name, text in why.items() if text}
    for name, text in skipped.items():
        print(f"{name}: skipped, {text}")
    systems = [SYSTEMS[name] for name in why if name not in skipped]
    for path in args.data or [None]:
        data = datasets.load_hdf5(path, args.metric, args.queries) if path else datasets.load_glove(args.cache, args.metric, args.queries)
        result = {"name": data.name, "origin": data.origin, "metric": data.metric, "rows": len(data.base), "dim": data.base.shape[1],
                  "queries": len(data.queries), "k": args.k, "clients": args.clients, "targets": [str(t) for t in args.targets],
                  "systems": {}, "skipped": skipped, "load": [round(os.getloadavg()[0], 1)]}
        results["datasets"].append(result)
        print(f"\n{report.title(result)} ({data.origin})", flush=True)
        bench = measure.Bench(data, datasets.Truth(data, args.k), args.dsn, args.k, args.clients, args.targets, args.maintenance_work_mem)
        measure_dataset(bench, systems, args.rounds, result, lambda: report.write(results, args.out))
        print(f"\n{report.build_table(result)}")
        for target in result["targets"]:
            print(f"\nrecall@{args.k} >= {target}\n{report.target_table(result, target)}", flush=True)
    print(f"\nwritten: {args.out}/results.json, results.md, plots")


if __name__ == "__main__":
    main()
