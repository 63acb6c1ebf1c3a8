"""When the planner takes the index, and that asking it never fails."""

import psycopg
import pytest

from lib import vectors
from lib.db import knn_sql, make_index, make_table, plan, put


@pytest.fixture
def free(db):
    """A connection on which the planner decides by cost alone."""
    with db.connect() as connection:
        yield connection


def search_plan(conn, dim, k, **kwargs):
    q = vectors.text([1.0] * dim)
    return plan(conn, knn_sql("l2", k, **kwargs), (q, q))


def test_large_table_by_index_small_table_by_sort(free, rng):
    make_table(free, vectors.clustered(rng, 30_000, 64))
    make_index(free)
    make_table(free, vectors.clustered(rng, 60, 64), name="small")
    make_index(free, table="small", name="small_idx")
    assert "Index Scan using t_v_idx" in search_plan(free, 64, 10)
    assert "Index Scan using t_v_idx" in search_plan(free, 64, 10, where="id > 100")
    assert "Seq Scan on small" in search_plan(free, 64, 10, table="small")


def test_never_without_order_by(free, rng):
    make_table(free, vectors.clustered(rng, 3000, 8))
    make_index(free)
    put(free, enable_seqscan="off")
    for query in ("SELECT id FROM t", "SELECT count(*) FROM t", "SELECT id FROM t WHERE v = '[1,1,1,1,1,1,1,1]'",
                  "SELECT id FROM t ORDER BY id", "SELECT id FROM t ORDER BY v <-> '[1,1,1,1,1,1,1,1]' DESC",
                  "SELECT id FROM t ORDER BY v <#> '[1,1,1,1,1,1,1,1]'", "SELECT id FROM t WHERE v <-> '[1,1,1,1,1,1,1,1]' < 1"):
        assert "t_v_idx" not in plan(free, query), query
        free.execute(query)


def test_enable_scan(free, rng):
    make_table(free, vectors.clustered(rng, 30_000, 32))
    make_index(free)
    assert "t_v_idx" in search_plan(free, 32, 10)
    put(free, omen__enable_scan="off")
    assert "t_v_idx" not in search_plan(free, 32, 10)


def test_cost_grows_with_probes(free, rng):
    """More probes cost more, and the first row of a long answer does not cost all of it."""
    make_table(free, vectors.clustered(rng, 20_000, 32))
    make_index(free, lists=100)
    put(free, enable_seqscan="off")
    costs = []
    for probes in (1, 10, 100):
        put(free, omen__probes=probes)
        top = free.execute("EXPLAIN (FORMAT json) SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 10",
                           (vectors.text([1.0] * 32),)).fetchone()[0][0]["Plan"]
        costs.append(top["Total Cost"])
    assert costs == sorted(costs) and costs[0] < costs[-1], costs


def test_costing_never_fails(free, rng):
    """Unbuilt, empty, dropped under our feet, hypothetical: EXPLAIN answers."""
    free.execute("CREATE TABLE t (id int, v vector(4))")
    make_index(free)
    free.execute("SET enable_seqscan = off")
    assert search_plan(free, 4, 10)
    free.execute("INSERT INTO t VALUES (1, NULL)")
    assert search_plan(free, 4, 10)
    free.execute("CREATE TABLE p (id int, v vector(4)) PARTITION BY RANGE (id); CREATE INDEX p_idx ON p USING omen (v vector_l2_ops)")
    assert search_plan(free, 4, 10, table="p")
    free.execute("BEGIN; DROP INDEX t_v_idx")
    assert search_plan(free, 4, 10)
    free.execute("ROLLBACK")
    with pytest.raises(psycopg.Error):
        free.execute("SELECT * FROM omen_index_status('t'::regclass)")
    assert search_plan(free, 4, 10)
