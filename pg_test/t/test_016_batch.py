"""omen_search(): for many queries at once the rows that an exact search of the table gives, on both engines."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, GPU, Db, index_status, knn, last_scan, make_database, make_index, make_table, put
from lib.exact import OPERATORS, recall

DIM = 40
LISTS = 20
ENGINES = {"cpu": CPU, "gpu": GPU}


def batch(conn, queries, k, probes=None, index="t_v_idx", table="t") -> dict[int, list[tuple[int, float]]]:
    """Per query number, from 1: (id, distance) as returned, found through the ctids."""
    found = {i + 1: [] for i in range(len(queries))}
    rows = conn.execute(
        f"SELECT s.query_no, t.id, s.distance FROM omen_search(%s, %s::vector[], %s, %s) WITH ORDINALITY s(query_no, ctid, distance, n) "
        f"JOIN {table} t ON t.ctid = s.ctid ORDER BY n", (index, [vectors.text(q) for q in queries], k, probes)).fetchall()
    for number, row, distance in rows:
        found[number].append((row, distance))
    return found


def exact(conn, metric, query, k, table="t") -> list[tuple[int, float]]:
    """The same for one query, by sorting the table."""
    put(conn, omen__enable_scan="off")
    rows = conn.execute(f"SELECT id, v {OPERATORS[metric]} %s::vector FROM {table} ORDER BY 2 LIMIT {k}", (vectors.text(query),)).fetchall()
    put(conn, omen__enable_scan="on")
    return rows


def assert_near(found, wanted, tolerance=5e-3):
    """As many rows, none twice, ascending, and at each place the distance that belongs there but for half precision."""
    assert len(found) == len(wanted)
    assert len({i for i, _ in found}) == len(found), "a row came twice"
    got = np.array([d for _, d in found])
    assert np.all(np.diff(got) >= 0), got
    true = np.array([d for _, d in wanted])
    # An inner product may be small although both vectors are long.
    scale = max(1.0, np.abs(true).max(initial=0))
    assert np.all(np.abs(got - true) <= tolerance * scale), (got, true)


def assert_exact(conn, metric, queries, k, probes=LISTS, tolerance=5e-3):
    found = batch(conn, queries, k, probes)
    for number, query in enumerate(queries, 1):
        assert_near(found[number], exact(conn, metric, query, k), tolerance)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def table(db, rng):
    with db.connect() as conn:
        rows = vectors.clustered(rng, 3000, DIM)
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
    return rows


@pytest.fixture
def session(db, table, engine):
    """A session on that table; where the GPU is to search it, its hot tier is loaded."""
    with db.connect(**ENGINES[engine]) as conn:
        batch(conn, table[:1], 1)
        assert last_scan(conn)["engine"] == engine, last_scan(conn)
        yield conn


def fails(conn, sqlstate: str, hint: str, call: str, params=()):
    """The call fails with this state and a hint that says this."""
    with pytest.raises(psycopg.Error) as error:
        conn.execute(f"SELECT * FROM {call}", params)
    assert error.value.sqlstate == sqlstate, (error.value.sqlstate, error.value)
    assert hint in (error.value.diag.message_hint or ""), error.value.diag.message_hint


@pytest.mark.every_major
@pytest.mark.parametrize("metric", OPERATORS)
def test_all_lists_are_exact(db, rng, engine, metric):
    rows = vectors.clustered(rng, 2000, DIM)
    with db.connect(**ENGINES[engine]) as conn:
        make_table(conn, rows)
        make_index(conn, metric, lists=LISTS)
        for n, k in ((1, 1), (7, 10), (40, 33), (3, 2000), (2, 2500)):
            queries = vectors.clustered(rng, n, DIM)
            assert_exact(conn, metric, queries, k)
            scan = last_scan(conn)
            assert (scan["engine"], scan["queries"], scan["probes"]) == (engine, n, LISTS), scan
            assert scan["rows_returned"] == n * min(k, 2000)
        # Rows of the table as queries: the nearest row is the row itself.
        found = batch(conn, rows[:50], 1, LISTS)
        assert sum(found[i + 1][0][0] == i for i in range(50)) >= (45 if metric != "ip" else 0)


@pytest.mark.parametrize("probes", [None, 1, 5])
def test_few_lists_find_what_scans_find(session, table, rng, probes):
    """The same lists as an ordered scan, so the same recall, and the same rows but for places nearer than half precision tells."""
    queries = (table[:60] + 0.3 * vectors.uniform(rng, 60, DIM)).astype(np.float32)
    found = batch(session, queries, 10, probes)
    put(session, omen__probes=probes or 0, **BY_INDEX)
    by_batch, by_scan = [], []
    for number, query in enumerate(queries, 1):
        scanned = [i for i, _ in knn(session, "l2", query, 10)]
        by_batch.append(recall("l2", table, query, [i for i, _ in found[number]], 10))
        by_scan.append(recall("l2", table, query, scanned, 10))
    assert abs(np.mean(by_batch) - np.mean(by_scan)) < 0.02, (np.mean(by_batch), np.mean(by_scan))
    if probes is None:
        assert np.mean(by_batch) > 0.85


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


def test_more_rows_than_the_lists_hold(session, table):
    """k rows come as long as there are as many, unless the scan is told to end with its lists."""
    for k in (500, 3000, 3001):
        found = batch(session, table[:3], k, 1)
        assert [len(rows) for rows in found.values()] == [min(k, 3000)] * 3
        assert all(len({i for i, _ in rows}) == len(rows) for rows in found.values())
    put(session, omen__iterative_scan="off")
    assert all(0 < len(rows) < 3000 for rows in batch(session, table[:3], 3000, 1).values())
    put(session, omen__iterative_scan="strict_order", omen__max_scan_tuples=40)
    assert [len(rows) for rows in batch(session, table[:3], 100, 1).values()] == [40] * 3


def test_appended_rows(session, table, rng):
    """Rows inserted after the tier was loaded are found, and found again once VACUUM has folded them."""
    for step in range(4):
        near = table[step * 100] + 0.01 * vectors.uniform(rng, 200, DIM)
        vectors.copy_rows(session, "t", np.arange(10_000 + 1000 * step, 10_200 + 1000 * step), near.astype(np.float32))
        queries = [table[step * 100], *vectors.clustered(rng, 5, DIM)]
        assert_exact(session, "l2", queries, 20)
        found = batch(session, queries, 20, 2)
        assert sum(i >= 10_000 for i, _ in found[1]) >= 19
        if step % 2:
            session.execute("VACUUM t")
            assert_exact(session, "l2", queries, 20)


def test_reused_slots_under_a_loaded_tier(db, session, table, engine, rng):
    """Rows die, VACUUM gives their slots to others: lists that the tier has of old are read from their pages."""
    with db.connect() as writer:
        for step in range(3):
            query = table[7 + step]
            near = [i for i, _ in exact(writer, "l2", query, 80)]
            writer.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s)", (near,))
            writer.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
            writer.execute("VACUUM t")
            first = 20_000 + 1000 * step
            vectors.copy_rows(writer, "t", np.arange(first, first + 80), (query - 40 + vectors.uniform(rng, 80, DIM)).astype(np.float32))
            reused = writer.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = gone.slot WHERE id >= %s", (first,)).fetchone()[0]
            writer.execute("DROP TABLE gone")
            assert reused > 20, f"only {reused} slots were reused: the test would prove nothing"
            if engine == "gpu":
                assert "current" in index_status(session)["hot_tier_state"], index_status(session)
            assert_exact(session, "l2", [query, query - 40, *vectors.clustered(rng, 3, DIM)], 15, tolerance=0.01)
            few = batch(session, [query, query - 40], 10, 2)
            assert all(i < 20_000 for i, _ in few[1]) and all(i >= first for i, _ in few[2])


@pytest.mark.every_major
def test_own_changes(session, table, rng):
    """What the transaction itself deleted, updated or rolled back."""
    queries = np.vstack([table[:6], vectors.clustered(rng, 4, DIM)])
    with session.transaction(force_rollback=True):
        # Most candidates of each query are dead: the search goes deeper.
        for query in queries:
            near = [i for i, _ in exact(session, "l2", query, 300)]
            session.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
        assert_exact(session, "l2", queries, 10)
        # HOT and other updates.
        session.execute("UPDATE t SET id = id + 100000 WHERE id % 2 = 0")
        session.execute("UPDATE t SET v = v + v WHERE id % 3 = 0")
        assert_exact(session, "l2", queries, 25)
        with session.transaction(force_rollback=True):
            session.execute("DELETE FROM t")
            assert batch(session, queries, 5) == {i: [] for i in range(1, len(queries) + 1)}
            vectors.copy_rows(session, "t", [-1], queries[:1])
            assert [i for i, _ in batch(session, queries, 5)[1]] == [-1]
        assert_exact(session, "l2", queries, 25)
    assert_exact(session, "l2", queries, 25)


def test_hot_chains(db, engine, rng):
    """An entry points to the first version of a row; the ctid is that of the version that is seen."""
    rows = vectors.clustered(rng, 1000, DIM)
    with db.connect(**ENGINES[engine]) as conn:
        make_table(conn, rows, options="WITH (fillfactor = 40)")
        make_index(conn, lists=8)
        with conn.transaction():
            for _ in range(3):
                conn.execute("UPDATE t SET id = id + 1000 WHERE id % 2 = 1")
            hot = conn.execute("SELECT pg_stat_get_xact_tuples_hot_updated('t'::regclass)").fetchone()[0]
            assert hot > 500, f"{hot} HOT updates: the test would prove nothing"
            assert_exact(conn, "l2", rows[:40], 10, 8)
        # Pruned chains: the root has become a redirection.
        conn.execute("VACUUM t")
        assert_exact(conn, "l2", rows[:40], 10, 8)


def test_other_transactions(db, session, table, rng):
    """Changes of others are seen once they are committed, at the isolation that was asked for."""
    queries = vectors.clustered(rng, 5, DIM)
    before = batch(session, queries, 30, LISTS)
    with db.connect() as other:
        with other.transaction():
            other.execute("DELETE FROM t WHERE id % 2 = 0")
            vectors.copy_rows(other, "t", np.arange(5000, 5005), queries)
            assert batch(session, queries, 30, LISTS) == before
        assert_exact(session, "l2", queries, 30)
        assert [rows[0][0] for rows in batch(session, queries, 30, LISTS).values()] == [5000, 5001, 5002, 5003, 5004]
        with session.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            before = batch(session, queries, 30, LISTS)
            other.execute("UPDATE t SET id = -id")
            other.execute("DELETE FROM t WHERE id % 3 = 0")
            vectors.copy_rows(other, "t", np.arange(6000, 6005), queries)
            other.execute("VACUUM t")
            after = batch(session, queries, 30, LISTS)
            for number in after:
                assert len({i for i, _ in after[number]} & {i for i, _ in before[number]}) >= 29
                assert_near(after[number], before[number])
        assert_exact(session, "l2", queries, 30)


def test_serializable(db, table):
    """A search of all rows near a place conflicts with an insert there."""
    with db.connect(**CPU) as one, db.connect(**CPU) as two:
        for conn in (one, two):
            conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            batch(conn, table[:1], 5)
        for number, conn in enumerate((one, two)):
            vectors.copy_rows(conn, "t", [9000 + number], table[:1])
        one.execute("COMMIT")
        with pytest.raises(psycopg.errors.SerializationFailure):
            two.execute("COMMIT")


def test_partial_and_expression_indexes(session, table):
    session.execute("CREATE INDEX part ON t USING omen (v vector_l2_ops) WITH (lists = 8) WHERE id < 500")
    found = batch(session, table[:5], 40, 8, index="part")
    for number in found:
        nearest = np.argsort(((table[:500] - table[number - 1]) ** 2).sum(axis=1))[:40]
        assert len({i for i, _ in found[number]} & set(nearest.tolist())) >= 38
    session.execute("CREATE INDEX twice ON t USING omen (((v + v)::vector(40)) vector_l2_ops) WITH (lists = 8)")
    assert [rows[0][0] for rows in batch(session, 2 * table[:30], 1, 8, index="twice").values()] == list(range(30))


@pytest.mark.parametrize("metric", OPERATORS)
def test_numbers_far_beyond_the_others(db, engine, rng, metric):
    """Rows that half precision cannot hold are placed by their true distance."""
    rows = vectors.clustered(rng, 1000, DIM)
    with db.connect(**ENGINES[engine]) as conn:
        make_table(conn, rows)
        make_index(conn, metric, lists=8)
        huge = rng.choice([-1, 1], (60, DIM)) * 10.0 ** rng.uniform(6, 16, (60, 1))
        vectors.copy_rows(conn, "t", np.arange(2000, 2060), huge.astype(np.float32))
        queries = np.vstack([rows[:4], huge[:3].astype(np.float32)])
        assert_exact(conn, metric, queries, 10, 8, tolerance=0.03)
        conn.execute("VACUUM t")
        assert_exact(conn, metric, queries, 10, 8, tolerance=0.03)


def test_zero_query_under_cosine(db, engine, rng):
    """The operator gives NaN for every row: any rows are right."""
    rows = vectors.clustered(rng, 500, DIM)
    with db.connect(**ENGINES[engine]) as conn:
        make_table(conn, rows)
        make_index(conn, "cosine", lists=8)
        found = batch(conn, np.vstack([np.zeros((1, DIM)), rows[3:4]]), 10, 8)
        assert len(found[1]) == 10 and all(np.isnan(d) for _, d in found[1]) and len({i for i, _ in found[1]}) == 10
        assert_near(found[2], exact(conn, "cosine", rows[3], 10))


def test_arguments(session, table):
    q = vectors.text(table[0])
    call = "omen_search(%s, %s::vector[], %s, %s)"
    fails(session, "22023", "ORDER BY", call, ("t_v_idx", [q], 0, None))
    fails(session, "22023", "ORDER BY", call, ("t_v_idx", [q], -3, None))
    fails(session, "22023", "ORDER BY", call, ("t_v_idx", [q], 100_001, None))
    fails(session, "22023", "omen.recall", call, ("t_v_idx", [q], 5, 0))
    fails(session, "22023", "omen.recall", call, ("t_v_idx", [q], 5, -1))
    fails(session, "22004", "array_agg", call, ("t_v_idx", [q, None], 5, None))
    fails(session, "22000", "ARRAY", call, ("t_v_idx", [[q], [q]], 5, None))
    fails(session, "22000", "dimension", call, ("t_v_idx", [q, "[1,2]"], 5, None))
    fails(session, "42809", "", call, ("t", [q], 5, None))
    fails(session, "42809", "", call, ("pg_class_oid_index", [q], 5, None))
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
    fails(session, "55000", "REINDEX", call, ("t_v_idx", [q], 5, None))


def test_transaction_older_than_the_index(session, table):
    """An index that does not have all rows this transaction may see (broken HOT chains) is refused, as by the planner."""
    with session.transaction(force_rollback=True):
        session.execute("UPDATE pg_index SET indcheckxmin = true WHERE indexrelid = 't_v_idx'::regclass")
        fails(session, "55000", "after the index was built", "omen_search('t_v_idx', ARRAY[%s::vector], 5)", (vectors.text(table[0]),))


def test_tables_without_rows_at_the_build(db, engine, rng):
    with db.connect(**ENGINES[engine]) as conn:
        conn.execute("CREATE TABLE t (id integer, v vector(40))")
        make_index(conn)
        rows = vectors.clustered(rng, 300, DIM)
        assert batch(conn, rows[:2], 5) == {1: [], 2: []}
        vectors.copy_rows(conn, "t", np.arange(300), rows)
        assert_exact(conn, "l2", rows[:10], 5)
        conn.execute("VACUUM t")
        assert_exact(conn, "l2", rows[:10], 5)
        conn.execute("TRUNCATE t")
        assert batch(conn, rows[:2], 5) == {1: [], 2: []}


def test_partitions(session, table, rng):
    session.execute("CREATE TABLE p (id integer, v vector(40)) PARTITION BY RANGE (id)")
    session.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)")
    session.execute("CREATE INDEX p_idx ON p USING omen (v)")
    vectors.copy_rows(session, "p", np.arange(1000), table[:1000])
    fails(session, "42809", "partitions", "omen_search('p_idx', ARRAY[%s::vector], 5)", (vectors.text(table[0]),))
    assert batch(session, table[:3], 1, index="p1_v_idx", table="p1")[2][0][0] == 1


def test_privileges(db, session, table):
    q = vectors.text(table[0])
    call = "omen_search('t_v_idx', ARRAY[%s::vector], 5)"
    session.execute("DROP ROLE IF EXISTS omen_searcher")
    session.execute("CREATE ROLE omen_searcher")
    try:
        session.execute("GRANT USAGE ON SCHEMA public TO omen_searcher; SET ROLE omen_searcher")
        fails(session, "42501", "SELECT", call, (q,))
        session.execute("RESET ROLE; GRANT SELECT (id) ON t TO omen_searcher; SET ROLE omen_searcher")
        fails(session, "42501", "SELECT", call, (q,))
        session.execute("RESET ROLE; GRANT SELECT ON t TO omen_searcher; SET ROLE omen_searcher")
        assert len(session.execute(f"SELECT * FROM {call}", (q,)).fetchall()) == 5
        session.execute("RESET ROLE; ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE omen_searcher")
        fails(session, "42501", "polic", call, (q,))
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


def test_temporary_and_unlogged_tables(db, engine, rng):
    with db.connect(**ENGINES[engine]) as conn:
        for kind in ("TEMP", "UNLOGGED"):
            rows = vectors.clustered(rng, 800, DIM)
            make_table(conn, rows, kind=kind)
            make_index(conn, lists=8)
            assert_exact(conn, "l2", rows[:20], 7, 8)
            conn.execute("DROP TABLE t")


def test_standby(make_server, engine, rng):
    primary = make_server("primary")
    db = make_database(primary, "batch")
    rows = vectors.clustered(rng, 1000, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=8)
        standby = make_server("standby", source=primary)
        with Db(standby, "batch").connect(**ENGINES[engine]) as reader:
            assert_exact(reader, "l2", rows[:20], 10, 8)
            conn.execute("DELETE FROM t WHERE id < 10")
            conn.execute("VACUUM t")
            vectors.copy_rows(conn, "t", np.arange(5000, 5050), rows[:50])
            primary.wait_for(standby)
            assert_exact(reader, "l2", rows[:20], 10, 8)
            assert last_scan(reader)["engine"] == engine


def test_pages_on_disk(make_server, engine, rng):
    """With a cache much smaller than table and index the rows are the same: pages are asked for ahead."""
    server = make_server("cold", {"shared_buffers": "1MB"})
    db = make_database(server, "cold")
    rows = vectors.clustered(rng, 20_000, DIM)
    with db.connect(**ENGINES[engine]) as conn:
        make_table(conn, rows)
        make_index(conn, lists=30)
        conn.execute("DELETE FROM t WHERE id % 3 = 0")
        assert_exact(conn, "l2", rows[:150], 10, 30)
        assert all(len(found) == 300 for found in batch(conn, rows[:100], 300, 3).values())
    assert "WARNING" not in server.log_text(), server.log_text()


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
