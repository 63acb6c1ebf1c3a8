"""With probes = lists the index gives what a sort gives, on both engines, however the query is written."""

import threading

import numpy as np
import pytest

from lib import vectors
from lib.db import (BY_INDEX, BY_SORT, CPU, GPU, assert_by_index, assert_same, index_status, knn, knn_sql, last_scan,
                    make_index, make_table, put)
from lib.exact import distances

METRICS = ("l2", "ip", "cosine")


def hard_rows(rng, n, dim):
    """Clusters, exact duplicates, near-duplicates closer than fp16 can tell apart, and wide ranges of length."""
    rows = vectors.clustered(rng, n, dim)
    rows[100:130] = rows[0]
    rows[130:200] = rows[1] * (1 + 1e-5 * rng.standard_normal((70, 1))).astype(np.float32)
    rows[200:300] *= 10.0 ** rng.uniform(-4, 3, (100, 1)).astype(np.float32)
    return rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", (3, 48, 300))
def test_same_as_sort(db, rng, metric, dim):
    rows = hard_rows(rng, 3000 if dim < 300 else 1200, dim)
    queries = np.concatenate([vectors.clustered(rng, 5, dim), rows[:2], rows[200:202], vectors.uniform(rng, 1, dim)])
    with db.connect(**BY_INDEX, **CPU) as cpu, db.connect(**BY_INDEX, **GPU) as gpu, db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, metric)
        for conn in (cpu, gpu):
            put(conn, omen__probes=index_status(conn)["lists"])
        assert_by_index(cpu, metric, queries[0], 10)
        for query in queries:
            whole = knn(sort, metric, query, None)
            near = np.array([d for _, d in whole])
            assert np.allclose(near, np.sort(distances(metric, rows, query)), rtol=1e-4, atol=1e-4 * max(1, abs(near).max()))
            for k in (1, 10, 1000, None):
                found = knn(cpu, metric, query, k)
                assert_same(found, whole[:k], complete_ties=k is None)
                assert_same(knn(gpu, metric, query, k), found, complete_ties=k is None)
        assert last_scan(gpu)["engine"] == "gpu" and last_scan(cpu)["engine"] == "cpu"


@pytest.mark.parametrize("engine", ("cpu", "gpu"))
def test_ways_to_ask(db, rng, engine):
    """OFFSET, filters, LATERAL, several scans in one statement, parameters, prepared plans, rescans."""
    rows = vectors.clustered(rng, 4000, 20)
    query = vectors.clustered(rng, 1, 20)[0]
    settings = CPU if engine == "cpu" else GPU
    with db.connect(**BY_INDEX, **settings) as conn, db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, lists=30)
        put(conn, omen__probes=30)
        for way in ({"offset": 25}, {"where": "mod(id, 97) = 0"}, {"where": "id < 5"}, {"where": "id < 0"},
                    {"where": "id >= 0", "offset": 3990}):
            assert_same(knn(conn, "l2", query, 10, **way), knn(sort, "l2", query, 10, **way))
        lateral = ("SELECT q.id, n.id, n.d FROM t q, LATERAL (SELECT id, v <-> q.v AS d FROM t ORDER BY v <-> q.v LIMIT 3) n "
                   "WHERE q.id BETWEEN 100 AND 140 ORDER BY 1, 3, 2")
        assert conn.execute(lateral).fetchall() == sort.execute(lateral).fetchall()
        prepared = "SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 5"
        for row in rows[500:520]:
            want = sort.execute(prepared, (vectors.text(row),)).fetchall()
            assert conn.execute(prepared, (vectors.text(row),), prepare=True).fetchall() == want
        assert knn(conn, "l2", query, 0) == []


@pytest.mark.parametrize("engine", ("cpu", "gpu"))
def test_second_distance_breaks_ties(db, rng, engine):
    """ORDER BY v <-> a, v <-> b: the index serves the first key, and the executor orders equal rows by the second."""
    # Pairs of rows at the same distance from the origin.
    rows = np.repeat(vectors.clustered(rng, 500, 8), 2, axis=0)
    rows[1::2] *= -1
    first, second = vectors.text(np.zeros(8)), vectors.text(vectors.clustered(rng, 1, 8)[0])
    with db.connect(**BY_INDEX, **(CPU if engine == "cpu" else GPU)) as conn, db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, lists=10)
        put(conn, omen__probes=10)
        for limit in (1, 7, 200, 1000):
            sql = f"SELECT id FROM t ORDER BY v <-> '{first}', v <-> '{second}' LIMIT {limit}"
            plan = "".join(row[0] for row in conn.execute(f"EXPLAIN {sql}").fetchall())
            assert "t_v_idx" in plan
            assert conn.execute(sql).fetchall() == sort.execute(sql).fetchall()


def test_max_scan_tuples_ends_a_scan(db, rng):
    rows = vectors.clustered(rng, 2000, 12)
    query = vectors.clustered(rng, 1, 12)[0]
    with db.connect(**BY_INDEX, **CPU, omen__probes=20) as conn, db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, lists=20)
        whole = knn(sort, "l2", query, None)
        for bound in (1, 50, 777):
            put(conn, omen__max_scan_tuples=bound)
            # The scan ends by what the index knows, the rows' order is the table's: the last ones may differ by rounding.
            found = [d for _, d in knn(conn, "l2", query, None)]
            assert len(found) == bound and np.allclose(found, [d for _, d in whole[:bound]], rtol=2e-3)
            assert len(knn(conn, "l2", query, 10, where="id < 0")) == 0 and last_scan(conn)["rows_returned"] == bound
        put(conn, omen__max_scan_tuples=0)
        assert len(knn(conn, "l2", query, None)) == 2000


def test_cursor_over_concurrent_vacuum(db, rng):
    """A cursor fetches on while rows are deleted, vacuumed, inserted and lists rewritten under it."""
    rows = vectors.clustered(rng, 3000, 16)
    query = vectors.clustered(rng, 1, 16)[0]
    q = vectors.text(query)
    with db.connect(**BY_INDEX, omen__probes=20) as reader, db.connect(**BY_SORT) as writer:
        make_table(writer, rows)
        make_index(writer, lists=20)
        want = knn(writer, "l2", query, None)
        with reader.transaction():
            reader.execute("DECLARE c CURSOR FOR " + knn_sql("l2", None), (q, q))
            found = reader.execute("FETCH 50 FROM c").fetchall()
            for step in range(8):
                writer.execute("DELETE FROM t WHERE id %% 8 = %s", (step,))
                writer.execute("VACUUM t")
                vectors.copy_rows(writer, "t", np.arange(10_000 + 300 * step, 10_300 + 300 * step), vectors.clustered(rng, 300, 16))
                if step % 3 == 2:
                    writer.execute("VACUUM t")
                found += reader.execute("FETCH 300 FROM c").fetchall()
            found += reader.execute("FETCH ALL FROM c").fetchall()
        # The cursor's snapshot holds the deleted rows (VACUUM keeps what it can see) and none of the new ones.
        assert_same(found, want)


def test_scroll_and_hold_cursors(db, rng):
    """The access method cannot scan backwards: the server must put a materialised result between."""
    rows = vectors.clustered(rng, 500, 8)
    q = vectors.text(rows[7])
    with db.connect(**BY_INDEX, omen__probes=100) as conn:
        make_table(conn, rows)
        make_index(conn)
        with conn.transaction():
            conn.execute("DECLARE c SCROLL CURSOR WITH HOLD FOR " + knn_sql("l2", 40), (q, q))
        ahead = conn.execute("FETCH 40 FROM c").fetchall()
        assert len(ahead) == 40
        assert conn.execute("FETCH BACKWARD 39 FROM c").fetchall() == ahead[:39][::-1]
        assert conn.execute("FETCH ABSOLUTE 1 FROM c").fetchall() == ahead[:1]
        conn.execute("CLOSE c")


@pytest.mark.parametrize("dim", (2000, 2001, 16000))
def test_high_dimensions(db, rng, dim):
    rows = vectors.clustered(rng, 60, dim)
    with db.connect(**BY_INDEX, **CPU) as cpu, db.connect(**BY_INDEX, **GPU) as gpu, db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, "cosine", lists=4)
        rows = vectors.clustered(rng, 40, dim)
        vectors.copy_rows(sort, "t", np.arange(100, 140), rows)
        sort.execute("DELETE FROM t WHERE mod(id, 4) = 1")
        sort.execute("VACUUM t")
        for conn in (cpu, gpu):
            put(conn, omen__probes=4)
            for query in rows[:3]:
                assert_same(knn(conn, "cosine", query, None), knn(sort, "cosine", query, None))


def test_searches_in_parallel_sessions(db, rng):
    """Eight sessions search at once, half of them on the tier."""
    rows = vectors.clustered(rng, 3000, 24)
    queries = vectors.clustered(rng, 20, 24)
    with db.connect(**BY_SORT) as sort:
        make_table(sort, rows)
        make_index(sort, lists=16)
        want = [knn(sort, "l2", q, 15) for q in queries]
    wrong = []

    def search(settings):
        with db.connect(**BY_INDEX, **settings, omen__probes=16) as conn:
            for query, rows_wanted in zip(queries, want):
                if [d for _, d in knn(conn, "l2", query, 15)] != [d for _, d in rows_wanted]:
                    wrong.append(settings)

    threads = [threading.Thread(target=search, args=(CPU if i % 2 else GPU,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
