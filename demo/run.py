"""Loads the demo's vectors into PostgreSQL, builds an omen index, searches, and prints recall and speed.

  demo/run.py --cache DIR                  connects as libpq's environment (PGHOST, ...) says
  demo/run.py --dsn '...' --data FILE.npz  another server, other data (made by data.py kit)
  demo/run.py ... --engines cpu,gpu        runs the queries once with each engine and compares the rows
"""

import argparse
import struct
import sys
import time
from pathlib import Path

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

sys.path.insert(0, str(Path(__file__).parent))
import data as dataset  # noqa: E402

QUERY = "SELECT id, embedding <=> %b AS distance FROM glove ORDER BY distance LIMIT {k}"


def vector_dumper(oid_of_vector: int):
    """A psycopg dumper that sends float32 arrays in the type's binary format."""

    class VectorDumper(Dumper):
        format = Format.BINARY
        oid = oid_of_vector

        def dump(self, obj):
            return struct.pack(">hh", len(obj), 0) + obj.astype(">f4").tobytes()

    return VectorDumper


def connect(dsn: str) -> psycopg.Connection:
    """An autocommit connection that can send arrays as vectors; makes the extension if the database lacks it."""
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS pg_omen")
    oid = conn.execute("SELECT 'vector'::regtype::oid").fetchone()[0]
    conn.adapters.register_dumper(np.ndarray, vector_dumper(oid))
    return conn


def exact(base: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Cosine distance of each query's k-th nearest row, [n_queries] float64: candidates in float32, ranked in float64."""
    base64 = base.astype(np.float64)
    base64 /= np.linalg.norm(base64, axis=1, keepdims=True)
    units, kth = base64.astype(np.float32), []
    for start in range(0, len(queries), 50):
        block = queries[start:start + 50].astype(np.float64)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        near = np.argpartition(-(block.astype(np.float32) @ units.T), 5 * k, axis=1)[:, :5 * k]
        kth += [np.sort(1 - base64[rows] @ q)[k - 1] for q, rows in zip(block, near)]
    return np.array(kth)


def load(conn, data: dict):
    """Table glove (id, word, embedding) from the arrays, by binary COPY."""
    dim = data["base"].shape[1]
    conn.execute(f"DROP TABLE IF EXISTS glove; CREATE TABLE glove (id int, word text, embedding vector({dim}))")
    head = struct.pack(">hh", dim, 0)
    with conn.cursor().copy("COPY glove FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for i, (word, row) in enumerate(zip(data["words"], data["base"].astype(">f4"))):
            word, row = str(word).encode(), row.tobytes()
            copy.write(struct.pack(">hiii", 3, 4, i, len(word)) + word + struct.pack(">i", len(head) + len(row)) + head + row)
        copy.write(b"\xff\xff")
    conn.execute("VACUUM (ANALYZE) glove")


def search(conn, queries: np.ndarray, k: int) -> tuple[list, np.ndarray]:
    """(id, distance) rows of every query, and the seconds each took as the client sees it: one connection, prepared."""
    cur, sql = conn.cursor(binary=True), QUERY.format(k=k)
    cur.execute(sql, (queries[0],), prepare=True).fetchall()
    found, seconds = [], np.empty(len(queries))
    for i, q in enumerate(queries):
        began = time.perf_counter()
        found.append(cur.execute(sql, (q,), prepare=True).fetchall())
        seconds[i] = time.perf_counter() - began
    return found, seconds


def recall(data: dict, found: list, kth: np.ndarray, k: int) -> float:
    """Share of the true k nearest; a row as near as the true k-th counts as one of them."""
    hits = 0
    for q, rows, limit in zip(data["queries"].astype(np.float64), found, kth):
        x = data["base"][[r[0] for r in rows]].astype(np.float64)
        d = 1 - x @ q / (np.linalg.norm(x, axis=1) * np.linalg.norm(q))
        hits += min(k, int((d <= limit + 1e-7).sum()))
    return hits / (k * len(found))


def one_row(conn, sql: str) -> dict:
    cur = conn.execute(sql)
    row = cur.fetchone()
    return dict(zip([c.name for c in cur.description], row)) if row else {}


def show_rows(conn, sql: str):
    """Prints the rows of a status function, one `column: value` list a row."""
    cur = conn.execute(sql)
    names = [c.name for c in cur.description]
    print(f"\n{sql}")
    for row in cur.fetchall():
        for name, value in zip(names, row):
            print(f"  {name:24} {value}")


def measure(conn, data: dict, kth: np.ndarray, k: int, name: str) -> list:
    """Runs the queries once, prints one line, returns the rows found."""
    began = time.perf_counter()
    search(conn, data["queries"][:1], k)
    first = time.perf_counter() - began
    found, seconds = search(conn, data["queries"], k)
    last = one_row(conn, "SELECT * FROM omen_last_scan()")
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    print(f"{name:34} recall@{k} {recall(data, found, kth, k):.4f}   {1 / seconds.mean():8.0f} queries/s   p50 {p50:6.2f} ms"
          f"   p95 {p95:6.2f} ms   engine {last.get('engine')}, {last.get('probes')} probes   (first search {first * 1000:.0f} ms)", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dsn", default="")
    parser.add_argument("--cache", default="build/cache")
    parser.add_argument("--data", help="file made by data.py kit")
    parser.add_argument("--offline", action="store_true", help="use the copy in the repository")
    parser.add_argument("--engines", default="auto")
    parser.add_argument("--seed", type=int, help="draw other held-out queries")
    parser.add_argument("-k", type=int, default=10)
    args = parser.parse_args()

    data = dataset.load_file(args.data) if args.data else dataset.load_offline() if args.offline else dataset.load(Path(args.cache))
    if args.seed is not None:
        data = dataset.resplit(data, args.seed)
    base, k = data["base"], args.k
    conn = connect(args.dsn)
    print(conn.execute("SELECT version()").fetchone()[0].split(" on ")[0])
    print(f"{data['origin']}: {len(base):,} vectors of {base.shape[1]} dimensions, {len(data['queries']):,} held-out queries, cosine")

    began = time.perf_counter()
    kth = exact(base, data["queries"], k)
    print(f"{'exact answers (numpy)':34} {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    load(conn, data)
    print(f"{'table loaded':34} {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    conn.execute("CREATE INDEX glove_idx ON glove USING omen (embedding vector_cosine_ops)")
    status = one_row(conn, "SELECT * FROM omen_index_status('glove_idx')")
    lists = status["lists"]
    print(f"{'index built':34} {time.perf_counter() - began:.1f} s, {lists} lists, "
          f"{conn.execute('SELECT pg_size_pretty(pg_relation_size(%s::regclass))', ('glove_idx',)).fetchone()[0]}", flush=True)

    different = 0
    answers = {}
    for engine in args.engines.split(","):
        conn.execute("SELECT set_config('omen.engine', %s, false)", (engine,))
        for probes in (0, lists):
            conn.execute("SELECT set_config('omen.probes', %s, false)", (str(probes),))
            name = f"engine {engine}, " + ("default settings" if probes == 0 else f"probes = {probes}" + " = lists" * (probes == lists))
            found = measure(conn, data, kth, k, name)
            different += sum(a != b for a, b in zip(answers.setdefault(probes, found), found))
    if "," in args.engines:
        print(f"answers that differ between the engines: {different} of {len(data['queries']) * len(answers):,}")

    conn.execute("RESET omen.probes")
    word = next((w for w in ("ocean", "violin", "guitar", "bread") if w in data["words"]), None)
    if word:
        near = conn.execute("SELECT word FROM glove ORDER BY embedding <=> (SELECT embedding FROM glove WHERE word = %s) LIMIT 8", (word,))
        print(f"\nnearest to '{word}': {', '.join(r[0] for r in near.fetchall()[1:])}")
    for call in ("omen_last_scan()", "omen_index_status('glove_idx')", "omen_gpu_status()"):
        show_rows(conn, f"SELECT * FROM {call}")
    return different > 0


if __name__ == "__main__":
    sys.exit(main())
