"""Many clients on the shared GPU service: a server that libpq's environment names, with the library preloaded, after `sql.py` made its table.

  service.py DIR [--limit 240] [--seconds 4] [--clients 1,8,32,64] [--many 300] [--recall 0.957] [--parts rates,many,writing,refresh] [--inserted new,copies]

pgbench, prepared, `SELECT id FROM bench ORDER BY embedding <-> q LIMIT 10` where q is read from a table of the queries by its number
(pgbench has no binary parameters), on the service, on the CPU, and from one client on a GPU context of its own; beside it two limits:
`pgbench -S`, and the read of ten rows by key with their vectors detoasted. Then more clients than the machine has memory for contexts,
searches while four clients insert, VACUUM runs, or both, with the cores that each takes; and how long it takes until lists with deleted rows are on the device again.
Prints JSON lines.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from contextlib import suppress
from threading import Thread
from pathlib import Path

import numpy as np

from folder import Folder, recall
from sql import K, Vector, connect

SEARCH = "\\set i random(0, {last})\nSELECT id FROM bench ORDER BY embedding <-> (SELECT query FROM bench_single WHERE i = :i) LIMIT 10;\n"
KEYS = ", ".join(f":k{i}" for i in range(10))
TEN_ROWS = "".join(f"\\set k{i} random(0, {{rows}})\n" for i in range(10)) + f"SELECT sum(vector_norm(embedding)) FROM bench WHERE id IN ({KEYS});\n"
INSERTED = {
    # Of length one, with a cosine of about 0.9 to a row that is there: new, where rows are.
    "new": "l2_normalize(a.embedding + a.embedding + b.embedding) FROM bench a, bench b WHERE a.id = :i AND b.id = :j",
    # As near to every query as another row: which comes first, the table has to be asked.
    "copies": "embedding FROM bench WHERE id = :i",
}
INSERT = "\\set i random(0, {rows})\n\\set j random(0, {rows})\nINSERT INTO bench SELECT nextval('bench_new'), {inserted};\n"

# Ids of rows that are inserted, from here on.
NEW = 1_000_000_000
# Without, VACUUM leaves few dead rows to a later one.
VACUUM = "VACUUM (INDEX_CLEANUP ON) bench"


class Watch(Thread):
    """While pgbench runs: processor time of the server's processes by what they do, and what searches of a session of its own tell of themselves."""

    def __init__(self, run: subprocess.Popen, nq: int, recall: float):
        super().__init__(daemon=True)
        self.bench, self.nq, self.recall = run, nq, recall
        self.first, self.last, self.what, self.scans = {}, {}, {}, []
        self.start()

    def run(self):
        self.began = time.monotonic()
        with connect({"omen.engine": "gpu", "omen.recall": self.recall}) as conn:
            while self.bench.poll() is None:
                self.look(conn)
                for i in np.random.default_rng().integers(0, self.nq, 10).tolist():
                    conn.execute("SELECT id FROM bench ORDER BY embedding <-> (SELECT query FROM bench_single WHERE i = %s) LIMIT 10", (i,))
                    self.scans.append(conn.execute("SELECT lists, probes, rounds, candidates, select_us, cpu_us, gpu_us, total_us FROM omen_last_scan()").fetchone())
                time.sleep(0.05)
        self.seconds = time.monotonic() - self.began

    def look(self, conn):
        for pid, what in conn.execute("SELECT pid, CASE WHEN backend_type <> 'client backend' THEN backend_type ELSE split_part(query, ' ', 1) END FROM pg_stat_activity"):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
                # utime and stime; a process that was not there at first has begun since.
                self.last[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                self.first.setdefault(pid, self.last[pid] if time.monotonic() - self.began < 1.5 else 0.0)
                self.what[pid] = what or "client"

    def cores(self) -> dict:
        """Cores that each kind of process has kept busy."""
        cores = {}
        for pid, last in self.last.items():
            cores[self.what[pid]] = cores.get(self.what[pid], 0) + (last - self.first[pid]) / self.seconds
        return {what: round(n, 2) for what, n in sorted(cores.items()) if n >= 0.01}

    def one(self) -> dict:
        """Means of what a search said of itself; times with the waiting for a processor."""
        names = ("lists", "probes", "rounds", "candidates", "select_us", "cpu_us", "gpu_us", "total_us")
        return dict(zip(names, np.round(np.mean(self.scans, axis=0), 1).tolist())) if self.scans else {}


class Service:
    """What is measured on one server; prints as it goes."""

    def __init__(self, data: Folder, args, scripts: Path):
        self.data, self.args, self.scripts = data, args, scripts
        self.until = time.monotonic() + args.limit
        for name, text in (("search", SEARCH), ("ten_rows", TEN_ROWS), *((kind, INSERT) for kind in INSERTED)):
            (scripts / name).write_text(text.format(last=data.nq - 1, rows=data.n - 1, inserted=INSERTED.get(name)))

    def line(self, part: str, **values):
        print(json.dumps({"part": part} | values), flush=True)

    def prepare(self):
        """The table of single queries, the key, pgbench's own tables; and the index on the GPU."""
        with connect() as conn:
            conn.execute("CREATE UNIQUE INDEX IF NOT EXISTS bench_key ON bench (id)")
            conn.execute(f"DROP TABLE IF EXISTS bench_single; CREATE TABLE bench_single (i int, query vector({self.data.dim}))")
            conn.execute("ALTER TABLE bench_single ALTER query SET STORAGE PLAIN")
            with conn.cursor() as cur:
                cur.executemany("INSERT INTO bench_single VALUES (%s, %b)", [(i, Vector(q)) for i, q in enumerate(self.data.queries)])
            conn.execute("ALTER TABLE bench_single ADD PRIMARY KEY (i)")
            conn.execute(f"DROP SEQUENCE IF EXISTS bench_new; CREATE SEQUENCE bench_new START {NEW} CACHE 100")
            conn.execute("VACUUM (ANALYZE) bench_single")
            conn.execute("SELECT count(*) FROM bench_single")
            subprocess.run(["pgbench", "-i", "-s", "10", "-q"], check=True, capture_output=True)
            conn.execute("SELECT omen_load('bench_idx')")
            until = time.monotonic() + 60
            while not (tier := conn.execute("SELECT hot_tiers FROM omen_stat_gpu").fetchone()) or not tier[0]:
                if time.monotonic() > until:
                    raise SystemExit("the service has not loaded the index within a minute")
                time.sleep(0.2)

    def options(self, settings: dict) -> dict:
        """The environment in which a client has these settings."""
        named = {"omen.recall": self.args.recall} | settings
        return os.environ | {"PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in named.items())}

    def pgbench(self, *arguments: str, clients: int, settings: dict | None = None, seconds: int | None = None) -> subprocess.Popen:
        threads = max(1, min(clients, (os.cpu_count() or 2) // 2))
        command = ["pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", str(threads), "-T", str(seconds or self.args.seconds), *arguments]
        return subprocess.Popen(command, env=self.options(settings or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def outcome(self, run: subprocess.Popen) -> dict:
        """Transactions a second without the connecting, and their mean time; what failed."""
        out, err = run.communicate()
        rate = re.search(r"tps = ([\d.]+)", out)
        mean = re.search(r"latency average = ([\d.]+)", out)
        failed = re.search(r"number of failed transactions: (\d+)", out)
        return {"tps": rate and float(rate[1]), "mean_ms": mean and float(mean[1]), "failed": failed and int(failed[1]),
                "errors": (err.strip().splitlines() or [""])[-1] if run.returncode else None}

    def stats(self, conn) -> dict:
        cur = conn.execute("SELECT searches, batches, mean_batch, max_batch, busy_us, device_us, refused, abandoned, timeouts, failed_batches, breaker, "
                           "loads, refreshes, (SELECT stale_lists FROM omen_stat_index WHERE indexrelname = 'bench_idx') AS stale_lists FROM omen_stat_gpu")
        row = cur.fetchone() or ()
        return {c.name: v if isinstance(v, (int, str, type(None))) else float(v) for c, v in zip(cur.description, row)}

    def search(self, clients: int, seconds: int | None = None, **settings) -> dict:
        """One run of searches, with what the service did meanwhile."""
        with connect() as conn:
            conn.execute("SELECT omen_stat_reset()")
            began = time.monotonic()
            found = self.outcome(self.pgbench("-f", str(self.scripts / "search"), clients=clients, settings=settings, seconds=seconds))
            stats = self.stats(conn)
        seconds = time.monotonic() - began
        for share in ("busy", "device"):
            stats[share] = (stats.get(f"{share}_us") or 0) / 1e6 / seconds
        return found | stats

    def rates(self, clients: int):
        """All configurations from so many clients."""
        found = {
            "pgbench -S": self.outcome(self.pgbench("-S", clients=clients)),
            "ten rows": self.outcome(self.pgbench("-f", str(self.scripts / "ten_rows"), clients=clients)),
            "service": self.search(clients, **{"omen.engine": "gpu"}),
            "service, with distances": self.search(clients, **{"omen.engine": "gpu", "omen.skip_unread_distances": "off"}),
            "cpu": self.search(clients, **{"omen.engine": "cpu"}),
            "auto": self.search(clients, **{"omen.engine": "auto"}),
        }
        if clients == 1:
            found["own context"] = self.search(clients, **{"omen.engine": "gpu", "omen.gpu_context": "backend"})
        for how, values in found.items():
            self.line("clients", clients=clients, how=how, **values)

    def recall(self):
        """That the searches of the service find what they should."""
        n = min(500, self.data.nq)
        found = np.full((n, K), -1, np.int64)
        with connect({"omen.engine": "gpu", "omen.recall": self.args.recall}) as conn:
            for i in range(n):
                rows = conn.execute("SELECT id FROM bench ORDER BY embedding <-> (SELECT query FROM bench_single WHERE i = %s) LIMIT 10", (i,))
                ids = [r[0] for r in rows.fetchall()]
                found[i, :len(ids)] = ids
            last = conn.execute("SELECT engine, fallback_reason FROM omen_last_scan()").fetchone()
        self.line("clients_recall", recall=recall(found, self.data.neighbors), engine=last[0], reason=last[1])

    def device_mb(self) -> int | None:
        """Memory in use on the first card."""
        try:
            out = subprocess.run(["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True)
            return int(out.stdout.split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def many(self):
        """More sessions than contexts would fit."""
        before = self.device_mb()
        run = self.pgbench("-f", str(self.scripts / "search"), clients=self.args.many, settings={"omen.engine": "gpu"}, seconds=6)
        time.sleep(4)
        during = self.device_mb()
        with connect() as conn:
            stats = self.stats(conn)
        self.line("clients_many", clients=self.args.many, device_mb_before=before, device_mb_during=during, **self.outcome(run), **stats)

    def while_writing(self, clients: int):
        """Searches alone, while VACUUM runs again and again, while four clients insert, and both."""
        seconds, alone = max(8, 2 * self.args.seconds), None
        # What searches alone reach counts once pages, clocks and averages are as they are after some seconds.
        self.search(clients, **{"omen.engine": "gpu"})
        for inserted in (None, *self.args.inserted.split(",")):
            for vacuums in (False, True):
                tps = self.beside_writers(clients, alone, inserted, vacuums, seconds)
                alone = alone or tps

    def beside_writers(self, clients: int, alone: float | None, inserted: str | None, vacuums: bool, seconds: int) -> float | None:
        inserters = 4 if inserted else 0
        with connect() as conn:
            conn.execute("SELECT omen_stat_reset()")
            inserts = self.pgbench("-f", str(self.scripts / inserted), clients=inserters, seconds=seconds) if inserted else None
            run = self.pgbench("-f", str(self.scripts / "search"), clients=clients, settings={"omen.engine": "gpu"}, seconds=seconds)
            watch, n_vacuums = Watch(run, self.data.nq, self.args.recall), 0
            while run.poll() is None and vacuums:
                conn.execute(f"DELETE FROM bench WHERE id IN (SELECT id FROM bench WHERE id >= {NEW if inserters else 0} ORDER BY id LIMIT 500)")
                conn.execute(VACUUM)
                n_vacuums += 1
            found = self.outcome(run)
            watch.join()
            written, stats = inserts and self.outcome(inserts), self.stats(conn)
        self.line("clients_writing", clients=clients, alone=alone or found["tps"], share=found["tps"] and found["tps"] / (alone or found["tps"]),
                  inserters=inserters, inserted=inserted, inserts=written, vacuums=n_vacuums, cores=watch.cores(), one=watch.one(), **found, **stats)
        return found["tps"]

    def refresh(self, share: float = 0.01):
        """Some rows of nearly every list die: how long until the tier is as the index is, and what searches do meanwhile."""
        with connect() as conn:
            conn.execute("SELECT omen_stat_reset()")
            conn.execute("DELETE FROM bench WHERE id < %s", (int(self.data.n * share),))
            conn.execute(VACUUM)
            run = self.pgbench("-f", str(self.scripts / "search"), clients=8, settings={"omen.engine": "gpu"}, seconds=8)
            began, most, seconds = time.monotonic(), 0, None
            while run.poll() is None:
                stats = self.stats(conn)
                stale = stats.get("stale_lists") or 0
                most = max(most, stale)
                if most and not stale and seconds is None:
                    seconds = time.monotonic() - began
                time.sleep(0.005)
            found, stats = self.outcome(run), self.stats(conn)
        self.line("clients_refresh", deleted=share, most_stale=most, seconds_until_current=seconds, **found, **stats)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--limit", type=float, default=240, help="seconds for everything")
    parser.add_argument("--seconds", type=int, default=4, help="of each run")
    parser.add_argument("--clients", default="1,8,32,64")
    parser.add_argument("--many", type=int, default=300)
    parser.add_argument("--recall", type=float, default=0.957, help="omen.recall")
    parser.add_argument("--parts", default="rates,many,writing,refresh")
    parser.add_argument("--inserted", default="new", help=f"rows that are inserted beside searches: some of {', '.join(INSERTED)}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scripts:
        service = Service(Folder(args.folder), args, Path(scripts))
        service.prepare()
        service.recall()
        counts = [int(n) for n in args.clients.split(",")]
        parts = {"rates": [lambda n=n: service.rates(n) for n in counts], "many": [service.many],
                 "writing": [lambda: service.while_writing(counts[-1])], "refresh": [service.refresh]}
        for what in (what for part in args.parts.split(",") for what in parts[part]):
            if service.until - time.monotonic() < 8 * args.seconds:
                service.line("note", text="clients: no time for the rest")
                break
            what()


if __name__ == "__main__":
    main()
