"""What the shared GPU service had before a restart is loaded again: file pg_omen.hot."""

import os
import signal
import time

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, Db, assert_same, knn, last_scan, make_database, make_index, make_table
from lib.service import GPU, PRELOADED, inject, loaders, stat, wait_for, wait_until

DIM, LISTS = 48, 24
HEADER = "pg_omen hot tiers 1"


def make_loaded(conn, rows, name: str = "t"):
    """A table whose index the service has."""
    make_table(conn, rows, name=name)
    make_index(conn, lists=LISTS, table=name, name=f"{name}_v_idx")
    conn.execute(f"SELECT omen_load('{name}_v_idx')")


def entries(server) -> list[str]:
    """Lines of the file, without the first."""
    header, *lines = (server.data / "pg_omen.hot").read_text().splitlines()
    assert header == HEADER
    return lines


def check(db, rows, query):
    """The service answers as a sort of the table does."""
    with db.connect(**BY_INDEX, omen__probes=LISTS) as conn, db.connect(**BY_SORT) as exact:
        def by_gpu():
            assert_same(knn(conn, "l2", query, 10), knn(exact, "l2", query, 10), complete_ties=False)
            return last_scan(conn)["engine"] == "gpu"
        wait_until(by_gpu, "the GPU does not answer")


@pytest.mark.every_major
def test_restart_crash_and_what_is_gone(service, first, rng):
    rows = vectors.clustered(rng, 1500, DIM)
    second = make_database(service, "second")
    for db in (first, second):
        with db.connect() as conn:
            make_loaded(conn, rows)
            make_loaded(conn, rows, "gone")
    service.stop()
    text = (service.data / "pg_omen.hot").read_text()
    assert len(entries(service)) == 4
    service.start()
    with first.connect() as conn:
        row = wait_for(conn, hot_tiers=4, loads=4, loaders=4)
        check(first, rows, rows[7])
        check(second, rows, rows[8])
        conn.execute("DROP TABLE gone")
        service.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'second'")
        wait_for(conn, hot_tiers=3)
        conn.execute("DROP DATABASE second")
    service.stop()
    assert len(entries(service)) == 1
    # Of what the file names, an index and a whole database are gone.
    (service.data / "pg_omen.hot").write_text(text)
    service.start()
    with first.connect() as conn:
        row = wait_for(conn, hot_tiers=1, loads=1, loaders=4)
        assert row["failed_loads"] == 0
        # The file is written within ten seconds of a change.
        wait_until(lambda: len(entries(service)) == 1, "the file is out of date")
    assert service.log_text().count("does not exist") == 2, "once for each index of the database that is gone"
    service.stop("immediate")
    service.start()
    with first.connect() as conn:
        wait_for(conn, hot_tiers=1, loads=1)
        # The server starts anew within itself when one of its processes dies.
        victim = first.connect()
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        wait_until(lambda: "reinitializing" in service.log_text(), "no crash restart")

    def is_back():
        try:
            with first.connect() as conn:
                return wait_for(conn, hot_tiers=1, loads=1)
        except psycopg.OperationalError:
            return False
    wait_until(is_back, "the server does not come back")
    check(first, rows, rows[9])


def test_damaged_file(service, first, rng):
    """It is ignored, and says so once."""
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        make_loaded(conn, rows)
    service.stop()
    (entry,) = entries(service)
    foreign = [b"", b"pg_omen hot tiers 9\n1 2\n", f"{HEADER}\n{entry}\n1 x\n".encode(), f"{HEADER}\n{entry}\n0 5\n".encode(),
               f"{HEADER}\n{entry}\n99999999999 5\n".encode(), f"{HEADER}\n{entry[:-1]}".encode()[:22], bytes(range(256)),
               f"{HEADER}\n".encode() + b"1 2\n" * 50_000]
    for damaged in foreign:
        (service.data / "pg_omen.hot").write_bytes(damaged)
        with service.log_of() as lines:
            service.start()
            with first.connect() as conn:
                row = wait_for(conn, state="up")
                assert row["hot_tiers"] == 0 and row["loaders"] == 0
                conn.execute("SELECT omen_load('t_v_idx')")
                check(first, rows, rows[7])
            service.stop()
            assert lines().count("are not loaded again") == 1, (damaged[:80], lines())
        assert entries(service) == [entry]
    # A folder in its place: nothing is read, nothing can be written.
    (service.data / "pg_omen.hot").unlink()
    (service.data / "pg_omen.hot").mkdir()
    with service.log_of() as lines:
        service.start()
        with first.connect() as conn:
            wait_for(conn, state="up")
            conn.execute("SELECT omen_load('t_v_idx')")
            check(first, rows, rows[7])
        service.stop()
        assert lines().count("are not loaded again") == 1 and lines().count("could not write which") == 1, lines()


def test_autoload_off(service, first, rng):
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        make_loaded(conn, rows)
    service.stop()
    assert len(entries(service)) == 1
    service.configure({"omen.gpu_autoload": "off"})
    service.start()
    with first.connect() as conn:
        wait_for(conn, state="up")
        time.sleep(1.5)
        assert stat(conn)["hot_tiers"] == 0 and stat(conn)["loaders"] == 0
        assert conn.execute("SHOW omen.gpu_autoload").fetchone()[0] == "off"


def test_worker_that_is_started_again(service, first, rng):
    """Not the service, only the service: it has its tiers again too."""
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        make_loaded(conn, rows)
        check(first, rows, rows[7])
        before = stat(conn)
        assert conn.execute("SELECT pg_terminate_backend(%s)", (before["pid"],)).fetchone()[0]
        wait_until(lambda: stat(conn)["starts"] == before["starts"] + 1, "not started again")
        wait_for(conn, state="up", hot_tiers=1)
        check(first, rows, rows[8])


@pytest.mark.every_major
def test_standby(make_server, rng):
    """A standby copies the file with all else, keeps its own from then on, and has its tiers again after a restart."""
    primary = make_server("primary", PRELOADED)
    db = make_database(primary, "first")
    rows = vectors.clustered(rng, 1000, DIM)
    with db.connect() as conn:
        wait_for(conn, state="up")
        make_loaded(conn, rows)
        make_table(conn, rows, name="u")
        make_index(conn, lists=LISTS, table="u", name="u_v_idx")
    standby = make_server("standby", PRELOADED, source=primary)
    replica = Db(standby, "first")
    primary.wait_for(standby)
    with replica.connect() as conn:
        wait_for(conn, state="up")
        conn.execute("SELECT omen_load('u_v_idx')")
    standby.stop()
    assert len(entries(standby)) >= 1
    standby.start()
    with replica.connect(**BY_INDEX, **GPU) as conn:
        wait_for(conn, hot_tiers=len(entries(standby)), state="up")
        for table in ("t", "u"):
            assert knn(conn, "l2", rows[3], 1, table=table)[0][0] == 3
    with db.connect() as conn:
        conn.execute("DROP TABLE u")
    primary.wait_for(standby)
    with replica.connect() as conn:
        wait_until(lambda: stat(conn)["hot_tiers"] == 1, "the tier stays")
    assert "terminated by signal" not in standby.log_text()


def test_locked_indexes_are_tried_again(make_server, rng):
    """A prepared transaction holds a lock across the restart: the loader does not wait for it, and comes again."""
    server = make_server("locks", PRELOADED | {"max_prepared_transactions": 2})
    db = make_database(server, "first")
    rows = vectors.clustered(rng, 500, DIM)
    with db.connect() as conn:
        wait_for(conn, state="up")
        make_loaded(conn, rows, "t")
        make_loaded(conn, rows, "u")
        conn.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'holds'")
    server.stop()
    server.start()
    with db.connect() as conn:
        wait_for(conn, hot_tiers=1)
        wait_until(lambda: stat(conn)["loaders"] >= 2 and not loaders(conn), "not tried")
        assert len(entries(server)) == 2
        conn.execute("COMMIT PREPARED 'holds'")
        row = wait_for(conn, hot_tiers=2)
        assert row["failed_loads"] == 0
        check(db, rows, rows[3])


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_stopped_while_loading(service, first, rng):
    """What is not loaded again yet is not forgotten."""
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        for name in ("t", "u", "w"):
            make_loaded(conn, rows, name)
        inject(conn, "slow_load")
    service.stop()
    for how in ("fast", "immediate"):
        service.start()
        with first.connect() as conn:
            wait_until(lambda: loaders(conn), "no loader")
            assert stat(conn)["hot_tiers"] == 0
        service.stop(how)
        assert len(entries(service)) == 3
    service.start()
    with first.connect() as conn:
        wait_until(lambda: loaders(conn), "no loader")
        conn.execute("DROP TABLE t")
        inject(conn, "none")
        wait_for(conn, hot_tiers=2)


@pytest.mark.skipif(REAL_GPU, reason="sizes of the simulated device")
def test_no_room_for_all(service, first, rng):
    """Of indexes that have no room together one is loaded again, and stays."""
    rows = vectors.clustered(rng, 8000, DIM)
    with first.connect() as conn:
        for name in ("t", "u"):
            make_loaded(conn, rows, name)
        wait_for(conn, hot_tiers=2)
    service.stop()
    # 1.3 MB each, and the 16 MB that searching takes at most at first.
    service.configure({"omen.gpu_memory_limit": "18MB"})
    with service.log_of() as lines:
        service.start()
        with first.connect() as conn:
            row = wait_for(conn, failed_loads=1, hot_tiers=1)
            assert row["loads"] == 1
        assert lines().count("could not load index") == 1


@pytest.mark.every_major
def test_damaged_index(service, first, rng):
    """An error of PostgreSQL while pages are read ends the load, not more; the server and the other index are as ever."""
    rows = vectors.clustered(rng, 1500, DIM)
    with first.connect() as conn:
        make_loaded(conn, rows)
        make_loaded(conn, rows, "u")
        path = service.data / conn.execute("SELECT pg_relation_filepath('t_v_idx')").fetchone()[0]
    service.stop()
    content = path.read_bytes()
    path.write_bytes(content[:8192 * (len(content) // 16384)] + b"\xa5" * 8192 + content[8192 * (len(content) // 16384 + 1):])
    with service.log_of() as lines:
        service.start()
        with first.connect() as conn:
            wait_for(conn, hot_tiers=1, failed_loads=1)
            wait_until(lambda: not loaders(conn), "the loader goes on")
            assert stat(conn)["loaders"] == 2
            for i in range(20):
                assert knn(conn, "l2", rows[i], 1, table="u")[0][0] == i
            conn.execute("REINDEX INDEX t_v_idx")
        check(first, rows, rows[3])
        assert lines().count("could not load index") == 1 and "terminated by signal" not in lines(), lines()


def test_another_index_with_the_same_file(service, first, rng):
    """ALTER TABLE without a rewrite drops the index and gives its file to a new one: that one is hot, and once."""
    rows = vectors.clustered(rng, 500, DIM)
    with first.connect() as conn:
        make_loaded(conn, rows)
        place = "SELECT oid::int, pg_relation_filenode(oid) FROM pg_class WHERE relname = 't_v_idx'"
        oid, file = conn.execute(place).fetchone()
        conn.execute(f"ALTER TABLE t ALTER COLUMN v TYPE vector({DIM})")
        new_oid, new_file = conn.execute(place).fetchone()
        assert oid != new_oid and file == new_file, "the test shows nothing"
        conn.execute("SELECT omen_load('t_v_idx')")
        wait_for(conn, hot_tiers=1)
        database = conn.execute("SELECT oid FROM pg_database WHERE datname = 'first'").fetchone()[0]
    service.stop()
    assert entries(service) == [f"{database} {new_oid}"]
    service.start()
    check(first, rows, rows[3])
