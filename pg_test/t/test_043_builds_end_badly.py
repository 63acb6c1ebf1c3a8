"""CREATE INDEX whose process is killed, or that finds no room on the disk: the database goes on, and the index can be built."""

import os
import signal
import time
from contextlib import suppress

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.builds import build_aside
from lib.db import BY_INDEX, BY_SORT, assert_same, check_index, knn, make_database, make_index, make_table
from lib.server import run
from lib.service import wait_until

DIM, LISTS, ROWS = 64, 40, 40_000
# Little memory: entries go to a temporary file.
SETTINGS = {"maintenance_work_mem": "1MB"}
CREATE = f"CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = {LISTS})"


def limit_files(pid: int, megabytes: int | None):
    """Lets a process write no file beyond so many MB; all of them with None. As the server's user, who may."""
    size = "unlimited" if megabytes is None else megabytes << 20
    run(["prlimit", "--pid", pid, f"--fsize={size}:"])


def n_temporary(db) -> int:
    with db.connect() as conn:
        return conn.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0]


def assert_right(db, queries):
    with db.connect() as conn:
        check_index(conn)
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS) as conn, db.connect(**BY_SORT) as by_sort:
        for query in queries:
            assert_same(knn(conn, "l2", query, 20), knn(by_sort, "l2", query, 20), complete_ties=False)


@pytest.mark.parametrize("phase", ("sampling", "k-means", "assigning", "writing", "calibrating"))
def test_killed(make_server, rng, phase):
    """kill -9, after which the whole server starts anew: no index, no temporary file, all rows, and a build that works."""
    server = make_server(phase)
    db = make_database(server, "killed")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
    builder = db.connect(**SETTINGS)
    pid = builder.info.backend_pid
    with server.connect("killed") as other:
        thread, outcome = build_aside(builder, CREATE)
        seen = None
        while thread.is_alive() and not (seen and phase in seen):
            row = other.execute("SELECT phase FROM pg_stat_progress_create_index").fetchone()
            seen = row and row[0]
        # Short phases may be over before they are seen: then it is killed in another, or right after.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive()

    def is_back():
        with suppress(psycopg.OperationalError), db.connect() as conn:
            return conn.execute("SELECT count(*) FROM t").fetchone()[0] == ROWS
    time.sleep(0.2)
    wait_until(is_back, "the server does not come back")
    print(phase, seen, outcome)
    assert n_temporary(db) == 0
    with db.connect(**SETTINGS) as conn:
        if outcome[0] is not None:
            assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == 0
            make_index(conn, lists=LISTS)
    assert_right(db, rows[:5])


@pytest.mark.parametrize("memory, megabytes", (("256MB", 17), ("1MB", 17), ("256MB", 3)))
def test_no_room_on_the_disk(db, rng, memory, megabytes):
    """A process that may not write files of so many MB, which the server takes for a full disk: an error, nothing left, and a build when there is room.
    (Less than a segment of the WAL cannot be tried where that is written: with 3 MB the index is unlogged.)"""
    dim, n = 400, 30_000
    rows = vectors.clustered(rng, n, dim)
    kind = "" if megabytes > 16 else "UNLOGGED"
    with db.connect() as other, db.connect(maintenance_work_mem=memory, max_parallel_maintenance_workers=0) as conn:
        make_table(other, rows, kind=kind)
        other.execute("CHECKPOINT")
        pid = conn.info.backend_pid
        limit_files(pid, megabytes)
        try:
            with pytest.raises(psycopg.Error) as failed:
                make_index(conn, lists=LISTS)
        finally:
            limit_files(pid, None)
        what = "could not write to file" if memory == "1MB" else "could not extend file"
        assert what in str(failed.value) and "File too large" in str(failed.value), failed.value
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == 0
        assert conn.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0] == 0
        make_index(conn, lists=LISTS)
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS) as by_index, db.connect(**BY_SORT) as by_sort:
        for query in rows[:5] + 0.1 * np.float32(1):
            assert_same(knn(by_index, "l2", query, 20), knn(by_sort, "l2", query, 20), complete_ties=False)
        assert check_index(by_index)["rows_checked"] == n
