"""A server with copies of a database whose indexes are damaged while it is down, and all that is then done with them."""

import time
from collections import Counter
from pathlib import Path

import numpy as np

from . import vectors
from .damage import CRASHES, KINDS, Tally, damage, kinds
from .db import BY_INDEX, CPU, GPU, Db, assert_same, check_index, knn, make_database, make_index, make_table, put
from .figures import figure
from .server import Server, major

# Of each index: metric, dimension, rows, rows added. The dimensions have each kind of codes; rows of the last do not fit an Append page.
SHAPES = (("l2", 16, 900, 500), ("ip", 64, 700, 300), ("cosine", 520, 260, 120), ("l2", 4100, 30, 20))
SMALL = {"shared_buffers": "32MB"}
TIMEOUT = {"statement_timeout": "20s"}


def build(db, rng) -> dict[str, tuple[str, int]]:
    """Tables t0, t1 ... with indexes; metric and dimension of each."""
    tables = {}
    with db.connect() as conn:
        for metric, dim, n, added in SHAPES:
            # Enough lists for two pages of the directory in the first shape.
            lists = 130 if dim == 16 else 5
            rows = vectors.clustered(rng, n + added, dim, n_clusters=20)
            name = f"t{len(tables)}"
            make_table(conn, rows[:n], name=name)
            make_index(conn, metric, lists=lists, table=name, name=f"{name}_idx")
            vectors.copy_rows(conn, name, np.arange(n, n + added), rows[n:])
            tables[name] = (metric, dim)
    return tables


def age(db, tables, turn: int):
    """Rows go, lists are rewritten to pages here and there, rows come."""
    with db.connect() as conn:
        for name in tables:
            conn.execute(f"DELETE FROM {name} WHERE id % 7 = {turn}")
            conn.execute(f"VACUUM {name}")
            conn.execute(f"INSERT INTO {name} SELECT id + {100_000 * turn}, v FROM {name} WHERE id < 100000 AND id % 4 = 0")
        conn.execute("CHECKPOINT")


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
        ("omen_check", f"SELECT * FROM omen_check('{name}_idx', true)", (), {}),
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
    """After REINDEX the index is sound, and answers as a sort of the table does."""
    conn.execute(f"REINDEX INDEX {name}_idx")
    query = vectors.clustered(rng, 1, dim)[0]
    put(conn, **BY_INDEX, enable_indexscan="on", omen__probes=65536, omen__engine="cpu")
    found = knn(conn, metric, query, 50, table=name)
    put(conn, enable_indexscan="off", enable_seqscan="on", enable_sort="on")
    assert_same(found, knn(conn, metric, query, 50, table=name), complete_ties=False)
    check_index(conn, f"{name}_idx")
    put(conn, **BY_INDEX, enable_indexscan="on")


class Damaged:
    """A server with a database of indexes that are sound, of which copies are made to be damaged."""

    def __init__(self, rng):
        self.server = Server("damaged", SMALL).start()
        sound = make_database(self.server, "sound")
        self.tables = build(sound, rng)
        self.files = self.files_of("sound")
        for turn in range(1, 7):
            age(sound, self.tables, turn)
            # Which pages a list goes to is a matter of chance.
            if turn > 1 and self.kinds() >= set(KINDS.values()):
                break

    def kinds(self) -> set[str]:
        """The kinds of pages that the indexes have between them."""
        return {kind for file in self.files.values() for kind in kinds(file.read_bytes())}

    def files_of(self, database: str) -> dict[str, Path]:
        """The files of a database's indexes."""
        found = {n: self.server.sql("SELECT pg_relation_filepath(%s::regclass)", (f"{n}_idx",), database)[0][0] for n in self.tables}
        return {name: self.server.data / path for name, path in found.items()}

    def start(self, rng, conf: dict, n_copies: int, checksums: bool, spoil=damage) -> dict[tuple[Db, str], tuple[str, str]]:
        """Starts the server again with each index of each copy damaged; the damage of each, as `spoil` tells it."""
        copies = [Db(self.server, f"copy_{n}") for n in range(n_copies)]
        # All that there are, be they more than there will be: checksums are not put on where a file was cut within a page.
        for (name,) in self.server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'copy_%'"):
            self.server.sql(f"DROP DATABASE {name}")
        for copy in copies:
            self.server.sql(f"CREATE DATABASE {copy.name} TEMPLATE sound" + (" STRATEGY file_copy" if major() > 14 else ""))
        files = {(copy, name): file for copy in copies for name, file in self.files_of(copy.name).items()}
        self.server.stop()
        self.server.set_checksums(checksums)
        self.server.configure(conf)
        done = {index: spoil(file, rng) for index, file in files.items()}
        self.server.start()
        return done

    def rounds(self, rng, seconds: float, base: dict, conf: dict, copies: int = 6, checksums: bool = False) -> Counter:
        """Damages and uses indexes for about so long, and for one start of the server at least; how often each damage, and each kind of page."""
        tally, seen, n_starts = Tally(), Counter(), 0
        end = time.monotonic() + seconds
        while not n_starts or time.monotonic() < end:
            n_starts += 1
            for (db, name), (how, kind) in self.start(rng, conf, copies, checksums).items():
                seen[f"{kind} page"] += 1
                seen[how] += 1
                metric, dim = self.tables[name]
                with db.connect(**BY_INDEX, **TIMEOUT) as conn:
                    use(conn, tally, name, metric, dim, rng, f"{how} on a {kind} page of {name}", base)
                    (size,) = conn.execute("SELECT pg_relation_size(%s::regclass)", (f"{name}_idx",)).fetchone()
                    assert size <= 3 * self.files[name].stat().st_size + 2**20, f"{how} on a {kind} page of {name}: grown to {size} bytes"
                    if rng.random() < 0.3:
                        check_reindexed(conn, name, metric, dim, rng)
        crash = CRASHES.search(log := self.server.log_text())
        assert not crash, log[max(0, crash.start() - 1000):][:3000]
        n_indexes = n_starts * copies * len(self.tables)
        figure("damaged index files", n_indexes)
        figure("statements on damaged indexes", tally.answers + tally.refusals + tally.wrong_order + len(tally.others))
        print(f"{n_indexes} damaged indexes in {n_starts} starts of the server: {tally.answers} answers, {tally.refusals} errors that say so, "
              f"{tally.wrong_order} times the executor found an order wrong; {dict(sorted(seen.items()))}")
        assert not tally.others, f"{len(tally.others)} errors of other kinds:\n" + "\n".join(tally.others[:12])
        assert tally.refusals > n_indexes and tally.answers > n_indexes
        return seen
