"""CREATE INDEX whose pages parallel workers write and log: the same index, and nothing is left when it ends badly."""

import os
import signal
import time
from contextlib import suppress

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.builds import build_aside, n_files
from lib.db import BY_INDEX, BY_SORT, Db, assert_same, check_index, knn, make_database, make_index, make_table, put
from lib.server import run
from lib.service import wait_until

DIM, LISTS, ROWS = 100, 12, 12_000
# Entries of a list come to some hundred pages of vectors.
WRITERS = {"max_parallel_maintenance_workers": 3, "maintenance_work_mem": "128MB", "min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0,
           "client_min_messages": "debug1"}
CREATE = f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {LISTS})"
# Of a build whose workers take their time to log.
SLOW = WRITERS | {"omen__logging_pause": 2000}


def writers_of(conn) -> list[int]:
    """How many workers wrote the indexes that this session builds from now on."""
    told = []
    conn.add_notice_handler(lambda d: told.append(int(d.message_primary.split()[4])) if d.message_primary.startswith("omen index written by") else None)
    return told


def assert_whole(db, rows, table="t", name="t_v_idx"):
    """Sound pages, none lost, every row once, and searches that find what a sort finds."""
    with db.connect() as conn:
        checked = check_index(conn, name)
        assert checked["leaked_pages"] == checked["free_pages"] == 0
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS) as by_index, db.connect(**BY_SORT) as by_sort:
        for query in rows[:: len(rows) // 5] + np.float32(0.1):
            assert_same(knn(by_index, "l2", query, 20, table=table), knn(by_sort, "l2", query, 20, table=table), complete_ties=False)


def phase_of(conn) -> str:
    row = conn.execute("SELECT phase FROM pg_stat_progress_create_index").fetchone()
    return row[0] if row else ""


def workers_of(conn, leader: int) -> list[int]:
    return [pid for (pid,) in conn.execute("SELECT pid FROM pg_stat_activity WHERE leader_pid = %s", (leader,)).fetchall()]


@pytest.mark.every_major
@pytest.mark.parametrize("buffers", ("1MB", "64MB"))
def test_pages_are_all_there(make_server, rng, buffers):
    """Permanent, unlogged, in the way and out of the way of others, rebuilt; with few buffers, which pages leave before they are logged."""
    server = make_server("s", {"shared_buffers": buffers}, checksums=True)
    db = make_database(server, "pages")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**WRITERS) as conn:
        told = writers_of(conn)
        make_table(conn, rows)
        for statement in (CREATE, "REINDEX INDEX t_v_idx", "REINDEX INDEX CONCURRENTLY t_v_idx"):
            conn.execute(statement)
            assert told.pop() == 3 and not told, statement
            assert_whole(db, rows)
        conn.execute("DROP INDEX t_v_idx")
        conn.execute(CREATE.replace("INDEX", "INDEX CONCURRENTLY", 1))
        assert told.pop() == 3
        assert_whole(db, rows)
        # Entries that memory does not hold.
        put(conn, maintenance_work_mem="32MB", max_parallel_maintenance_workers=2)
        conn.execute("ALTER TABLE t SET (parallel_workers = 2); REINDEX INDEX t_v_idx")
        assert told.pop() == 2
        assert_whole(db, rows)
        put(conn, **WRITERS)
        make_table(conn, rows, name="u", kind="UNLOGGED")
        make_index(conn, lists=LISTS, table="u", name="u_v_idx")
        assert told.pop() == 3
        assert_whole(db, rows, table="u", name="u_v_idx")
        make_table(conn, rows[:500], name="temporary", kind="TEMP")
        make_index(conn, lists=LISTS, table="temporary", name="temporary_v_idx")
        assert not told
    # All of it was logged.
    server.kill()
    server.start()
    assert_whole(db, rows)
    with db.connect() as conn:
        assert conn.execute("SELECT count(*) FROM u").fetchone()[0] == 0
        check_index(conn, "u_v_idx")
    server.check_checksums()


@pytest.mark.every_major
def test_small_indexes_have_no_writers(db, rng):
    """By default a worker is worth while from 8 MB on."""
    with db.connect(**WRITERS) as conn:
        told = writers_of(conn)
        make_table(conn, vectors.clustered(rng, ROWS, DIM))
        for kb, wanted in ((512, []), (8, [3]), (128, [1])):
            put(conn, min_parallel_index_scan_size=f"{kb}kB")
            make_index(conn, lists=LISTS)
            assert told == wanted, kb
            told.clear()
            conn.execute("DROP INDEX t_v_idx")


@pytest.mark.every_major
def test_no_more_writers_than_buffers_allow(make_server, rng):
    """A process pins 32 buffers while it logs: more workers than there are buffers for would find none free."""
    server = make_server("s", {"shared_buffers": "1MB", "max_worker_processes": 12, "max_parallel_workers": 8})
    db = make_database(server, "few")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**(WRITERS | {"max_parallel_maintenance_workers": 8})) as conn:
        told = writers_of(conn)
        make_table(conn, rows)
        for _ in range(5):
            conn.execute(CREATE)
            assert 1 <= told.pop() <= 3
            conn.execute("DROP INDEX t_v_idx")
        conn.execute(CREATE)
    assert_whole(db, rows)


@pytest.mark.every_major
@pytest.mark.parametrize("n_processes, told_of", ((2, [1]), (1, [])))
def test_fewer_workers_than_planned(make_server, rng, n_processes, told_of):
    """The server has fewer processes than the settings allow workers, or none: the launcher of logical replication has one of them."""
    db = make_database(make_server("s", {"max_worker_processes": n_processes}), "fewer")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**WRITERS) as conn:
        told = writers_of(conn)
        make_table(conn, rows)
        conn.execute(CREATE)
        assert told == told_of
    assert_whole(db, rows)


@pytest.mark.every_major
def test_by_every_statement(make_server, rng):
    """A tablespace, tables that are rewritten, or become unlogged and logged, partitions."""
    server = make_server("s", checksums=True)
    space = server.dir / "space"
    run(["mkdir", space])
    server.sql(f"CREATE TABLESPACE omen_space LOCATION '{space}'")
    db = make_database(server, "statements")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**WRITERS) as conn:
        told = writers_of(conn)
        make_table(conn, rows)
        conn.execute("CREATE TABLE copied AS TABLE t")
        for statement in (CREATE, "ALTER INDEX t_v_idx SET TABLESPACE omen_space; REINDEX INDEX t_v_idx", "ALTER TABLE t SET UNLOGGED", "ALTER TABLE t SET LOGGED",
                          "VACUUM FULL t", "BEGIN; TRUNCATE t; INSERT INTO t TABLE copied; REINDEX TABLE t; COMMIT"):
            conn.execute(statement)
            assert told.pop() == 3 and not told, statement
            assert_whole(db, rows)
        conn.execute("CREATE TABLE p (id integer, v vector(100)) PARTITION BY RANGE (id); CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (7000); "
                     "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (7000) TO (100000); INSERT INTO p TABLE t")
        make_index(conn, lists=LISTS, table="p", name="p_v_idx")
        assert told == [3, 3]
    server.kill()
    server.start()
    assert_whole(db, rows)
    for part in ("p0", "p1"):
        with db.connect() as conn:
            check_index(conn, f"{part}_v_idx")
    server.check_checksums()


@pytest.mark.every_major
def test_an_error_that_is_caught(db, rng):
    """A build that is cancelled while its workers log: they and its file are gone, and the transaction goes on, with a build by workers."""
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**SLOW) as conn:
        told = writers_of(conn)
        make_table(conn, rows)
        n_before = n_files(conn)
        # A third of it goes by before they log.
        put(conn, statement_timeout="3s", omen__logging_pause=10_000)
        conn.execute(f"""DO $$ BEGIN
            BEGIN
                {CREATE};
                RAISE 'it was not cancelled';
            EXCEPTION WHEN query_canceled THEN
                NULL;
            END;
            PERFORM set_config('omen.logging_pause', '0', true);
            IF EXISTS (SELECT FROM pg_stat_activity WHERE leader_pid = pg_backend_pid()) THEN RAISE 'a worker goes on'; END IF;
            {CREATE};
        END $$""")
        put(conn, statement_timeout=0)
        assert told == [3]
        assert n_files(conn) == n_before + 1
    assert_whole(db, rows)


@pytest.mark.every_major
def test_a_standby_replays_it(make_server, rng):
    """Beside checkpoints at any time; the standby's index is as sound, and full-page images agree with what redo makes."""
    primary = make_server("primary", {"wal_consistency_checking": "all"})
    db = make_database(primary, "standby")
    standby = make_server("standby", source=primary)
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**(SLOW | {"omen__logging_pause": 20})) as conn, db.connect() as other:
        told = writers_of(conn)
        make_table(conn, rows)
        thread, outcome = build_aside(conn, CREATE)
        n = 0
        while thread.is_alive():
            other.execute("CHECKPOINT")
            n += 1
        thread.join()
        assert outcome == [None] and told == [3] and n > 2
        other.execute("INSERT INTO t SELECT id + 100000, v FROM t WHERE id < 100")
    primary.wait_for(standby)
    assert_whole(Db(standby, "standby"), rows)
    primary.kill()
    primary.start()
    assert_whole(db, rows)


@pytest.mark.parametrize("how", (*(pytest.param(how, marks=pytest.mark.quiet) for how in ("cancel", "terminate", "terminate a worker")), "kill a worker", "kill"))
@pytest.mark.parametrize("phase", ("writing lists", "logging lists"))
def test_ended(make_server, rng, phase, how):
    """At once; nothing is left, and the next build works."""
    # With so few buffers logging may not wait, and so pages have to.
    server = make_server("s", {"shared_buffers": "1MB"} if phase == "writing lists" else {})
    db = make_database(server, "ended")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        n_before = n_files(conn)
    builder = db.connect(**SLOW)
    pid = builder.info.backend_pid
    with server.connect("ended") as other:
        thread, outcome = build_aside(builder, CREATE)
        wait_until(lambda: phase in phase_of(other) or not thread.is_alive(), f"the phase {phase} does not come")
        assert thread.is_alive(), outcome
        workers = wait_until(lambda: workers_of(other, pid), "no worker comes")
        time.sleep(float(rng.uniform(0, 0.1)))
        sent = time.monotonic()
        if how in ("cancel", "terminate"):
            other.execute(f"SELECT pg_{how}_backend({pid})")
        elif how == "terminate a worker":
            other.execute(f"SELECT pg_terminate_backend({workers[0]})")
        else:
            with suppress(ProcessLookupError):
                os.kill(workers[0] if how == "kill a worker" else pid, signal.SIGKILL)
        thread.join(60)
        took = time.monotonic() - sent
        assert not thread.is_alive() and isinstance(outcome[0], psycopg.Error), outcome
        assert took < 1 or "kill" in how, f"it took {took:.1f} s"
    builder.close()

    def is_back():
        with suppress(psycopg.OperationalError), db.connect() as conn:
            return conn.execute("SELECT count(*) FROM t").fetchone()[0] == ROWS
    wait_until(is_back, "the server does not come back")
    with db.connect(**WRITERS) as conn:
        wait_until(lambda: not workers_of(conn, pid), "a worker goes on")
        if "kill" not in how:
            assert n_files(conn) == n_before
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == 0
        conn.execute(CREATE)
    assert_whole(db, rows)


def test_no_room_for_a_worker(make_server, rng):
    """A worker that may not write files of more than 17 MB, as on a full disk: its error, nothing left, and a build when there is room."""
    server = make_server("s")
    db = make_database(server, "room")
    rows = vectors.clustered(rng, 12_000, 800)
    limit = lambda size: run(["prlimit", "--pid", server.pid(), f"--fsize={size}:"])  # noqa: E731
    with db.connect(**WRITERS) as conn:
        make_table(conn, rows)
        conn.execute("CHECKPOINT")
        n_before = n_files(conn)
        # Of processes that begin from now on.
        limit(17 << 20)
        try:
            with pytest.raises(psycopg.Error) as failed:
                conn.execute(CREATE)
        finally:
            limit("unlimited")
        assert "could not extend file" in str(failed.value) and "File too large" in str(failed.value), failed.value
        assert n_files(conn) == n_before
        conn.execute(CREATE)
    assert_whole(db, rows)
