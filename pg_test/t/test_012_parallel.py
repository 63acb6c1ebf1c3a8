"""Searches in and beside parallel workers give the right rows, and end when they are told to.

Where the server puts a search into a worker: a whole plan under a Gather (forced here), a subplan that does not depend
on the outer row, and queries inside functions that are parallel safe. A LATERAL subquery with LIMIT stays in the leader,
above the Gather: so Postgres plans all of them, whatever they read.
"""

import threading
import time

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, GPU, assert_same, index_status, knn, knn_sql, last_scan, make_index, make_table, put
from lib.server import major

# Every plan that may be parallel is cheaper that way, and the leader leaves the work to its workers.
PARALLEL = {"min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0, "parallel_setup_cost": 0, "parallel_tuple_cost": 0,
            "max_parallel_workers_per_gather": 2, "parallel_leader_participation": "off"}
SERIAL = {"max_parallel_workers_per_gather": 0}
# Where a sort is avoided a search goes by the index. (BY_INDEX would make sequential scans so dear that a parallel one is no better.)
NO_SORT = {"enable_sort": "off"}
# A Gather above every plan that may run in a worker.
FORCED = PARALLEL | {"force_parallel_mode" if major() < 16 else "debug_parallel_query": "on"}
DIM = 16


def analyzed(conn, sql, params=()) -> str:
    """The plan as it ran; without the Gather that is forced, EXPLAIN could not show the one it runs under."""
    return "\n".join(r[0] for r in conn.execute("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + sql, params))


def under_gather(plan: str) -> str:
    """What is below the Gather of a plan that had workers."""
    assert "Workers Launched: 0" not in plan and "Workers Launched: " in plan, plan
    return plan.partition("Gather")[2]


@pytest.fixture
def filled(db, rng):
    """Table t of 3,000 rows with an index, and q of 300 queries (some pages: one alone is not worth two workers)."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 3000, DIM))
        make_index(conn, lists=30)
        make_table(conn, vectors.clustered(rng, 300, DIM), name="q")
        conn.execute("""CREATE FUNCTION nearest(query vector, k int) RETURNS int[] LANGUAGE sql STABLE PARALLEL SAFE AS
            'SELECT array_agg(id) FROM (SELECT id FROM t ORDER BY v <-> query LIMIT k) found'""")
        # pg_backend_pid() itself is not for workers.
        conn.execute("""CREATE FUNCTION whoami() RETURNS int LANGUAGE plpgsql VOLATILE PARALLEL SAFE AS
            'BEGIN RETURN pg_backend_pid(); END'""")
        conn.execute("""CREATE FUNCTION slow(query vector) RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE AS
            'BEGIN FOR i IN 1..1000000 LOOP PERFORM nearest(query, 3000); END LOOP; RETURN 0; END'""")
    return db


@pytest.mark.every_major
@pytest.mark.parametrize("settings", ({}, GPU), ids=("cpu", "gpu"))
def test_whole_search_in_a_worker(filled, rng, settings):
    """Also where the session asks for the GPU, which workers do without."""
    with filled.connect(**BY_INDEX, **FORCED, **settings, omen__probes=30) as conn, filled.connect(**BY_SORT, **SERIAL) as sort:
        query = vectors.clustered(rng, 1, DIM)[0]
        q = vectors.text(query)
        with filled.server.log_of() as logged:
            for k, where in ((1, ""), (10, ""), (500, "id % 3 = 0"), (None, "")):
                sql = knn_sql("l2", k, where=where.replace("%", "%%"))
                assert "Index Scan using t_v_idx" in under_gather(analyzed(conn, sql, (q, q)))
                found = conn.execute(sql, (q, q)).fetchall()
                assert_same(found, sort.execute(sql, (q, q)).fetchall(), complete_ties=k is None)
        assert "pg_omen" not in logged(), logged()


@pytest.mark.every_major
def test_search_as_subplan_of_workers(filled, rng):
    """Each worker searches for itself."""
    q = vectors.text(vectors.clustered(rng, 1, DIM)[0])
    sql = f"SELECT id FROM t outside WHERE id NOT IN (SELECT id FROM t ORDER BY v <-> '{q}' LIMIT 700)"
    with filled.connect(**NO_SORT, **PARALLEL, omen__probes=30) as conn, filled.connect(**BY_SORT, **SERIAL) as sort:
        below = under_gather(analyzed(conn, sql))
        assert "Parallel Seq Scan on t outside" in below and "Index Scan using t_v_idx" in below, below
        wanted = sorted(sort.execute(sql))
        assert sorted(conn.execute(sql)) == wanted and len(wanted) == 2300


@pytest.mark.every_major
def test_search_in_a_function_of_workers(filled):
    """Settings reach the workers, and many searches in one worker do not disturb each other."""
    sql = "SELECT q.id, nearest(v, 20), whoami() FROM q"
    with filled.connect(**NO_SORT, **PARALLEL, omen__probes=30) as conn, filled.connect(**BY_SORT, **SERIAL) as sort:
        under_gather(analyzed(conn, sql))
        wanted = {i: found for i, found, _ in sort.execute(sql)}
        rows = conn.execute(sql).fetchall()
        assert conn.info.backend_pid not in {pid for _, _, pid in rows}
        assert {i: found for i, found, _ in rows} == wanted and len(rows) == 300
        # Only a search by the index ends there.
        put(conn, omen__max_scan_tuples=7)
        assert {len(found) for _, found, _ in conn.execute(sql)} == {7}


@pytest.mark.every_major
def test_lateral_beside_a_gather(filled):
    sql = """SELECT q.id, n.id, n.d FROM q, LATERAL (SELECT id, v <-> q.v AS d FROM t ORDER BY v <-> q.v LIMIT 15) n
        WHERE vector_norm(q.v) > 0 ORDER BY 1, 3, 2"""
    with filled.connect(**PARALLEL, omen__probes=30) as conn, filled.connect(**BY_SORT, **SERIAL) as sort:
        plan = analyzed(conn, sql)
        under_gather(plan)
        assert "Index Scan using t_v_idx" in plan, plan
        wanted = sort.execute(sql).fetchall()
        assert conn.execute(sql).fetchall() == wanted and len(wanted) == 300 * 15


@pytest.mark.every_major
def test_partitions(db, rng):
    """Rows of all partitions merge in order, by the session itself and under a Gather."""
    with db.connect(**BY_SORT, **SERIAL) as sort:
        sort.execute(f"CREATE TABLE p (id integer, v vector({DIM})) PARTITION BY RANGE (id)")
        for part in range(4):
            sort.execute(f"CREATE TABLE p{part} PARTITION OF p FOR VALUES FROM ({part * 1000}) TO ({part * 1000 + 1000})")
        vectors.copy_rows(sort, "p", range(4000), vectors.clustered(rng, 4000, DIM))
        sort.execute("CREATE INDEX p_v_idx ON p USING omen (v vector_l2_ops) WITH (lists = 12)")
        sort.execute("ANALYZE p")
        query = vectors.clustered(rng, 1, DIM)[0]
        q = vectors.text(query)
        merged, both = knn_sql("l2", 300, table="p"), "SELECT id, d FROM (({}) UNION ALL ({})) u ORDER BY d, id"
        union = both.format(*(f"SELECT id, v <-> '{q}' AS d FROM p{part} ORDER BY d LIMIT 40" for part in (1, 3)))
        outside = f"SELECT id FROM p outside WHERE id NOT IN (SELECT id FROM p ORDER BY v <-> '{q}' LIMIT 900)"
        for settings in (SERIAL, PARALLEL, FORCED):
            with db.connect(**NO_SORT, **settings, omen__probes=12) as conn:
                plan = analyzed(conn, merged, (q, q))
                assert "Merge Append" in plan and plan.count("Index Scan using p") == 4, plan
                assert ("Gather" in plan) == (settings is FORCED), plan
                assert_same(knn(conn, "l2", query, 300, table="p"), knn(sort, "l2", query, 300, table="p"), complete_ties=False)
                assert analyzed(conn, union).count("Index Scan using p") == 2
                assert conn.execute(union).fetchall() == sort.execute(union).fetchall()
                if settings is not SERIAL:
                    below = under_gather(analyzed(conn, outside))
                    assert "Parallel Append" in below and "Merge Append" in below, below
                assert sorted(conn.execute(outside)) == sorted(sort.execute(outside))


@pytest.mark.every_major
def test_timeout_in_a_worker(filled):
    with filled.connect(**NO_SORT, **PARALLEL, omen__probes=30) as conn:
        conn.execute("SET statement_timeout = '300ms'")
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            conn.execute("SELECT slow(v) FROM q").fetchall()
        assert time.monotonic() - began < 10
        conn.execute("SET statement_timeout = 0")
        assert len(conn.execute("SELECT nearest(v, 5) FROM q").fetchall()) == 300


@pytest.mark.every_major
@pytest.mark.parametrize("victim", ("leader", "worker"))
def test_cancel(filled, victim):
    """The leader or one of the workers is told to stop: both end, the session goes on."""
    with filled.connect(**NO_SORT, **PARALLEL, omen__probes=30) as conn, filled.connect() as other:
        raised = []

        def run():
            try:
                conn.execute("SELECT slow(v) FROM q").fetchall()
            except psycopg.Error as e:
                raised.append(e)

        def workers():
            return [pid for (pid,) in other.execute("SELECT pid FROM pg_stat_activity WHERE leader_pid = %s AND query LIKE '%%slow%%'",
                                                   (conn.info.backend_pid,))]

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        end = time.monotonic() + 20
        while not workers() and time.monotonic() < end:
            time.sleep(0.02)
        # Long enough to be in the midst of a search.
        time.sleep(0.2)
        # Without workers it is the leader's turn in any case: the test must end.
        started = workers()
        other.execute("SELECT pg_cancel_backend(%s)", (started[0] if started and victim == "worker" else conn.info.backend_pid,))
        thread.join(20)
        assert started
        assert not thread.is_alive() and isinstance(raised[0], psycopg.errors.QueryCanceled), raised
        assert not workers()
        assert len(conn.execute("SELECT nearest(v, 5) FROM q").fetchall()) == 300


def test_status_functions_stay_in_the_leader(filled):
    """They tell of the session, which a worker does not know."""
    with filled.connect(**BY_INDEX, **FORCED, omen__probes=30) as conn:
        put(conn, **SERIAL)
        knn(conn, "l2", [0.0] * DIM, 10)
        put(conn, **FORCED)
        assert last_scan(conn)["rows_returned"] >= 10 and index_status(conn)["rows"] == 3000
