"""The sample that a build is trained on: as large as wanted, from all parts of the table, whatever the table is like."""

import re
import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, knn, last_scan, make_index, put

SETTINGS = {"client_min_messages": "debug1", "maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": 3, "min_parallel_table_scan_size": 0}


@pytest.fixture
def builder(db):
    with db.connect(**SETTINGS) as conn:
        yield conn


@pytest.fixture
def told(builder):
    """What builds tell of their samples from now on: rows taken, rows of the table, blocks looked at, blocks, workers; and hints."""
    told = []

    def note(diagnostic):
        sampled = re.fullmatch(r"omen sampled (\d+) of about (\d+) rows", diagnostic.message_primary)
        if sampled:
            blocks = re.fullmatch(r"Blocks: (\d+) of (\d+)\. Parallel workers: (\d+)\.", diagnostic.message_detail)
            told.append(tuple(int(n) for n in sampled.groups() + blocks.groups()))
        if "small sample" in diagnostic.message_primary:
            told.append((diagnostic.message_detail, int(re.search(r"at least (\d+) MB", diagnostic.message_hint)[1])))
    builder.add_notice_handler(note)
    return told


def make_line(conn, n: int, options: str = ""):
    """Table `t` of `n` rows, each of which says where in the table it is."""
    conn.execute(f"CREATE TABLE t (id integer, v vector(4)) {options}")
    where = np.arange(n, dtype=np.float32) / n
    vectors.copy_rows(conn, "t", np.arange(n), np.stack([where, where, np.zeros(n, np.float32), np.ones(n, np.float32)], axis=1))


@pytest.mark.every_major
def test_as_many_rows_as_wanted(builder, told):
    make_line(builder, 60_000)
    make_index(builder, lists=400)
    taken, rows, _, _, _ = told.pop()
    assert 0.97 * 400 * 64 < taken <= 400 * 64 and abs(rows - 60_000) < 600
    # Half of the table is empty.
    for statement in ("DELETE FROM t WHERE id < 30000", "VACUUM t", "REINDEX INDEX t_v_idx"):
        builder.execute(statement)
    taken, rows, _, _, _ = told.pop()
    assert 0.97 * 400 * 64 < taken <= 400 * 64 and abs(rows - 30_000) < 600
    # Every other block nearly is.
    builder.execute("DELETE FROM t WHERE mod(id, 300) < 150 AND mod(id, 50) > 0")
    builder.execute("REINDEX INDEX t_v_idx")
    wanted = builder.execute("SELECT count(*) FROM t").fetchone()[0]
    assert told.pop()[:2] == (wanted, wanted), "a small table is taken as a whole"


@pytest.mark.parametrize("step", (1, 7))
def test_few_rows_of_many_blocks(builder, told, step):
    """Of a large table not all blocks are read, and the rows are estimated by those that are."""
    make_line(builder, 60_000, "WITH (fillfactor = 10)")
    builder.execute(f"DELETE FROM t WHERE mod(id / 1000, {step}) > 0")
    builder.execute("VACUUM t")
    make_index(builder, lists=50)
    taken, rows, visited, blocks, _ = told.pop()
    here = builder.execute("SELECT count(*) FROM t").fetchone()[0]
    assert 0.97 * min(here, 10_000) <= taken <= 10_000 and abs(rows - here) < 0.1 * here, (taken, rows, here)
    assert visited <= blocks and (visited < blocks or step > 1)
    # Rows of a partial index that lie together.
    builder.execute("DROP INDEX t_v_idx; CREATE INDEX ON t USING omen (v vector_l2_ops) WITH (lists = 4) WHERE id BETWEEN 35000 AND 35199")
    assert told.pop()[:2] == (200, 200)


def test_from_all_parts_of_the_table(db, builder, told):
    """Each list gets its share of the table, wherever in it: the lists were trained on rows of all parts."""
    make_line(builder, 60_000)
    make_index(builder, lists=16)
    assert 9_700 < told.pop()[0] <= 10_000
    with db.connect(**BY_INDEX, omen__probes=1, omen__engine="cpu", omen__iterative_scan="off") as conn:
        found = []
        for part in (np.arange(16) + 0.5) / 16:
            knn(conn, "l2", [part, part, 0, 1], 5)
            found.append(last_scan(conn)["candidates"])
    # Random starts on a line make uneven lists. But trained on one half alone, the other would be one list of 30,000 and more: that a half gets fewer than two
    # of 16 starts by chance happens once in 2,000 times.
    assert max(found) < 27_000 and len(set(found[:8])) > 1 and len(set(found[8:])) > 1, found


@pytest.mark.parametrize("lists", (None, 300))
def test_hint_on_memory(builder, told, rng, lists):
    """Told where memory is the limit alone; who follows the hint is not told again."""
    builder.execute("CREATE TABLE t (id integer, v vector(256))")
    vectors.copy_rows(builder, "t", np.arange(20_000), vectors.clustered(rng, 20_000, 256))
    put(builder, maintenance_work_mem="4MB")
    make_index(builder, lists=lists)
    (taken, *_), (detail, mb) = told
    assert detail == f"maintenance_work_mem allows {4 * 1024 // 3} rows for {lists or 283} lists." and taken > 0.9 * 4 * 1024 // 3
    told.clear()
    put(builder, maintenance_work_mem=f"{mb}MB")
    builder.execute("DROP INDEX t_v_idx")
    make_index(builder, lists=lists)
    assert len(told) == 1 and told[0][0] >= 32 * (lists or 283), told
    # Little memory is enough for a small table.
    builder.execute("DELETE FROM t WHERE id >= 100")
    builder.execute("DROP INDEX t_v_idx")
    put(builder, maintenance_work_mem="1MB")
    told.clear()
    make_index(builder, lists=lists)
    assert [len(line) for line in told] == [5] and told[0][0] == 100


@pytest.mark.every_major
def test_by_workers(builder, told, rng):
    """A large sample is taken by parallel workers, from tables and expressions, also concurrently; as many rows."""
    rows = vectors.clustered(rng, 14_000, 768)
    builder.execute("CREATE TABLE t (id integer, v vector(768)); ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    vectors.copy_rows(builder, "t", np.arange(len(rows)), rows)
    for how, column in (("", "v"), ("CONCURRENTLY", "v"), ("", "(v + v)::vector(768)")):
        builder.execute(f"CREATE INDEX {how} t_v_idx ON t USING omen (({column}) vector_l2_ops) WITH (lists = 200)")
        taken, n, _, _, workers = told.pop()
        assert n == 14_000 and 0.97 * 12_800 < taken <= 12_800 and workers > 0
        builder.execute("DROP INDEX t_v_idx")
    put(builder, max_parallel_maintenance_workers=0)
    make_index(builder, lists=200)
    assert told[0][1] == 14_000 and 0.97 * 12_800 < told[0][0] <= 12_800 and told[0][4] == 0


@pytest.mark.parametrize("how", ("error", "cancel", "terminate a worker"))
def test_ended_while_workers_sample(db, builder, told, rng, how):
    """The build fails at once, in the phase of sampling; no worker goes on, and the next build works."""
    rows = vectors.clustered(rng, 14_000, 768)
    builder.execute("CREATE TABLE t (id integer, v vector(768))")
    vectors.copy_rows(builder, "t", np.arange(len(rows)), rows)
    # In workers alone, and not before the process sees them.
    what = "RAISE division_by_zero" if how == "error" else "PERFORM pg_sleep(0.2)"
    builder.execute(f"""CREATE FUNCTION picky(v vector) RETURNS vector IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT leader_pid IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()) THEN {what}; END IF;
            RETURN v;
        END $$""")
    outcome = []

    def build():
        try:
            builder.execute("CREATE INDEX t_v_idx ON t USING omen ((picky(v)::vector(768)) vector_l2_ops) WITH (lists = 200)")
        except psycopg.Error as error:
            outcome.append(error)
    with db.connect() as other:
        leader = builder.info.backend_pid
        thread = threading.Thread(target=build)
        thread.start()

        def workers():
            return [pid for (pid,) in other.execute("SELECT pid FROM pg_stat_activity WHERE leader_pid = %s", (leader,)).fetchall()]
        if how != "error":
            end = time.monotonic() + 60
            while not (found := workers()):
                assert time.monotonic() < end and thread.is_alive(), outcome
            time.sleep(float(rng.uniform(0, 0.3)))
            assert other.execute("SELECT phase FROM pg_stat_progress_create_index").fetchone()[0].endswith("sampling table")
            function, whom = ("pg_cancel_backend", leader) if how == "cancel" else ("pg_terminate_backend", found[0])
            other.execute(f"SELECT {function}({whom})")
        thread.join(60)
        assert not thread.is_alive()
        states = {"error": "22012", "cancel": "57014", "terminate a worker": "57P01"}
        assert [error.sqlstate for error in outcome] == [states[how]]
        end = time.monotonic() + 20
        while workers():
            assert time.monotonic() < end, "a worker goes on"
            time.sleep(0.02)
    assert not told
    make_index(builder, lists=200)
    assert told[0][4] > 0
