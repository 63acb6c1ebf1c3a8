"""A call of the GPU's driver that does not come back: the worker is ended and started again, and nothing else notices."""

import threading
import time

import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, assert_same, knn, last_scan, make_index, make_table, put
from lib.service import GPU, inject, stat, wait_for, wait_until

DIM, LISTS = 16, 12
# Ten seconds until it counts as stuck, five until Postgres starts it again.
LONG = 60


def fallbacks(conn) -> dict[str, int]:
    return dict(conn.execute("SELECT reason, fallbacks FROM omen_stat_gpu_fallbacks").fetchall())


def test_a_worker_that_is_stuck(first, rng):
    """Every search is answered meanwhile; DROP DATABASE, which waits for all processes, waits no longer than that; no process crashes."""
    if REAL_GPU:
        pytest.skip("faults are injected in test builds alone")
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS, omen__gpu_timeout="300ms") as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        wanted = knn(exact, "l2", rows[3], 10)
        knn(conn, "l2", rows[3], 10)
        before, began = wait_for(conn, state="up"), conn.execute("SELECT pg_postmaster_start_time()").fetchone()
        conn.execute("SELECT omen_stat_reset()")
        conn.execute("CREATE DATABASE waits")
        inject(conn, "stuck")
        wait_until(lambda: knn(conn, "l2", rows[3], 10) and last_scan(conn)["engine"] == "cpu", "the worker is stuck", LONG)
        # For the next worker: this one reads no settings any more.
        inject(conn, "none")
        # It waits for every process to notice, so for the stuck one to end.
        dropping = threading.Thread(target=exact.execute, args=("DROP DATABASE waits",))
        dropping.start()
        end = time.monotonic() + LONG
        while (row := stat(conn))["starts"] == before["starts"]:
            assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
            assert time.monotonic() < end, row
            time.sleep(0.05)
        dropping.join(LONG)
        assert not dropping.is_alive()
        after = wait_for(conn, LONG, state="up")
        assert after["pid"] != before["pid"]
        wait_until(lambda: knn(conn, "l2", rows[3], 10) and last_scan(conn)["engine"] == "gpu", "the GPU answers again", LONG)
        assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
        counted = fallbacks(conn)
        assert counted["timed out"] >= 1 and counted["unsupported"] == 0
        # No other process was touched.
        assert conn.execute("SELECT pg_postmaster_start_time()").fetchone() == began
    log = first.server.log_text()
    assert "did not come back" in log and "terminated by signal" not in log and "all server processes terminated" not in log


def test_fallbacks_are_counted_for_all(first, rng):
    """By reason, of all sessions, until they are reset; for members of pg_monitor."""
    if REAL_GPU:
        pytest.skip("faults are injected in test builds alone")
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 10)
        wait_for(conn, state="up", hot_tiers=1)
        conn.execute("SELECT omen_stat_reset()")
        assert set(fallbacks(conn).values()) == {0}
        inject(conn, "hang")
        with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS, omen__gpu_timeout="200ms") as other:
            wait_until(lambda: knn(other, "l2", rows[0], 10) and last_scan(other)["engine"] == "cpu", "the worker hangs")
        put(conn, omen__gpu_timeout="200ms")
        knn(conn, "l2", rows[0], 10)
        assert last_scan(conn)["engine"] == "cpu"
        inject(conn, "none")
        counted = fallbacks(conn)
        assert counted["timed out"] >= 2 and sum(counted.values()) == counted["timed out"], counted
        conn.execute("SELECT omen_stat_reset()")
        assert set(fallbacks(conn).values()) == {0}
        conn.execute("CREATE ROLE nobody_special; SET ROLE nobody_special")
        with pytest.raises(Exception, match="permission denied"):
            fallbacks(conn)
        conn.execute("RESET ROLE; GRANT pg_monitor TO nobody_special; SET ROLE nobody_special")
        assert fallbacks(conn)["busy"] == 0
        conn.execute("RESET ROLE; DROP ROLE nobody_special")
