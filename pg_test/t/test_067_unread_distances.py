"""Distances that a query orders by and does not return are not computed beside the index's own, whatever stands around the search; those that something
reads are. Every answer is compared with that of a plan with all distances, and with a sort."""

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, make_index, make_table, plan

DIM, N, LISTS = 24, 1500, 12
# More lists than any of the indexes has.
ALL = 1000
Q = "(SELECT v FROM queries WHERE id = 0)"
NEAREST = f"SELECT id FROM t ORDER BY v <-> {Q} LIMIT 10"

# Nobody reads the distance.
UNREAD = {
    "limit": NEAREST,
    "offset": NEAREST + " OFFSET 3",
    "all": f"SELECT id FROM t ORDER BY v <-> {Q}",
    "filter": f"SELECT id, v FROM t WHERE mod(id, 3) = 0 ORDER BY v <-> {Q} LIMIT 10",
    "subquery": f"SELECT id FROM ({NEAREST}) s WHERE mod(id, 2) = 0",
    "sorted subquery": f"SELECT id FROM ({NEAREST}) s ORDER BY id DESC",
    "whole row": f"SELECT s FROM ({NEAREST}) s",
    "cte": f"WITH n AS MATERIALIZED ({NEAREST}) SELECT count(*), sum(id) FROM n",
    "array": f"SELECT ARRAY({NEAREST})",
    "in": f"SELECT id FROM t WHERE id IN ({NEAREST}) ORDER BY id",
    "union": f"({NEAREST}) UNION ALL (SELECT id FROM t ORDER BY v <-> (SELECT v FROM queries WHERE id = 1) LIMIT 5)",
    "lateral": "SELECT queries.id, s.id FROM queries, LATERAL (SELECT id FROM t ORDER BY t.v <-> queries.v LIMIT 4) s ORDER BY queries.id, s.id",
    "of each row": "SELECT id, (SELECT t.id FROM t ORDER BY t.v <-> queries.v LIMIT 1) AS nearest FROM queries ORDER BY 1",
    "one of two ways": f"SELECT id, EXISTS (SELECT FROM t WHERE t.id = queries.id) FROM queries WHERE id < (SELECT max(id) FROM ({NEAREST}) s) ORDER BY id",
    "aggregate": f"SELECT array_agg(id) FROM ({NEAREST}) s",
}
# It is returned, compared, or ordered by above the scan.
READ = {
    "returned": f"SELECT id, v <-> {Q} FROM t ORDER BY v <-> {Q} LIMIT 10",
    "returned by a subquery": f"SELECT id FROM (SELECT id, v <-> {Q} AS d FROM t ORDER BY d LIMIT 10) s ORDER BY d DESC",
    "ties": f"SELECT id FROM t ORDER BY v <-> {Q} FETCH FIRST 10 ROWS WITH TIES",
    "second key": f"SELECT id FROM t ORDER BY v <-> {Q}, id LIMIT 10",
    "window": f"SELECT id, rank() OVER (ORDER BY v <-> {Q}) FROM t ORDER BY v <-> {Q} LIMIT 10",
    "partitions": f"SELECT id FROM parts ORDER BY v <-> {Q} LIMIT 10",
}


def prepare(conn, rng):
    # No two rows are the same, so that every order is one.
    make_table(conn, vectors.clustered(rng, N, DIM))
    make_index(conn, lists=LISTS)
    conn.execute(f"CREATE TABLE queries (id int, v vector({DIM})); CREATE TABLE parts (id int, v vector({DIM})) PARTITION BY RANGE (id)")
    for first in (0, 500, 1000):
        conn.execute(f"CREATE TABLE parts_{first} PARTITION OF parts FOR VALUES FROM ({first}) TO ({first + 500})")
    conn.execute("INSERT INTO parts SELECT id, v FROM t; CREATE INDEX ON parts USING omen (v vector_l2_ops); ANALYZE parts")
    vectors.copy_rows(conn, "queries", np.arange(3), vectors.clustered(rng, 3, DIM))
    conn.execute("SET track_functions = 'all'")


def calls(conn) -> int:
    """How often the executor has called the distance."""
    return conn.execute("SELECT coalesce(pg_stat_get_xact_function_calls('l2_distance(vector, vector)'::regprocedure), 0)").fetchone()[0]


def counted(conn, sql: str) -> tuple[list, int]:
    """Its rows, and how many distances were computed for it."""
    with conn.transaction():
        before = calls(conn)
        rows = conn.execute(sql).fetchall()
        return rows, calls(conn) - before


def both(db, conn, sql: str) -> tuple[int, int]:
    """How many distances are computed with the setting off and on. The rows are the same, and those of a sort."""
    conn.execute("SET omen.skip_unread_distances = off")
    rows, n_all = counted(conn, sql)
    conn.execute("SET omen.skip_unread_distances = on")
    found, n = counted(conn, sql)
    assert found == rows, sql
    with db.connect(**BY_SORT) as exact:
        assert found == exact.execute(sql).fetchall(), sql
    return n_all, n


@pytest.mark.every_major
def test_unread(db, rng):
    """None is computed, where there were some; the planner's way is the same."""
    with db.connect(**BY_INDEX, omen__probes=ALL) as conn:
        prepare(conn, rng)
        for name, sql in UNREAD.items():
            assert "Index Scan using t_v_idx" in plan(conn, sql), name
            n_all, n = both(db, conn, sql)
            assert n_all > 0 and n == 0, (name, n_all, n, plan(conn, sql))


@pytest.mark.every_major
def test_read(db, rng):
    """Just as many."""
    with db.connect(**BY_INDEX, omen__probes=ALL) as conn:
        prepare(conn, rng)
        for name, sql in READ.items():
            n_all, n = both(db, conn, sql)
            assert n == n_all > 0, (name, n_all, n)


def test_statements(db, rng):
    """Prepared statements, cursors, what writes, and rows that are locked."""
    with db.connect(**BY_INDEX, omen__probes=ALL) as conn:
        prepare(conn, rng)
        wanted, _ = counted(conn, NEAREST)
        conn.execute("PREPARE p(vector) AS SELECT id FROM t ORDER BY v <-> $1 LIMIT 10")
        for mode in ("force_custom_plan", "force_generic_plan"):
            conn.execute(f"SET plan_cache_mode = {mode}")
            q = conn.execute("SELECT v::text FROM queries WHERE id = 0").fetchone()[0]
            assert counted(conn, f"EXECUTE p('{q}')") == (wanted, 0)
        with conn.transaction():
            conn.execute(f"DECLARE c CURSOR FOR {NEAREST}")
            before = calls(conn)
            assert conn.execute("FETCH 4 FROM c").fetchall() + conn.execute("FETCH ALL FROM c").fetchall() == wanted
            assert calls(conn) == before
        conn.execute(f"CREATE TABLE found AS {NEAREST}")
        assert conn.execute("SELECT id FROM found").fetchall() == wanted
        conn.execute(f"INSERT INTO found {NEAREST}")
        assert conn.execute("SELECT id FROM found").fetchall() == 2 * wanted
        assert conn.execute(f"{NEAREST} FOR UPDATE").fetchall() == wanted
        # Which expressions a scan has, EXPLAIN says.
        lines = [r[0] for r in conn.execute(f"EXPLAIN (VERBOSE, COSTS OFF) {NEAREST}").fetchall()]
        assert any("NULL::double precision" in line for line in lines) and any("Order By: (t.v <->" in line for line in lines), lines
        conn.execute("SET omen.skip_unread_distances = off")
        lines = [r[0] for r in conn.execute(f"EXPLAIN (VERBOSE, COSTS OFF) {NEAREST}").fetchall()]
        assert not any("NULL::double precision" in line for line in lines), lines
