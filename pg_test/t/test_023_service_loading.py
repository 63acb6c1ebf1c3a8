"""Tiers of the shared GPU service are loaded: in the background, again after a restart, and when much of them is out of date."""

import time

import numpy as np
import psycopg

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, assert_fails, assert_same, knn, last_scan, make_database, make_index, make_table
from lib.service import GPU, PRELOADED, WAIT, searches, stat, wait_for

DIM, LISTS = 48, 24


def test_much_out_of_date(first, rng):
    """A tier of which most is of old is loaded again, in the background; readers cannot have that done at will."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[1], 10)
        assert stat(conn)["loads"] == 1
        conn.execute("DELETE FROM t WHERE id % 3 = 0")
        conn.execute("VACUUM t")
        wanted, end = knn(exact, "l2", rows[1], 10), time.monotonic() + WAIT
        while stat(conn)["loads"] < 2:
            assert_same(knn(conn, "l2", rows[1], 10), wanted, complete_ties=False)
            assert time.monotonic() < end, stat(conn)
        before = searches(conn, 0)["searches"]
        assert_same(knn(conn, "l2", rows[1], 10), wanted, complete_ties=False)
        assert last_scan(conn)["engine"] == "gpu" and last_scan(conn)["candidates"] <= 2 * 3000
        searches(conn, before + 1)
        conn.execute("CREATE ROLE reader; GRANT SELECT ON t TO reader; SET ROLE reader")
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert_fails(conn, "42501", "", "SELECT omen_evict('t_v_idx')")
        conn.execute("RESET ROLE")
        assert stat(conn)["loads"] == 2
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert stat(conn)["loads"] == 3


def test_loading_in_the_background(service, first, rng):
    """With engine auto a query does not wait for a load; many that want it start one loader; dropped things are left alone."""
    rows = vectors.clustered(rng, 6000, DIM)
    with first.connect(**BY_INDEX, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        wanted = knn(exact, "l2", rows[3], 10)
        conn.execute("ALTER INDEX t_v_idx SET (hot = on)")
        sessions = [first.connect(**BY_INDEX, omen__probes=LISTS) for _ in range(6)]
        end = time.monotonic() + WAIT
        while stat(conn)["hot_tiers"] == 0:
            for session in sessions:
                assert_same(knn(session, "l2", rows[3], 10), wanted, complete_ties=False)
                assert last_scan(session)["load_us"] == 0, "no query waits for the load"
            assert time.monotonic() < end, service.log_text()
        row = stat(conn)
        assert row["loads"] == 1
        end = time.monotonic() + WAIT
        while last_scan(sessions[0])["engine"] != "gpu":
            assert_same(knn(sessions[0], "l2", rows[3], 10), wanted, complete_ties=False)
            assert time.monotonic() < end
        assert stat(conn)["loads"] == 1
        for session in sessions:
            session.close()
        # A loader finds its index, or its database, gone.
        conn.execute("SELECT omen_evict('t_v_idx')")
        assert knn(conn, "l2", rows[3], 10)
        conn.execute("DROP INDEX t_v_idx")
        for _ in range(3):
            with make_database(service, "short").connect(**BY_INDEX) as other:
                make_table(other, rows[:500])
                make_index(other, lists=LISTS)
                other.execute("ALTER INDEX t_v_idx SET (hot = on)")
                knn(other, "l2", rows[3], 10)
            end = time.monotonic() + WAIT
            while True:
                try:
                    conn.execute("DROP DATABASE short")
                    break
                except psycopg.errors.ObjectInUse:
                    assert time.monotonic() < end
        assert conn.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_omen loader'").fetchone()[0] == 0
        wait_for(conn, hot_tiers=0)
        assert "terminated by signal" not in service.log_text()


def test_no_process_for_a_loader(make_server, rng):
    """The worker, and PostgreSQL's own for subscriptions, take all there are."""
    server = make_server("few", PRELOADED | {"max_worker_processes": 2})
    with make_database(server, "first").connect(**BY_INDEX) as conn:
        wait_for(conn, state="up")
        make_table(conn, vectors.clustered(rng, 1000, DIM))
        make_index(conn, lists=LISTS)
        conn.execute("ALTER INDEX t_v_idx SET (hot = on)")
        for i in range(5):
            assert len(knn(conn, "l2", vectors.uniform(rng, 1, DIM)[0], 10)) == 10 and last_scan(conn)["engine"] == "cpu"
        assert stat(conn)["hot_tiers"] == 0


def test_hot_again_after_a_restart(service, first, rng):
    rows = vectors.clustered(rng, 1500, DIM)
    second = make_database(service, "second")
    for db in (first, second):
        with db.connect(**BY_INDEX, **GPU) as conn:
            make_table(conn, rows)
            make_index(conn, lists=LISTS)
            knn(conn, "l2", rows[0], 10)
            conn.execute("CREATE TABLE gone AS SELECT * FROM t")
            make_index(conn, lists=LISTS, table="gone", name="gone_idx")
            knn(conn, "l2", rows[0], 10, table="gone")
    with first.connect() as conn:
        wait_for(conn, hot_tiers=4)
    file = service.data / "pg_omen.hot"

    def restarted(how: str) -> psycopg.Connection:
        service.stop(how)
        service.start()
        return first.connect(**BY_INDEX, **GPU)

    # Indexes, or a whole database, that went while the file names them.
    service.stop()
    assert len(file.read_text().splitlines()) == 5
    text = file.read_text()
    service.start()
    with first.connect() as conn:
        wait_for(conn, hot_tiers=4, loads=4)
        conn.execute("DROP TABLE gone")
        service.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'second'")
        wait_for(conn, hot_tiers=3)
        conn.execute("DROP DATABASE second")
    service.stop()
    file.write_text(text)
    service.start()
    with first.connect(**BY_INDEX, **GPU) as conn:
        wait_for(conn, hot_tiers=1, loads=1)
        assert knn(conn, "l2", rows[7], 1)[0][0] == 7 and last_scan(conn)["engine"] == "gpu"
        # The file is written within ten seconds of a change; a crash loses nothing of it.
        end = time.monotonic() + WAIT
        while len(file.read_text().splitlines()) != 2:
            assert time.monotonic() < end, file.read_text()
            time.sleep(0.2)
    with restarted("immediate") as conn:
        wait_for(conn, hot_tiers=1, loads=1)
    for damaged in (b"", b"pg_omen hot tiers 9\n1 2\n", b"pg_omen hot tiers 1\n1 x\n", bytes(range(256))):
        service.stop()
        file.write_bytes(damaged)
        with service.log_of() as lines:
            service.start()
            with first.connect(**BY_INDEX, **GPU) as conn:
                wait_for(conn, state="up", hot_tiers=0)
                assert knn(conn, "l2", rows[7], 1)[0][0] == 7
                wait_for(conn, hot_tiers=1)
            assert lines().count("are not loaded") == 1, lines()
    service.configure({"omen.gpu_autoload": "off"})
    with restarted("fast") as conn:
        wait_for(conn, state="up")
        time.sleep(1.5)
        assert stat(conn)["hot_tiers"] == 0 and stat(conn)["loads"] == 0
