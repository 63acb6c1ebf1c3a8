"""Tiers of the shared GPU service are brought up to date when much of them has changed, and loaded again when much was left out for want of room."""

import time

import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, assert_fails, assert_same, knn, last_scan, make_index, make_table
from lib.service import GPU, WAIT, counted, loaders, searches, stat, wait_for, wait_until

DIM, LISTS = 48, 24


def test_much_out_of_date(first, rng):
    """A tier of which most is of old is brought up to date in the background; owners have it loaded anew, readers cannot."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[1], 10)
        assert stat(conn)["loads"] == 1
        conn.execute("DELETE FROM t WHERE id % 3 = 0")
        conn.execute("VACUUM t")
        wanted, end = knn(exact, "l2", rows[1], 10), time.monotonic() + WAIT
        while stat(conn)["refreshes"] < 1:
            assert_same(knn(conn, "l2", rows[1], 10), wanted, complete_ties=False)
            assert time.monotonic() < end, stat(conn)
        before = counted(conn)
        assert_same(knn(conn, "l2", rows[1], 10), wanted, complete_ties=False)
        assert last_scan(conn)["engine"] == "gpu" and last_scan(conn)["candidates"] <= 2 * 3000
        searches(conn, before + 1)
        wait_until(lambda: not loaders(conn), "the loader goes on")
        conn.execute("CREATE ROLE reader; GRANT SELECT ON t TO reader; SET ROLE reader")
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert_fails(conn, "42501", "", "SELECT omen_evict('t_v_idx')")
        conn.execute("RESET ROLE")
        assert stat(conn)["loads"] == 1
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert stat(conn)["loads"] == 2


@pytest.mark.skipif(REAL_GPU, reason="sizes of the simulated device")
def test_lists_that_are_wanted(service, first, rng):
    """Where not all of an index fits, a session that searches other lists than are there has those loaded, and not over and over."""
    rows = vectors.clustered(rng, 24_000, DIM)
    # 3.8 MB, and the 16 MB that searching takes at most at first.
    service.stop()
    service.configure({"omen.gpu_memory_limit": "18MB"})
    service.start()
    with first.connect(**BY_INDEX, **GPU, omen__probes=3) as conn, first.connect(**BY_SORT) as exact:
        wait_for(conn, state="up")
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert stat(conn)["loads"] == 1
        taken = 0
        for row in range(200):
            before = stat(conn)["loads"]
            assert knn(conn, "l2", rows[row], 1)[0][0] == row and last_scan(conn)["engine"] == "gpu"
            # By this session: only it knows which lists it searches.
            taken += last_scan(conn)["load_us"]
            if stat(conn)["loads"] > before:
                break
        row = wait_for(conn, loads=2, loaders=0, failed_loads=0)
        assert taken > 0 and row["hot_tiers"] == 1
        for i in range(100):
            assert knn(conn, "l2", rows[i], 1)[0][0] == i and last_scan(conn)["load_us"] == 0
        conn.execute("SET omen.probes = %d" % LISTS)
        for i in range(3):
            assert_same(knn(conn, "l2", rows[i], 10), knn(exact, "l2", rows[i], 10), complete_ties=False)
        assert stat(conn)["loads"] == 2
