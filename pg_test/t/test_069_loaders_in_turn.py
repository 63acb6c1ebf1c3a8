"""What one index wants of the loaders neither keeps another from being loaded nor undoes that it rests."""

import threading
import time

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, REAL_GPU, Db, knn, make_index, make_table
from lib.service import GPU, inject, loaders, stat, wait_for, wait_until

DIM, LISTS = 48, 24
pytestmark = pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")


class Busy:
    """Until it is left, sessions search table t by the service, and another replaces rows of it, so that its tier is refreshed all the time."""

    def __init__(self, db: Db, rows: np.ndarray):
        self.db, self.rows = db, rows
        self.failed: list[Exception] = []
        self.is_over = False
        self.threads = [threading.Thread(target=self._guarded, args=(job, i)) for i, job in enumerate([self.search] * 4 + [self.replace])]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        for thread in self.threads:
            thread.join()
        assert not self.failed, self.failed

    def _guarded(self, job, number: int):
        try:
            job(vectors.rng_for(f"busy {number}"), number)
        except Exception as e:  # noqa: BLE001  # reported by the main thread
            self.failed.append(e)

    def search(self, rng, _number):
        with self.db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
            while not self.is_over:
                # One after the other, as fast as many clients.
                conn.execute("SELECT count(*) FROM (SELECT v FROM u WHERE id >= %s LIMIT 200) q, LATERAL (SELECT id FROM t ORDER BY v <-> q.v LIMIT 10) n",
                             (int(rng.integers(len(self.rows) - 200)),))

    def replace(self, rng, number):
        with self.db.connect() as conn:
            first = 1_000_000 * number
            while not self.is_over:
                vectors.copy_rows(conn, "t", np.arange(first, first + 20), vectors.clustered(rng, 20, DIM))
                first += 20
                conn.execute("DELETE FROM t WHERE id < %s AND id >= %s", (first - 100, 1_000_000 * number))
                if first % 200 == 0:
                    conn.execute("VACUUM t")
                time.sleep(0.1)


def make(conn, rows, name: str):
    make_table(conn, rows, name=name)
    make_index(conn, lists=LISTS, table=name, name=f"{name}_v_idx")


def test_another_index_is_loaded(first, rng):
    """An index that is wanted now and then is loaded soon, though another is being refreshed all the time, whose loader stays for that."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
        make(conn, rows, "t")
        make(conn, rows, "u")
        conn.execute("ALTER INDEX u_v_idx SET (hot = on)")
        knn(conn, "l2", rows[1], 10)
        wait_for(conn, loads=1)
    with Busy(first, rows), first.connect(**BY_INDEX, omen__engine="auto", omen__probes=LISTS) as conn:
        wait_until(lambda: stat(conn)["refreshes"] >= 4, "t is not refreshed")

        def is_loaded():
            knn(conn, "l2", rows[2], 10, table="u")
            time.sleep(0.1)
            return conn.execute("SELECT hot FROM omen_stat_index WHERE indexrelname = 'u_v_idx'").fetchone()[0]
        turns = []
        for _ in range(6):
            # Its loader stays for a second at least from now on, and for three where searches want it to.
            n = stat(conn)["refreshes"]
            wait_until(lambda: stat(conn)["refreshes"] > n, "t is not refreshed any more")
            began = time.monotonic()
            wait_until(is_loaded, "u is not loaded", 60)
            turns.append(round(time.monotonic() - began, 1))
            conn.execute("SELECT omen_evict('u_v_idx')")
        assert sorted(turns)[4] < 2, turns


def test_neighbours_rest(first, rng):
    """What is noted of one index leaves another at rest whose load fails, though both have their notes in the same place: the last bits of OIDs say where."""
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_INDEX, omen__engine="auto") as other:
        make(conn, rows, "t")
        knn(conn, "l2", rows[1], 10)
        wait_for(conn, loads=1)
        make_table(conn, rows, name="u")

        def place(name: str) -> int:
            return conn.execute("SELECT %s::regclass::oid::bigint %% 64", (name,)).fetchone()[0]
        # The next OID is to be that of the index.
        while (conn.execute("SELECT lo_create(0)::bigint").fetchone()[0] + 1) % 64 != place("t_v_idx"):
            pass
        make_index(conn, lists=LISTS, table="u", name="u_v_idx")
        assert place("u_v_idx") == place("t_v_idx")
        conn.execute("ALTER INDEX u_v_idx SET (hot = on)")
        inject(conn, "fail_load")

        def is_injected():
            with first.connect() as new:
                return new.execute("SHOW omen.inject_fault").fetchone()[0] == "fail_load"
        wait_until(is_injected, "the setting does not come into force")

        def search(session, table: str):
            for i in range(5):
                knn(session, "l2", rows[i], 10, table=table)
            wait_until(lambda: not loaders(conn), "a loader goes on")
        wait_until(lambda: search(other, "u") or stat(conn)["failed_loads"] == 1, "u is not loaded")
        conn.execute("DELETE FROM t WHERE id % 20 = 1")
        conn.execute("VACUUM t")
        # The refresh of t fails likewise.
        wait_until(lambda: search(conn, "t") or stat(conn)["failed_loads"] == 2, "t is not refreshed")
        for _ in range(3):
            search(other, "u")
            search(conn, "t")
        assert stat(conn)["failed_loads"] == 2
        inject(conn, "none")
