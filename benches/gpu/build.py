"""CREATE INDEX on the table that `sql.py` made, beside its floors: a server that libpq's environment names, on this machine.

  build.py DIR [--limit 200] [--lists N] [--workers 0,2,8,14] [--memory 64MB,512MB,4GB] [--settings NAME=VALUE ...]
  build.py DIR --load [--loaders 12] [--storage plain] [--files] [--parts gpu] [--seconds 100] ...     makes the table too, of data that memory does not hold twice

Each build: seconds, the NOTICE (seconds of each phase), the most private memory that its processes had together (RssAnon, looked at every
10 ms; the queues of the workers, at most 16 MB, are shared memory and not in it), recall of 300 searches of the CPU at fixed lists, and what
`omen_estimate_build()` said before. With the most workers and memory also by the CPU alone.
--load: the table is loaded first, by several connections, and DIR's rows are deleted then. --storage: of its vectors; out of line
(external, the type's default) several connections wait for each other in TOAST's index. --files: its files are written without the
server (heap_file.py), vectors in line. --parts: some of gpu (whatever `omen.engine = auto` takes), cpu,
floors. --seconds: what a build is expected to take at most; one for which less is left is not begun.
The floors: a parallel scan that detoasts every vector, and the same number of logged pages written (ALTER INDEX SET TABLESPACE copies
them page by page and logs each). Prints JSON lines.
"""

import argparse
import os
import threading
import time
from contextlib import suppress

import numpy as np
import psycopg

from folder import Folder, recall
from sql import K, SINGLE, Bench, Vector, connect


def private_bytes(pid: int) -> int:
    with suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii") as status:
        return 1024 * next((int(line.split()[1]) for line in status if line.startswith("RssAnon")), 0)
    return 0


class Watch(threading.Thread):
    """The most private memory that a backend and its parallel workers have together, above what the backend had before: of all, and by phase of the build."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.most, self.by_phase, self.before, self.is_over = pid, 0, {}, private_bytes(pid), False
        self.start()

    def run(self):
        with connect() as conn:
            sql, pids, phase, looked = "SELECT pid FROM pg_stat_activity WHERE leader_pid = %s AND pid <> %s", [], "", 0.0
            while not self.is_over:
                if time.monotonic() - looked > 0.1:
                    pids, looked = [pid for (pid,) in conn.execute(sql, (self.pid, self.pid))], time.monotonic()
                    told = conn.execute("SELECT phase FROM pg_stat_progress_create_index WHERE pid = %s", (self.pid,)).fetchone()
                    phase = told[0].split(": ")[-1] if told else ""
                n_bytes = private_bytes(self.pid) - self.before + sum(private_bytes(pid) for pid in pids)
                self.most, self.by_phase[phase] = max(self.most, n_bytes), max(self.by_phase.get(phase, 0), n_bytes)
                time.sleep(0.01)

    def end(self):
        self.is_over = True
        self.join()


class Builds(Bench):
    """What is measured; prints as it goes."""

    def table(self):
        """Loads the table, and gives the room of the data's rows back."""
        with connect() as conn:
            began = time.perf_counter()
            self.load(conn)
            seconds = {"load_s": time.perf_counter() - began}
            self.data.rows = None
            (self.data.path / "rows.f16").unlink()
            seconds["analyze_s"] = self.timed(conn, "ANALYZE bench")
            n_bytes = conn.execute("SELECT pg_total_relation_size('bench')").fetchone()[0]
        self.line("build_table", rows=self.data.n, bytes=n_bytes, storage=self.args.storage, **seconds)

    def floors(self):
        most = (os.cpu_count() or 2) - 1
        with connect() as conn:
            conn.execute(f"ALTER TABLE bench SET (parallel_workers = {most})")
            conn.execute(f"SET max_parallel_workers = {most}; SET max_parallel_workers_per_gather = {most}; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
            seconds = [self.timed(conn, "SELECT sum(vector_norm(embedding)) FROM bench") for _ in range(3)]
            conn.execute("ALTER TABLE bench RESET (parallel_workers)")
            self.line("build_floor", what="scan that detoasts", workers=most, seconds=seconds)
            conn.execute("SET allow_in_place_tablespaces = on")
            conn.execute("CREATE TABLESPACE build_floor LOCATION ''")
            conn.execute("CHECKPOINT")
            n_bytes = conn.execute("SELECT pg_relation_size('bench_idx')").fetchone()[0]
            seconds = self.timed(conn, "ALTER INDEX bench_idx SET TABLESPACE build_floor")
            conn.execute("ALTER INDEX bench_idx SET TABLESPACE pg_default")
            conn.execute("DROP TABLESPACE build_floor")
            self.line("build_floor", what="logged pages", bytes=n_bytes, seconds=[seconds], wal_level=conn.execute("SHOW wal_level").fetchone()[0])

    def timed(self, conn, sql: str) -> float:
        began = time.perf_counter()
        conn.execute(sql)
        return time.perf_counter() - began

    def one(self, **settings):
        """One build with these settings."""
        notices = []
        with connect(settings | dict(s.split("=", 1) for s in self.args.settings)) as conn:
            conn.execute("SET client_min_messages = debug1; DROP INDEX IF EXISTS bench_idx; CHECKPOINT")
            conn.add_notice_handler(lambda d: notices.append(f"{d.message_primary}. {d.message_detail or ''}") if "omen" in d.message_primary else None)
            watch = Watch(conn.info.backend_pid)
            wal = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
            estimate = self.row(conn, f"SELECT * FROM omen_estimate_build('bench', 'embedding', {self.args.lists})")
            lists = f" WITH (lists = {self.args.lists})" if self.args.lists else ""
            try:
                seconds = self.timed(conn, f"CREATE INDEX bench_idx ON bench USING omen (embedding vector_l2_ops){lists}")
            finally:
                watch.end()
            wal_bytes = int(conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", (wal,)).fetchone()[0])
            status = self.row(conn, "SELECT lists, bytes, default_probes FROM omen_index_status('bench_idx')")
        with connect({"omen.engine": "cpu", "omen.probes": max(1, status["lists"] // 32), "enable_seqscan": "off"}) as conn:
            n = min(300, self.data.nq)
            found = np.full((n, K), -1, np.int64)
            for i, query in enumerate(self.data.queries[:n]):
                rows = conn.execute(SINGLE, (Vector(query),)).fetchall()
                found[i, :len(rows)] = [r[0] for r in rows]
        self.line("build", settings=settings, seconds=seconds, private_mb=watch.most >> 20, private_mb_by_phase={p: n >> 20 for p, n in watch.by_phase.items()}, wal_mb=wal_bytes >> 20, notices=notices,
                  recall=recall(found, self.data.neighbors), estimate=estimate, **status)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--limit", type=float, default=200, help="seconds for everything")
    parser.add_argument("--lists", type=int, default=0, help="of the index; 0: the index's own choice")
    parser.add_argument("--workers", default="0,2,8,14")
    parser.add_argument("--memory", default="64MB,512MB,4GB")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--loaders", type=int, default=12)
    parser.add_argument("--storage", default="external")
    parser.add_argument("--files", action="store_true")
    parser.add_argument("--parts", default="gpu,cpu,floors")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    if args.files:
        args.storage = "plain"
    builds = Builds(Folder(args.folder), args)
    parts = args.parts.split(",")
    if args.load:
        builds.table()
    memory = args.memory.split(",")
    runs = [{"max_parallel_maintenance_workers": n, "maintenance_work_mem": memory[-1]} for n in args.workers.split(",")]
    runs += [runs[-1] | {"maintenance_work_mem": m} for m in memory[:-1]]
    cpu = [runs[len(runs) - len(memory)], *runs[len(runs) - len(memory) + 1:]]
    runs = (runs if "gpu" in parts else []) + ([run | {"omen.engine": "cpu"} for run in cpu] if "cpu" in parts else [])
    for settings in runs:
        if not builds.time_left(f"a build with {settings}", args.seconds):
            return
        try:
            builds.one(**settings)
        except psycopg.Error as e:
            builds.line("note", text=f"build with {settings}: {type(e).__name__}: {e}")
    if "floors" in parts and builds.time_left("floors", args.seconds):
        builds.floors()


if __name__ == "__main__":
    main()
