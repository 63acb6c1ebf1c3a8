"""Base backups taken while rows come and go, and recovery to a named point and to a transaction."""

import time

import numpy as np
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.churn import Churn, fill
from lib.db import BY_INDEX, CPU, Db, make_database, make_index, make_table
from lib.server import run

DIM = 24


@pytest.mark.every_major
def test_backup_during_load(make_server):
    """Pages are copied while they change, and repaired by the log: the copy has what the server had when the backup ended, at least."""
    server = make_server("busy", {"shared_buffers": "16MB", "checkpoint_timeout": "30s"}, checksums=True)
    db = make_database(server, "churn")
    fill(db, 4000)
    churn, n = Churn(db, 60, [CPU]).start(), 0
    for number in range(3):
        time.sleep(0.5)
        with db.connect() as conn:
            before = {i for i, in conn.execute("SELECT id FROM t WHERE mod(id, 53) = 0 AND id < 4000")}
        copy = make_server(f"copy{number}", source=server, start=False)
        with db.connect() as conn:
            conn.execute("REINDEX INDEX t_v_idx")
        # A server of its own, not a standby.
        (copy.data / "standby.signal").unlink()
        copy.start()
        with Db(copy, "churn").connect() as conn:
            n += check_indexes(conn)
            conn.execute("DELETE FROM t WHERE id % 2 = 0")
            conn.execute("VACUUM t")
            vectors.copy_rows(conn, "t", 90_000_000 + np.arange(1000), vectors.clustered(vectors.rng_for("copy"), 1000, DIM))
            n += check_indexes(conn)
            assert len(before) < 200
        copy.check_checksums()
    churn.stop().wait()
    churn.check_end()
    print(f"{churn.counts}, {n} rows compared in three copies")
    assert not churn.problems, "\n".join(churn.problems)
    server.check_checksums()


def recover(make_server, source, name: str, **target):
    """A copy of `source`, made before, recovered from its archive up to `target`."""
    copy = source["copies"].pop()
    copy.configure({"restore_command": f"cp {source['archive']}/%f %p", "recovery_target_action": "promote", "archive_mode": "off"} | target)
    (copy.data / "standby.signal").rename(copy.data / "recovery.signal")
    copy.start()
    copy.wait_until_up()
    end = time.monotonic() + 30
    while copy.sql("SELECT pg_is_in_recovery()")[0][0]:
        assert time.monotonic() < end, copy.log_text()[-2000:]
        time.sleep(0.05)
    return Db(copy, name)


@pytest.mark.every_major
def test_recovery_to_a_point(make_server, rng):
    """From one base backup to a named restore point, to just before a transaction, and to the end of the log: the rows of that moment, in every index."""
    server = make_server("source", {"archive_mode": "on", "wal_level": "replica"}, start=False)
    archive = server.dir / "archive"
    run(["mkdir", archive])
    server.configure({"archive_command": f"cp %p {archive}/%f"})
    server.start()
    db = make_database(server, "pitr")
    source = {"archive": archive, "copies": []}
    with db.connect(**BY_INDEX) as conn:
        make_table(conn, vectors.clustered(rng, 2000, DIM))
        make_index(conn, lists=8)
        source["copies"] = [make_server(f"copy{n}", source=server, start=False) for n in range(3)]

        def change(round):
            conn.execute("DELETE FROM t WHERE id %% 4 = %s", (round,))
            conn.execute("VACUUM t")
            vectors.copy_rows(conn, "t", 10_000 * (round + 1) + np.arange(600), vectors.clustered(rng, 600, DIM))
            if round == 1:
                conn.execute("REINDEX INDEX t_v_idx")
                conn.execute("CREATE INDEX CONCURRENTLY second ON t USING omen (v vector_cosine_ops)")

        def ids():
            return sorted(i for i, in conn.execute("SELECT id FROM t"))

        change(0)
        conn.execute("SELECT pg_create_restore_point('here')")
        at_point = ids()
        change(1)
        before_mistake = ids()
        conn.execute("BEGIN; DELETE FROM t")
        mistake = conn.execute("SELECT txid_current()").fetchone()[0] % 2**32
        conn.execute("COMMIT")
        conn.execute("VACUUM t")
        change(2)
        at_end = ids()
        conn.execute("SELECT pg_switch_wal()")
        last = conn.execute("SELECT pg_walfile_name(pg_current_wal_lsn() - 1)").fetchone()[0]
        end = time.monotonic() + 30
        while conn.execute("SELECT coalesce(last_archived_wal, '') < %s FROM pg_stat_archiver", (last,)).fetchone()[0]:
            assert time.monotonic() < end, "the log is not archived"
            time.sleep(0.05)
    server.stop("immediate")
    n = 0
    for wanted, target in ((at_point, {"recovery_target_name": "here"}), (at_end, {}),
                           (before_mistake, {"recovery_target_xid": mistake, "recovery_target_inclusive": "off"})):
        with recover(make_server, source, "pitr", **target).connect(**BY_INDEX, omen__probes=1000) as conn:
            assert sorted(i for i, in conn.execute("SELECT id FROM t")) == wanted, target
            n += check_indexes(conn)
            vectors.copy_rows(conn, "t", 900_000 + np.arange(500), vectors.clustered(rng, 500, DIM))
            conn.execute("DELETE FROM t WHERE id % 3 = 1")
            conn.execute("VACUUM t")
            n += check_indexes(conn)
    print(f"three points, {n} rows compared")
