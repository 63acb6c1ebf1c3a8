"""After kill -9 of the postmaster during inserts, every committed row is found through the index, once."""

import random
import threading
import time

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, assert_by_index, check_index, index_status, knn, make_database, make_index, make_table, put

DIM = 24
CONF = {"wal_consistency_checking": "generic", "checkpoint_timeout": "30s", "shared_buffers": "16MB"}


class Writer(threading.Thread):
    """Inserts until the server goes away; `acknowledged` holds (id, vector) of every committed row."""

    def __init__(self, db, first_id, seed):
        super().__init__(daemon=True)
        self.db, self.next_id, self.acknowledged = db, first_id, []
        self.rng = vectors.rng_for(f"writer {first_id} {seed}")

    def run(self):
        try:
            with self.db.connect() as conn:
                while True:
                    n = int(self.rng.integers(1, 12))
                    rows = vectors.clustered(self.rng, n, DIM)
                    ids = range(self.next_id, self.next_id + n)
                    self.next_id += n
                    values = ",".join(f"({i},'{vectors.text(r)}')" for i, r in zip(ids, rows))
                    conn.execute(f"INSERT INTO t VALUES {values}")
                    self.acknowledged += zip(ids, rows)
        except psycopg.OperationalError:
            pass  # the crash


class Cleaner(threading.Thread):
    """Deletes a share of the rows the test began with, and vacuums, until the server goes away."""

    def __init__(self, db, share):
        super().__init__(daemon=True)
        self.db, self.share = db, share

    def run(self):
        try:
            with self.db.connect() as conn:
                for part in range(1000):
                    conn.execute("DELETE FROM t WHERE id < 3000 AND id %% 60 = %s", ((self.share + part * 7) % 60,))
                    conn.execute("VACUUM t")
        except psycopg.OperationalError:
            pass


@pytest.mark.every_major
def test_committed_rows_survive_a_killed_postmaster(make_server, rng):
    server = make_server("crash", CONF)
    db = make_database(server, "crash")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 3000, DIM))
        make_index(conn, lists=12)
    committed, next_id = {}, 10_000
    for crash in range(4):
        writers = [Writer(db, next_id + 1_000_000 * w, crash) for w in range(3)]
        next_id += 10_000_000
        threads = writers + ([Cleaner(db, crash)] if crash else [])
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.8, 2.0))
        if crash == 2:
            server.sql("CHECKPOINT")  # replay then starts on pages that are partly new
            time.sleep(0.3)
        server.kill()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        for writer in writers:
            assert writer.acknowledged, "nothing was inserted before the crash"
            committed.update(writer.acknowledged)
        server.start()
        check(db, committed)


@pytest.mark.parametrize("buffers", ("1MB", "128MB"))
def test_an_index_just_built_survives(make_server, rng, buffers):
    """Nothing but WAL has its pages, or buffers were too few for them."""
    server = make_server("crash", CONF | {"shared_buffers": buffers})
    db = make_database(server, "crash")
    rows = vectors.clustered(rng, 9000, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        conn.execute("CHECKPOINT")
        make_index(conn, lists=12)
    server.kill()
    server.start()
    check(db, dict(enumerate(rows)))


def check(db, committed):
    """The index is sound and holds exactly the table's rows, and all that were acknowledged are among them."""
    with db.connect(**BY_SORT) as conn:
        table = sorted(i for (i,) in conn.execute("SELECT id FROM t"))
        assert committed.keys() <= set(table)
    with db.connect(**BY_INDEX) as conn:
        assert check_index(conn)["rows_checked"] == len(table)
        put(conn, omen__probes=index_status(conn)["lists"])
        query = next(iter(committed.values()))
        assert_by_index(conn, "l2", query, None)
        assert sorted(i for i, _ in knn(conn, "l2", query, None)) == table
        sample = random.sample(sorted(committed), 40)
        for i in sample:
            found = knn(conn, "l2", committed[i], 1)
            assert found[0] == (i, 0.0)
