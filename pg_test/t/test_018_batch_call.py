"""omen_search() as a function: arguments, privileges, who answers, what is recorded."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import DIM, LISTS, assert_exact, batch, engine, session, table  # noqa: F401  # fixtures
from lib.db import BY_INDEX, GPU, assert_fails, knn, last_scan, put


def test_settings_choose_lists(session, table):
    put(session, omen__probes=3)
    batch(session, table[:4], 5)
    assert last_scan(session)["probes"] == 3
    batch(session, table[:4], 5, 7)
    assert last_scan(session)["probes"] == 7
    visited = []
    for wanted in (0.01, 1):
        put(session, omen__probes=0, omen__recall=wanted)
        batch(session, table[:4], 5)
        visited.append(last_scan(session)["probes"])
    assert visited[0] == 1 < visited[1], visited


def test_arguments(session, table):
    q = vectors.text(table[0])
    call = "omen_search(%s, %s::vector[], %s, %s)"
    assert_fails(session, "22023", "ORDER BY", f"SELECT * FROM {call}", ("t_v_idx", [q], 0, None))
    assert_fails(session, "22023", "ORDER BY", f"SELECT * FROM {call}", ("t_v_idx", [q], -3, None))
    assert_fails(session, "22023", "ORDER BY", f"SELECT * FROM {call}", ("t_v_idx", [q], 100_001, None))
    assert_fails(session, "22023", "omen.recall", f"SELECT * FROM {call}", ("t_v_idx", [q], 5, 0))
    assert_fails(session, "22023", "omen.recall", f"SELECT * FROM {call}", ("t_v_idx", [q], 5, -1))
    assert_fails(session, "22004", "array_agg", f"SELECT * FROM {call}", ("t_v_idx", [q, None], 5, None))
    assert_fails(session, "22000", "ARRAY", f"SELECT * FROM {call}", ("t_v_idx", [[q], [q]], 5, None))
    assert_fails(session, "22000", "dimension", f"SELECT * FROM {call}", ("t_v_idx", [q, "[1,2]"], 5, None))
    assert_fails(session, "42809", "", f"SELECT * FROM {call}", ("t", [q], 5, None))
    assert_fails(session, "42809", "", f"SELECT * FROM {call}", ("pg_class_oid_index", [q], 5, None))
    for params in ((None, [q], 5, None), ("t_v_idx", None, 5, None), ("t_v_idx", [q], None, None), ("t_v_idx", [], 5, None)):
        assert session.execute(f"SELECT * FROM {call}", params).fetchall() == []
    # All lists and more.
    assert len(session.execute(f"SELECT * FROM {call}", ("t_v_idx", [q], 5, 2_000_000_000)).fetchall()) == 5
    # Subscripts are those of the array; three arguments; in the list of a SELECT.
    rows = session.execute("SELECT query_no FROM omen_search('t_v_idx', ('[7:8]={' || %s || '}')::vector[], 1)",
                           (",".join([f'"{q}"'] * 2),)).fetchall()
    assert rows == [(7,), (8,)]
    assert len(session.execute("SELECT omen_search('t_v_idx', ARRAY[%s::vector], 6)", (q,)).fetchall()) == 6
    session.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_v_idx'::regclass")
    assert_fails(session, "55000", "REINDEX", f"SELECT * FROM {call}", ("t_v_idx", [q], 5, None))


def test_transaction_older_than_the_index(session, table):
    """An index that does not have all rows this transaction may see (broken HOT chains) is refused, as by the planner."""
    with session.transaction(force_rollback=True):
        session.execute("UPDATE pg_index SET indcheckxmin = true WHERE indexrelid = 't_v_idx'::regclass")
        assert_fails(session, "55000", "after the index was built", "SELECT * FROM omen_search('t_v_idx', ARRAY[%s::vector], 5)", (vectors.text(table[0]),))


def test_partitions(session, table, rng):
    session.execute("CREATE TABLE p (id integer, v vector(40)) PARTITION BY RANGE (id)")
    session.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)")
    session.execute("CREATE INDEX p_idx ON p USING omen (v)")
    vectors.copy_rows(session, "p", np.arange(1000), table[:1000])
    assert_fails(session, "42809", "partitions", "SELECT * FROM omen_search('p_idx', ARRAY[%s::vector], 5)", (vectors.text(table[0]),))
    assert batch(session, table[:3], 1, index="p1_v_idx", table="p1")[2][0][0] == 1


def test_privileges(db, session, table):
    q = vectors.text(table[0])
    call = "omen_search('t_v_idx', ARRAY[%s::vector], 5)"
    session.execute("DROP ROLE IF EXISTS omen_searcher")
    session.execute("CREATE ROLE omen_searcher")
    try:
        session.execute("GRANT USAGE ON SCHEMA public TO omen_searcher; SET ROLE omen_searcher")
        assert_fails(session, "42501", "SELECT", f"SELECT * FROM {call}", (q,))
        session.execute("RESET ROLE; GRANT SELECT (id) ON t TO omen_searcher; SET ROLE omen_searcher")
        assert_fails(session, "42501", "SELECT", f"SELECT * FROM {call}", (q,))
        session.execute("RESET ROLE; GRANT SELECT ON t TO omen_searcher; SET ROLE omen_searcher")
        assert len(session.execute(f"SELECT * FROM {call}", (q,)).fetchall()) == 5
        session.execute("RESET ROLE; ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE omen_searcher")
        assert_fails(session, "42501", "polic", f"SELECT * FROM {call}", (q,))
        session.execute("RESET ROLE")
        assert len(session.execute(f"SELECT * FROM {call}", (q,)).fetchall()) == 5
        session.execute("ALTER ROLE omen_searcher BYPASSRLS; SET ROLE omen_searcher")
        assert len(session.execute(f"SELECT * FROM {call}", (q,)).fetchall()) == 5
    finally:
        session.execute("RESET ROLE; DROP OWNED BY omen_searcher; DROP ROLE omen_searcher")


def test_cancel(db, session, table, rng):
    """A large batch ends soon after it is cancelled, and the session goes on."""
    queries = [vectors.text(q) for q in vectors.clustered(rng, 20_000, DIM)]
    canceller = threading.Timer(1.0, session.cancel)
    canceller.start()
    began = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        session.execute("SELECT count(*) FROM omen_search('t_v_idx', %s::vector[], 1000, 20)", (queries,))
    canceller.join()
    assert time.monotonic() - began < 10
    assert_exact(session, "l2", table[:3], 10)


def test_what_it_did(session, table, engine):
    """omen_last_scan(), and the server's own statistics of the index."""
    batch(session, table[:9], 4)
    scan = last_scan(session)
    assert (scan["engine"], scan["queries"], scan["rows_returned"], scan["rounds"]) == (engine, 9, 36, 1), scan
    scans = "SELECT pg_stat_get_xact_numscans('t_v_idx'::regclass)"
    with session.transaction():
        before = session.execute(scans).fetchone()[0]
        batch(session, table[:9], 4)
        assert session.execute(scans).fetchone()[0] - before == 9
    put(session, **BY_INDEX)
    knn(session, "l2", table[0], 5)
    assert last_scan(session)["queries"] == 1


def test_gpu_that_cannot(db, table):
    """A tier that does not fit: the CPU answers, and the reason is shown."""
    with db.connect(**GPU, omen__gpu_memory_limit="1MB") as conn:
        assert_exact(conn, "l2", table[:40], 10)
        scan = last_scan(conn)
        assert scan["engine"] == "cpu" and "memory" in scan["fallback_reason"], scan


def test_auto_goes_over_to_the_gpu(db, table, rng):
    """With omen.engine = auto a large batch begins on the CPU and goes on with the GPU; no query is lost in between."""
    with db.connect(**GPU) as conn:
        put(conn, omen__engine="auto")
        for _ in range(10):
            ids = rng.integers(3000, size=8000)
            found = batch(conn, table[ids], 1, LISTS)
            assert [found[number][0][0] for number in range(1, 8001)] == ids.tolist()
            scan = last_scan(conn)
            if scan["engine"] == "gpu":
                break
        assert scan["engine"] == "gpu" and scan["load_us"] > 0 and scan["queries"] == 8000, scan


def test_examples_of_the_readme(session, table):
    """As written there."""
    session.execute("ALTER TABLE t RENAME TO items; ALTER TABLE items RENAME v TO embedding; ALTER INDEX t_v_idx RENAME TO items_embedding_idx")
    session.execute("CREATE TABLE questions (id integer, embedding vector(40))")
    vectors.copy_rows(session, "questions", np.arange(20), table[:20], columns="id, embedding")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    examples = [block for block in re.findall(r"```sql\n(.*?)```", readme, re.DOTALL) if "omen_search" in block]
    by_join, by_lateral = (session.execute(example).fetchall() for example in examples)
    assert len(by_join) == len(by_lateral) == 200
    assert [r[:2] for r in by_join if r[1] == r[0]] == [(i, i) for i in range(20)]
    assert {r[:2] for r in by_join} == {r[:2] for r in by_lateral}
    assert np.allclose([r[2] for r in by_join], [r[2] for r in by_lateral], atol=1e-2)
