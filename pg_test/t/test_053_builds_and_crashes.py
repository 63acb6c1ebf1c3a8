"""Indexes whose build was not logged, and builds in the middle of which the server is killed."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.db import BY_INDEX, knn, make_database, make_index, make_table, put
from lib.service import wait_until

DIM = 24
# Builds have parallel workers, of tables and indexes of any size.
WORKERS = {"min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0, "max_parallel_maintenance_workers": 3, "maintenance_work_mem": "128MB"}


@pytest.mark.every_major
@pytest.mark.parametrize("threshold", ("0", "1GB"))
def test_builds_that_are_not_logged(make_server, rng, threshold):
    """With wal_level = minimal, the pages of a table and index made in one transaction are written at its end, or logged if they are few."""
    server = make_server("minimal", {"wal_level": "minimal", "max_wal_senders": 0, "wal_skip_threshold": threshold, "fsync": "on", **WORKERS}, checksums=True)
    db, n = make_database(server, "minimal"), 0
    rows = vectors.clustered(rng, 3000, DIM)
    for crashes in ("after", "in between"):
        conn = db.connect()
        conn.execute("DROP TABLE IF EXISTS t")
        conn.execute("CHECKPOINT")
        conn.execute("BEGIN")
        make_table(conn, rows)
        make_index(conn, lists=8)
        vectors.copy_rows(conn, "t", 10_000 + np.arange(900), vectors.clustered(rng, 900, DIM))
        conn.execute("SAVEPOINT a; TRUNCATE t; ROLLBACK TO a; SAVEPOINT b; REINDEX INDEX t_v_idx; ROLLBACK TO b")
        conn.execute("INSERT INTO t SELECT id + 20000, v FROM t WHERE id < 300")
        if crashes == "after":
            conn.execute("COMMIT")
            conn.execute("INSERT INTO t SELECT id + 30000, v FROM t WHERE id < 300")
        server.kill()
        conn.close()
        server.start()
        with db.connect() as conn:
            if crashes == "in between":
                assert conn.execute("SELECT to_regclass('t')").fetchone()[0] is None
                continue
            assert conn.execute("SELECT count(*) FROM t").fetchone()[0] == 3000 + 900 + 300 + 300
            n += check_indexes(conn)
            conn.execute("DELETE FROM t WHERE id % 2 = 0")
            conn.execute("VACUUM t")
            n += check_indexes(conn)
    print(f"{n} rows compared")
    server.check_checksums()


@pytest.mark.every_major
def test_builds_that_are_killed(make_server, rng):
    """CREATE INDEX, CREATE INDEX CONCURRENTLY and REINDEX, each killed at moments spread over the time they take: afterwards all is as before, or done."""
    server = make_server("builds", {"shared_buffers": "16MB", **WORKERS})
    db, done = make_database(server, "builds"), []
    rows = vectors.clustered(rng, 30_000, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=40)
        began = time.monotonic()
        conn.execute("REINDEX INDEX t_v_idx")
        takes = time.monotonic() - began
    n = 0
    for round in range(9):
        statement = ("CREATE INDEX extra ON t USING omen (v vector_ip_ops)", "CREATE INDEX CONCURRENTLY extra ON t USING omen (v vector_ip_ops)",
                     "REINDEX INDEX CONCURRENTLY t_v_idx")[round % 3]

        def build(statement=statement):
            try:
                with db.connect() as conn:
                    conn.execute(statement)
                    done.append(statement)
            except psycopg.OperationalError:
                pass  # the crash

        thread = threading.Thread(target=build)
        thread.start()
        with db.connect() as watcher:
            running = "SELECT 1 FROM pg_stat_activity WHERE query = %s AND state = 'active'"
            wait_until(lambda: watcher.execute(running, (statement,)).fetchall() or not thread.is_alive(), "the build does not begin")
        time.sleep(takes * float(rng.uniform(0, 0.9)))
        server.kill()
        thread.join(30)
        assert not thread.is_alive()
        server.start()
        with db.connect(**BY_INDEX) as conn:
            # Those that were being built, and are not valid, go.
            for name, in conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid").fetchall():
                conn.execute(f"DROP INDEX {name}")
            n += check_indexes(conn)
            put(conn, omen__probes=1000)
            assert [i for i, _ in knn(conn, "l2", rows[round], 1)] == [round]
            conn.execute("DROP INDEX IF EXISTS extra")
            vectors.copy_rows(conn, "t", 100_000 + 10 * round + np.arange(10), vectors.clustered(rng, 10, DIM))
    print(f"nine kills, {len(done)} of them when the build was done; {n} rows compared")
    assert len(done) < 9
