"""CREATE INDEX whose rows the GPU assigns: as good an index as the CPU's, also where the GPU is lost on the way."""

import re
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, REAL_GPU, index_status, knn, make_index, make_table, put
from lib.exact import OPERATORS, recall
from lib.service import inject, stat, wait_for, wait_until

DIM, LISTS, ROWS, K = 48, 64, 9000, 10
TELL = {"client_min_messages": "debug1", "max_parallel_maintenance_workers": 2, "min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0}


class Told:
    """What builds of a session tell: the engine, and warnings."""

    def __init__(self, conn):
        self.engines, self.warnings = [], []
        conn.add_notice_handler(self.note)

    def note(self, diagnostic):
        if diagnostic.message_primary.startswith("omen index"):
            self.engines += re.findall(r"Engine: ([\w, ]+)\.", diagnostic.message_detail or "")
        if diagnostic.severity == "WARNING":
            self.warnings.append(diagnostic.message_primary)


@pytest.fixture
def rows(rng) -> np.ndarray:
    return vectors.clustered(rng, ROWS, DIM)


def mean_recall(db, metric, rows, queries, probes) -> float:
    """Of searches by the CPU."""
    with db.connect(**BY_INDEX, **CPU, omen__probes=probes, omen__iterative_scan="off") as conn:
        return np.mean([recall(metric, rows, q, [i for i, _ in knn(conn, metric, q, K)], K) for q in queries])


def assert_whole(db, n=ROWS):
    with db.connect(**BY_INDEX, **CPU, omen__probes=LISTS, omen__iterative_scan="relaxed_order") as conn:
        found = sorted(i for i, _ in knn(conn, "l2", np.zeros(DIM), None))
    assert found == list(range(n))


@pytest.mark.parametrize("metric", OPERATORS)
def test_as_good_as_the_cpu(db, rng, rows, metric):
    queries = (rows[rng.integers(ROWS, size=60)] + 0.3 * vectors.uniform(rng, 60, DIM)).astype(np.float32)
    found, probes = {}, {}
    for name, engine in (("gpu", GPU), ("cpu", CPU)):
        with db.connect(**engine, **TELL) as conn:
            told = Told(conn)
            conn.execute("DROP TABLE IF EXISTS t")
            make_table(conn, rows)
            estimate = conn.execute(f"SELECT engine, device_bytes FROM omen_estimate_build('t', 'v', {LISTS})").fetchone()
            assert estimate[0] == name and (estimate[1] > 0) == (name == "gpu"), estimate
            make_index(conn, metric, lists=LISTS)
            assert told.engines == [name] and not told.warnings, (told.engines, told.warnings)
            # What the calibration was done with is there for searches.
            state = index_status(conn)["hot_tier_state"]
            assert (state == "loaded") == (name == "gpu"), state
            probes[name] = index_status(conn)["default_probes"]
        assert_whole(db) if metric == "l2" else None
        found[name] = mean_recall(db, metric, rows, queries, 6)
    print(metric, found, probes)
    assert 0.5 <= probes["gpu"] / probes["cpu"] <= 2, probes
    assert abs(found["gpu"] - found["cpu"]) < 0.06, found


def test_reindex_and_concurrently(db, rows):
    with db.connect(**GPU, **TELL) as conn:
        told = Told(conn)
        make_table(conn, rows)
        make_index(conn, lists=LISTS, concurrently=True)
        conn.execute("REINDEX INDEX t_v_idx")
        conn.execute("REINDEX INDEX CONCURRENTLY t_v_idx")
        assert told.engines == ["gpu"] * 3 and not told.warnings, (told.engines, told.warnings)
    assert_whole(db)


def test_auto_leaves_small_work_to_the_cpu(db, rows):
    with db.connect(**{**GPU, "omen__engine": "auto"}, **TELL) as conn:
        told = Told(conn)
        make_table(conn, rows)
        make_index(conn, lists=4)
        assert told.engines == ["cpu"] and not told.warnings, (told.engines, told.warnings)


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
@pytest.mark.parametrize("fault", ["lost_in_training", "lost_in_assigning", "lost_in_writing"])
def test_lost_on_the_way(db, rng, rows, fault):
    """The CPU goes on from there; one warning, and no second try for a while."""
    queries = rows[rng.integers(ROWS, size=40)]
    with db.connect(**GPU, **TELL) as conn:
        told = Told(conn)
        make_table(conn, np.concatenate([rows] * 3))
        inject(conn, fault)
        wait_until(lambda: conn.execute("SHOW omen.inject_fault").fetchone()[0] == fault, "the fault is not injected")
        try:
            make_index(conn, lists=LISTS)
        finally:
            inject(conn, "none")
        assert told.engines == ["gpu, then cpu"], told.engines
        assert len(told.warnings) == 1 and "builds an index on the CPU" in told.warnings[0], told.warnings
        conn.execute("REINDEX INDEX t_v_idx")
        assert told.engines[1:] == ["cpu"] and len(told.warnings) == 1, (told.engines, told.warnings)
    with db.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as by_index, db.connect(**BY_SORT) as by_sort:
        for query in queries:
            found, wanted = (knn(conn, "l2", query, K) for conn in (by_index, by_sort))
            assert np.allclose([d for _, d in found], [d for _, d in wanted], rtol=1e-6)


@pytest.mark.skipif(REAL_GPU, reason="the limit is below what a real device has free")
def test_no_memory(db, rows):
    """A limit that has no room for it: the CPU builds, and says why."""
    with db.connect(**GPU, **TELL) as conn:
        told = Told(conn)
        conn.execute("ALTER SYSTEM SET omen.gpu_memory_limit = '1MB'")
        conn.execute("SELECT pg_reload_conf()")
        try:
            make_table(conn, rows)
            wait_until(lambda: conn.execute("SHOW omen.gpu_memory_limit").fetchone()[0] == "1MB", "there is no limit")
            make_index(conn, lists=LISTS)
        finally:
            conn.execute("ALTER SYSTEM RESET omen.gpu_memory_limit")
            conn.execute("SELECT pg_reload_conf()")
        wait_until(lambda: conn.execute("SHOW omen.gpu_memory_limit").fetchone()[0] == "0", "the limit stays")
        assert told.engines == ["cpu"] and "not enough GPU memory" in told.warnings[0], (told.engines, told.warnings)
        # Searches and later builds are not held back by that.
        conn.execute("REINDEX INDEX t_v_idx")
        assert told.engines == ["cpu", "gpu"], told.engines
    assert_whole(db)


def test_cancelled(db, rows):
    """A build that is cancelled at any moment leaves a session that builds and searches."""
    with db.connect(**GPU, **TELL) as conn:
        told = Told(conn)
        make_table(conn, rows)
        n_cancelled = 0
        for ms in (5, 20, 60, 120, 200, 300):
            put(conn, statement_timeout=ms)
            try:
                make_index(conn, lists=LISTS)
                conn.execute("SET statement_timeout = 0")
                conn.execute("DROP INDEX t_v_idx")
            except psycopg.errors.QueryCanceled:
                n_cancelled += 1
            conn.execute("SET statement_timeout = 0")
        assert n_cancelled > 1
        conn.execute("DROP INDEX IF EXISTS t_v_idx")
        make_index(conn, lists=LISTS)
        assert told.engines[-1] == "gpu" and not told.warnings, (told.engines, told.warnings)
    assert_whole(db)


def test_terminated(db, rows):
    """A session that is terminated at any moment of a build ends by itself, soon, and takes nobody with it."""
    with db.connect() as other:
        make_table(other, np.concatenate([rows] * 4))
        began = other.execute("SELECT pg_postmaster_start_time(), pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()
        for delay in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5):
            conn = db.connect(**GPU, **TELL)
            conn.pgconn.send_query(f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {4 * LISTS})".encode())
            time.sleep(delay)
            pid = conn.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
            sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s OR leader_pid = %s"
            wait_until(lambda: other.execute(sql, (pid, pid)).fetchone()[0] == 0, "it does not end", 15)
            conn.close()
            other.execute("DROP INDEX IF EXISTS t_v_idx")
        ended = other.execute("SELECT pg_postmaster_start_time(), pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").fetchone()
        assert began == ended, "the server has started anew"


def test_nothing_stays_that_should_not(db, rows):
    """hot = off, a build that fails: no tier stays."""
    with db.connect(**GPU, **TELL) as conn:
        told = Told(conn)
        make_table(conn, rows)
        conn.execute(f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {LISTS}, hot = off)")
        assert told.engines == ["gpu"] and not told.warnings, (told.engines, told.warnings)
        held = "SELECT coalesce(sum(hot_tiers), 0) FROM omen_gpu_status()"
        assert conn.execute(held).fetchone()[0] == 0
        # By an error after the calibration, in the same transaction.
        with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
            conn.execute("REINDEX INDEX t_v_idx")
            conn.execute("SELECT 1 / 0")
        conn.execute("DROP INDEX t_v_idx")
        make_index(conn, lists=LISTS)
        assert conn.execute(held).fetchone()[0] == 1
        conn.execute("REINDEX INDEX t_v_idx")
        assert told.engines == ["gpu"] * 4 and conn.execute(held).fetchone()[0] == 1, told.engines


def test_beside_the_service(service, first, rng):
    """The session builds with a context of its own, and lets go of it; the service loads the index as any other."""
    rows = vectors.clustered(rng, ROWS, DIM)
    with first.connect(**{**GPU, **BY_INDEX}, **TELL) as conn:
        told = Told(conn)
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        assert told.engines == ["gpu"] and not told.warnings, (told.engines, told.warnings)
        assert conn.execute("SELECT coalesce(sum(hot_tiers), 0) FROM omen_gpu_status()").fetchone()[0] == 0
        assert stat(conn)["hot_tiers"] == 0
        assert knn(conn, "l2", rows[5], 1)[0][0] == 5
        assert wait_for(conn, hot_tiers=1)["failed_loads"] == 0


def test_without_a_gpu(db, rows):
    """Nobody has one, and nobody is told unless they asked for it."""
    if REAL_GPU:
        pytest.skip("there is one")
    for engine, n_warnings in (("auto", 0), ("gpu", 1)):
        with db.connect(omen__engine=engine, omen__simulate_gpu="off", **TELL) as conn:
            told = Told(conn)
            conn.execute("DROP TABLE IF EXISTS t")
            make_table(conn, rows)
            # So much that one thread takes a second.
            put(conn, max_parallel_maintenance_workers=0)
            make_index(conn, lists=4096)
            assert told.engines == ["cpu"] and len(told.warnings) == n_warnings, (told.engines, told.warnings)
