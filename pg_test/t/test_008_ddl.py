"""Everything PostgreSQL does to indexes besides searching them."""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, assert_by_index, check_all, empty_database, index_status, knn, make_database, make_index, make_table, put

ZERO = np.zeros(8)


def ids(conn, table="t"):
    """All ids in the table, through its index; all indexes are sound."""
    assert check_all(conn)
    put(conn, omen__probes=65536)
    assert_by_index(conn, "l2", ZERO, None, table=table)
    return sorted(i for i, _ in knn(conn, "l2", ZERO, None, table=table))


@pytest.fixture
def table(conn, rng):
    make_table(conn, vectors.clustered(rng, 1200, 8))
    return conn


def test_unlogged_is_empty_but_usable_after_a_crash(make_server, rng):
    server = make_server("unlogged")
    db = make_database(server, "unlogged")
    with db.connect(**BY_INDEX) as conn:
        make_table(conn, vectors.clustered(rng, 800, 8), kind="UNLOGGED")
        make_index(conn, lists=8)
        assert ids(conn) == list(range(800))
    server.kill()
    server.start()
    with db.connect(**BY_INDEX) as conn:
        assert ids(conn) == []
        vectors.copy_rows(conn, "t", np.arange(50), vectors.clustered(rng, 50, 8))
        assert ids(conn) == list(range(50))
        conn.execute("ALTER TABLE t SET LOGGED")
        assert ids(conn) == list(range(50))
    server.kill()
    server.start()
    with db.connect(**BY_INDEX) as conn:
        assert ids(conn) == list(range(50))


def test_temporary_table(conn, rng):
    make_table(conn, vectors.clustered(rng, 700, 8), kind="TEMP")
    make_index(conn)
    conn.execute("DELETE FROM t WHERE id < 100")
    conn.execute("VACUUM t")
    assert ids(conn) == list(range(100, 700))


def test_concurrently(table):
    make_index(table, lists=10, concurrently=True)
    assert ids(table) == list(range(1200))
    table.execute("REINDEX INDEX CONCURRENTLY t_v_idx")
    assert ids(table) == list(range(1200))
    table.execute("DROP INDEX CONCURRENTLY t_v_idx")


def test_rewrites(table, rng):
    make_index(table, lists=10)
    table.execute("CREATE INDEX by_id ON t (id)")
    for change in ("VACUUM FULL t", "CLUSTER t USING by_id", "ALTER TABLE t ALTER id TYPE bigint", "REINDEX TABLE t"):
        table.execute(change)
        assert ids(table) == list(range(1200)), change
    table.execute("ALTER TABLE t ALTER id TYPE integer")
    table.execute("TRUNCATE t")
    assert ids(table) == []
    vectors.copy_rows(table, "t", np.arange(300), vectors.clustered(rng, 300, 8))
    assert ids(table) == list(range(300))


def test_rolled_back_work_leaves_no_trace(table, rng):
    make_index(table, lists=10)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), table.transaction():
            vectors.copy_rows(table, "t", np.arange(5000, 5400), vectors.clustered(rng, 400, 8))
            assert len(ids(table)) == 1600
            raise ZeroDivisionError
    assert ids(table) == list(range(1200))
    with pytest.raises(ZeroDivisionError), table.transaction():
        table.execute("TRUNCATE t; REINDEX TABLE t; INSERT INTO t VALUES (1, '[1,2,3,4,5,6,7,8]')")
        raise ZeroDivisionError
    assert ids(table) == list(range(1200))


def test_updates_move_rows(table, rng):
    make_index(table, lists=10)
    table.execute("UPDATE t SET v = v * '[-1,-1,-1,-1,-1,-1,-1,-1]'::vector WHERE id < 400")
    table.execute("UPDATE t SET id = id WHERE id >= 800")
    assert ids(table) == list(range(1200))
    table.execute("VACUUM t")
    assert ids(table) == list(range(1200))
    assert index_status(table)["rows"] == 1200


def test_partitions(conn, rng):
    conn.execute("CREATE TABLE t (id int, v vector(8)) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (400)")
    conn.execute("CREATE TABLE b PARTITION OF t FOR VALUES FROM (400) TO (2000)")
    rows = vectors.clustered(rng, 1200, 8)
    vectors.copy_rows(conn, "t", np.arange(1200), rows)
    make_index(conn)
    put(conn, omen__probes=65536, enable_sort="off")
    text = "\n".join(r[0] for r in conn.execute("EXPLAIN SELECT id FROM t ORDER BY v <-> '[0,0,0,0,0,0,0,0]'"))
    assert "Merge Append" in text and text.count("Index Scan") == 2
    assert sorted(i for i, _ in knn(conn, "l2", ZERO, None)) == list(range(1200))
    nearest = knn(conn, "l2", rows[399], 1), knn(conn, "l2", rows[400], 1)
    assert nearest == ([(399, 0.0)], [(400, 0.0)])
    assert [row["rows_checked"] for row in check_all(conn)] == [400, 800]


def test_partial_and_expression_indexes(table):
    table.execute("CREATE INDEX part ON t USING omen (v vector_l2_ops) WHERE id < 100")
    put(table, omen__probes=65536)
    assert_by_index(table, "l2", ZERO, None, where="id < 100")
    assert sorted(i for i, _ in knn(table, "l2", ZERO, None, where="id < 100")) == list(range(100))
    assert [row["rows_checked"] for row in check_all(table)] == [100]
    table.execute("DROP INDEX part; CREATE INDEX expr ON t USING omen (((v * v)::vector(8)) vector_l2_ops)")
    found = table.execute("SELECT id FROM t ORDER BY (v * v)::vector(8) <-> '[0,0,0,0,0,0,0,0]'").fetchall()
    assert len(found) == 1200
    assert [row["rows_checked"] for row in check_all(table)] == [1200]


def test_tablespace(make_server, rng):
    server = make_server("space")
    db = make_database(server, "space")
    folder = server.dir / "elsewhere"
    with db.connect(**BY_INDEX) as conn:
        conn.execute(f"COPY (SELECT 1) TO PROGRAM 'mkdir {folder}'")
        conn.execute(f"CREATE TABLESPACE elsewhere LOCATION '{folder}'")
        make_table(conn, vectors.clustered(rng, 600, 8))
        make_index(conn)
        conn.execute("ALTER INDEX t_v_idx SET TABLESPACE elsewhere")
        assert ids(conn) == list(range(600))
        conn.execute("CREATE INDEX again ON t USING omen (v vector_l2_ops) TABLESPACE elsewhere; DROP INDEX t_v_idx")
        assert ids(conn) == list(range(600))


def test_drop_extension_takes_its_indexes(table):
    make_index(table)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        table.execute("DROP EXTENSION pg_omen")
    table.execute("DROP EXTENSION pg_omen CASCADE")
    assert table.execute("SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == 0
    table.execute("CREATE EXTENSION pg_omen")


@pytest.mark.every_major
def test_dump_and_restore(db, table, shared_server):
    make_index(table, "cosine", lists=11)
    dump = shared_server.program("pg_dump", dbname=db.name)
    assert "WITH (lists='11')" in dump and "CREATE EXTENSION IF NOT EXISTS pg_omen" in dump
    restored = empty_database(shared_server, "restored")
    try:
        shared_server.program("psql", "-q", "-v", "ON_ERROR_STOP=1", dbname="restored", input=dump)
        with restored.connect(**BY_INDEX, omen__probes=11) as conn:
            assert index_status(conn)["lists"] == 11
            check_all(conn)
            assert sorted(i for i, _ in knn(conn, "cosine", np.ones(8), None)) == list(range(1200))
            before = table.execute("SELECT id, v::text FROM t ORDER BY id").fetchall()
            assert conn.execute("SELECT id, v::text FROM t ORDER BY id").fetchall() == before
    finally:
        shared_server.sql("DROP DATABASE restored")


def test_set_lists_takes_effect_at_reindex(table):
    make_index(table, lists=10)
    table.execute("ALTER INDEX t_v_idx SET (lists = 17)")
    assert index_status(table)["lists"] == 10
    assert ids(table) == list(range(1200))
    table.execute("REINDEX INDEX t_v_idx")
    assert index_status(table)["lists"] == 17


def test_size_stays_bounded_under_churn(table, rng):
    """Twenty times all rows replaced: VACUUM gives pages back, so the index does not grow with history."""
    make_index(table, lists=10)
    sizes = []
    for turn in range(1, 21):
        table.execute("DELETE FROM t")
        vectors.copy_rows(table, "t", np.arange(1200) + 10_000 * turn, vectors.clustered(rng, 1200, 8))
        table.execute("VACUUM t")
        sizes.append(table.execute("SELECT pg_relation_size('t_v_idx')").fetchone()[0])
    assert max(sizes[10:]) <= 1.5 * max(sizes[2:6]), sizes
    assert ids(table) == [i + 200_000 for i in range(1200)]
