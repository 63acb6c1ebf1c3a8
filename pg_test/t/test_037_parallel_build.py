"""CREATE INDEX whose table is read by parallel workers: the same index as from one process, whatever goes on meanwhile and however it ends."""

import re
import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import batch
from lib.builds import build_aside, n_files
from lib.db import BY_INDEX, BY_SORT, assert_same, knn, make_index, make_table, put
from lib.exact import OPERATORS

DIM, LISTS, ROWS = 40, 20, 6000
PARALLEL = {"max_parallel_maintenance_workers": 3, "maintenance_work_mem": "128MB", "min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0,
            "client_min_messages": "debug1"}
SERIAL = PARALLEL | {"max_parallel_maintenance_workers": 0}


def told_by(conn) -> list:
    """What builds tell from now on: rows, lists, workers."""
    told = []

    def note(diagnostic):
        built = re.search(r'omen index "\w+" built in [\d.]+ s: (\d+) rows in (\d+) lists', diagnostic.message_primary)
        if built:
            workers = re.search(r"Parallel workers: (\d+)\. Time: sampling [\d.]+ s, k-means", diagnostic.message_detail)
            told.append((int(built[1]), int(built[2]), int(workers[1])))
    conn.add_notice_handler(note)
    return told


@pytest.fixture
def builder(db):
    with db.connect(**PARALLEL) as conn:
        yield conn


@pytest.fixture
def told(builder):
    return told_by(builder)


def assert_whole(db, metric="l2", table="t", where="", n=25):
    """Searches of all lists give the rows of a sort, and each row of the table comes once."""
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS, omen__iterative_scan="relaxed_order") as by_index, \
            db.connect(**BY_SORT) as by_sort:
        rng = vectors.rng_for("queries")
        for query in vectors.clustered(rng, n, DIM):
            found, wanted = (knn(conn, metric, query, 20, table=table, where=where) for conn in (by_index, by_sort))
            assert_same(found, wanted, complete_ties=False)
        found = sorted(row for row, _ in knn(by_index, metric, query, None, table=table, where=where))
        condition = f"WHERE {where}" if where else ""
        assert found == sorted(row for (row,) in by_sort.execute(f"SELECT id FROM {table} {condition}"))


@pytest.mark.every_major
@pytest.mark.parametrize("metric", OPERATORS)
def test_rows_are_all_there(db, builder, told, rng, metric):
    rows = vectors.clustered(rng, ROWS, DIM)
    make_table(builder, rows)
    make_index(builder, metric, lists=LISTS)
    assert told == [(ROWS, LISTS, 3)]
    assert_whole(db, metric)
    assert builder.execute("SELECT reltuples FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == ROWS
    put(builder, **SERIAL)
    builder.execute("REINDEX INDEX t_v_idx")
    assert told[1:] == [(ROWS, LISTS, 0)]
    assert_whole(db, metric)
    put(builder, **PARALLEL)
    builder.execute("REINDEX INDEX CONCURRENTLY t_v_idx")
    assert told[2:] == [(ROWS, LISTS, 3)]
    assert_whole(db, metric)
    # No process and no snapshot is left.
    assert builder.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'").fetchone()[0] == 0


def test_kinds_of_tables_and_indexes(db, builder, told, rng):
    """Partial indexes, expressions, NULLs, rows that have no direction, unlogged and partitioned tables; temporary ones are for one process."""
    rows = vectors.clustered(rng, ROWS, DIM)
    make_table(builder, rows)
    builder.execute("UPDATE t SET v = NULL WHERE id % 10 = 0")
    builder.execute("UPDATE t SET v = array_fill(0, ARRAY[40])::vector WHERE id % 10 = 1")
    builder.execute("DELETE FROM t WHERE id % 10 = 2")
    make_index(builder, "cosine", lists=LISTS)
    # Of a table that was changed by a snapshot of now.
    assert told.pop() == (ROWS * 7 // 10, LISTS, 3)
    assert_whole(db, "cosine", where="mod(id, 10) > 2")
    builder.execute("DROP INDEX t_v_idx")
    builder.execute(f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {LISTS}) WHERE mod(id, 3) = 0")
    assert told.pop()[2] == 3
    assert_whole(db, where="mod(id, 3) = 0 AND v IS NOT NULL")
    builder.execute("CREATE INDEX e_idx ON t USING omen (((v + v)::vector(40)) vector_l2_ops) WITH (lists = 5)")
    assert told.pop()[1:] == (5, 3)
    builder.execute("CREATE FUNCTION same(vector) RETURNS vector IMMUTABLE PARALLEL UNSAFE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'")
    builder.execute("CREATE INDEX u_idx ON t USING omen ((same(v)::vector(40)) vector_l2_ops) WITH (lists = 5)")
    assert told.pop()[1:] == (5, 0)
    make_table(builder, rows, name="unlogged", kind="UNLOGGED")
    make_index(builder, lists=LISTS, table="unlogged", name="unlogged_v_idx")
    assert told.pop() == (ROWS, LISTS, 3)
    assert_whole(db, table="unlogged", n=5)
    make_table(builder, rows, name="temporary", kind="TEMP")
    make_index(builder, lists=LISTS, table="temporary", name="temporary_v_idx")
    assert told.pop() == (ROWS, LISTS, 0)
    builder.execute("CREATE TABLE p (id integer, v vector(40)) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (3000); "
                    "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (3000) TO (6000)")
    vectors.copy_rows(builder, "p", np.arange(ROWS), rows)
    builder.execute(f"CREATE INDEX p_idx ON p USING omen (v vector_l2_ops) WITH (lists = {LISTS})")
    assert sorted(told) == [(3000, LISTS, told[0][2])] * 2 and told[0][2] > 0
    assert_whole(db, table="p", n=5)


def test_vectors_out_of_line(db, builder, told, rng):
    """Large ones, which workers fetch from the TOAST table."""
    rows = vectors.uniform(rng, 300, 1500)
    builder.execute("CREATE TABLE t (id integer, v vector(1500)); ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    vectors.copy_rows(builder, "t", np.arange(300), rows)
    make_index(builder, lists=4)
    assert told[0][:2] == (300, 4) and told[0][2] > 0
    found = batch(builder, rows[:100], 1, 4)
    assert [found[i + 1][0][0] for i in range(100)] == list(range(100))


def test_settings_say_how_many(db, builder, told, rng):
    make_table(builder, vectors.clustered(rng, ROWS, DIM))
    for settings, option, workers in (({"max_parallel_maintenance_workers": 1}, None, 1), ({}, 2, 2), ({"max_parallel_maintenance_workers": 0}, 2, 0),
                                      ({"maintenance_work_mem": "16MB"}, None, 1), ({"min_parallel_table_scan_size": "8MB"}, None, 0), ({"min_parallel_table_scan_size": "8MB"}, 3, 3), ({"max_parallel_workers": 0}, None, 0),
                                      ({"max_parallel_workers": 1}, None, 1)):
        put(builder, max_parallel_workers=8, **PARALLEL)
        put(builder, **settings)
        builder.execute(f"ALTER TABLE t SET (parallel_workers = {option})" if option else "ALTER TABLE t RESET (parallel_workers)")
        make_index(builder, lists=LISTS)
        assert told.pop()[2] == workers, (settings, option)
        assert_whole(db, n=3)
        builder.execute("DROP INDEX t_v_idx")


@pytest.mark.every_major
def test_rows_change_meanwhile(db, builder, told, rng):
    """CREATE INDEX CONCURRENTLY beside inserts, updates and deletes: nothing is lost, row by row."""
    make_table(builder, vectors.clustered(rng, ROWS, DIM), options="WITH (fillfactor = 70)")
    ends, failed = threading.Event(), []

    def change(number: int):
        try:
            mine = vectors.rng_for(f"changes {number}")
            with db.connect() as conn:
                step = 0
                while not ends.is_set():
                    first = 1_000_000 * (number + 1) + 20 * step
                    vectors.copy_rows(conn, "t", np.arange(first, first + 20), vectors.clustered(mine, 20, DIM))
                    conn.execute("UPDATE t SET v = v + v WHERE mod(id, 997) = %s", (int(mine.integers(997)),))
                    conn.execute("UPDATE t SET id = id WHERE mod(id, 997) = %s", (int(mine.integers(997)),))
                    conn.execute("DELETE FROM t WHERE mod(id, 499) = %s AND id < 6000", (int(mine.integers(499)),))
                    step += 1
        except Exception as error:  # noqa: BLE001  # reported at the end, from the main thread
            failed.append(error)
    threads = [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            builder.execute("DROP INDEX IF EXISTS t_v_idx")
            make_index(builder, lists=LISTS, concurrently=True)
            assert told.pop()[2] > 0
            assert builder.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_v_idx'::regclass").fetchone()[0]
            builder.execute("REINDEX INDEX CONCURRENTLY t_v_idx")
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not failed, failed[0]
    assert_whole(db)


def test_broken_hot_chains(db, builder, told, rng):
    """An index that older snapshots must not use says so, as one built by a single process does."""
    for settings, workers in ((PARALLEL, 3), (SERIAL, 0)):
        put(builder, **settings)
        builder.execute("CREATE TABLE t (id integer, v vector(40)) WITH (fillfactor = 50)")
        vectors.copy_rows(builder, "t", np.arange(2000), vectors.clustered(rng, 2000, DIM))
        with db.connect() as old:
            old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM t")
            builder.execute("UPDATE t SET v = v + v WHERE id % 50 = 0")
            make_index(builder, lists=4)
            assert told.pop()[2] == workers
            assert builder.execute("SELECT indcheckxmin FROM pg_index WHERE indexrelid = 't_v_idx'::regclass").fetchone()[0]
            old.execute("COMMIT")
        builder.execute("DROP TABLE t")


def test_errors_of_workers(db, builder, told, rng):
    """As from one process: the code, the message; nothing is left behind, and the next build works."""
    builder.execute("CREATE TABLE t (id integer, v vector)")
    vectors.copy_rows(builder, "t", np.arange(ROWS), vectors.clustered(rng, ROWS, DIM))
    builder.execute("""CREATE FUNCTION picky(id int, v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
        BEGIN
            IF id = 4321 AND (SELECT leader_pid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()) THEN
                RAISE EXCEPTION 'a worker does not like it' USING ERRCODE = 'division_by_zero';
            END IF;
            RETURN v;
        END $$""")
    builder.execute("""CREATE FUNCTION short(id int, v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
        BEGIN
            IF id = 4321 AND (SELECT leader_pid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()) THEN
                RETURN '[1,2]';
            END IF;
            RETURN v;
        END $$""")
    files = n_files(builder)
    builder.execute("INSERT INTO t VALUES (-1, '[1,2]')")
    for how in ("", "CONCURRENTLY"):
        with pytest.raises(psycopg.errors.DataException, match="expected 40 dimensions, not 2"):
            builder.execute(f"CREATE INDEX {how} t_v_idx ON t USING omen ((v::vector(40)) vector_l2_ops)")
        builder.execute("DROP INDEX IF EXISTS t_v_idx")
        # One that only a worker makes.
        with pytest.raises(psycopg.errors.DivisionByZero, match="a worker does not like it"):
            builder.execute(f"CREATE INDEX {how} t_v_idx ON t USING omen ((picky(id, v)::vector(40)) vector_l2_ops) WHERE id >= 0")
        builder.execute("DROP INDEX IF EXISTS t_v_idx")
        # A row whose dimension only a worker finds wrong.
        with pytest.raises(psycopg.errors.DataException, match="expected 40 dimensions, not 2"):
            builder.execute(f"CREATE INDEX {how} t_v_idx ON t USING omen ((short(id, v)::vector(40)) vector_l2_ops) WHERE id >= 0")
        builder.execute("DROP INDEX IF EXISTS t_v_idx")
    assert n_files(builder) == files
    assert builder.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'").fetchone()[0] == 0
    builder.execute("DELETE FROM t WHERE id < 0")
    put(builder, **PARALLEL)
    builder.execute("ALTER TABLE t ALTER v TYPE vector(40)")
    make_index(builder, lists=LISTS)
    assert told.pop()[2] == 3
    assert_whole(db, n=3)


def workers_of(conn, leader: int) -> list[int]:
    return [pid for (pid,) in conn.execute("SELECT pid FROM pg_stat_activity WHERE leader_pid = %s", (leader,)).fetchall()]


@pytest.mark.parametrize("how", ("cancel", "terminate a worker", "terminate"))
def test_ended_while_workers_read(db, rng, how):
    """The build fails, within seconds; no worker goes on, no file is left, and the table is as it was."""
    with db.connect() as other:
        make_table(other, vectors.clustered(rng, ROWS, DIM))
        # Slow in workers alone.
        other.execute("""CREATE FUNCTION slow(id int, v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
            BEGIN
                IF mod(id, 50) = 0 AND (SELECT leader_pid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()) THEN
                    PERFORM pg_sleep(0.5);
                END IF;
                RETURN v;
            END $$""")
        files = n_files(other)
        for _ in range(3):
            builder = db.connect(**PARALLEL)
            pid = builder.info.backend_pid
            thread, outcome = build_aside(builder, "CREATE INDEX t_v_idx ON t USING omen ((slow(id, v)::vector(40)) vector_l2_ops) WITH (lists = 20)")
            end = time.monotonic() + 20
            while not (workers := workers_of(other, pid)):
                assert time.monotonic() < end and thread.is_alive(), outcome
            time.sleep(float(rng.uniform(0, 0.3)))
            function, whom = {"cancel": ("pg_cancel_backend", pid), "terminate": ("pg_terminate_backend", pid),
                              "terminate a worker": ("pg_terminate_backend", workers[0])}[how]
            assert other.execute(f"SELECT {function}({whom})").fetchone()[0]
            sent = time.monotonic()
            thread.join(30)
            assert not thread.is_alive() and outcome[0] is not None, outcome
            assert time.monotonic() - sent < 5, "it did not react"
            builder.close()
            end = time.monotonic() + 20
            while workers_of(other, pid):
                assert time.monotonic() < end, "a worker goes on"
                time.sleep(0.02)
        assert n_files(other) == files
        assert other.execute("SELECT count(*) FROM t").fetchone()[0] == ROWS
    with db.connect(**PARALLEL) as builder:
        make_index(builder, lists=LISTS)
    assert_whole(db, n=3)


def test_cancelled_in_any_phase(db, rng):
    """Either it is built, and whole, or nothing is left of it."""
    with db.connect() as other:
        make_table(other, vectors.clustered(rng, 30_000, DIM))
        files = n_files(other)
        for delay in np.linspace(0.05, 0.6, 7):
            with db.connect(**PARALLEL) as builder:
                thread, outcome = build_aside(builder, f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {LISTS})")
                time.sleep(float(delay))
                other.execute(f"SELECT pg_cancel_backend({builder.info.backend_pid})")
                thread.join(30)
                assert not thread.is_alive()
            if outcome[0] is None:
                assert_whole(db, n=2)
                other.execute("DROP INDEX t_v_idx")
            else:
                assert outcome[0].sqlstate == "57014", outcome
        assert n_files(other) == files


def test_progress(db, rng):
    """Blocks and rows that are done, while it runs."""
    rows = vectors.clustered(rng, 60_000, DIM)
    with db.connect(**PARALLEL) as builder, db.connect() as other:
        make_table(builder, rows)
        thread = threading.Thread(target=lambda: make_index(builder, lists=500))
        thread.start()
        seen = []
        while thread.is_alive():
            row = other.execute("SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total FROM pg_stat_progress_create_index").fetchone()
            if row and "assigning" in row[0]:
                seen.append(row[1:])
        thread.join()
    assert any(0 < blocks <= total for blocks, total, _, _ in seen), seen[:5]
    assert any(0 < done and total > 0 for _, _, done, total in seen), seen[:5]
    assert all(a[0] <= b[0] and a[2] <= b[2] for a, b in zip(seen, seen[1:]))
