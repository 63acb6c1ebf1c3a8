"""Later rounds of scans through the shared GPU service: lists that a scan adds, and more candidates than a batch of the device gives."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.churn import fold_beside
from lib.db import BY_INDEX, BY_SORT, CPU, ONE_ON_EVERY_MAJOR, REAL_GPU, assert_same, knn, knn_sql, last_scan, make_index, make_table, put
from lib.service import GPU, WAIT, counted, inject, searches, stat, vacuum_dead, wait_for, wait_until

DIM, LISTS, ROWS = 40, 30, 6000
# Of 6000 rows 120 are left.
WHERE = "id %% 50 = 7"


@pytest.fixture
def table(first, rng):
    rows = vectors.clustered(rng, ROWS, DIM)
    with first.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
    return rows


@pytest.fixture
def gpu(first, table):
    """A session whose index the service holds, and that visits two lists at first."""
    with first.connect(**BY_INDEX, **GPU, omen__probes=2) as conn:
        knn(conn, "l2", table[0], 1)
        assert last_scan(conn)["engine"] == "gpu"
        yield conn


@pytest.fixture
def cpu(first, table):
    with first.connect(**BY_INDEX, **CPU, omen__probes=2) as conn:
        yield conn


def went_on(conn) -> dict:
    """The last scan, whose later rounds must have been the service's."""
    scan = last_scan(conn)
    assert scan["rounds"] > 1 and scan["probes"] > 2 and scan["engine"] == "gpu", scan
    assert scan["fallback_reason"] is None, scan
    return scan


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_rows_are_those_of_the_cpu(first, rng, metric):
    rows = vectors.clustered(rng, ROWS, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=2) as gpu, first.connect(**BY_INDEX, **CPU, omen__probes=2) as cpu:
        make_table(gpu, rows)
        make_index(gpu, metric, lists=LISTS)
        queries = rows[:6] + 0.1 * vectors.uniform(rng, 6, DIM)
        for order in ("strict_order", "relaxed_order"):
            for conn in (gpu, cpu):
                put(conn, omen__iterative_scan=order)
            for query in queries:
                for k, where in ((15, WHERE), (60, WHERE), (700, "")):
                    found, wanted = knn(gpu, metric, query, k, where=where), knn(cpu, metric, query, k, where=where)
                    assert_same(found, wanted, complete_ties=False)
                    # Of no more than the lists have, so that every answer fits a slot.
                    assert went_on(gpu)["k"] <= ROWS + 1
        row = stat(gpu)
        assert row["failed_batches"] == row["refused"] == row["abandoned"] == row["queued"] == 0, row
        # The session has nothing of its own on the device.
        assert gpu.execute("SELECT sum(hot_tiers) FROM omen_gpu_status()").fetchone()[0] == 0


def test_all_rows_come_once(gpu, table, rng):
    """Without LIMIT, in whatever order: every row of the table, as it changes."""
    put(gpu, omen__iterative_scan="relaxed_order")
    for step in range(4):
        found = [row for row, _ in knn(gpu, "l2", table[step], None)]
        wanted = sorted(row for (row,) in gpu.execute("SELECT id FROM t"))
        assert sorted(found) == wanted
        scan = last_scan(gpu)
        assert scan["rounds"] > 1 and scan["probes"] == LISTS, scan
        new = np.arange(10_000 + 1000 * step, 10_300 + 1000 * step)
        vectors.copy_rows(gpu, "t", new, vectors.clustered(rng, 300, DIM))
        gpu.execute("DELETE FROM t WHERE id %% 11 = %s", (step,))
        if step % 2:
            gpu.execute("VACUUM t")


def test_rounds_are_counted(gpu, table):
    # The worker counts after it has answered: those of the session's first search, too.
    before = counted(gpu)
    knn(gpu, "l2", table[3], 60, where=WHERE)
    scan = went_on(gpu)
    assert searches(gpu, before + scan["rounds"])["searches"] == before + scan["rounds"]


def test_more_candidates_than_a_batch_gives(first, gpu, table):
    """More than the device takes with lists of its own choice: it gets them from the session. More than a slot holds: the CPU's."""
    with first.connect(**BY_SORT) as exact:
        put(gpu, omen__probes=LISTS)
        for k, engine in ((2500, "gpu"), (4000, "gpu"), (None, "cpu")):
            assert_same(knn(gpu, "l2", table[5], k), knn(exact, "l2", table[5], k), complete_ties=k is None)
            if engine == "gpu":
                assert last_scan(gpu)["engine"] == "gpu" and last_scan(gpu)["k"] > 1821, last_scan(gpu)
        put(gpu, omen__probes=0)
        exact.execute("INSERT INTO t SELECT id + 100000, v FROM t; INSERT INTO t SELECT id + 200000, v FROM t")
        for conn in (gpu, exact):
            put(conn, omen__iterative_scan="relaxed_order")
        found = knn(gpu, "l2", table[5], 20_000)
        assert len(found) == 20_000 == len({row for row, _ in found})
        scan = last_scan(gpu)
        assert scan["engine"] == "cpu" and "candidates" in scan["fallback_reason"], scan


def test_out_of_date_lists(first, gpu, table, rng):
    """Rows die, VACUUM makes room, far-away rows take their places: what the tier holds of old must not come, in later rounds either."""
    query = table[7]
    with first.connect(**BY_SORT) as exact:
        near = [row for row, _ in knn(exact, "l2", query, 900)]
        places = {row[0] for row in exact.execute("SELECT ctid::text FROM t WHERE id = ANY(%s)", (near[300:],)).fetchall()}
        exact.execute("DELETE FROM t WHERE id = ANY(%s)", (near[300:],))
        vacuum_dead(exact)
        far = (query + 100 + vectors.uniform(rng, 600, DIM)).astype(np.float32)
        vectors.copy_rows(exact, "t", np.arange(100_000, 100_600), far)
        reused = {row[0] for row in exact.execute("SELECT ctid::text FROM t WHERE id >= 100000").fetchall()} & places
        assert len(reused) > 100, "hardly a place was used again: the test shows nothing"
        for _ in range(3):
            found = [row for row, _ in knn(gpu, "l2", query, 1500)]
            assert len(found) == len(set(found)) and not set(found) & set(near[300:])
            assert all(row < 100_000 for row in found[:1000]), "a row far away came among the near ones"
        assert last_scan(gpu)["rounds"] > 1
        put(gpu, omen__iterative_scan="relaxed_order")
        found = knn(gpu, "l2", query, None)
        assert sorted(row for row, _ in found) == sorted(row for (row,) in exact.execute("SELECT id FROM t"))


def test_while_lists_are_rewritten(first, gpu, table):
    """VACUUM folds all the time: every row that the snapshot has comes once."""
    put(gpu, omen__iterative_scan="relaxed_order")
    end = time.monotonic() + 8
    thread, failed = fold_beside(first, table[3], "fold beside later rounds", end)
    n_checked, n_by_gpu = 0, 0
    try:
        while time.monotonic() < end:
            with gpu.transaction():
                gpu.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                found = [row for row, _ in knn(gpu, "l2", table[3 + n_checked % 5], None)]
                n_by_gpu += last_scan(gpu)["engine"] == "gpu"
                put(gpu, enable_indexscan="off", enable_seqscan="on")
                wanted = [row for (row,) in gpu.execute("SELECT id FROM t")]
                put(gpu, enable_indexscan="on", enable_seqscan="off")
            assert len(found) == len(wanted) and set(found) == set(wanted), vectors.SEED
            n_checked += 1
    finally:
        thread.join()
    assert not failed, failed[0]
    assert n_checked > 3
    wait_for(gpu, queued=0)


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_a_worker_that_ends_between_rounds(first, gpu, cpu, table):
    """A cursor that has its first rows from the service gets the others from the CPU, and the service's again later."""
    sql = knn_sql("l2", 700)
    wanted = knn(cpu, "l2", table[4], 700)
    for fault in ("exit", "lost"):
        before = wait_for(gpu, state="up")
        with gpu.transaction():
            cur = psycopg.ServerCursor(gpu, "rows")
            cur.execute(sql, (vectors.text(table[4]),) * 2)
            # Of the lists visited first.
            found = cur.fetchmany(1)
            with first.connect() as other:
                inject(other, fault)
                end = time.monotonic() + WAIT
                while stat(other)["state"] == "up":
                    assert time.monotonic() < end
                    time.sleep(0.02)
                found += cur.fetchall()
                inject(other, "none")
            cur.close()
        assert_same(found, wanted, complete_ties=False)
        assert last_scan(gpu)["engine"] == "cpu" and last_scan(gpu)["fallback_reason"]
        while stat(gpu)["starts"] == before["starts"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        wait_for(gpu, state="up")

        def is_by_gpu():
            assert_same(knn(gpu, "l2", table[4], 700), wanted, complete_ties=False)
            return last_scan(gpu)["engine"] == "gpu"
        # An index whose load failed, as the worker ended, rests for half a minute.
        wait_until(is_by_gpu, "the GPU is not used again", 3 * WAIT)
    went_on(gpu)


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_cancelled_between_rounds(first, gpu, cpu, table):
    """A later round that waits is cancelled, and leaves no slot behind."""
    put(gpu, omen__gpu_timeout="60s", statement_timeout="2s")
    with pytest.raises(psycopg.errors.QueryCanceled), gpu.transaction():
        cur = psycopg.ServerCursor(gpu, "rows")
        cur.execute(knn_sql("l2", 700), (vectors.text(table[4]),) * 2)
        cur.fetchmany(1)
        with first.connect() as other:
            inject(other, "hang")
            # The worker sees it within its nap.
            time.sleep(1.2)
        cur.fetchall()
    row = stat(gpu)
    assert row["abandoned"] == 1 and row["timeouts"] == 0, row
    inject(gpu, "none")
    put(gpu, statement_timeout="0")
    wait_for(gpu, queued=0)
    wanted = knn(cpu, "l2", table[4], 700)
    assert_same(knn(gpu, "l2", table[4], 700), wanted, complete_ties=False)
    went_on(gpu)


def test_many_sessions_go_on_at_once(first, gpu, cpu, table):
    """Rounds of many sessions, first and later ones, with lists of their own: each gets its own rows."""
    numbers = list(range(8))
    wanted = {n: [knn(cpu, "l2", table[n * 10 + i], 40, where=WHERE) for i in range(10)] for n in numbers}
    failures = []

    def session(number: int):
        try:
            with first.connect(**BY_INDEX, **GPU, omen__probes=2) as conn:
                for i in range(10):
                    assert_same(knn(conn, "l2", table[number * 10 + i], 40, where=WHERE), wanted[number][i], complete_ties=False)
                    went_on(conn)
        except BaseException as error:
            failures.append((number, error))

    threads = [threading.Thread(target=session, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    row = wait_for(gpu, queued=0)
    assert row["failed_batches"] == 0, row
