"""Sessions with a GPU context of their own map the shared service's hot tiers in place of loading them: no stale row, and nothing is kept too long."""

import os
import threading
import time
from contextlib import suppress

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import assert_near, batch, exact
from lib.churn import Churn, fill
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, REAL_GPU, assert_same, index_status, knn, last_scan, make_index, make_table, put
from lib.service import GPU as SHARED
from lib.service import WAIT, inject, load, loaders, stat, wait_for, wait_until

DIM, LISTS, ROWS = 48, 24, 3000
# As many as there are notes for.
MAX_MAPPINGS = 128
OWN = BY_INDEX | GPU | {"omen__gpu_context": "backend", "omen__probes": LISTS}


@pytest.fixture
def rows(first, rng):
    """The rows of a table whose index the service has."""
    rows = vectors.clustered(rng, ROWS, DIM)
    with first.connect(**BY_INDEX, **SHARED, omen__probes=LISTS) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[1], 10)
        wait_for(conn, hot_tiers=1, mappings=0)
    return rows


@pytest.fixture
def own(first, rows):
    """A session that has the tier mapped."""
    with first.connect(**OWN) as conn:
        knn(conn, "l2", rows[0], 10)
        assert_mapped(conn)
        yield conn


def assert_mapped(conn):
    scan = last_scan(conn)
    assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
    assert "mapped" in index_status(conn)["hot_tier_state"], index_status(conn)


def wait_mapped(conn, rows):
    """As long as somebody loads nothing can be mapped: the CPU answers."""
    def is_mapped():
        knn(conn, "l2", rows[1], 10)
        return last_scan(conn)["engine"] == "gpu" and index_status(conn)["hot_tier_state"] == "loaded, mapped from the service"
    try:
        wait_until(is_mapped, "the tier is not mapped", WAIT)
    except AssertionError as e:
        raise AssertionError(last_scan(conn), index_status(conn), stat(conn)) from e


def check(conn, by_sort, rows, engines=("gpu",)):
    """Answers are those of sorting."""
    for i in range(0, len(rows), len(rows) // 7):
        assert_same(knn(conn, "l2", rows[i], 10), knn(by_sort, "l2", rows[i], 10), complete_ties=False)
        assert last_scan(conn)["engine"] in engines, last_scan(conn)


def tiers_of_worker(conn) -> int:
    """Pieces of memory that the worker has on the simulated device."""
    pid, n = stat(conn)["pid"], 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        # Some are closed meanwhile.
        with suppress(FileNotFoundError):
            n += "omen tier" in os.readlink(f"/proc/{pid}/fd/{fd}")
    return n


@pytest.mark.every_major
def test_no_second_copy(first, rows, own):
    with first.connect(**BY_SORT) as by_sort, first.connect(**OWN) as another:
        for conn in (own, another):
            check(conn, by_sort, rows)
            assert_mapped(conn)
            held = conn.execute("SELECT sum(hot_tier_bytes), sum(hot_tiers) FROM omen_gpu_status()").fetchone()
            # Scratch of searches, which is small here.
            assert held[1] == 1 and held[0] < ROWS * DIM * 2, held
        row = stat(own)
        assert (row["mappings"], row["loads"], row["hot_tiers"]) == (2, 1, 1), row
        queries = rows[:40]
        found = batch(own, queries, 5, LISTS)
        for i in range(0, 40, 5):
            assert_near(found[i + 1], exact(own, "l2", queries[i], 5))
        # It is loaded for the user, who asks for it, as it is.
        assert own.execute("SELECT omen_load('t_v_idx')").rowcount == 1
        assert_mapped(own)
        own.execute("SELECT omen_evict('t_v_idx')")
    wait_for(own, mappings=0, hot_tiers=1)
    wait_mapped(own, rows)


def test_changes(first, rows, own, rng):
    """What dies and comes while the tier is mapped; it is brought up to date by those who map it, and by others."""
    with first.connect(**BY_SORT) as by_sort, first.connect(**BY_INDEX, **SHARED, omen__probes=LISTS) as shared:
        for step in range(4):
            near = [i for i, _ in knn(by_sort, "l2", rows[step], 400)]
            by_sort.execute("DELETE FROM t WHERE id = ANY(%s)", (near[::2],))
            by_sort.execute("VACUUM t")
            vectors.copy_rows(by_sort, "t", np.arange(10_000 + 1000 * step, 10_300 + 1000 * step), vectors.clustered(rng, 300, DIM) + 20)
            for _ in range(2):
                # While a loader loads, nothing can be mapped.
                check(own, by_sort, rows, ("gpu", "cpu"))
                if step != 2:
                    check(shared, by_sort, rows)
        # In the background that is done every half a minute at most; for who asks, at once.
        own.execute("SELECT omen_load('t_v_idx')")
        assert index_status(own)["hot_tier_state"] == "loaded, mapped from the service"
        check(own, by_sort, rows)
    wait_for(own, mappings=1, hot_tiers=1, retired_bytes=0)
    if not REAL_GPU:
        wait_until(lambda: tiers_of_worker(own) == 1, "old tiers are kept", WAIT)


def test_what_is_mapped_is_not_written(first, rows, own):
    """Others bring the tier up to date by loading it anew, and the old one is kept for who has it mapped."""
    with first.connect(**BY_SORT) as by_sort, first.connect(**BY_INDEX, **SHARED, omen__probes=LISTS) as shared:
        by_sort.execute("DELETE FROM t WHERE id % 2 = 0")
        by_sort.execute("VACUUM t")

        def is_current():
            knn(shared, "l2", rows[1], 10)
            return index_status(shared)["hot_tier_state"] == "loaded, shared" and stat(by_sort)["loads"] == 2
        wait_until(is_current, "it is not loaded anew", WAIT)
        row = stat(by_sort)
        assert (row["refreshes"], row["mappings"], row["hot_tiers"]) == (0, 1, 1) and row["retired_bytes"] > 0, row
        if not REAL_GPU:
            assert tiers_of_worker(by_sort) == 2
        check(own, by_sort, rows[1::2], ("gpu", "cpu"))
        wait_mapped(own, rows)
        check(own, by_sort, rows[1::2])
        check(shared, by_sort, rows[1::2])
        if not REAL_GPU:
            wait_until(lambda: tiers_of_worker(by_sort) == 1, "the old tier is kept", WAIT)


def test_given_up(first, rows, own):
    """The service gives a tier up: its memory is there until the session has noticed."""
    with first.connect(**BY_SORT) as by_sort:
        other = first.connect(**SHARED)
        other.execute("SELECT omen_evict('t_v_idx')")
        wait_for(other, hot_tiers=0, mappings=1)
        if not REAL_GPU:
            time.sleep(1.2)
            assert tiers_of_worker(other) == 1
        # It has one of its own now.
        check(own, by_sort, rows)
        assert "mapped" not in index_status(own)["hot_tier_state"]
        wait_for(other, hot_tiers=0, mappings=0)
        if not REAL_GPU:
            wait_until(lambda: tiers_of_worker(other) == 0, "what nobody maps is kept", WAIT)
        own.execute("SELECT omen_evict('t_v_idx')")
        put(other, **BY_INDEX, omen__probes=LISTS)
        knn(other, "l2", rows[0], 10)
        wait_mapped(own, rows)
        check(own, by_sort, rows)
        other.execute("DROP INDEX t_v_idx")
        put(own, enable_seqscan="on", enable_sort="on")
        knn(own, "l2", rows[0], 10)
        make_index(other, lists=LISTS)
        put(own, **BY_INDEX)
        check(own, by_sort, rows)
        wait_for(other, mappings=0)
        if not REAL_GPU:
            wait_until(lambda: tiers_of_worker(other) == 0, "what nobody maps is kept", WAIT)


def test_other_searches_let_go(first, rows, own):
    """Of another index, by the CPU, or by the service."""
    with first.connect() as other:
        other.execute("CREATE TABLE u (id integer, v vector(3)); INSERT INTO u SELECT i, ARRAY[i, i, i]::vector FROM generate_series(1, 500) i")
        make_index(other, lists=4, table="u", name="u_idx")
        for settings, table, query in (({}, "u", np.ones(3)), (CPU, "t", rows[0]), ({"omen__gpu_context": "shared"}, "u", np.ones(3))):
            put(own, **OWN)
            other.execute("SELECT omen_load('t_v_idx')")
            wait_mapped(own, rows)
            other.execute("SELECT omen_evict('t_v_idx')")
            wait_for(other, mappings=1)
            assert stat(other)["retired_bytes"] > 0
            put(own, **settings)
            knn(own, "l2", query, 1, table=table)
            wait_for(other, mappings=0, retired_bytes=0)


def test_no_room_for_both(service, first, rng):
    """What is mapped makes room for nothing: it serves on until it is let go of."""
    service.stop()
    service.configure({"omen.gpu_memory_limit": "20MB"})
    service.start()
    rows = vectors.clustered(rng, 9000, 128)
    with first.connect(**BY_SORT) as by_sort, first.connect(**BY_INDEX, **SHARED, omen__probes=LISTS) as shared, first.connect(**OWN) as own:
        wait_for(by_sort, state="up")
        for name in "tu":
            make_table(by_sort, rows, name=name)
            make_index(by_sort, lists=LISTS, table=name, name=f"{name}_v_idx")
        knn(shared, "l2", rows[1], 10)
        wait_mapped(own, rows)
        # Of another index, and anew of this one.
        for table in "ut":
            if table == "t":
                by_sort.execute("DELETE FROM t WHERE id % 2 = 0")
                by_sort.execute("VACUUM t")
            for i in range(5):
                assert_same(knn(shared, "l2", rows[i], 10, table=table), knn(by_sort, "l2", rows[i], 10, table=table), complete_ties=False)
            wait_until(lambda: not loaders(by_sort), "a loader goes on", WAIT)
            row = stat(by_sort)
            assert (row["hot_tiers"], row["mappings"], row["retired_bytes"], row["loads"]) == (1, 1, 0, 1), row
        assert "shared" in index_status(shared)["hot_tier_state"]
        check(own, by_sort, rows[1::2], ("gpu", "cpu"))


def test_sessions_that_end(first, rows, own):
    """By themselves, or terminated: nothing stays mapped."""
    pid = own.execute("SELECT pg_backend_pid()").fetchone()[0]
    with first.connect() as other:
        for _ in range(3):
            with first.connect(**OWN) as conn:
                wait_mapped(conn, rows)
                # The one before may be about to end.
                wait_for(other, mappings=2)
        wait_for(other, mappings=1)
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        wait_for(other, mappings=0)
        # In the middle of searches, and of mapping.
        for i in range(20):
            conn = first.connect(**OWN)
            pid = conn.execute("SELECT pg_backend_pid()").fetchone()[0]
            end = threading.Timer(0.001 * i, lambda pid=pid: other.execute("SELECT pg_terminate_backend(%s)", (pid,)))
            end.start()
            with suppress(psycopg.Error):
                for _ in range(1000):
                    knn(conn, "l2", rows[i], 10)
            end.join()
        wait_for(other, mappings=0)
        other.execute("SELECT omen_evict()")
        if not REAL_GPU:
            wait_until(lambda: tiers_of_worker(other) == 0, "memory is kept", WAIT)


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_the_worker_ends(first, rows, own):
    with first.connect(**BY_SORT) as by_sort:
        starts = stat(by_sort)["starts"]
        inject(by_sort, "exit")
        with first.connect(**BY_INDEX, **SHARED, omen__probes=LISTS) as shared:
            wait_until(lambda: knn(shared, "l2", rows[0], 10) and stat(by_sort)["state"] != "up", "the worker lives", WAIT)
        inject(by_sort, "none")
        for _ in range(30):
            assert_same(knn(own, "l2", rows[5], 10), knn(by_sort, "l2", rows[5], 10), complete_ties=False)
        assert stat(by_sort)["mappings"] == 0
        wait_for(by_sort, state="up", starts=starts + 1)
        check(own, by_sort, rows)


@pytest.mark.skipif(REAL_GPU, reason="so many sessions' contexts take more memory than a card has")
def test_more_than_can_be_mapped(service, first, rows):
    """Further sessions load tiers of their own."""
    service.stop()
    service.configure({"max_connections": "150"})
    service.start()
    with first.connect(**BY_SORT) as by_sort:
        # It was hot before.
        wait_for(by_sort, hot_tiers=1)
        sessions = []
        try:
            for _ in range(MAX_MAPPINGS):
                sessions.append(first.connect(**OWN))
                wait_mapped(sessions[-1], rows)
            assert stat(by_sort)["mappings"] == MAX_MAPPINGS
            with first.connect(**OWN) as conn:
                check(conn, by_sort, rows)
                assert index_status(conn)["hot_tier_state"] == "loaded"
                # One lets go: the next has its place.
                sessions.pop().close()
                wait_for(by_sort, mappings=MAX_MAPPINGS - 1)
                conn.execute("SELECT omen_evict('t_v_idx')")
                wait_mapped(conn, rows)
                check(conn, by_sort, rows)
            check(sessions[-1], by_sort, rows)
        finally:
            for conn in sessions:
                conn.close()
        wait_for(by_sort, mappings=0)


def test_churn(first):
    """Everything at once: every answer is checked in its snapshot."""
    fill(first, 4000)
    with first.connect() as conn:
        # What sessions have loaded for themselves they keep.
        load(conn)
    own = GPU | {"omen__gpu_context": "backend"}
    churn = Churn(first, 10, [own] * 3 + [SHARED] * 2 + [CPU], reloads=True).start()
    seen = set()
    with first.connect() as conn:
        while churn.going():
            seen.add(stat(conn)["mappings"])
            time.sleep(0.05)
    churn.wait()
    assert not churn.problems, churn.problems[0]
    assert churn.counts["by gpu"] > 50 and max(seen) > 1, (churn.counts, seen)
    with first.connect() as conn:
        wait_for(conn, mappings=0)
        conn.execute("SELECT omen_evict()")
        if not REAL_GPU:
            wait_until(lambda: tiers_of_worker(conn) == 0, "memory is kept", WAIT)
