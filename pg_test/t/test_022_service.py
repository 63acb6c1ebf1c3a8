"""The shared GPU service: one process has the device, the sessions of all databases search through it, and without it on the CPU."""

import os
import signal
import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import (BY_INDEX, BY_SORT, CPU, ONE_ON_EVERY_MAJOR, REAL_GPU, Db, assert_fails, assert_same, knn, last_scan, make_database, make_index, make_table,
                    put)
from lib.exact import recall
from lib.service import GPU, PRELOADED, WAIT, inject, searches, stat, wait_for, wait_until

DIM, LISTS = 48, 24


def by_gpu(conn, query, k: int, wanted):
    """Searches until the service answers, which another's load may put off; every answer is as wanted."""
    def is_answered():
        assert_same(knn(conn, "l2", query, k), wanted, complete_ties=False)
        return last_scan(conn)["engine"] == "gpu"
    wait_until(is_answered, "the GPU does not answer")


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_rows_of_the_service_are_those_of_the_cpu(first, rng, metric):
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU) as gpu, first.connect(**BY_INDEX, **CPU) as cpu:
        make_table(gpu, rows)
        make_index(gpu, metric, lists=LISTS)
        for probes in (1, 4, LISTS):
            for conn in (gpu, cpu):
                put(conn, omen__probes=probes)
            engines = []
            for query in rows[:15] + 0.1 * vectors.uniform(rng, 15, DIM):
                assert_same(knn(gpu, metric, query, 10), knn(cpu, metric, query, 10), complete_ties=False)
                engines.append(last_scan(gpu)["engine"])
            assert engines == ["gpu"] * 15
        row = searches(gpu, 45)
        assert row["hot_tiers"] == 1 and row["hot_bytes"] > 2 * 3000 * DIM and row["loads"] == 1
        assert row["batches"] <= row["searches"] and row["failed_batches"] == 0
        # The session has nothing of its own on the device.
        assert gpu.execute("SELECT sum(hot_tiers) FROM omen_gpu_status()").fetchone()[0] == 0


def test_scans_that_go_on(first, rng):
    """LIMIT far beyond what was expected, and a filter: rounds beyond the first."""
    rows = vectors.clustered(rng, 4000, DIM)
    with first.connect(**BY_INDEX, **GPU) as gpu, first.connect(**BY_SORT) as exact:
        make_table(gpu, rows)
        make_index(gpu, lists=LISTS)
        put(gpu, omen__probes=LISTS)
        for k in (10, 300, 2500, None):
            assert_same(knn(gpu, "l2", rows[5], k), knn(exact, "l2", rows[5], k), complete_ties=k is None)
        where = "id %% 50 = 7"
        assert_same(knn(gpu, "l2", rows[5], 20, where=where), knn(exact, "l2", rows[5], 20, where=where), complete_ties=False)


def test_many_sessions_of_two_databases(service, first, rng):
    """Each gets its own answers, and searches that wait together become batches."""
    second = make_database(service, "second")
    data = {}
    for db in (first, second):
        rows = vectors.clustered(rng, 3000, DIM)
        with db.connect(**BY_INDEX, **GPU) as conn:
            make_table(conn, rows)
            make_index(conn, lists=LISTS)
            knn(conn, "l2", rows[0], 10)
        data[db.name] = (db, rows)
    failures, n_sessions, n_queries = [], 12, 40

    def session(number: int):
        db, rows = data["first" if number % 2 else "second"]
        try:
            with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
                for i in range(n_queries):
                    k = 1 + (number * 7 + i) % 30
                    query = rows[number * n_queries + i]
                    found = [row for row, _ in knn(conn, "l2", query, k)]
                    assert found[0] == number * n_queries + i, (number, i)
                    assert recall("l2", rows, query, found, k) > 0.99, (number, i, k)
        except BaseException as error:
            failures.append((number, error))

    threads = [threading.Thread(target=session, args=(number,)) for number in range(n_sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    with first.connect() as conn:
        row = stat(conn)
        assert row["hot_tiers"] == 2 and row["failed_batches"] == 0
        assert row["searches"] > 0.5 * n_sessions * n_queries and row["max_batch"] > 1, row
        assert row["queued"] == 0


def test_out_of_date(first, rng):
    """Rows die, VACUUM makes room, far-away rows take their places: the tier's old entries of these places must not be returned."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=4) as gpu, first.connect(**BY_SORT) as exact:
        make_table(gpu, rows)
        make_index(gpu, lists=LISTS)
        query = rows[7]
        knn(gpu, "l2", query, 10)
        assert last_scan(gpu)["engine"] == "gpu"
        near = [row for row, _ in knn(exact, "l2", query, 40)]
        places = {row[0] for row in exact.execute("SELECT ctid::text FROM t WHERE id = ANY(%s)", (near,)).fetchall()}
        gpu.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
        gpu.execute("VACUUM t")
        far = (query + 100 + vectors.uniform(rng, 60, DIM)).astype(np.float32)
        vectors.copy_rows(gpu, "t", np.arange(100_000, 100_060), far)
        reused = {row[0] for row in exact.execute("SELECT ctid::text FROM t WHERE id >= 100000").fetchall()} & places
        assert reused, "no place was used again: the test shows nothing"
        for _ in range(3):
            found = knn(gpu, "l2", query, 10)
            assert all(row < 100_000 and row not in near for row, _ in found), found
        # Appended rows are found beside what the device has.
        gpu.execute("INSERT INTO t VALUES (200000, %s)", (vectors.text(query),))
        assert knn(gpu, "l2", query, 1)[0][0] == 200_000
        put(gpu, omen__probes=LISTS)
        assert_same(knn(gpu, "l2", query, 50), knn(exact, "l2", query, 50), complete_ties=False)


def test_dropped_indexes_leave_the_device(first, rng):
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU) as conn:
        make_table(conn, rows)
        for how in ("DROP INDEX t_v_idx", "REINDEX INDEX t_v_idx", "TRUNCATE t", "VACUUM FULL t"):
            conn.execute("DROP INDEX IF EXISTS t_v_idx")
            make_index(conn, lists=LISTS)
            conn.execute("SELECT count(*) FROM t")
            knn(conn, "l2", rows[0], 10)
            assert stat(conn)["hot_tiers"] == 1, how
            conn.execute(how)
            wait_for(conn, hot_tiers=0, hot_bytes=0)
            if how == "TRUNCATE t":
                vectors.copy_rows(conn, "t", np.arange(len(rows)), rows)


def test_a_worker_that_ends_fails_no_query(first, rng):
    if REAL_GPU:
        pytest.skip("faults are injected in test builds alone")
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        wanted = knn(exact, "l2", rows[3], 10)
        for fault in ("terminate", "exit", "lost"):
            before = wait_for(conn, state="up")
            by_gpu(conn, rows[3], 10, wanted)
            # The worker ends with this search in its hands.
            if fault == "terminate":
                name, event = conn.execute("SELECT backend_type, wait_event_type FROM pg_stat_activity WHERE pid = %s",
                                           (before["pid"],)).fetchone()
                assert name == "pg_omen GPU service" and event in ("Extension", None)
                assert conn.execute("SELECT pg_terminate_backend(%s)", (before["pid"],)).fetchone()[0]
            else:
                inject(conn, fault)
            end = time.monotonic() + WAIT
            while stat(conn)["state"] == "up":
                assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
                assert time.monotonic() < end
            # Before it is started again.
            inject(conn, "none")
            while stat(conn)["starts"] == before["starts"]:
                assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
                assert time.monotonic() < end
            after = wait_for(conn, state="up")
            assert after["pid"] != before["pid"] and after["hot_tiers"] in (0, 1)
            assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
        assert "terminated by signal" not in first.server.log_text()


@pytest.mark.quiet
def test_a_worker_that_hangs(first, rng):
    """Searches give up after omen.gpu_timeout, and are not sent for a while; a cancelled one leaves its slot."""
    if REAL_GPU:
        pytest.skip("faults are injected in test builds alone")
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        wanted = knn(exact, "l2", rows[3], 10)
        knn(conn, "l2", rows[3], 10)
        inject(conn, "hang")
        # The worker sees it within its nap, or with the search.
        put(conn, statement_timeout="1500ms", omen__gpu_timeout="60s")
        end = time.monotonic() + WAIT
        while True:
            try:
                knn(conn, "l2", rows[3], 10)
            except psycopg.errors.QueryCanceled:
                break
            assert time.monotonic() < end
        # Many at once are one failure: the pause stays short.
        crowd = [first.connect(**BY_INDEX, **GPU, omen__probes=LISTS, omen__gpu_timeout="300ms") for _ in range(14)]
        threads = [threading.Thread(target=knn, args=(session, "l2", rows[3], 10)) for session in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        put(conn, statement_timeout="0", omen__gpu_timeout="200ms")
        assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
        assert last_scan(conn)["engine"] == "cpu" and "in time" in last_scan(conn)["fallback_reason"]
        began = time.monotonic()
        for _ in range(5):
            assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
        assert time.monotonic() - began < 1, "the breaker keeps searches away"
        row = stat(conn)
        assert row["breaker"] == "open" and row["timeouts"] >= 1 and row["abandoned"] >= 2
        inject(conn, "none")
        end = time.monotonic() + WAIT
        put(conn, omen__gpu_timeout="5s")
        while knn(conn, "l2", rows[3], 10) and last_scan(conn)["engine"] != "gpu":
            assert time.monotonic() < end, stat(conn)
            time.sleep(0.1)
        row = stat(conn)
        assert row["breaker"] == "closed" and row["queued"] == 0


def test_a_session_that_dies_leaves_no_slot(make_server, rng):
    """Eight slots, sessions that are ended while they wait: afterwards all slots serve again."""
    if REAL_GPU:
        pytest.skip("faults are injected in test builds alone")
    server = make_server("die", PRELOADED | {"omen.gpu_queue_slots": 8})
    db = make_database(server, "first")
    rows = vectors.clustered(rng, 1000, DIM)
    with db.connect(**BY_INDEX, **GPU) as conn:
        wait_for(conn, state="up")
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 10)
        inject(conn, "hang")
        time.sleep(1.5)
        sessions = [db.connect(**BY_INDEX, **GPU, omen__gpu_timeout="60s") for _ in range(8)]
        pids = [session.info.backend_pid for session in sessions]

        def search(session):
            with pytest.raises(psycopg.OperationalError):
                knn(session, "l2", rows[1], 5)

        threads = [threading.Thread(target=search, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        end = time.monotonic() + WAIT
        while conn.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND wait_event_type = 'Extension'",
                           (pids,)).fetchone()[0] < 8:
            assert time.monotonic() < end
            time.sleep(0.05)
        # All slots are taken: the CPU answers at once.
        assert knn(conn, "l2", rows[2], 5)[0][0] == 2
        assert "busy" in last_scan(conn)["fallback_reason"] and stat(conn)["refused"] >= 1
        conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", (pids,))
        for thread in threads:
            thread.join()
        inject(conn, "none")
        for _ in range(20):
            assert knn(conn, "l2", rows[2], 5)[0][0] == 2
        end = time.monotonic() + WAIT
        while last_scan(conn)["engine"] != "gpu":
            knn(conn, "l2", rows[2], 5)
            assert time.monotonic() < end, last_scan(conn)
            time.sleep(0.05)


def test_standby(make_server, rng):
    """The standby's service sees what VACUUM of the primary did by the pages alone."""
    primary = make_server("primary", PRELOADED)
    db = make_database(primary, "first")
    rows = vectors.clustered(rng, 2000, DIM)
    with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        standby = make_server("standby", PRELOADED, source=primary)
        with Db(standby, "first").connect(**BY_INDEX, **GPU, omen__probes=LISTS) as reader, \
                Db(standby, "first").connect(**BY_SORT) as exact:
            wait_for(reader, state="up")
            primary.wait_for(standby)
            for step in range(3):
                query = rows[step]
                by_gpu(reader, query, 20, knn(exact, "l2", query, 20))
                near = [row for row, _ in knn(exact, "l2", query, 20)]
                conn.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
                conn.execute("VACUUM t")
                far = (query + 100 + vectors.uniform(rng, 30, DIM)).astype(np.float32)
                vectors.copy_rows(conn, "t", np.arange(30 * step, 30 * step + 30) + 100_000, far)
                primary.wait_for(standby)
                assert_same(knn(reader, "l2", query, 20), knn(exact, "l2", query, 20), complete_ties=False)
            reader.execute("SELECT pg_promote()")
            reader.execute("INSERT INTO t VALUES (500000, %s)", (vectors.text(rows[9]),))
            assert 500_000 in [row for row, _ in knn(reader, "l2", rows[9], 2)]


def test_settings(first, make_server, rng):
    """Own contexts where they are wanted, roles, and servers without the library or without a GPU."""
    rows = vectors.clustered(rng, 1000, DIM)
    with first.connect(**BY_INDEX, **GPU) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        before = stat(conn)["searches"]
        own = {"omen__gpu_context": "backend"} | ({} if REAL_GPU else {"omen__simulate_gpu": "on"})
        put(conn, **own)
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["engine"] == "gpu"
        assert stat(conn)["searches"] == before
        put(conn, omen__gpu_context="shared")
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["engine"] == "gpu"
        searches(conn, before + 1)
        conn.execute("CREATE ROLE watcher; GRANT pg_monitor TO watcher; CREATE ROLE plain; GRANT SELECT ON t TO plain")
        conn.execute("SET ROLE watcher")
        assert stat(conn)["state"] == "up"
        assert_fails(conn, "42501", "", "SELECT omen_stat_reset()")
        conn.execute("SET ROLE plain")
        assert_fails(conn, "42501", "", "SELECT * FROM omen_stat_gpu")
        assert_fails(conn, "42501", "", "SET omen.gpu_context = backend")
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["engine"] == "gpu"
        conn.execute("RESET ROLE")
        searches(conn, before + 2)
        conn.execute("SELECT omen_stat_reset()")
        row = stat(conn)
        assert row["searches"] == row["batches"] == row["loads"] == 0 and row["hot_tiers"] == 1 and row["starts"] == 1
        conn.execute("ALTER INDEX t_v_idx SET (hot = off)")
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["engine"] == "cpu"
        conn.execute("CREATE TEMP TABLE own (id int, v vector(3)); INSERT INTO own SELECT i, ARRAY[i, 1, 1]::real[]::vector FROM generate_series(1, 500) i")
        conn.execute("CREATE INDEX own_idx ON own USING omen (v vector_l2_ops)")
        assert knn(conn, "l2", [7, 1, 1], 1, table="own")[0][0] == 7 and last_scan(conn)["engine"] == "cpu"
    if not REAL_GPU:
        bare = make_server("bare", {"shared_preload_libraries": "pg_omen"})
        with make_database(bare, "first").connect(**BY_INDEX) as conn:
            make_table(conn, rows)
            make_index(conn, lists=LISTS)
            wait_for(conn, state="no GPU", pid=None)
            assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["engine"] == "cpu"
            # After a crash of another process too.
            os.kill(conn.info.backend_pid, signal.SIGKILL)
        end = time.monotonic() + WAIT
        while True:
            try:
                with Db(bare, "first").connect(**BY_INDEX) as conn:
                    wait_for(conn, state="no GPU", pid=None)
                    assert knn(conn, "l2", rows[3], 5)[0][0] == 3 and last_scan(conn)["fallback_reason"] is None
                    break
            except psycopg.OperationalError:
                assert time.monotonic() < end
                time.sleep(0.1)


def test_not_preloaded(db):
    with db.connect() as conn:
        assert conn.execute("SELECT * FROM omen_stat_gpu").fetchall() == []
