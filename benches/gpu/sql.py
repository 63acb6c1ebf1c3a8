"""The same data through SQL: a server that libpq's environment (PGHOST, ...) names, on this machine.

  sql.py DIR [--limit 240] [--engines gpu,cpu] [--recall 0.957] [--lists N] [--loaders 12] [--settings NAME=VALUE ...]

Loads the folder into table `bench` (dropped first, `bench_queries` too), indexes it, and measures on each engine: single queries (one connection,
prepared), `omen_search` with batches, and loading the hot tier. Prints JSON lines; what the server lacks or the time does not
allow is left out, and a line says so.
"""

import argparse
import json
import os
import struct
import sys
import time
from multiprocessing import get_context

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import ExecStatus, Format

import heap_file
from folder import Folder, recall

K = 10
COPY_ROWS = 4_096
BATCHES = (10_000, 1_024, 128, 16, 1)
SINGLE = "SELECT id FROM bench ORDER BY embedding <-> %b LIMIT 10"
# Where the queries come from and the answers go. stored: from a table of the server, counted there: the server alone. joined: from there,
# joined to the table's rows, which the client gets. sent: the client sends the queries, the server counts the answers. fetched: the
# client sends the queries and gets the answers.
STORED = "(SELECT queries FROM bench_queries WHERE size = %b AND first = %b)"
CALLS = {
    "stored": f"SELECT count(*), sum(distance) FROM omen_search('bench_idx', {STORED}, 10)",
    "sent": "SELECT count(*), sum(distance) FROM omen_search('bench_idx', $1, 10)",
    "fetched": "SELECT * FROM omen_search('bench_idx', $1, 10)",
    "joined": f"SELECT s.query_no, b.id FROM omen_search('bench_idx', {STORED}, 10) s JOIN bench b ON b.ctid = s.ctid "
              "ORDER BY s.query_no, s.distance",
}


class Sent:
    """A parameter in its type's binary format."""

    def __init__(self, content: bytes):
        self.content = content


class Vector(Sent):
    """A vector, from [dim]."""

    def __init__(self, row: np.ndarray):
        super().__init__(struct.pack(">hh", len(row), 0) + row.astype(">f4").tobytes())


class Vectors(Sent):
    """An array of vectors, from [n, dim]."""

    def __init__(self, rows: np.ndarray, element_oid: int):
        n, dim = rows.shape
        items = np.zeros(n, [("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("values", ">f4", (dim,))])
        items["bytes"], items["dim"], items["values"] = 4 + 4 * dim, dim, rows
        super().__init__(struct.pack(">iiIii", 1, 0, element_oid, n, 1) + items.tobytes())


def connect(settings: dict | None = None) -> psycopg.Connection:
    """An autocommit connection that can send Vector and Vectors, once the extension is there."""
    conn = psycopg.connect("", autocommit=True)
    conn.execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_omen")
    conn.execute("LOAD 'pg_omen'")
    for name, value in (settings or {}).items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
    for kind, name in ((Vector, "vector"), (Vectors, "vector[]")):
        number = conn.execute("SELECT %s::regtype::oid", (name,)).fetchone()[0]
        dump = {"oid": number, "format": Format.BINARY, "dump": lambda self, sent: sent.content}
        conn.adapters.register_dumper(kind, type("Dumper", (Dumper,), dump))
    return conn


def load_part(task: tuple[str, int, int]):
    """Copies rows first..end of the data, in the data's order, into the table."""
    path, first, end = task
    data = Folder(path)
    slot_of = data.slot_of()
    row = np.dtype([("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i4"), ("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"),
                    ("values", ">f4", (data.dim,))])
    with connect() as conn, conn.cursor().copy("COPY bench FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for start in range(first, end, COPY_ROWS):
            ids = np.arange(start, min(end, start + COPY_ROWS))
            rows = np.zeros(len(ids), row)
            rows["fields"], rows["id_bytes"], rows["bytes"], rows["dim"] = 2, 4, 4 + 4 * data.dim, data.dim
            rows["id"], rows["values"] = ids, data.rows[slot_of[ids]]
            copy.write(rows.tobytes())
        copy.write(b"\xff\xff")


class Bench:
    """What is measured on one table; prints as it goes."""

    def __init__(self, data: Folder, args):
        self.data, self.args = data, args
        self.until = time.monotonic() + args.limit

    def line(self, part: str, **values):
        print(json.dumps({"part": part} | values), flush=True)

    def time_left(self, what: str, seconds: float) -> bool:
        """Whether there are so many seconds left for it."""
        left = self.until - time.monotonic()
        if left < seconds:
            self.line("note", text=f"SQL: no time for {what}: {left:.0f} s left")
        return left >= seconds

    def load(self, conn):
        """The table, by several connections."""
        data = self.data
        conn.execute(f"DROP TABLE IF EXISTS bench; CREATE TABLE bench (id int, embedding vector({data.dim}))")
        if storage := getattr(self.args, "storage", None):
            conn.execute(f"ALTER TABLE bench ALTER embedding SET STORAGE {storage}")
        if getattr(self.args, "files", False):
            return heap_file.fill(conn, "bench", data, self.args.loaders)
        edges = np.linspace(0, data.n, self.args.loaders + 1).astype(int)
        with get_context("fork").Pool(self.args.loaders) as pool:
            pool.map(load_part, [(str(data.path), a, b) for a, b in zip(edges, edges[1:])], chunksize=1)

    def build(self):
        """Table and index."""
        data, began = self.data, time.perf_counter()
        with connect() as conn:
            self.load(conn)
            loaded = time.perf_counter()
            conn.execute("VACUUM (ANALYZE) bench")
            conn.execute("CHECKPOINT")
            tidied = time.perf_counter()
            conn.execute(f"CREATE INDEX bench_idx ON bench USING omen (embedding vector_l2_ops) WITH (lists = {self.args.lists or data.lists})")
            built = time.perf_counter()
            status = self.row(conn, "SELECT lists, bytes, codes, default_probes FROM omen_index_status('bench_idx')")
            version = conn.execute("SELECT version()").fetchone()[0].split(" on ")[0]
        self.line("sql_build", server=version, rows=data.n, copy_s=loaded - began, vacuum_s=tidied - loaded, index_s=built - tidied, **status)

    def row(self, conn, sql: str) -> dict:
        """The first row of a statement, by column; what JSON has no word for, as text."""
        cur = conn.execute(sql)
        row = cur.fetchone() or ()
        return {c.name: v if isinstance(v, (int, float, str, type(None))) else str(v) for c, v in zip(cur.description, row)}

    def engine(self, engine: str):
        """Everything on one engine."""
        with connect({"omen.engine": engine, "omen.recall": self.args.recall} | dict(s.split("=", 1) for s in self.args.settings)) as conn:
            functions = {r[0] for r in conn.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'omen%'")}
            if engine != "cpu":
                try:
                    self.load_tier(conn, functions)
                except psycopg.Error as e:
                    self.line("note", text=f"SQL: loading the hot tier: {e}")
            if self.time_left(f"single queries, {engine}", 15):
                self.single(conn, engine)
            if "omen_search" not in functions:
                self.line("note", text="SQL: this server has no omen_search")
            elif self.time_left(f"omen_search, {engine}", 25):
                self.batches(conn, engine)

    def load_tier(self, conn, functions):
        """Seconds and bytes of loading the hot tier, twice if there is a way to throw it out."""
        if "omen_load" not in functions:
            began = time.perf_counter()
            conn.execute(SINGLE, (Vector(self.data.queries[0]),)).fetchall()
            seconds, how = [time.perf_counter() - began], "first search"
        else:
            seconds, how = [], "omen_load"
            for _ in range(2 if "omen_evict" in functions else 1):
                if seconds:
                    conn.execute("SELECT omen_evict('bench_idx')")
                began = time.perf_counter()
                conn.execute("SELECT * FROM omen_load('bench_idx')").fetchall()
                seconds.append(time.perf_counter() - began)
        status = self.row(conn, "SELECT hot_tier_bytes, hot_tier_state FROM omen_index_status('bench_idx')")
        held = status["hot_tier_bytes"] or 0
        self.line("sql_load", how=how, seconds=seconds, gb_per_s=[held / s / 1e9 for s in seconds], **status)

    def single(self, conn, engine: str):
        """One query after the other over one connection, prepared."""
        data, cur = self.data, conn.cursor(binary=True)
        plan = "\n".join(r[0] for r in conn.execute("EXPLAIN " + SINGLE, (Vector(data.queries[0]),)).fetchall())
        if "bench_idx" not in plan:
            self.line("note", text=f"SQL: the planner does not use the index: {plan}")
        n = min(data.nq, 2_000)
        queries = [Vector(q) for q in data.queries[:n]]
        for query in queries[:50]:
            cur.execute(SINGLE, (query,), prepare=True).fetchall()
        found, seconds, until = np.full((n, K), -1, np.int64), [], time.monotonic() + 20
        for i, query in enumerate(queries):
            began = time.perf_counter()
            rows = cur.execute(SINGLE, (query,), prepare=True).fetchall()
            seconds.append(time.perf_counter() - began)
            found[i, :len(rows)] = [r[0] for r in rows]
            if time.monotonic() > until:
                break
        n = len(seconds)
        p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
        last = self.row(conn, "SELECT engine, probes, select_us, cpu_us, gpu_us, total_us, fallback_reason FROM omen_last_scan()")
        self.line("sql_single", asked=engine, queries=n, recall=recall(found[:n], data.neighbors), p50_ms=p50, p95_ms=p95, p99_ms=p99,
                  qps=1e3 / p50, last_scan=last)

    def batches(self, conn, engine: str):
        """omen_search, largest batches first; what the client measures is the call, its parameters and its answer included."""
        data, cur = self.data, conn.cursor(binary=True)
        element, array = conn.execute("SELECT 'vector'::regtype::oid, 'vector[]'::regtype::oid").fetchone()
        # A plan made for one value of a parameter holds copies of it, here of all queries; the first five plans of a prepared statement
        # would be such ones.
        conn.execute("SET plan_cache_mode = force_generic_plan")
        conn.execute("DROP TABLE IF EXISTS bench_queries; CREATE TABLE bench_queries (size int, first int, queries vector[])")
        conn.execute("ALTER TABLE bench_queries ALTER queries SET STORAGE EXTERNAL, ADD PRIMARY KEY (size, first)")
        for how in ("sent", "fetched"):
            conn.pgconn.prepare(how.encode(), CALLS[how].encode(), [array])
        for size in dict.fromkeys(min(size, data.nq) for size in BATCHES):
            firsts = list(range(0, data.nq - size + 1, size))[:50]
            sets = [Vectors(data.queries[first:first + size], element) for first in firsts]
            for first, each in zip(firsts, sets):
                conn.execute("INSERT INTO bench_queries VALUES (%s, %s, %b)", (size, first, each))
            for how, sql in CALLS.items():
                if not self.time_left(f"batches of {size}, {how}, {engine}", 8):
                    return
                seconds, until = [], time.monotonic() + 2
                while len(seconds) < 3 or (time.monotonic() < until and len(seconds) < 500):
                    i = len(seconds) % len(sets)
                    began = time.perf_counter()
                    if STORED in sql:
                        cur.execute(sql, (size, firsts[i]), prepare=True)
                    else:
                        self.send(conn, how, sets[i])
                    seconds.append(time.perf_counter() - began)
                    if seconds[-1] > 4:
                        break
                # The first call of a size makes room for it.
                steady = seconds[1:] or seconds
                more = {"last_scan": self.row(conn, "SELECT engine, select_us, cpu_us, gpu_us, total_us, fallback_reason FROM omen_last_scan()")}
                if how == "joined":
                    plan = "\n".join(r[0] for r in conn.execute("EXPLAIN " + sql, (size, firsts[0])).fetchall())
                    more["plan"] = "Tid Scan" if "Tid Scan" in plan else "Hash Join" if "Hash Join" in plan else plan
                    found = [self.answers(cur.execute(sql, (size, first)).fetchall(), size) for first in firsts[:max(1, 2_000 // size)]]
                    more["recall"] = recall(np.concatenate(found), data.neighbors)
                p50 = float(np.median(steady))
                self.line("sql_batch", asked=engine, batch=size, how=how, p50_ms=p50 * 1e3, qps=size / p50, repeats=len(steady), **more)
        last = self.row(conn, "SELECT * FROM omen_last_scan()")
        self.line("sql_last", asked=engine, **last)

    def send(self, conn, statement: str, queries: Vectors):
        """Runs a prepared statement with the queries as its parameter, as a client that waits for its socket does. Without waiting, as psycopg
        does it, libpq moves what is left of the message after each part that the socket takes: for 30 MB that takes longer than all else.
        """
        conn.pgconn.nonblocking = 0
        try:
            result = conn.pgconn.exec_prepared(statement.encode(), [queries.content], [Format.BINARY], Format.BINARY)
        finally:
            conn.pgconn.nonblocking = 1
        if result.status != ExecStatus.TUPLES_OK:
            raise psycopg.DatabaseError(result.error_message.decode())

    def answers(self, rows: list, size: int) -> np.ndarray:
        """Ids [size, K] from (query number, id) rows; the numbers are counted from their least, -1 stands where a query found fewer."""
        found, used = np.full((size, K), -1, np.int64), np.zeros(size, int)
        least = min((r[0] for r in rows), default=0)
        for number, id in rows:
            i = number - least
            if used[i] < K:
                found[i, used[i]] = id
                used[i] += 1
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--limit", type=float, default=240, help="seconds for everything")
    parser.add_argument("--engines", default="gpu,cpu")
    parser.add_argument("--recall", type=float, default=0.957, help="omen.recall")
    parser.add_argument("--lists", type=int, default=0, help="of the index; 0: the folder's")
    parser.add_argument("--loaders", type=int, default=max(2, (os.cpu_count() or 2) * 3 // 4))
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    bench = Bench(Folder(args.folder), args)
    bench.build()
    for engine in filter(None, args.engines.split(",")):
        try:
            bench.engine(engine)
        except psycopg.Error as e:
            bench.line("note", text=f"SQL: engine {engine}: {type(e).__name__}: {e}")
            if isinstance(e, psycopg.OperationalError):
                sys.exit(1)


if __name__ == "__main__":
    main()
