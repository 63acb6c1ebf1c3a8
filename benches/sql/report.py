"""What is written: results.json with everything, results.md with the tables, and a plot of recall against speed for each data set."""

import json
from pathlib import Path

COLORS = {"omen": "#d1495b", "hnsw": "#30638e", "vchordrq": "#3a7d44"}
MB = 1e6


def number(value: float | None, digits: int = 0) -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns padded so that it can be read as plain text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def setting(point: dict, by_itself: bool = False) -> str:
    """The settings without the system's name, and what the system made of them where it chose by itself."""
    text = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in point["settings"].items())
    return f"{text} ({point['last']})" if by_itself and "last" in point else text


def speeds(point: dict) -> list[str]:
    """The cells after CPU: queries/s at each number of clients, p50 and p95 in ms."""
    return [number(run["qps"]) for run in point["clients"].values()] + [number(point["p50_ms"], 2), number(point["p95_ms"], 2)]


def speed_heads(result: dict) -> list[str]:
    return [f"q/s, {count} client{'s' * (count > 1)}" for count in result["clients"]] + ["p50 ms", "p95 ms"]


def target_table(result: dict, target: str) -> str:
    """One line a system: the cheapest setting that reaches the target, and what the system chooses when told the target."""
    omen = (result["systems"].get("omen", {}).get("targets", {}).get(target, {}).get("cheapest") or {}).get("cpu_us")
    rows = []
    for name, system in result["systems"].items():
        build, points = system["build"], system["targets"].get(target, {})
        end = [number(build["wall_s"], 1), number(build["cpu_s"], 1), number(build["index_bytes"] / MB, 1)]
        for point, note in ((points.get("cheapest"), ""), (points.get("by target"), "by itself: ")):
            if point:
                ratio = point["cpu_us"] / omen if omen and point["cpu_us"] else None
                short = " (short)" * (point["recall"] < float(target))
                rows.append([name, note + setting(point, bool(note)), f"{point['recall']:.4f}{short}", number(point["cpu_us"]), number(ratio, 2),
                             *speeds(point), *end])
            elif not note:
                rows.append([name, "none found that reaches it", "", "", "", *[""] * len(speed_heads(result)), *end])
    head = ["system", "setting", f"recall@{result['k']}", "CPU us/query", "CPU / omen's", *speed_heads(result), "build s", "build CPU s", "index MB"]
    return table(head, rows)


def build_table(result: dict) -> str:
    rows = []
    for name, system in result["systems"].items():
        build, insert = system["build"], system["insert"]
        rows.append([name, system["version"], number(build["wall_s"], 1), number(build["cpu_s"], 1), number(build["index_bytes"] / MB, 1),
                     number(build["table_bytes"] / MB, 1), number(insert["indexed"]["cpu_us"]), number(insert["plain"]["cpu_us"]),
                     number(system["fixed"]["cpu_us"])])
    return table(["system", "version", "build s", "build CPU s", "index MB", "table MB", "CPU us/insert", "without index",
                  "fixed CPU us/query"], rows)


def curve_points(system: dict) -> list[dict]:
    """The points of the sweeps and those found for the targets, each once."""
    found = [p for target in system["targets"].values() for p in (target["cheapest"], *target["others"]) if p]
    return list({str(p["settings"]): p for p in system["points"] + found}.values())


def sweep_table(result: dict) -> str:
    rows = [[name, setting(point), f"{point['recall']:.4f}", number(point["cpu_us"]), *speeds(point)]
            for name, system in result["systems"].items() for point in curve_points(system)]
    return table(["system", "setting", f"recall@{result['k']}", "CPU us/query", *speed_heads(result)], rows)


def title(result: dict) -> str:
    return f"{result['name']}, {result['metric']}: {result['rows']:,} x {result['dim']}, k = {result['k']}, {result['queries']:,} queries"


def markdown(results: dict) -> str:
    about = results["machine"]
    parts = ["# SQL-level benchmark",
             f"{about['date']}, {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['postgresql']}.", f"`{results['command']}`",
             "CPU: the backend's own, microseconds. Fixed: the same for fetching k rows by primary key. Times: the client's."]
    for result in results["datasets"]:
        parts += [f"## {title(result)}", f"{result['origin']}; load average at the start and at each round {', '.join(map(str, result['load']))}.", build_table(result)]
        parts += [f"{name}: skipped, {why}." for name, why in result["skipped"].items()]
        for target in result["targets"]:
            parts += [f"### Cheapest with recall@{result['k']} >= {target}", target_table(result, target)]
        parts += ["### All settings measured", sweep_table(result), f"![recall against queries/s]({plot_name(result)})"]
    return "\n\n".join(parts) + "\n"


def plot_name(result: dict) -> str:
    return f"{result['name']}-{result['metric']}-k{result['k']}.svg"


def front(points: list[dict], count: str) -> list[tuple[float, float]]:
    """(recall, queries/s) of the points that no other one beats in both, recall ascending."""
    best = []
    for recall, qps in sorted(((p["recall"], p["clients"][count]["qps"]) for p in points), reverse=True):
        if not best or qps > best[-1][1]:
            best.append((recall, qps))
    return best[::-1]


def plot(result: dict, path: Path):
    """Recall on x, queries/s of the fewest clients on a logarithmic y; crosses: settings the system chose by itself."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "font.size": 10})
    import matplotlib.pyplot as plt

    count = str(result["clients"][0])
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, system in result["systems"].items():
        line = front(curve_points(system), count)
        axes.plot(*zip(*line), marker="o", markersize=4, linewidth=1.5, color=COLORS.get(name), label=f"{name} {system['version']}")
        chosen = [p["by target"] for p in system["targets"].values() if p.get("by target")]
        if chosen:
            axes.scatter([p["recall"] for p in chosen], [p["clients"][count]["qps"] for p in chosen], marker="x", s=50,
                         color=COLORS.get(name), label=f"{name}, by recall aimed at", zorder=3)
    axes.set_yscale("log")
    axes.set_xlim(left=max(0.5, axes.get_xlim()[0]), right=1.005)
    axes.set_xlabel(f"recall@{result['k']}")
    axes.set_ylabel(f"queries/s, {count} client{'s' * (count != '1')}")
    axes.set_title(title(result), fontsize=10)
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write(results: dict, out: Path):
    """Everything so far, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "results.md").write_text(markdown(results))
    for result in results["datasets"]:
        if all(system["points"] for system in result["systems"].values()) and result["systems"]:
            plot(result, out / plot_name(result))
