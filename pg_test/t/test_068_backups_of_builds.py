"""Base backups taken while parallel workers write an index, log it, or have it complete: the index in the copy answers as a sort does."""

import threading

import numpy as np
import pytest

from lib import vectors
from lib.builds import build_aside
from lib.checks import check_indexes
from lib.db import BY_INDEX, BY_SORT, Db, assert_same, knn, make_database, make_table
from lib.service import wait_until

DIM, LISTS, ROWS = 300, 12, 8000
# Three workers, which take their time to log each half a megabyte.
SLOW = {"max_parallel_maintenance_workers": 3, "maintenance_work_mem": "128MB", "min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0,
        "omen__logging_pause": 700, "client_min_messages": "debug1"}
WITH = f"USING omen (v vector_l2_ops) WITH (lists = {LISTS})"
BUILDS = (f"CREATE INDEX one ON t {WITH}", f"CREATE INDEX CONCURRENTLY two ON t {WITH}", "REINDEX INDEX one", "REINDEX INDEX CONCURRENTLY two")


# With few buffers logging may not wait, and pages are written to the file before they are logged.
WHERE_IT_IS = pytest.mark.parametrize("buffers, phase", (("1MB", "writing lists"), ("64MB", "logging lists")))


def phase_of(conn) -> str:
    row = conn.execute("SELECT phase FROM pg_stat_progress_create_index").fetchone()
    return row[0] if row else ""


def is_copied(conn) -> bool:
    """Whether a base backup copies files at this moment."""
    return conn.execute("SELECT phase = 'streaming database files' FROM pg_stat_progress_basebackup").fetchone() == (True,)


def assert_exact(db, queries) -> int:
    """All that must hold of the table's indexes, and of each alone that it finds what a sort finds. Returns how many there are."""
    with db.connect() as conn:
        names = [name for (name,) in conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid")]
        check_indexes(conn)
    with db.connect(**BY_SORT) as by_sort:
        wanted = [knn(by_sort, "l2", query, 30) for query in queries]
    with db.connect(**BY_INDEX, omen__engine="cpu", omen__probes=LISTS) as conn:
        for name in names:
            conn.execute("BEGIN; " + "".join(f"DROP INDEX {other};" for other in names if other != name))
            for query, rows in zip(queries, wanted, strict=True):
                assert_same(knn(conn, "l2", query, 30), rows, complete_ties=False)
            conn.execute("ROLLBACK")
    return len(names)


def change(db, rng, first: int):
    with db.connect() as conn:
        conn.execute("DELETE FROM t WHERE mod(id, 7) = %s", (int(rng.integers(7)),))
        conn.execute("VACUUM t")
        vectors.copy_rows(conn, "t", first + np.arange(500), vectors.clustered(rng, 500, DIM))


def begin(builder, other, statement: str, phase: str):
    """Has a build reach this phase, aside; that it is done by three workers comes into the list returned last."""
    told = []
    builder.add_notice_handler(lambda d: told.append(d.message_primary) if d.message_primary.startswith("omen index written by 3") else None)
    thread, outcome = build_aside(builder, statement)
    wait_until(lambda: phase in phase_of(other) or not thread.is_alive(), f"the phase {phase} does not come")
    assert thread.is_alive(), outcome
    return thread, outcome, told


def begin_backup(make_server, other, source, name: str, seconds: int):
    """Has a base backup of so many seconds begin, aside; the copy comes into the list returned last."""
    kb = other.execute("SELECT sum(pg_database_size(oid))::int / 1024 FROM pg_database").fetchone()[0]
    copies = []
    thread = threading.Thread(target=lambda: copies.append(make_server(name, source=source, start=False, kb_per_s=kb // seconds)))
    thread.start()
    wait_until(lambda: is_copied(other), "no backup begins")
    return thread, copies


@WHERE_IT_IS
def test_copies_that_end_after_the_build(make_server, rng, buffers, phase):
    """The backup begins before pages are written, or while workers write or log them, and ends when the index is complete, with rows changed since: the
    copy, a server of its own, has it all."""
    server = make_server("source", {"shared_buffers": buffers}, checksums=True)
    db = make_database(server, "copied")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
    for number, statement in enumerate(BUILDS):
        with db.connect(**SLOW) as builder, db.connect() as other:
            if number % 3:
                thread, outcome, told = begin(builder, other, statement, phase)
                backup, copies = begin_backup(make_server, other, server, f"copy{number}", 12)
                assert thread.is_alive(), "the build ended before the backup began"
            else:
                backup, copies = begin_backup(make_server, other, server, f"copy{number}", 12)
                thread, outcome, told = begin(builder, other, statement, "")
            thread.join()
            assert outcome == [None] and told, (outcome, told)
            change(db, rng, 100_000 * (number + 1))
            assert is_copied(other), "the backup ended before the build"
            wanted = other.execute("SELECT count(*), sum(id) FROM t").fetchone()
            backup.join()
        (copy,) = copies
        (copy.data / "standby.signal").unlink()
        copy.start()
        copied = Db(copy, "copied")
        with copied.connect() as conn:
            assert conn.execute("SELECT count(*), sum(id) FROM t").fetchone() == wanted
        n_indexes = min(number + 1, 2)
        assert assert_exact(copied, rows[:: ROWS // 4] + np.float32(0.1)) == n_indexes, statement
        change(copied, rng, 9_000_000)
        assert assert_exact(copied, rows[:: ROWS // 4]) == n_indexes
        copy.check_checksums()
    assert assert_exact(db, rows[:: ROWS // 4]) == 2


@pytest.mark.every_major
@WHERE_IT_IS
def test_copies_that_end_before_the_build(make_server, rng, buffers, phase):
    """Of a build under way when the backup ends a server of its own keeps nothing; one that goes on following has the index when it is committed, and
    keeps it when it is promoted."""
    server = make_server("source", {"shared_buffers": buffers}, checksums=True)
    db = make_database(server, "copied")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
    with db.connect(**(SLOW | {"omen__logging_pause": 2500})) as builder, db.connect() as other:
        thread, outcome, told = begin(builder, other, BUILDS[0], phase)
        alone = make_server("alone", source=server, start=False)
        follower = make_server("follower", source=server, start=False)
        assert thread.is_alive(), "the build ended before the backups"
        (alone.data / "standby.signal").unlink()
        alone.start()
        follower.start()
        thread.join()
        assert outcome == [None] and told, (outcome, told)
    change(db, rng, 100_000)
    server.wait_for(follower)
    followed, own = Db(follower, "copied"), Db(alone, "copied")
    assert assert_exact(followed, rows[:: ROWS // 4] + np.float32(0.1)) == 1
    server.stop()
    follower.sql("SELECT pg_promote()")
    change(followed, rng, 200_000)
    assert assert_exact(followed, rows[:: ROWS // 4]) == 1
    with own.connect() as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone()[0] == ROWS
        assert conn.execute("SELECT to_regclass('one')").fetchone()[0] is None
        conn.execute(BUILDS[0])
    assert assert_exact(own, rows[:: ROWS // 4]) == 1
    for copy in (alone, follower):
        copy.check_checksums()
