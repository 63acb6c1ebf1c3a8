"""Measures one system on one data set: build, insertions, and searches at swept settings and at recall targets."""

import math
import os
import time
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg.types.numeric import Int4

import server
from clients import Clients, Laps, timed
from datasets import Dataset, Truth
from systems import OPERATOR, Curve, System

# Sequential scans would win on small tables, and would not be a measurement of the index.
SESSION = {"enable_seqscan": "off", "jit": "off"}
INSERTS = 1000
FIXED = 1000
ENOUGH = 0.995  # a sweep ends at this recall, or at the highest target,
FLAT = 0.005  # or when doubling the setting gains less than this and twice that gain would not reach the next target
LAP_SECONDS, RUN_SECONDS = 0.25, 1.0  # a lap takes about so long, a run of laps about so long


@dataclass
class Bench:
    """What is the same for all systems measured on a data set."""

    data: Dataset
    truth: Truth
    dsn: str
    k: int
    clients: list[int]  # ascending
    targets: list[float]
    maintenance_mem: str


class Measured:
    """A system's figures on a data set, as they come in: `result` is what is written."""

    def __init__(self, bench: Bench, system: System):
        self.bench, self.system = bench, system
        self.conn = server.connect(bench.dsn, system.database)
        server.settings(self.conn, SESSION)
        version = self.conn.execute("SELECT extversion FROM pg_extension WHERE extname = %s", (system.extensions[-1],)).fetchone()[0]
        self.result = {"version": version, "points": [], "targets": {}}
        self.distance = f"embedding {OPERATOR[bench.data.metric]} %b"
        self.search = f"SELECT id, {self.distance} AS distance FROM {system.table} ORDER BY distance LIMIT {bench.k}"
        self.recalls: dict[tuple, float] = {}
        self.points: dict[tuple, dict] = {}
        self.curves: list[Curve] = []
        self.clients: Clients | None = None

    def insert_cost(self, times: int) -> dict:
        """Single-row INSERTs in autocommit, of queries as rows, that are deleted again; the cheapest of so many times. Microseconds a row."""
        first, table = len(self.bench.data.base), self.system.table
        rows = np.resize(self.bench.data.queries, (INSERTS, self.bench.data.base.shape[1]))
        runs = []
        for _ in range(times):
            runs.append(timed(self.conn, f"INSERT INTO {table} VALUES (%b, %b)", [(Int4(first + i), row) for i, row in enumerate(rows)])[1])
            self.conn.execute(f"DELETE FROM {table} WHERE id >= {first}")
            server.tidy(self.conn, table)
        return {"cpu_us": None if runs[0].cpu is None else min(run.cpu_us for run in runs), "wall_us": min(run.seconds.mean() for run in runs) * 1e6}

    def fixed_cost(self) -> dict:
        """A search without the search: k rows by primary key with their distances. Microseconds a query."""
        sql = f"SELECT id, {self.distance} AS distance FROM {self.system.table} WHERE id = ANY(%b::int4[])"
        draw, queries = np.random.default_rng(1), self.bench.data.queries
        parameters = [(queries[i % len(queries)], [Int4(id) for id in draw.choice(len(self.bench.data.base), self.bench.k)]) for i in range(FIXED)]
        timed(self.conn, sql, parameters)
        laps = [timed(self.conn, sql, parameters)[1] for _ in range(5)]
        return {"cpu_us": None if laps[0].cpu is None else min(lap.cpu_us for lap in laps), "wall_us": min(lap.seconds.mean() for lap in laps) * 1e6}

    def build(self):
        """Loads the table, measures it without index, makes the index: wall and CPU seconds (of the whole server), bytes."""
        system, conn, rows = self.system, self.conn, len(self.bench.data.base)
        server.load_table(conn, system.table, self.bench.data)
        self.result["insert"] = {"plain": self.insert_cost(3), "indexed": {"cpu_us": None, "wall_us": None}}
        self.result["fixed"] = self.fixed_cost()
        cores = len(os.sched_getaffinity(0))
        server.settings(conn, {"maintenance_work_mem": self.bench.maintenance_mem, "max_parallel_maintenance_workers": str(max(1, cores - 1))})
        sql = f"CREATE INDEX {system.index} ON {system.table} USING {system.using(f'vector_{self.bench.data.metric}_ops', rows, cores)}"
        cpu = server.ServerCpu(conn)
        before, began = cpu.seconds(), time.perf_counter()
        conn.execute(sql)
        wall, after = time.perf_counter() - began, cpu.seconds()
        server.tidy(conn, system.table)
        self.result["build"] = {"sql": sql, "wall_s": wall, "cpu_s": None if before is None else after - before,
                                "index_bytes": server.size(conn, system.index), "table_bytes": server.size(conn, system.table)}
        self.curves = system.curves(conn, rows, self.bench.k)
        server.settings(conn, self.curves[0].settings(self.curves[0].lowest))  # vchordrq cannot even plan without its probes
        plan = "\n".join(row[0] for row in conn.execute("EXPLAIN " + self.search, (self.bench.data.queries[0],)))
        if system.index not in plan:
            raise SystemExit(f"the planner does not use the index:\n{plan}")
        self.clients = Clients(self.bench.clients[-1], self.bench.dsn, system.database, SESSION, self.search, self.bench.data.queries, self.bench.k)

    def warm(self, settings: dict) -> float:
        """All queries once on every client, which gives the recall; the seconds that the first client took."""
        self.clients.all("set", settings)
        found, took = self.clients.all("find", None)[0]
        self.recalls[tuple(settings.items())] = self.bench.truth.recall(found)
        return took.seconds.sum()

    def recall(self, settings: dict) -> float:
        if tuple(settings.items()) not in self.recalls:
            self.warm(settings)
        return self.recalls[tuple(settings.items())]

    def point(self, settings: dict) -> dict:
        """Recall and timing at these settings; measured again, the figures that were disturbed least are kept.

        For each number of clients: queries/s with p50 and p95 in ms, of the best lap; CPU us a query, of the cheapest lap.
        """
        seconds = self.warm(settings)
        passes = max(1, round(LAP_SECONDS / seconds))
        laps = Laps(passes, max(1, round(RUN_SECONDS / (seconds * passes))))
        key = tuple(settings.items())
        point = self.points.setdefault(key, {"settings": settings, "recall": self.recalls[key], "clients": {}})
        for count in self.bench.clients:
            runs = []
            for together in zip(*self.clients.all("run", laps, count)):
                p50, p95 = np.percentile(np.concatenate([took.seconds for took in together]), [50, 95]) * 1000
                cpu = [took.cpu_us for took in together]
                runs.append({"qps": sum(1 / took.seconds.mean() for took in together), "p50_ms": p50, "p95_ms": p95,
                             "cpu_us": None if None in cpu else float(np.mean(cpu))})
            earlier = point["clients"].get(str(count), {"runs": []})["runs"]
            runs = earlier + runs
            cpu = [run["cpu_us"] for run in runs if run["cpu_us"] is not None]
            point["clients"][str(count)] = max(runs, key=lambda run: run["qps"]) | {"cpu_us": min(cpu, default=None), "runs": runs}
        point |= {name: point["clients"][str(self.bench.clients[0])][name] for name in ("cpu_us", "p50_ms", "p95_ms", "qps")}
        if self.system.last:
            point["last"] = self.clients.all("last", self.system.last, 1)[0]
        return point

    def sweep(self, curve: Curve):
        """Yields points at doubling settings, until recall is enough for everything asked or grows no more."""
        points = []
        for value in curve.ladder():
            points.append(self.point(curve.settings(value)))
            yield points[-1]
            recall = points[-1]["recall"]
            gain = recall - points[-2]["recall"] if len(points) > 1 else 1
            next_target = min((target for target in self.bench.targets if target > recall), default=1)
            if recall >= max([ENOUGH, *self.bench.targets]) or (gain < FLAT and recall + 2 * gain < next_target):
                break
        self.result["points"] += points

    def smallest(self, curve: Curve, target: float) -> dict | None:
        """The smallest setting that reaches the target, by bisection between swept ones; None: none of those does."""
        low = curve.lowest - 1
        for high in curve.ladder():
            recall = self.recalls.get(tuple(curve.settings(high).items()))
            if recall is None:
                return None
            if recall >= target:
                break
            low = high
        else:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.recall(curve.settings(middle)) >= target:
                high = middle
            else:
                low = middle
        return curve.settings(high)

    def at_targets(self) -> dict:
        """For each target: the settings to be compared, the smallest of each curve that reaches it, and the system's own choice."""
        return {target: {"cheapest": [found for curve in self.curves if (found := self.smallest(curve, target))],
                         "by target": [self.system.by_target(target)] if self.system.by_target else []} for target in self.bench.targets}

    def finish(self, settings_of: dict):
        """Enters the points at `settings_of` (see at_targets), all measured by now: the cheapest by CPU, or by time where that is unknown."""
        for target, kinds in settings_of.items():
            points = {kind: [self.points[tuple(settings.items())] for settings in some] for kind, some in kinds.items()}
            cheapest = min(points["cheapest"], key=lambda point: point["p50_ms"] if point["cpu_us"] is None else point["cpu_us"], default=None)
            self.result["targets"][str(target)] = {"cheapest": cheapest, "others": [p for p in points["cheapest"] if p is not cheapest],
                                                   "by target": next(iter(points["by target"]), None)}
        self.clients.close()
        self.result["insert"]["indexed"] = self.insert_cost(2)
        self.conn.close()
