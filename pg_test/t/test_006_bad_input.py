"""Odd tables, odd vectors and files that are no index: a right answer or a clear error, never a crash or a lost row."""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, assert_same, index_status, knn, make_database, make_index, make_table, put


def all_ids(conn, metric="l2", dim=3):
    """Ids of all rows in index order."""
    return sorted(i for i, _ in knn(conn, metric, np.ones(dim), None))


def test_empty_table_then_rows(conn):
    conn.execute("CREATE TABLE t (id int, v vector(3))")
    make_index(conn)
    assert knn(conn, "l2", [1, 2, 3], 10) == []
    conn.execute("INSERT INTO t SELECT i, ARRAY[i, i % 7, 1]::real[]::vector FROM generate_series(1, 500) i")
    assert all_ids(conn) == list(range(1, 501))
    conn.execute("DELETE FROM t")
    conn.execute("VACUUM t")
    assert knn(conn, "l2", [1, 2, 3], 10) == []


def test_one_row_and_fewer_rows_than_lists(conn):
    conn.execute("CREATE TABLE t (id int, v vector(3)); INSERT INTO t VALUES (1, '[1,2,3]')")
    make_index(conn, lists=100)
    assert knn(conn, "l2", [0, 0, 0], 5) == [(1, pytest.approx(14 ** 0.5))]
    conn.execute("INSERT INTO t SELECT i, ARRAY[i, 1, 1]::real[]::vector FROM generate_series(2, 9) i; REINDEX INDEX t_v_idx")
    put(conn, omen__probes=100)
    assert all_ids(conn) == list(range(1, 10))
    assert index_status(conn)["rows"] == 9


def test_all_equal_vectors(conn):
    conn.execute("CREATE TABLE t (id int, v vector(3)); INSERT INTO t SELECT i, '[1,1,1]' FROM generate_series(1, 3000) i")
    for metric in ("l2", "ip", "cosine"):
        make_index(conn, metric, name=f"{metric}_idx")
    conn.execute("INSERT INTO t SELECT i, '[1,1,1]' FROM generate_series(3001, 3500) i")
    for metric in ("l2", "ip", "cosine"):
        put(conn, omen__probes=65536)
        assert all_ids(conn, metric) == list(range(1, 3501))
        assert len(knn(conn, metric, [1, 1, 1], 10)) == 10


def test_null_rows_and_null_query(conn):
    conn.execute("CREATE TABLE t (id int, v vector(3)); INSERT INTO t SELECT i, CASE WHEN i % 3 > 0 THEN ARRAY[i,1,2]::real[]::vector END "
                 "FROM generate_series(1, 600) i")
    make_index(conn)
    conn.execute("INSERT INTO t VALUES (601, NULL), (602, '[3,1,2]')")
    wanted = [i for i in range(1, 601) if i % 3] + [602]
    put(conn, omen__probes=65536)
    assert all_ids(conn) == wanted
    rows = conn.execute("SELECT id FROM t WHERE v IS NOT NULL ORDER BY v <-> NULL::vector").fetchall()
    assert len(rows) == len(wanted) or rows == []
    assert len(conn.execute("SELECT id, v <-> NULL::vector FROM t ORDER BY v <-> NULL::vector LIMIT 3").fetchall()) == 3


def test_zero_vectors_under_cosine(conn):
    """A zero vector has no direction: it is not in a cosine index, and a zero query orders nothing."""
    conn.execute("CREATE TABLE t (id int, v vector(3)); INSERT INTO t SELECT i, CASE WHEN i % 5 = 0 THEN '[0,0,0]' ELSE ARRAY[i,1,2]::real[]::vector END "
                 "FROM generate_series(1, 500) i")
    make_index(conn, "cosine")
    conn.execute("INSERT INTO t VALUES (501, '[0,0,0]'), (502, '[1,1,2]')")
    put(conn, omen__probes=65536)
    assert all_ids(conn, "cosine") == [i for i in range(1, 501) if i % 5] + [502]
    assert len(knn(conn, "cosine", [0, 0, 0], 10)) <= 10
    conn.execute("CREATE INDEX l2_idx ON t USING omen (v vector_l2_ops)")
    assert len(all_ids(conn, "l2")) == 502


@pytest.mark.parametrize("lists", (-1, 65537, 1_000_000))
def test_lists_out_of_range(conn, lists):
    conn.execute("CREATE TABLE t (id int, v vector(3))")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="lists"):
        conn.execute(f"CREATE INDEX ON t USING omen (v vector_l2_ops) WITH (lists = {lists})")


def test_unknown_option_and_unfit_columns(conn):
    conn.execute("CREATE TABLE t (id int, v vector(3), free vector)")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="nosuch"):
        conn.execute("CREATE INDEX ON t USING omen (v vector_l2_ops) WITH (nosuch = 1)")
    with pytest.raises(psycopg.Error, match="dimension"):
        conn.execute("CREATE INDEX ON t USING omen (free vector_l2_ops)")
    with pytest.raises(psycopg.errors.UndefinedObject):
        conn.execute("CREATE INDEX ON t USING omen (id)")
    for bad in ("CREATE UNIQUE INDEX ON t USING omen (v vector_l2_ops)", "CREATE INDEX ON t USING omen (v vector_l2_ops, v vector_l2_ops)",
                "CREATE INDEX ON t USING omen (v vector_l2_ops) INCLUDE (id)"):
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            conn.execute(bad)


def test_mixed_dimensions(conn):
    """A column without dimension is indexed through a cast; a row that does not fit is refused with both numbers."""
    conn.execute("CREATE TABLE t (id int, v vector); INSERT INTO t SELECT i, ARRAY[i,1,2]::real[]::vector FROM generate_series(1, 50) i")
    conn.execute("CREATE INDEX t_v_idx ON t USING omen ((v::vector(3)) vector_l2_ops)")
    with pytest.raises(psycopg.errors.DataException, match="expected 3 dimensions, not 2"):
        conn.execute("INSERT INTO t VALUES (51, '[1,2]')")
    query = "SELECT id FROM t ORDER BY v::vector(3) <-> '[7,1,2]' LIMIT 1"
    assert conn.execute(query).fetchall() == [(7,)]
    with pytest.raises(psycopg.errors.DataException, match="dimensions"):
        conn.execute("SELECT id FROM t ORDER BY v::vector(3) <-> '[7,1]' LIMIT 1").fetchall()
    conn.execute("DROP INDEX t_v_idx")
    conn.execute("INSERT INTO t VALUES (51, '[1,2]')")
    with pytest.raises(psycopg.errors.DataException, match="expected 3 dimensions, not 2"):
        conn.execute("CREATE INDEX ON t USING omen ((v::vector(3)) vector_l2_ops)")


@pytest.mark.parametrize("metric", ("l2", "ip", "cosine"))
def test_extreme_values(db, rng, metric):
    """Components up to float32's limits: what fp16 cannot hold is found all the same."""
    rows = vectors.uniform(rng, 600, 6)
    rows[:100] *= 1e-38
    rows[100:200] *= 1e12
    rows[200:210] = 3e38
    rows[210:220] = -3e38
    rows[220:230] = 1e-45
    with db.connect(**BY_INDEX, omen__probes=65536) as conn, db.connect(**BY_SORT) as sort:
        make_table(conn, rows[:400])
        make_index(conn, metric)
        vectors.copy_rows(conn, "t", np.arange(400, 600), rows[400:])
        for query in (rows[300], rows[0], rows[150], rows[205], np.zeros(6) if metric != "cosine" else rows[1]):
            found, wanted = knn(conn, metric, query, None), knn(sort, metric, query, None)
            wanted = [(i, d) for i, d in wanted if not np.isnan(d)]
            found = [(i, d) for i, d in found if not np.isnan(d)]
            assert_same(found, wanted)


@pytest.mark.parametrize("offset,value,message", (
    (64, b"XXXX", "not an omen index|magic"), (68, (99).to_bytes(4, "little"), "version 99")))
def test_wrong_magic_or_version(make_server, rng, offset, value, message):
    """A page that is not ours, or from a version to come: every use of the index says so, with a hint."""
    server = make_server("pages")
    db = make_database(server, "pages")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 300, 8))
        make_index(conn)
        file = server.data / conn.execute("SELECT pg_relation_filepath('t_v_idx')").fetchone()[0]
    server.stop()
    with open(file, "r+b") as f:
        f.seek(offset)
        f.write(value)
    server.start()
    with db.connect(**BY_INDEX) as conn:
        for use in ("SELECT id FROM t ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 1", "INSERT INTO t SELECT 1, v FROM t LIMIT 1",
                    "SELECT * FROM omen_index_status('t_v_idx')"):
            with pytest.raises(psycopg.Error, match=message) as e:
                conn.execute(use)
            assert "REINDEX" in (e.value.diag.message_hint or ""), use
        # Planning never fails because of a broken index, and other indexes are not touched by it.
        conn.execute("EXPLAIN SELECT id FROM t ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 1")
        put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
        assert len(conn.execute("SELECT id FROM t ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 1").fetchall()) == 1
        conn.execute("REINDEX INDEX t_v_idx; SET enable_indexscan = on; SET enable_seqscan = off")
        assert len(knn(conn, "l2", np.ones(8), 5)) == 5
