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
    assert "Seq Scan on small" in search_plan(free, 64, None, table="small")


def top(conn, query):
    """The topmost node of the plan of `query`, as a dict."""
    return conn.execute("EXPLAIN (FORMAT json) " + query).fetchone()[0][0]["Plan"]


def nodes(node):
    """A node and all below it."""
    return [node] + [found for child in node.get("Plans", []) for found in nodes(child)]


def way(conn, query) -> str:
    """How the plan of `query` comes to its rows: omen, btree (an index scan or a bitmap) or seq."""
    found = nodes(top(conn, query))
    indexes = {node["Index Name"] for node in found if "Index Name" in node}
    if indexes:
        return "omen" if indexes == {"t_v_idx"} else "btree"
    return "seq" if any(node["Node Type"] == "Seq Scan" for node in found) else str(found)


def make_filtered_table(conn, rows):
    """Table t with columns to filter by: half of the rows, a hundredth, rare (20); the same in ...i with a btree index."""
    kinds = {"half": 2, "hundredth": 100, "rare": len(rows) // 20}
    conn.execute(f"CREATE TABLE t (id integer, v vector({rows.shape[1]}), "
                 + ", ".join(f"{kind}{i} integer GENERATED ALWAYS AS (id * 7919 % {n}) STORED" for kind, n in kinds.items() for i in ("", "i")) + ")")
    vectors.copy_rows(conn, "t", range(len(rows)), rows)
    for kind in kinds:
        conn.execute(f"CREATE INDEX ON t ({kind}i)")
    make_index(conn)
    conn.execute("VACUUM ANALYZE t")


@pytest.mark.parametrize("n, dim", ((20_000, 32), (10_000, 768)), ids=("inline", "toasted"))
def test_the_cheaper_way(free, rng, n, dim):
    """By the index what is near, by btree what a filter picks out, by sort what is most of the table.

    Vectors of 768 dimensions are stored out of line, where a sequential scan looks cheaper than it is.
    """
    make_filtered_table(free, vectors.clustered(rng, n, dim))
    nearest = f"ORDER BY v <-> '{vectors.text([0.5] * dim)}'"
    for random_page_cost in (1.1, 4):
        put(free, random_page_cost=random_page_cost)
        for wanted, where, limit in (
                ("omen", "", "LIMIT 1"), ("omen", "", "LIMIT 10"), ("omen", "", "LIMIT 100"), ("omen", "", "LIMIT 10 OFFSET 20"),
                ("omen", "WHERE half = 0", "LIMIT 10"), ("omen", "WHERE halfi = 0", "LIMIT 10"),
                ("seq", "", ""), ("seq", "", f"LIMIT {n - 100}"), ("seq", "WHERE half = 0", ""),
                # Vectors in line are read so fast that a hundredth is a close call.
                ("seq", f"WHERE {'hundredth' if dim > 500 else 'rare'} = 0", "LIMIT 10"), ("btree", "WHERE hundredthi = 0", "LIMIT 10"),
                ("seq", "WHERE rare = 0", "LIMIT 10"), ("seq", "WHERE rare = 0", ""),
                ("btree", "WHERE rarei = 0", "LIMIT 10"), ("btree", "WHERE rarei = 0", "LIMIT 1000"), ("btree", "WHERE rarei = 0", "")):
            assert way(free, f"SELECT id FROM t {where} {nearest} {limit}") == wanted, (random_page_cost, where, limit)


def test_estimates(free, rng):
    """Rows are those that pass the filter; a partial index is a smaller one; no estimate is beyond number."""
    make_filtered_table(free, vectors.clustered(rng, 6000, 16))
    put(free, enable_seqscan="off", enable_sort="off", enable_bitmapscan="off")
    nearest = f"ORDER BY v <-> '{vectors.text([0.5] * 16)}'"
    scan = top(free, f"SELECT id FROM t {nearest}")
    assert scan["Node Type"] == "Index Scan" and scan["Plan Rows"] == 6000, scan
    assert 0 < scan["Startup Cost"] < scan["Total Cost"], scan
    half = top(free, f"SELECT id FROM t WHERE half = 0 {nearest}")
    assert half["Index Name"] == "t_v_idx" and 2700 < half["Plan Rows"] < 3300, half
    free.execute("CREATE INDEX part ON t USING omen (v vector_l2_ops) WHERE id < 600")
    free.execute("ANALYZE t")
    part = top(free, f"SELECT id FROM t WHERE id < 600 {nearest}")
    assert part["Index Name"] == "part" and 500 < part["Plan Rows"] < 700, part
    assert part["Total Cost"] < scan["Total Cost"] / 2, (part, scan)
    put(free, omen__enable_scan="off")
    off = top(free, f"SELECT id FROM t {nearest} LIMIT 5")
    assert all(node.get("Index Name") != "t_v_idx" and node["Total Cost"] < 1e15 for node in nodes(off)), off


def test_cost_grows_with_rows_pulled(free, rng):
    make_filtered_table(free, vectors.clustered(rng, 6000, 16))
    put(free, enable_seqscan="off", enable_sort="off", enable_bitmapscan="off")
    costs = [top(free, f"SELECT id FROM t {where} ORDER BY v <-> '{vectors.text([0.5] * 16)}' LIMIT 10")["Total Cost"]
             for where in ("", "WHERE half = 0", "WHERE rare = 0")]
    assert costs[0] < costs[1] < costs[2] / 10, costs


def test_never_without_order_by(free, rng):
    make_table(free, vectors.clustered(rng, 3000, 8))
    make_index(free)
    free.execute("CREATE INDEX t_v_idx_part ON t USING omen (v vector_l2_ops) WHERE id < 1000")
    put(free, enable_seqscan="off")
    for query in ("SELECT id FROM t", "SELECT id FROM t WHERE id < 1000", "SELECT count(*) FROM t", "SELECT id FROM t WHERE v = '[1,1,1,1,1,1,1,1]'",
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
        costs.append(top(free, f"SELECT id FROM t ORDER BY v <-> '{vectors.text([1.0] * 32)}' LIMIT 10")["Total Cost"])
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
