"""Tiers of the shared GPU service are loaded in the background: by one process, which nobody waits for and which is in nobody's way."""

import os
import signal
import threading
import time

import pytest

from lib import exact, vectors
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, Db, assert_same, knn, last_scan, make_database, make_index, make_table, put
from lib.service import PRELOADED, inject, loaders, stat, wait_for, wait_until

DIM, LISTS = 48, 24
pytestmark = pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")


def make_hot(conn, rows, name: str = "t"):
    """A table with an index that is loaded from the first search on."""
    make_table(conn, rows, name=name)
    make_index(conn, lists=LISTS, table=name, name=f"{name}_v_idx")
    conn.execute(f"ALTER INDEX {name}_v_idx SET (hot = on)")


def searcher(db, **settings):
    """A session whose searches are exact."""
    return db.connect(**BY_INDEX, omen__probes=LISTS, **settings)


def start_loader(conn, query, table: str = "t") -> int:
    """Searches until a loader runs; its process id. With fault slow_load it goes on running."""
    def running():
        knn(conn, "l2", query, 5, table=table)
        # It has its locks and is within the load; one that comes just after another was ended goes at once.
        return conn.execute("SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE backend_type = 'pg_omen loader'"
                            " AND wait_event_type = 'Extension' AND relation = %s::regclass", (f"{table}_v_idx",)).fetchall()
    ((pid,),) = wait_until(running, "no loader")
    return pid


@pytest.mark.every_major
def test_queries_do_not_wait(first, rng):
    """Many sessions want an index: one process loads it, and meanwhile the CPU answers."""
    rows = vectors.clustered(rng, 6000, DIM)
    with first.connect(**BY_SORT) as conn:
        make_hot(conn, rows)
        sessions = [searcher(first) for _ in range(6)]
        inject(conn, "slow_load")
        pid = start_loader(sessions[0], rows[0])
        name, database = conn.execute("SELECT backend_type, datname FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
        assert (name, database) == ("pg_omen loader", "first")
        for i in range(5):
            wanted = knn(conn, "l2", rows[i], 10)
            for session in sessions:
                assert_same(knn(session, "l2", rows[i], 10), wanted, complete_ties=False)
                assert last_scan(session)["engine"] == "cpu" and last_scan(session)["load_us"] == 0
        assert loaders(conn) == [pid]
        inject(conn, "none")
        wait_for(conn, hot_tiers=1, loads=1)
        for session in sessions:
            def by_gpu(session=session):
                assert_same(knn(session, "l2", rows[0], 10), wanted_first, complete_ties=False)
                return last_scan(session)["engine"] == "gpu"
            wanted_first = knn(conn, "l2", rows[0], 10)
            wait_until(by_gpu, "the GPU does not answer")
            session.close()
        row = wait_for(conn, loads=1, loaders=1, failed_loads=0, loaders_refused=0)
        assert row["hot_tiers"] == 1 and not loaders(conn)


def test_many_sessions_at_once(first, rng):
    rows = vectors.clustered(rng, 6000, DIM)
    wanted = exact.nearest("l2", rows, rows[3], 10)
    problems = []
    with first.connect() as conn:
        make_hot(conn, rows)
        start = threading.Barrier(8)

        def session():
            try:
                with searcher(first) as mine:
                    start.wait()
                    for _ in range(30):
                        assert sorted(row for row, _ in knn(mine, "l2", rows[3], 10)) == sorted(wanted)
                        assert last_scan(mine)["load_us"] == 0
            except BaseException as error:
                problems.append(error)
                start.abort()
        threads = [threading.Thread(target=session) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems, problems[0]
        row = wait_for(conn, hot_tiers=1, loads=1, failed_loads=0)
        # One that looked just before the tier was there may have had another process look.
        assert row["loaders"] in (1, 2)


def test_it_pays_after_a_while(first, rng):
    """Without hot = on a session's searches decide."""
    rows = vectors.clustered(rng, 6000, DIM)
    with searcher(first) as conn, first.connect(**BY_SORT) as by_sort:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        wanted = knn(by_sort, "l2", rows[3], 10)

        def is_hot():
            assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
            assert last_scan(conn)["load_us"] == 0
            return stat(conn)["hot_tiers"]
        wait_until(is_hot, "not loaded")
        assert_same(knn(conn, "l2", rows[3], 10), wanted, complete_ties=False)
        assert stat(conn)["loaders"] == 1 and stat(conn)["loads"] == 1


@pytest.mark.every_major
@pytest.mark.parametrize("statement", ["DROP INDEX t_v_idx", "DROP INDEX CONCURRENTLY t_v_idx", "DROP TABLE t", "TRUNCATE t",
                                       "REINDEX INDEX t_v_idx", "ALTER TABLE t ADD COLUMN w integer", "VACUUM FULL t"])
def test_ddl_does_not_wait_for_a_loader(first, rng, statement):
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first, deadlock_timeout="200ms", statement_timeout="10s") as conn, searcher(first) as other:
        make_hot(conn, rows)
        inject(conn, "slow_load")
        pid = start_loader(other, rows[0])
        conn.execute(statement)
        wait_until(lambda: pid not in loaders(conn), "the loader goes on")
        inject(conn, "none")
        # Another index is loaded as ever.
        make_hot(conn, rows, "u")

        def is_hot():
            assert knn(other, "l2", rows[3], 1, table="u")[0][0] == 3
            return last_scan(other)["engine"] == "gpu"
        wait_until(is_hot, "not loaded")
        row = stat(conn)
        assert row["failed_loads"] == 0 and row["failed_batches"] == 0
    assert "could not load" not in first.server.log_text()


def test_statements_that_go_with_a_loader(first, rng):
    """VACUUM, inserts, index builds on the same table: a load does not end for them, nor do they wait."""
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first, deadlock_timeout="100ms", statement_timeout="10s") as conn, searcher(first) as other:
        make_hot(conn, rows)
        inject(conn, "slow_load")
        pid = start_loader(other, rows[0])
        for statement in ("VACUUM t", "ANALYZE t", "INSERT INTO t SELECT 5000, v FROM t WHERE id = 3", "CREATE INDEX i ON t (id)",
                          "CREATE INDEX CONCURRENTLY j ON t (id)", "DELETE FROM t WHERE id = 5000"):
            conn.execute(statement)
        assert loaders(conn) == [pid]
        inject(conn, "none")
        wait_for(conn, hot_tiers=1)
        assert knn(other, "l2", rows[3], 1)[0][0] == 3


@pytest.mark.every_major
def test_drop_database_does_not_wait_for_a_loader(service, first, rng):
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        inject(conn, "slow_load")
        for force in ("", "WITH (FORCE)"):
            with searcher(make_database(service, "short")) as other:
                make_hot(other, rows)
                start_loader(other, rows[0])
            conn.execute(f"DROP DATABASE short {force}")
            wait_until(lambda: not loaders(conn), "the loader goes on")
        inject(conn, "none")
        wait_for(conn, hot_tiers=0, failed_loads=0)


def test_dropped_while_a_loader_comes(service, first, rng):
    """Loaders that are where they may be find their index, or its database, gone."""
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first) as conn:
        for _ in range(5):
            make_hot(conn, rows)
            knn(conn, "l2", rows[3], 5)
            conn.execute("DROP TABLE t")
        for _ in range(3):
            with searcher(make_database(service, "short")) as other:
                make_hot(other, rows)
                knn(other, "l2", rows[3], 5)
            conn.execute("DROP DATABASE short")
        wait_until(lambda: not loaders(conn), "the loader goes on")
        wait_for(conn, hot_tiers=0, failed_loads=0)
    assert "terminated by signal" not in service.log_text()


def test_standby_gives_way(make_server, rng):
    """What is replayed waits for a loader as for a query: max_standby_streaming_delay."""
    primary = make_server("primary", PRELOADED)
    db = make_database(primary, "first")
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(db) as conn:
        make_hot(conn, rows)
        make_hot(conn, rows, "u")
    standby = make_server("standby", PRELOADED | {"max_standby_streaming_delay": "200ms"}, source=primary)
    primary.wait_for(standby)
    with searcher(Db(standby, "first")) as reader:
        wait_for(reader, state="up")
        inject(reader, "slow_load")
        pid = start_loader(reader, rows[0])
        primary.sql("DROP INDEX t_v_idx", dbname="first")
        primary.wait_for(standby)
        assert pid not in loaders(reader)
        inject(reader, "none")
        wait_until(lambda: knn(reader, "l2", rows[3], 1, table="u")[0][0] == 3 and stat(reader)["hot_tiers"], "not loaded")
        assert stat(reader)["failed_loads"] == 0


@pytest.mark.parametrize("how", ["cancel", "terminate", "crash"])
def test_a_loader_that_ends(first, rng, how):
    """Whatever ends it: afterwards another one can load."""
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first) as conn:
        make_hot(conn, rows)
        inject(conn, "slow_load")
        pid = start_loader(conn, rows[0])
        if how == "crash":
            os.kill(pid, signal.SIGKILL)
        else:
            conn.execute(f"SELECT pg_{how}_backend(%s)", (pid,))
            wait_until(lambda: not loaders(conn), "the loader goes on")
            row = stat(conn)
            assert row["loaders"] == 1 and row["hot_tiers"] == 0 and row["failed_loads"] == 0
    if how == "crash":
        wait_until(lambda: "reinitializing" in first.server.log_text(), "no crash restart")

    def connected():
        try:
            return searcher(first)
        except Exception:
            return None
    with wait_until(connected, "the server does not come back") as conn:
        inject(conn, "none")

        def is_hot():
            assert knn(conn, "l2", rows[3], 1)[0][0] == 3
            return stat(conn)["hot_tiers"]
        wait_until(is_hot, "not loaded")


def test_a_load_that_fails_is_told_once(first, rng):
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first) as conn:
        make_hot(conn, rows)
        inject(conn, "fail_load")

        def has_failed():
            assert knn(conn, "l2", rows[3], 1)[0][0] == 3 and last_scan(conn)["engine"] == "cpu"
            return stat(conn)["failed_loads"]
        wait_until(has_failed, "it does not fail")
        wait_until(lambda: not loaders(conn), "the loader goes on")
        for i in range(50):
            assert knn(conn, "l2", rows[i], 1)[0][0] == i
        row = stat(conn)
        assert row["failed_loads"] == 1 and row["loaders"] == 1, "the index rests"
        assert first.server.log_text().count("could not load index") == 1
        # Others are not concerned.
        inject(conn, "none")
        make_hot(conn, rows, "u")
        wait_until(lambda: knn(conn, "l2", rows[3], 1, table="u") and stat(conn)["hot_tiers"] == 1, "not loaded")


def test_a_loader_that_never_comes(first, rng):
    """It is waited for ten seconds; then there may be another."""
    rows = vectors.clustered(rng, 1000, DIM)
    with searcher(first) as conn:
        make_hot(conn, rows)
        inject(conn, "lose_loader")
        time.sleep(0.2)

        def started(n: int):
            assert knn(conn, "l2", rows[3], 1)[0][0] == 3
            return stat(conn)["loaders"] >= n
        wait_until(lambda: started(1), "none was started")
        began = time.monotonic()
        # It is counted before it comes, and on a busy machine may come late.
        time.sleep(4)
        inject(conn, "none")
        wait_until(lambda: started(2), "no other was started")
        assert time.monotonic() - began > 7
        wait_for(conn, hot_tiers=1)


def test_no_process_for_a_loader(make_server, rng):
    """The worker, and PostgreSQL's own for subscriptions, take all there are."""
    server = make_server("few", PRELOADED | {"max_worker_processes": 2})
    with searcher(make_database(server, "first")) as conn, server.connect("first") as other:
        wait_for(conn, state="up")
        rows = vectors.clustered(rng, 1000, DIM)
        make_hot(conn, rows)
        for i in range(20):
            assert knn(conn, "l2", rows[i], 10)[0][0] == i and last_scan(conn)["engine"] == "cpu"
        row = stat(conn)
        assert row["hot_tiers"] == 0 and row["loaders"] == 0 and row["loaders_refused"] == 1, "then nobody asks for ten seconds"
        wait_until(lambda: knn(conn, "l2", rows[3], 1) and stat(conn)["loaders_refused"] == 2, "nobody asks again")
        assert server.log_text().count("no process is free") == 1
        # omen_load() needs none.
        other.execute("SELECT omen_load('t_v_idx')")
        wait_for(conn, hot_tiers=1)
        put(conn, omen__engine="gpu")
        assert knn(conn, "l2", rows[3], 1)[0][0] == 3 and last_scan(conn)["engine"] == "gpu"
