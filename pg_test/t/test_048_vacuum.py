"""VACUUM: space is used again, nothing to do costs little, two indexes at once by parallel workers, and the ways in which rows can half die."""

import re
import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.db import BY_INDEX, REAL_GPU, index_status, make_database, make_index, make_table
from lib.stops import Stopping

DIM, LISTS = 40, 10


def pages(conn, index: str = "t_v_idx") -> int:
    return conn.execute("SELECT pg_relation_size(%s) / 8192", (index,)).fetchone()[0]


def entries(conn, index: str = "t_v_idx") -> int:
    """Rows that VACUUM has counted in the index."""
    return int(conn.execute("SELECT reltuples FROM pg_class WHERE relname = %s", (index,)).fetchone()[0])


@pytest.mark.every_major
@pytest.mark.parametrize("drifts", (False, True))
def test_size_over_cycles(db, rng, drifts):
    """Twenty times half of the rows go and others come, where they went or elsewhere: the index stays as large as in the first cycles."""
    n = 4000
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, n, DIM))
        make_index(conn, lists=LISTS)
        sizes, compared = [pages(conn)], 0
        for cycle in range(1, 21):
            conn.execute("DELETE FROM t WHERE mod(hashint4(id), 2) = 0 OR id IN (SELECT id FROM t ORDER BY random() LIMIT 500)")
            missing = n - conn.execute("SELECT count(*) FROM t").fetchone()[0]
            if cycle % 2:
                conn.execute("VACUUM t")
                assert entries(conn) == n - missing
            rows = vectors.clustered(rng, missing, DIM) + np.float32(0.2 * cycle * drifts)
            vectors.copy_rows(conn, "t", 10_000 * cycle + np.arange(missing), rows)
            conn.execute("VACUUM t")
            sizes.append(pages(conn))
            if cycle % 5 == 0:
                compared += check_indexes(conn)
        print(f"pages after each cycle: {sizes}, {compared} rows compared")
        # While a list is rewritten it is there twice; where the data moves away from the centroids, ever more rows are in one list.
        assert max(sizes[11:]) <= (1.4 if drifts else 1.1) * max(sizes[3:11]), sizes
        assert max(sizes) <= 3 * sizes[0], sizes


def test_size_without_vacuum(db, rng):
    """Folds by inserts alone use the pages that others gave back; of the index only what the rows need comes to it."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 2000, DIM))
        make_index(conn, lists=1)
        for part in range(40):
            vectors.copy_rows(conn, "t", 10_000 + 150 * part + np.arange(150), vectors.clustered(rng, 150, DIM))
        n = pages(conn)
        conn.execute("REINDEX INDEX t_v_idx")
        print(f"{n} pages after folds, {pages(conn)} as built")
        assert n <= 2.6 * pages(conn)
        check_indexes(conn)


@pytest.mark.skipif(REAL_GPU, reason="processes stop in test builds alone")
def test_pages_of_folds_that_were_cancelled(db, rng):
    """Each leaves what it has written: VACUUM finds out, and gives the pages back."""
    with db.connect() as conn, db.connect() as canceller:
        make_table(conn, vectors.clustered(rng, 4000, DIM))
        make_index(conn, lists=1)
        before, compared = pages(conn), 0
        # So many that VACUUM folds them, and no insert does.
        vectors.copy_rows(conn, "t", np.arange(10_000, 10_300), vectors.clustered(rng, 300, DIM))
        for _ in range(8):
            with Stopping(db) as vacuum:
                # In the middle of writing the list's new pages.
                assert vacuum.execute(40, "VACUUM t")
                canceller.execute("SELECT pg_cancel_backend(%s)", (vacuum.pid,))
                with pytest.raises(psycopg.errors.QueryCanceled):
                    vacuum.go_on()
            compared += check_indexes(conn)
        left = pages(conn)
        # The pages carry the number of the list's next layout: they are nobody's once that is over.
        for part in range(2):
            conn.execute("DELETE FROM t WHERE mod(hashint4(id), 4) = %s", (part,))
            conn.execute("VACUUM t")
        after = pages(conn)
        for part in range(8):
            vectors.copy_rows(conn, "t", 20_000 + 500 * part + np.arange(500), vectors.clustered(rng, 500, DIM))
            conn.execute("VACUUM t")
        compared += check_indexes(conn)
        print(f"{before} pages as built, {left} after eight folds cancelled, {after} after VACUUM, {pages(conn)} with twice the rows; {compared} rows compared")
        assert left > before + 200
        assert pages(conn) <= after


def blocks_used(conn, index: str = "t_v_idx") -> int:
    """Accesses to the index's pages so far, as Postgres counts them once sessions have told."""
    conn.execute("SELECT pg_stat_clear_snapshot()")
    return conn.execute("SELECT idx_blks_read + idx_blks_hit FROM pg_statio_user_indexes WHERE indexrelname = %s", (index,)).fetchone()[0]


@pytest.mark.every_major
def test_nothing_died(db, rng):
    """VACUUM then looks at the directory and at the ends of appended parts, not at the rest; nor does it write anything."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 30_000, DIM))
        make_index(conn, lists=LISTS)
        vectors.copy_rows(conn, "t", 100_000 + np.arange(60), vectors.clustered(rng, 60, DIM))
        for _ in range(2):
            conn.execute("VACUUM t")
    # Counts are told when a session ends at the latest.
    with db.connect() as conn:
        time.sleep(1)
        n_pages, used = pages(conn), blocks_used(conn)
    with db.connect() as conn:
        wal = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
        conn.execute("VACUUM t")
        logged = conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", (wal,)).fetchone()[0]
    with db.connect() as conn:
        end = time.monotonic() + 10
        while (more := blocks_used(conn) - used) == 0:
            assert time.monotonic() < end, "no access was counted"
            time.sleep(0.1)
        print(f"{more} accesses to an index of {n_pages} pages and {LISTS} lists, {logged} bytes of WAL")
        assert 0 < more <= 3 * LISTS + 10 < n_pages / 5
        assert logged < 20_000


@pytest.mark.every_major
def test_parallel_workers(db, rng):
    """Three indexes, each by a worker of its own or by the leader, while rows come: each is as if it had been vacuumed alone."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 6000, DIM))
        conn.execute("SET min_parallel_index_scan_size = 0; SET max_parallel_maintenance_workers = 2")
        for name, metric, lists in (("l2_idx", "l2", 7), ("ip_idx", "ip", 3), ("cosine_idx", "cosine", 12)):
            make_index(conn, metric, lists=lists, name=name)
        said, failed, stop = [], [], threading.Event()
        conn.add_notice_handler(lambda notice: said.append(notice.message_primary + (notice.message_detail or "")))

        def insert():
            try:
                own = vectors.rng_for("beside parallel workers")
                with db.connect() as other:
                    for part in range(10_000):
                        if stop.is_set():
                            return
                        vectors.copy_rows(other, "t", 100_000 + 10 * part + np.arange(10), vectors.clustered(own, 10, DIM))
                        time.sleep(0.01)
            except Exception as e:  # noqa: BLE001  # reported below, from the main thread
                failed.append(e)

        thread, compared = threading.Thread(target=insert), 0
        thread.start()
        for cycle in range(8):
            conn.execute("DELETE FROM t WHERE mod(hashint4(id), 8) = %s OR id IN (SELECT id FROM t ORDER BY random() LIMIT 300)", (cycle,))
            conn.execute("VACUUM (PARALLEL 2, VERBOSE, TRUNCATE off) t")
        stop.set()
        thread.join()
        assert not failed, failed
        compared = check_indexes(conn)
        conn.execute("DELETE FROM t WHERE id % 3 = 0")
        conn.execute("VACUUM (PARALLEL 2) t")
        n = conn.execute("SELECT count(*) FROM t").fetchone()[0]
        assert [entries(conn, name) for name in ("l2_idx", "ip_idx", "cosine_idx")] == [n] * 3
        compared += check_indexes(conn)
        launched = [int(n) for text in said for n in re.findall(r"launched (\d) parallel vacuum worker", text)]
        print(f"workers launched: {launched}, {compared} rows compared")
        assert sum(launched) >= 8, said[:20]


@pytest.mark.every_major
def test_hot_updates(db, rng):
    """They leave the index as it is; searches give the newest version, also once VACUUM has shortened the chains, and of slots used again."""
    with db.connect(**BY_INDEX) as conn:
        make_table(conn, vectors.clustered(rng, 1000, DIM), options="WITH (fillfactor = 30)")
        conn.execute("ALTER TABLE t ADD note integer DEFAULT 0")
        make_index(conn, lists=LISTS)
        before, compared = pages(conn), 0
        for turn in range(1, 6):
            for _ in range(3):
                conn.execute("UPDATE t SET note = %s WHERE id %% 2 = 0", (turn,))
            compared += check_indexes(conn)
            conn.execute("VACUUM t")
            compared += check_indexes(conn)
        end = time.monotonic() + 10
        while not (hot := conn.execute("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 't'").fetchone()[0]):
            assert time.monotonic() < end, "no update was HOT"
            time.sleep(0.1)
        assert pages(conn) == before and index_status(conn)["rows"] == 1000
        assert conn.execute("SELECT count(*) FROM t WHERE note = 5").fetchone()[0] == 500
        conn.execute("DELETE FROM t WHERE id % 4 = 0")
        conn.execute("VACUUM t")
        vectors.copy_rows(conn, "t", np.arange(5000, 5500), vectors.clustered(rng, 500, DIM))
        compared += check_indexes(conn)
        print(f"{hot} HOT updates, {compared} rows compared")


@pytest.mark.every_major
def test_rows_that_are_half_dead(make_server, rng):
    """Deleted in a transaction that is prepared, in a subtransaction that is undone, or with the indexes left alone by VACUUM: found as long as
    they are to be seen, and gone when they are not."""
    server = make_server("half", {"max_prepared_transactions": 5})
    db = make_database(server, "half")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 1600, DIM))
        make_index(conn, lists=LISTS)
        n = 1600
        for end in ("ROLLBACK", "COMMIT"):
            conn.execute("BEGIN; DELETE FROM t WHERE id % 4 = 1; INSERT INTO t SELECT id + 100000, v FROM t WHERE id % 8 = 0 AND id < 100000; PREPARE TRANSACTION 'half'")
            conn.execute("VACUUM t")
            assert check_indexes(conn, prepared=True) == 2 * n
            server.kill()
            server.start()
            conn = db.connect()
            conn.execute("VACUUM t")
            assert check_indexes(conn, prepared=True) == 2 * n
            conn.execute(f"{end} PREPARED 'half'")
            conn.execute("VACUUM t")
            n = n if end == "ROLLBACK" else n - 400 + 200
            assert check_indexes(conn) == 2 * n
            assert entries(conn) == n
        conn.execute("BEGIN; SAVEPOINT a; DELETE FROM t WHERE id % 4 = 2; SAVEPOINT b; UPDATE t SET v = v * v; ROLLBACK TO a; "
                     "INSERT INTO t SELECT id + 200000, v FROM t WHERE id < 50; SAVEPOINT c; TRUNCATE t; INSERT INTO t SELECT i, (SELECT v FROM t LIMIT 1) FROM generate_series(1, 9) i; "
                     "ROLLBACK TO c; COMMIT")
        conn.execute("VACUUM t")
        n = conn.execute("SELECT count(*) FROM t").fetchone()[0]
        assert 1400 < n < 1600 and check_indexes(conn) == 2 * n and entries(conn) == n
        # Entries of dead rows stay, and their slots are not used again.
        conn.execute("DELETE FROM t WHERE id % 4 = 2")
        conn.execute("VACUUM (INDEX_CLEANUP off) t")
        left = n - 400
        vectors.copy_rows(conn, "t", np.arange(300_000, 300_400), vectors.clustered(rng, 400, DIM))
        assert check_indexes(conn) == 2 * conn.execute("SELECT count(*) FROM t").fetchone()[0]
        conn.execute("VACUUM (INDEX_CLEANUP on) t")
        vectors.copy_rows(conn, "t", np.arange(400_000, 400_400), vectors.clustered(rng, 400, DIM))
        n = conn.execute("SELECT count(*) FROM t").fetchone()[0]
        assert n >= left + 800 - 50 and check_indexes(conn) == 2 * n
        conn.close()
