"""Tables, results.json and a plot from what the parts of a run printed.

  report.py OUT      reads OUT/measurements.jsonl (a line a result; a `data` line begins another data set)
"""

import json
import sys
from pathlib import Path

PEERS = json.loads(Path(__file__).with_name("peers.json").read_text())


def data_sets(lines: list[dict]) -> list[dict]:
    """One dict a data set, {part: [lines]}; what comes before the first, and the ceilings, belong to all of one card."""
    sets = []
    for line in lines:
        if line["part"] == "data" or not sets:
            sets.append({})
        sets[-1].setdefault(line["part"], []).append(line)
    return [s for s in sets if "data" in s]


def number(x, digits: int = 0) -> str:
    """As text, '-' where there is none."""
    return "-" if x is None else f"{x:,.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table for the terminal that is a Markdown table too; the first column to the left."""
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|", *lines[1:]]


def peers_for(data: dict) -> list[dict]:
    return PEERS["indexes"] if all(data.get(name) == value for name, value in PEERS["data"].items()) else []


def search_table(s: dict) -> list[str]:
    """Queries a second by batch size, other libraries below."""
    points = s.get("point", [])
    sizes = sorted({p["batch"] for p in points}, reverse=True)
    rows = []
    for k, target in dict.fromkeys((p["k"], p["target"]) for p in points):
        by_size = {p["batch"]: p for p in points if (p["k"], p["target"]) == (k, target)}
        one, first = by_size.get(1, {}), next(iter(by_size.values()))
        speeds = [number(by_size.get(b, {}).get("qps")) for b in sizes]
        rows.append([f"omen, {first['probes']} lists", str(k), f"{first['recall']:.3f}", *speeds,
                     number(one.get("p50_ms"), 3), number(one.get("p95_ms"), 3)])
    peers = peers_for(s["data"][0])
    for peer in peers:
        speeds = [number(peer["qps"].get(str(b))) for b in sizes]
        rows.append([peer["name"], str(peer["k"]), f"{peer['recall']:.3f}", *speeds, number(peer.get("p50_ms"), 3), "-"])
    note = [f"other libraries: {PEERS['source']}"] if peers else []
    return table(["queries/s", "k", "recall", *(f"batch {b:,}" for b in sizes), "1: p50 ms", "p95 ms"], rows) + note if rows else []


def split_table(s: dict) -> list[str]:
    """Where the time of one batch went, for the first target, microseconds."""
    points = s.get("point", [])
    points = [p for p in points if (p["k"], p["target"]) == (points[0]["k"], points[0]["target"])]
    parts = list(points[0]["split_us"]) if points else []
    rows = [[f"{p['batch']:,}", *(number(p["split_us"][part], 0) for part in parts), number(1e3 * p["p50_ms"], 0)] for p in points]
    return table([f"us, {points[0]['probes']} lists: batch", *parts, "p50"], rows) if parts else []


def floor_ms(data: dict, batch: int, ceilings: dict) -> tuple[float, str]:
    """The least time of an exact search: every row read once, every product made once, at what the card was seen to do."""
    reading = data["n"] * data["dim"] * 2 / ceilings["copy_gb_s"] / 1e6
    products = 2 * batch * data["n"] * data["dim"] / ceilings["gemm_tflop_s"] / 1e9
    return max((reading, "memory"), (products, "tensor cores"))


def exact_rows(s: dict) -> list[dict]:
    """Exact search beside torch and the roofline, a dict a batch size."""
    torch = {line["batch"]: line for line in s.get("torch", [])}
    rows = []
    for line in s.get("exact", []):
        batch, row = line["batch"], {"batch": line["batch"], "ms": line["p50_ms"], "recall": line["recall"]}
        if batch in torch:
            row |= {"torch_ms": torch[batch]["p50_ms"], "over_torch": torch[batch]["p50_ms"] / line["p50_ms"]}
        if "ceilings" in s:
            row["floor_ms"], row["bound"] = floor_ms(s["data"][0], batch, s["ceilings"][0])
            row["share"] = row["floor_ms"] / line["p50_ms"]
        rows.append(row)
    return rows


def exact_table(s: dict) -> list[str]:
    rows = [[str(r["batch"]), number(r["ms"], 3), f"{r['recall']:.4f}", number(r.get("torch_ms"), 3), number(r.get("over_torch"), 2),
             number(r.get("floor_ms"), 3), r.get("bound", "-"), number(100 * r["share"], 0) + " %" if "share" in r else "-"] for r in exact_rows(s)]
    return table(["exact, k 10: batch", "ms", "recall", "torch ms", "torch / omen", "floor ms", "floor of", "of the roofline"], rows) if rows else []


def sql_table(s: dict) -> list[str]:
    rows = []
    for line in s.get("sql_single", []):
        rows.append([f"single, {line['asked']} ({line['last_scan'].get('engine')})", number(line["qps"]), number(line["p50_ms"], 3),
                     number(line["p95_ms"], 3), f"{line['recall']:.3f}"])
    for line in s.get("sql_batch", []):
        join = f" ({line['plan'].partition(chr(10))[0]})" if "plan" in line else ""
        rows.append([f"omen_search of {line['batch']:,}, {line['how']}{join}, {line['asked']}", number(line["qps"]), number(line["p50_ms"], 3), "-",
                     number(line.get("recall"), 3)])
    out = table(["SQL, k 10", "queries/s", "p50 ms", "p95 ms", "recall"], rows) if rows else []
    for line in s.get("sql_build", []):
        out.append(f"{line['server']}: COPY {line['copy_s']:.1f} s, VACUUM {line['vacuum_s']:.1f} s, CREATE INDEX {line['index_s']:.1f} s, "
                   f"{line['lists']} lists, index {line['bytes'] / 1e6:,.0f} MB, codes: {line['codes']}")
    for line in s.get("sql_load", []):
        loads = ", ".join(f"{a:.2f} s ({b:.1f} GB/s)" for a, b in zip(line["seconds"], line["gb_per_s"]))
        out.append(f"hot tier loaded by {line['how']}: {loads}")
    return out


def service_table(s: dict) -> list[str]:
    """Clients on the shared service beside the limits of the same run."""
    by_clients = {}
    for line in s.get("clients", []):
        by_clients.setdefault(line["clients"], {})[line["how"]] = line
    rows = []
    for clients, found in by_clients.items():
        limit = found.get("ten rows", {}).get("tps")
        for how, line in found.items():
            share = number(100 * line["tps"] / limit, 0) + " %" if line["tps"] and limit else "-"
            searches = how.startswith("service") or how == "auto"
            rows.append([f"{how}, {clients} clients", number(line["tps"]), number(line["mean_ms"], 3), share,
                         number(line.get("mean_batch"), 1) if searches else "-", number(100 * line["busy"], 0) + " %" if searches else "-",
                         number(100 * line["device"], 0) + " %" if searches else "-",
                         line["errors"] or "-"])
    out = table(["pgbench", "tps", "mean ms", "of ten rows", "mean batch", "worker busy", "device", "errors"], rows) if rows else []
    for line in s.get("clients_recall", []):
        out.append(f"recall of the service's searches: {line['recall']:.3f} ({line['engine']}{', ' + line['reason'] if line['reason'] else ''})")
    for line in s.get("clients_many", []):
        out.append(f"{line['clients']} clients: {number(line['tps'])} tps, {line['errors'] or 'no errors'}, mean batch {number(line['mean_batch'], 1)}, refused "
                   f"{line['refused']}; device memory {line['device_mb_before']} MB before, {line['device_mb_during']} MB during")
    for line in s.get("clients_writing", []):
        writers = f"{line['inserters']} insert {line['inserted']} rows ({number(line['inserts']['tps'])} a second)" if line["inserters"] else "none inserts"
        out.append(f"{line['clients']} clients while {writers} and VACUUM runs {line['vacuums']} times: "
                   f"{number(line['tps'])} tps, {number(100 * (line['share'] or 0))} % of {number(line['alone'])} alone; {line['errors'] or 'no errors'}; "
                   f"cores: {', '.join(f'{what} {n}' for what, n in line['cores'].items())}; a search: {', '.join(f'{what} {n:g}' for what, n in line['one'].items())}")
    for line in s.get("clients_refresh", []):
        out.append(f"{100 * line['deleted']:g} % of the rows deleted, VACUUM: {line['most_stale']} lists out of date, none after {number(line['seconds_until_current'], 2)} s by "
                   f"{line['refreshes']} refreshes and {line['loads']} loads; 8 clients meanwhile {number(line['tps'])} tps, {line['errors'] or 'no errors'}")
    return out


def build_table(s: dict) -> list[str]:
    """Builds by setting, and their floors."""
    rows, told = [], []
    for line in s.get("build", []):
        name = f"{line['settings']['max_parallel_maintenance_workers']} workers, {line['settings']['maintenance_work_mem']}, {line['settings'].get('omen.engine', 'auto')}"
        rows.append([name, number(line["seconds"], 2), number(line["estimate"]["seconds"], 2), number(line["private_mb"]), number(line["wal_mb"]), number(line["lists"]), f"{line['recall']:.3f}"])
        told += [f"{name}: {notice}" for notice in line["notices"]]
    out = table(["CREATE INDEX", "seconds", "estimated", "private MB", "WAL MB", "lists", "recall, 1/32 of the lists"], rows) if rows else []
    for line in s.get("build_table", []):
        told.append(f"table: {number(line['rows'])} rows, vectors {line['storage']}, {line['bytes'] / 1e9:,.1f} GB; loaded in {line['load_s']:.0f} s")
    for line in s.get("build_floor", []):
        more = f"{line['workers']} workers" if "workers" in line else f"{line['bytes'] / 1e6:,.0f} MB, wal_level {line['wal_level']}"
        told.append(f"floor, {line['what']} ({more}): {min(line['seconds']):.2f} s")
    for line in s.get("train", []):
        told.append(f"from memory, {line['engine']}, {line['threads'] or 'all'} threads: {number(line['rows'])} rows, {number(line['lists'])} lists: sample of {number(line['sampled'])} "
                    f"{line['sample_s']:.2f} s, training {line['train_s']:.2f} s, assigning {line['assign_s']:.2f} s, together {line['total_s']:.2f} s; mean squared distance {line['mean_l2sq']:.5f}")
    return out + told


def facts(s: dict) -> list[str]:
    data = s["data"][0]
    out = [f"{data['n']:,} x {data['dim']} ({data['origin']}), {data['lists']:,} lists of {data['smallest_list']:,} to {data['largest_list']:,} rows"]
    for line in s.get("load", []):
        rate = f"{line['gb_per_s']:.1f} GB/s, files read included"
        out.append(f"tier: {line['bytes_per_vector']:,.0f} bytes a vector, loaded in {line['seconds']:.1f} s ({rate})")
        if "planned_bytes_per_vector" in line:
            out.append("bytes a vector by what a tier holds: " + ", ".join(f"{b:,.0f} {parts}" for parts, b in line["planned_bytes_per_vector"].items()))
    for line in s.get("memory", []):
        out.append(f"with scratch: {line['bytes_per_vector_with_scratch']:,.0f} bytes a vector")
    for line in s.get("ceilings", []):
        out.append(f"this card: copies {line['copy_gb_s']:,.0f} GB/s within its memory (read and written), "
                   f"fp16 products of 8192^3 {line['gemm_tflop_s']:,.0f} TFLOP/s")
    for line in s.get("latency", []):
        at = ", ".join(f"p{p:g} {ms:.3f}" for p, ms in line["percentiles_ms"] if p >= 50)
        out.append(f"single queries, {line['probes']} lists, ms: {at}")
    return out


def plot(sets: list[dict], machine: str, path: Path):
    """Recall against queries a second with batches of 10,000, a panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(sets), figsize=(7.5 * len(sets), 5.5), squeeze=False)
    for axes, s in zip(panels[0], sets):
        data, curves = s["data"][0], {}
        for line in s.get("curve", []) + [p for p in s.get("point", []) if p["k"] == 10]:
            if line["batch"] in (1, min(10_000, data["nq"])):
                curves.setdefault(f"omen, batch {line['batch']:,}", []).append((line["recall"], line["qps"]))
        for peer in peers_for(data):
            for batch in ("10000", "1"):
                if peer["k"] == 10 and batch in peer["qps"]:
                    curves.setdefault(f"{peer['name']}, batch {int(batch):,}", []).append((peer["recall"], peer["qps"][batch]))
        colours = {}
        for name, points in curves.items():
            index, _, batch = name.rpartition(", batch ")
            ours = index == "omen"
            colour = colours.setdefault(index, f"C{len(colours)}")
            axes.plot(*zip(*sorted(points)), ":" if batch == "1" else "-", marker="o" if ours else "x", linewidth=2 if ours else 1,
                      color=colour, label=name)
        axes.set(xlabel="recall@10", ylabel="queries/s", yscale="log", title=f"{data['n']:,} x {data['dim']}, {data['origin']}")
        axes.grid(True, which="both", alpha=0.3)
        if curves:
            axes.legend(fontsize=7)
    figure.suptitle(machine, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    out = Path(sys.argv[1])
    lines = [json.loads(line) for line in (out / "measurements.jsonl").read_text().splitlines() if line.startswith("{")]
    sets = data_sets(lines)
    machine = next((line for line in lines if line["part"] == "machine"), {})
    name = f"{'; '.join(machine.get('gpus', [])) or 'no GPU'}; {machine.get('cores')} cores {machine.get('cpu')}; {machine.get('date')}"
    text = [name]
    for s in sets:
        for block in (facts(s), search_table(s), split_table(s), exact_table(s), sql_table(s), build_table(s), service_table(s)):
            text += ["", *block] if block else []
        s["roofline"] = exact_rows(s)
    text += [f"note: {line['text']}" for line in lines if line["part"] == "note"]
    text += [f"{line['name']}: {line['outcome']}, {line['seconds']} s" for line in lines if line["part"] == "step"]
    (out / "results.json").write_text(json.dumps({"machine": machine, "data_sets": sets, "peers": PEERS}, indent=1))
    (out / "table.txt").write_text("\n".join(text) + "\n")
    if sets:
        try:
            plot(sets, name, out / "recall.png")
        except ImportError:
            text.append("no plot: matplotlib is missing")
    print("\n".join(text))


if __name__ == "__main__":
    main()
