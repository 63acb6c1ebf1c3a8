"""CREATE INDEX in little memory: the same index from runs in a temporary file as from memory, and nothing left of one that ends early."""

import os
import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.builds import build_aside, n_files, workers_of_builds
from lib.db import BY_INDEX, BY_SORT, assert_same, knn, make_index, make_table, put
from lib.storm import memory_of

DIM, LISTS, ROWS = 40, 20, 30_000
# Entries take some 3.5 MB.
SMALL, LARGE = ({"maintenance_work_mem": memory, "min_parallel_table_scan_size": 0} for memory in ("1MB", "256MB"))


def assert_right(db, queries):
    """Searches of all lists give the rows of a sort."""
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS) as conn, db.connect(**BY_SORT) as by_sort:
        for query in queries:
            assert_same(knn(conn, "l2", query, 50), knn(by_sort, "l2", query, 50), complete_ties=False)


@pytest.mark.parametrize("workers", (0, 2))
def test_spilled_runs_make_a_whole_index(db, rng, workers):
    """Searches of all lists are right, and all rows are in the index, however little memory it had."""
    # Each worker has to have 8 MB.
    n, small = (ROWS, SMALL) if workers == 0 else (6 * ROWS, SMALL | {"maintenance_work_mem": "24MB"})
    rows = vectors.clustered(rng, n, DIM)
    queries = vectors.clustered(vectors.rng_for("queries"), 10, DIM)
    with db.connect(max_parallel_maintenance_workers=workers, client_min_messages="debug1") as conn:
        read_by = workers_of_builds(conn)
        make_table(conn, rows)
        for settings, spills in ((LARGE, False), (small, True)):
            put(conn, **settings, temp_file_limit="1kB")
            if spills:
                with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
                    make_index(conn, lists=LISTS)
                assert conn.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0] == 0
                put(conn, temp_file_limit="-1")
            make_index(conn, lists=LISTS)
            assert_right(db, queries)
            with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS, omen__iterative_scan="relaxed_order") as by_index:
                assert sorted(i for i, _ in knn(by_index, "l2", queries[0], None)) == list(range(n))
            assert read_by.pop() == workers
            conn.execute("DROP INDEX t_v_idx")
        assert conn.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0] == 0


def n_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.parametrize("workers", (0, 2))
@pytest.mark.parametrize("phase", ("assigning", "writing"))
def test_cancelled(db, rng, phase, workers):
    """In the middle of a phase: no file and no thread is left, and the session builds the index."""
    rows = vectors.clustered(rng, 4 * ROWS, DIM)
    n_hit = 0
    with db.connect() as other, db.connect(**SMALL, max_parallel_maintenance_workers=workers) as builder:
        make_table(other, rows)
        files, pid = n_files(other), builder.info.backend_pid
        threads = n_threads(pid)
        for pause in (0, 0.02, 0.1):
            thread, outcome = build_aside(builder, f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {10 * LISTS})")
            seen = None
            while thread.is_alive() and not (seen and phase in seen):
                row = other.execute("SELECT phase FROM pg_stat_progress_create_index WHERE tuples_done > 0").fetchone()
                seen = row and row[0]
            time.sleep(pause)
            other.execute("SELECT pg_cancel_backend(%s)", (pid,))
            sent = time.monotonic()
            thread.join(30)
            assert not thread.is_alive() and time.monotonic() - sent < 5
            if outcome[0] is None:
                builder.execute("DROP INDEX t_v_idx")
            else:
                assert outcome[0].sqlstate == "57014", outcome
                n_hit += 1
            assert other.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0] == 0
            assert n_files(other) == files
            # Threads of a pool that is not used any more take a moment to end.
            end = time.monotonic() + 5
            while n_threads(pid) > threads:
                assert time.monotonic() < end, "threads are left"
                time.sleep(0.01)
        assert n_hit > 0, "never cancelled in time"
        make_index(builder, lists=LISTS)
    assert_right(db, rows[:3])


@pytest.mark.parametrize("workers", (0, 2))
def test_memory_is_bounded(db, rng, workers):
    """80 MB of entries in 64 MB, until it calibrates: what that needs has nothing to do with the rows of the table."""
    dim, n = 1000, 40_000
    with db.connect(maintenance_work_mem="64MB", max_parallel_maintenance_workers=workers) as builder:
        builder.execute(f"CREATE TABLE t (id integer, v vector({dim})); ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
        for first in range(0, n, 10_000):
            rows = vectors.uniform(rng, 10_000, dim)
            vectors.copy_rows(builder, "t", np.arange(first, first + 10_000), rows)
        pid, most, ends = builder.info.backend_pid, [0], threading.Event()
        builder.execute("SELECT count(*) FROM t")
        before = memory_of(pid)

        def watch():
            with db.connect() as other:
                while not ends.wait(0.005):
                    memory = memory_of(pid)
                    phase = other.execute("SELECT phase FROM pg_stat_progress_create_index").fetchone()
                    if phase and "calibrating" not in phase[0]:
                        most[0] = max(most[0], memory)
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            make_index(builder, lists=LISTS)
        finally:
            ends.set()
            watcher.join()
        assert before < most[0] < before + (64 + 256 << 20), most
        put(builder, **BY_INDEX, omen__engine="cpu")
        assert [knn(builder, "l2", row, 1)[0][0] for row in rows[:20]] == list(range(n - 10_000, n - 10_000 + 20))
