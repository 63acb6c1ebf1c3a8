"""Lists of the shared service's tiers that are out of date are written again one by one, while searches go on; no tier is loaded anew for them."""

import time

import numpy as np

import pytest

from lib import vectors
from lib.churn import fold_beside
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, assert_same, index_status, knn, last_scan, make_index, make_table, put
from lib.service import GPU, WAIT, inject, loaders, stat, wait_for, wait_until

DIM, LISTS = 48, 24


def catch_up(conn, rows, least: int, what: str):
    """Searches until so many refreshes are counted and no list is searched on pages any more."""
    def is_current():
        knn(conn, "l2", rows[1], 10)
        scan = last_scan(conn)
        return scan["engine"] == "gpu" and stat(conn)["refreshes"] >= least and scan["candidates"] == scan["reranked"] and not loaders(conn)
    wait_until(is_current, what, WAIT)


def make_hot(conn, rows):
    """A table of these rows, and its index in the service."""
    make_table(conn, rows)
    make_index(conn, lists=LISTS)
    knn(conn, "l2", rows[1], 10)
    wait_for(conn, loads=1)


def check(conn, exact, rows):
    for i in range(0, len(rows), max(1, len(rows) // 10)):
        assert_same(knn(conn, "l2", rows[i], 10), knn(exact, "l2", rows[i], 10), complete_ties=False)


def test_few_lists(first, rng):
    """A few rows are deleted: their lists alone are written again, and not before a second has passed since the last time."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[1], 10)
        before = wait_for(conn, loads=1, refreshes=0)
        for round in range(1, 4):
            conn.execute("DELETE FROM t WHERE id %% 500 = %s", (round,))
            conn.execute("VACUUM t")
            check(conn, exact, rows)
            catch_up(conn, rows, round, "the tier stays out of date")
            check(conn, exact, rows)
        after = stat(conn)
        assert after["loads"] == 1 and after["failed_loads"] == 0 and after["starts"] == before["starts"]
        # Nothing is out of date: nothing is done.
        n = after["loaders"]
        for _ in range(20):
            check(conn, exact, rows)
        time.sleep(1.5)
        check(conn, exact, rows)
        assert stat(conn)["loaders"] == n


def test_much_changes(first, rng):
    """Most of the lists get many new rows and lose others: they are brought up to date all the same, in several rounds."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_hot(conn, rows)
        conn.execute("DELETE FROM t WHERE id % 3 = 0")
        conn.execute("VACUUM t")
        vectors.copy_rows(conn, "t", np.arange(10_000, 11_000), vectors.clustered(rng, 1000, DIM))
        conn.execute("VACUUM t")
        check(conn, exact, rows)
        catch_up(conn, rows, 1, "the tier stays out of date")
        check(conn, exact, rows)
        assert stat(conn)["loads"] == 1
        hot = conn.execute("SELECT refreshes, stale_lists, hot_lists, loads FROM omen_stat_index").fetchone()
        assert LISTS // 2 <= hot[0] and hot[1:] == (0, LISTS, 1), hot


def test_appended_rows_come_to_the_device(first, rng):
    """Rows that were inserted are searched on pages until the lists are written again with them; what becomes of them later shows too."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_hot(conn, rows)
        # Too few to fold a list, wherever they go, so that no list is out of date.
        n_new = 60
        new = vectors.clustered(rng, n_new + 1, DIM)
        vectors.copy_rows(conn, "t", np.arange(10_000, 10_000 + n_new), new[:n_new])
        assert index_status(conn)["appended_rows"] == n_new, "inserts fold lists earlier than the test takes them to"
        refreshed = lambda n: knn(conn, "l2", rows[1], 10) and stat(conn)["refreshes"] >= n and not loaders(conn)  # noqa: E731
        wait_until(lambda: refreshed(1), "appended rows stay on pages", WAIT)
        check(conn, exact, rows)
        row = stat(conn)
        assert row["loads"] == 1 and row["failed_loads"] == 0, row
        assert index_status(conn)["appended_rows"] == n_new
        index = conn.execute("SELECT hot_lists, stale_lists FROM omen_stat_index").fetchone()
        assert index == (LISTS, 0), index

        # One more row is found at once, on a page; one less is gone, though the device has it.
        vectors.copy_rows(conn, "t", np.array([20_000]), new[n_new:])
        assert knn(conn, "l2", new[n_new], 1)[0][0] == 20_000
        conn.execute("DELETE FROM t WHERE id = 10007")
        conn.execute("VACUUM t")
        # The heap's slot is another row's now, which lies elsewhere.
        vectors.copy_rows(conn, "t", np.arange(30_000, 30_050), 50 + vectors.clustered(rng, 50, DIM))
        assert 10_007 not in [i for i, _ in knn(conn, "l2", new[7], 5)]
        check(conn, exact, np.concatenate([rows, new]))
        stale = "SELECT stale_lists FROM omen_stat_index"
        wait_until(lambda: refreshed(row["refreshes"] + 1) and conn.execute(stale).fetchone() == (0,), "a list with a dead appended row stays out of date", WAIT)
        check(conn, exact, np.concatenate([rows, new]))


def test_more_than_there_is_room_for(first, rng):
    """Where the index has outgrown its tier, all of it is loaded anew."""
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_hot(conn, rows)
        vectors.copy_rows(conn, "t", np.arange(10_000, 18_000), vectors.clustered(rng, 8000, DIM))
        conn.execute("VACUUM t")
        check(conn, exact, rows)
        wait_until(lambda: knn(conn, "l2", rows[1], 10) and stat(conn)["loads"] == 2 and not loaders(conn), "the tier is not loaded anew")
        check(conn, exact, rows)
        assert last_scan(conn)["engine"] == "gpu"


def test_while_rows_come_and_go(first, rng):
    """Searches, changes and refreshes at once: every answer is exact."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_hot(conn, rows)
        put(exact, enable_seqscan="on", enable_sort="on")
        end, n = time.monotonic() + 8, 0
        thread, failed = fold_beside(first, rows[5], "refresh", end)
        while time.monotonic() < end:
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                found = knn(conn, "l2", rows[5], 20)
                n += last_scan(conn)["engine"] == "gpu"
                put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
                wanted = knn(conn, "l2", rows[5], 20)
                put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
            assert [d for _, d in found] == [d for _, d in wanted]
        thread.join()
        assert not failed, failed
        row = stat(conn)
        assert n > 20 and row["refreshes"] >= 2 and row["loads"] <= 3, (n, row)


def test_dropped_meanwhile(first, rng):
    """An index that is evicted, rebuilt or dropped while its lists are written leaves nothing behind."""
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        for round in range(6):
            make_index(conn, lists=LISTS)
            knn(conn, "l2", rows[1], 10)
            conn.execute("DELETE FROM t WHERE id %% 100 = %s", (round,))
            conn.execute("VACUUM t")
            knn(conn, "l2", rows[1], 10)
            time.sleep(float(rng.uniform(0, 0.2)))
            done = {0: "SELECT omen_evict('t_v_idx')", 1: "REINDEX INDEX t_v_idx", 2: "SELECT omen_load('t_v_idx')"}
            conn.execute(done[round % 3])
            check(conn, exact, rows)
            conn.execute("DROP INDEX t_v_idx")
        wait_until(lambda: not loaders(conn), "a loader goes on")
        wait_for(conn, hot_tiers=0, hot_bytes=0, failed_loads=0)


def limited(service, megabytes: int):
    """Starts the service with so much memory, of which searches take 16 MB at most at first."""
    service.stop()
    service.configure({"omen.gpu_memory_limit": f"{megabytes}MB"})
    service.start()


@pytest.mark.skipif(REAL_GPU, reason="sizes of the simulated device")
def test_no_room_for_one_list(service, first, rng):
    """Where there is no room to write a list again, the tier stays as it is: the list is searched on pages, and no load fails for it."""
    rows = vectors.clustered(rng, 24_000, DIM)
    limited(service, 24)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        wait_for(conn, state="up")
        make_hot(conn, rows)
        near = (rows[7] + 0.01 * vectors.uniform(rng, 6000, DIM)).astype(np.float32)
        vectors.copy_rows(conn, "t", np.arange(100_000, 106_000), near)
        conn.execute("VACUUM t")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            check(conn, exact, rows[:100])
            assert last_scan(conn)["engine"] == "gpu"
        wait_until(lambda: not loaders(conn), "a loader goes on")
        row = stat(conn)
        assert (row["loads"], row["failed_loads"]) == (1, 0) and row["loaders"] <= 2, row
        stale = conn.execute("SELECT stale_lists FROM omen_stat_index").fetchone()[0]
        assert 1 <= stale <= LISTS // 5


@pytest.mark.skipif(REAL_GPU, reason="sizes of the simulated device")
def test_some_lists_become_all(service, first, rng):
    """A tier that had no room for all lists is loaded anew once there is; until then its own lists are kept up to date."""
    rows = vectors.clustered(rng, 24_000, DIM)
    limited(service, 18)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        wait_for(conn, state="up")
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[1], 10)
        wait_for(conn, hot_tiers=1)
        hot = conn.execute("SELECT hot_lists FROM omen_stat_index").fetchone()[0]
        assert 0 < hot < LISTS
        conn.execute("ALTER SYSTEM SET omen.gpu_memory_limit = '100MB'")
        conn.execute("SELECT pg_reload_conf()")

        def is_whole():
            knn(conn, "l2", rows[1], 10)
            return conn.execute("SELECT hot_lists FROM omen_stat_index").fetchone()[0] == LISTS
        # The session that loaded a part of it has it rest for half a minute.
        wait_until(is_whole, "the tier stays a part of the index", 60)
        check(conn, exact, rows)
        wait_until(lambda: not loaders(conn), "a loader goes on")
        assert stat(conn)["failed_loads"] == 0


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_a_loader_holds_back_no_vacuum(first, rng):
    """Loaders have no snapshot while they load or refresh."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
        make_hot(conn, rows)
        inject(conn, "slow_load")
        conn.execute("DELETE FROM t WHERE id % 500 = 1")
        conn.execute("VACUUM t")
        knn(conn, "l2", rows[1], 10)
        wait_until(lambda: loaders(conn), "no loader")

        def horizon():
            return conn.execute("SELECT backend_xmin FROM pg_stat_activity WHERE backend_type = 'pg_omen loader'").fetchall()
        wait_until(lambda: horizon() == [(None,)], "the loader holds back VACUUM")
        for _ in range(20):
            time.sleep(0.02)
            assert horizon() == [(None,)]
        inject(conn, "none")
        catch_up(conn, rows, 1, "the tier stays out of date")
