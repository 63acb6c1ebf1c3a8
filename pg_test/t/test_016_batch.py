"""omen_search(): for many queries at once the rows that an exact search of the table gives, on both engines."""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import DIM, ENGINES, LISTS, assert_exact, assert_near, batch, engine, exact, session, table  # noqa: F401  # fixtures
from lib.db import BY_INDEX, CPU, Db, index_status, knn, last_scan, make_database, make_index, make_table, put
from lib.exact import OPERATORS, recall


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
            assert_exact(session, "l2", [query, query - 40, *vectors.clustered(rng, 3, DIM)], 15, tolerance=0.03)
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
            # Rows of one place: other lists stay as they were loaded.
            nearest = np.argsort(((rows - rows[0]) ** 2).sum(axis=1))[:5]
            conn.execute("DELETE FROM t WHERE id = ANY(%s)", (nearest.tolist(),))
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
