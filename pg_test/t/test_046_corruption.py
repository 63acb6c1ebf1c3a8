"""Damaged files of indexes: whatever is done with the index ends with an answer or says that the index is damaged; the server lives; REINDEX helps."""

import os
import shutil
import time
from collections import Counter

import numpy as np

from lib import vectors
from lib.damage import CRASHES, DAMAGES, KINDS, Tally, damage, kinds
from lib.db import BY_INDEX, CPU, GPU, assert_same, make_database, make_index, make_table, knn, put
from lib.server import run
from lib.service import GPU as SHARED_GPU
from lib.service import PRELOADED

# Of each index: metric, dimension, rows, rows added. The dimensions have each kind of codes; rows of the last do not fit an Append page.
SHAPES = (("l2", 16, 900, 500), ("ip", 64, 700, 300), ("cosine", 520, 260, 120), ("l2", 4100, 30, 20))
COPIES = 6
# Little to copy.
SMALL = {"shared_buffers": "32MB", "wal_keep_size": "0", "min_wal_size": "32MB", "max_wal_size": "64MB"}
TIMEOUT = {"statement_timeout": "20s"}
# Of the long test; OMEN_CORRUPTION_SECONDS=600 for longer.
SECONDS = float(os.environ.get("OMEN_CORRUPTION_SECONDS", "22"))


def build(db, rng) -> dict[str, tuple[str, int]]:
    """Tables t0, t1 ... with indexes that have every kind of page; metric and dimension of each."""
    tables = {}
    with db.connect() as conn:
        for metric, dim, n, added in SHAPES:
            # Enough lists for two pages of the directory in the first shape.
            lists = 130 if dim == 16 else 5
            rows = vectors.clustered(rng, n + 3 * added, dim, n_clusters=20)
            for _ in range(COPIES):
                name = f"t{len(tables)}"
                make_table(conn, rows[:n], name=name)
                make_index(conn, metric, lists=lists, table=name, name=f"{name}_idx")
                for turn in range(3):
                    start = n + turn * added
                    if turn:
                        conn.execute(f"DELETE FROM {name} WHERE id % 7 = {turn} AND id < {start - added}")
                        conn.execute(f"VACUUM {name}")
                    vectors.copy_rows(conn, name, np.arange(start, start + added), rows[start:start + added])
                tables[name] = (metric, dim)
    return tables


def statements(name: str, metric: str, dim: int, rng) -> list[tuple[str, str, tuple, dict]]:
    """What is done with an index, in random order: (what, statement, parameters, settings)."""
    op = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}[metric]
    def query():
        return vectors.text(vectors.clustered(rng, 1, dim, n_clusters=5)[0])
    def search(k):
        return f"SELECT id FROM {name} ORDER BY v {op} %s::vector LIMIT {k}"
    def insert(n):
        return f"INSERT INTO {name} SELECT -{int(rng.integers(2**30))} - i, %s::vector FROM generate_series(1, {n}) i"
    batch = f"SELECT * FROM omen_search('{name}_idx', ARRAY[%s::vector, %s::vector], 10)"
    done = [
        ("search", search(10), (query(),), CPU),
        ("exact search", search(300), (query(),), CPU | {"omen__probes": 65536}),
        ("GPU search", search(10), (query(),), GPU),
        ("exact GPU search", search(100), (query(),), GPU | {"omen__probes": 65536}),
        ("omen_search", batch, (query(), query()), CPU),
        ("omen_search on the GPU", batch, (query(), query()), GPU),
        ("omen_load", f"SELECT omen_load('{name}_idx')", (), GPU),
        ("insert", insert(1), (query(),), {}),
        ("inserts", insert(40), (query(),), {}),
        ("update", f"UPDATE {name} SET id = id WHERE id % 11 = {int(rng.integers(11))}", (), {}),
        ("delete", f"DELETE FROM {name} WHERE id % 5 = {int(rng.integers(5))}", (), {}),
        ("VACUUM", f"VACUUM {name}", (), {}),
        ("VACUUM", f"VACUUM (INDEX_CLEANUP ON) {name}", (), {}),
        ("omen_index_status", f"SELECT * FROM omen_index_status('{name}_idx')", (), {}),
        ("pg_stat_omen", "SELECT * FROM omen_stat_index", (), {}),
        ("EXPLAIN", "EXPLAIN " + search(10), (query(),), {}),
        ("ANALYZE", f"ANALYZE {name}", (), {}),
    ]
    return [done[i] for i in rng.permutation(len(done))]


def use(conn, tally: Tally, name, metric, dim, rng, what: str, base: dict):
    """All statements, each with its settings."""
    for verb, statement, params, settings in statements(name, metric, dim, rng):
        put(conn, **{"omen__probes": 0} | base | settings)
        tally.run(conn, f"{what}, {verb}", statement, params)


def check_reindexed(conn, name, metric, dim, rng):
    """After REINDEX the index answers as a sort of the table does."""
    conn.execute(f"REINDEX INDEX {name}_idx")
    query = vectors.clustered(rng, 1, dim)[0]
    put(conn, **BY_INDEX, enable_indexscan="on", omen__probes=65536, omen__engine="cpu")
    found = knn(conn, metric, query, 50, table=name)
    put(conn, enable_indexscan="off", enable_seqscan="on", enable_sort="on")
    assert_same(found, knn(conn, metric, query, 50, table=name), complete_ties=False)
    put(conn, **BY_INDEX, enable_indexscan="on")


class Damaged:
    """A server with indexes that are sound, kept aside, so that they can be damaged again and again."""

    def __init__(self, make_server, name, rng, conf=None, checksums=False):
        self.server = make_server(name, SMALL)
        self.db = make_database(self.server, "damaged")
        self.tables = build(self.db, rng)
        with self.db.connect() as conn:
            self.files = {n: conn.execute("SELECT pg_relation_filepath(%s::regclass)", (f"{n}_idx",)).fetchone()[0] for n in self.tables}
            conn.execute("CHECKPOINT")
        self.server.stop()
        self.server.set_checksums(checksums)
        if conf:
            self.server.configure(conf)
        self.sound = self.server.dir / "sound"
        run(["cp", "-a", self.server.data, self.sound])

    def start(self, rng) -> dict[str, tuple[str, str]]:
        """Starts the server with each index damaged; the damage of each."""
        shutil.rmtree(self.server.data)
        run(["cp", "-a", self.sound, self.server.data])
        done = {name: damage(self.server.data / file, rng) for name, file in self.files.items()}
        self.server.start()
        return done

    def rounds(self, rng, seconds: float, base: dict, most: int = 1000):
        """Damages and uses indexes for about so long."""
        tally, seen, n_rounds = Tally(), Counter(), 0
        end = time.monotonic() + seconds
        while n_rounds < 1 or (time.monotonic() < end and n_rounds < most):
            n_rounds += 1
            for name, (how, kind) in self.start(rng).items():
                seen[f"{kind} page"] += 1
                seen[how] += 1
                metric, dim = self.tables[name]
                with self.db.connect(**BY_INDEX, **TIMEOUT) as conn:
                    use(conn, tally, name, metric, dim, rng, f"{how} on a {kind} page of {name}", base)
                    if rng.random() < 0.3:
                        check_reindexed(conn, name, metric, dim, rng)
            log = self.server.log_text()
            assert not CRASHES.search(log), log[max(0, CRASHES.search(log).start() - 1000):][:3000]
            self.server.stop()
        n_indexes = n_rounds * len(self.tables)
        print(f"{n_indexes} damaged indexes in {n_rounds} starts of the server: {tally.answers} answers, {tally.refusals} errors that say so, "
              f"{tally.wrong_order} times the executor found an order wrong; {dict(sorted(seen.items()))}")
        assert not tally.others, f"{len(tally.others)} errors of other kinds:\n" + "\n".join(tally.others[:12])
        assert tally.refusals > n_indexes and tally.answers > n_indexes
        return seen


def test_damaged_files(make_server, rng):
    damaged = Damaged(make_server, "files", rng)
    there = {kind for file in damaged.files.values() for kind in kinds((damaged.sound / file).read_bytes())}
    assert there >= set(KINDS.values()), there
    seen = damaged.rounds(rng, SECONDS, GPU)
    assert sum(seen[f] for f in DAMAGES) == sum(seen.values()) / 2


def test_damaged_files_with_checksums(make_server, rng):
    """Postgres finds the damage when it reads the page."""
    damaged = Damaged(make_server, "sums", rng, checksums=True)
    assert damaged.rounds(rng, 5, GPU, most=2)


def test_damaged_files_and_the_service(make_server, rng):
    """The loaders of the shared service read the same pages; the service stays up."""
    damaged = Damaged(make_server, "svc", rng, conf=PRELOADED)
    damaged.rounds(rng, 8, SHARED_GPU, most=2)
