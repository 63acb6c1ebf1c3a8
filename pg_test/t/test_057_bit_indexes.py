"""Indexes of strings of bits, by Hamming's and Jaccard's distance: exact answers are a sort's, through all that happens to an index."""

import os

import pytest

from lib import classes, vectors
from lib.classes import bit_strings as clustered
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_fails, check_index, index_status, last_scan, put

METRICS = ("hamming", "jaccard")
LISTS = 5


@pytest.fixture
def both(db):
    """Sessions that search by the index, all lists of it, and by sorting the table."""
    with db.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as fast, db.connect(**BY_SORT) as oracle:
        yield fast, oracle


@pytest.mark.every_major
@pytest.mark.parametrize("metric", METRICS)
def test_exact_answers(both, rng, metric):
    """Of lengths around those of the format; with NULLs, strings without a bit set, rows that come and go, folds and REINDEX."""
    fast, oracle = both
    n = 0
    for dim in (1, 8, 63, 64, 65, 1024, 64_000):
        size = 60 if dim > 10_000 else 260
        rows = clustered(rng, size, dim)
        queries = [rows[3], clustered(rng, 1, dim)[0], "0" * dim, "1" * dim]
        values = rows[:size * 3 // 4]
        values[5], values[6], values[7] = None, "0" * dim, values[3]
        classes.make(fast, "bit", dim, values)
        classes.index(fast, "bit", metric, LISTS)
        classes.assert_by_index(fast, f"bit({dim})", metric, queries[0])
        bit = f"bit({dim})"
        n += classes.compare(fast, oracle, bit, metric, queries, len(values) - 2)
        classes.add(fast, rows[len(values):], len(values))
        n += classes.check_changes(fast, oracle, bit, metric, queries, size // 2)
        status = index_status(fast)
        assert (status["metric"], status["dimension"], status["stored_as"]) == (metric, dim, "bits")
    print(f"{n} rows compared")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", (256, 3000))
def test_recall_and_filters(db, both, rng, metric, dim):
    """At defaults the nearest are found; filters keep their rows, in order, while more exist. The longer strings have sketches for centroids."""
    fast, oracle = both
    rows = clustered(rng, 3060, dim)
    classes.make(fast, "bit", dim, rows[:3000])
    classes.index(fast, "bit", metric, 40)
    bit = f"bit({dim})"
    with db.connect(**BY_INDEX, **CPU) as usual:
        found = classes.recall(usual, oracle, bit, metric, rows[3000:])
        # What is asked for is 0.95; the mean of sixty queries has a standard error of about 0.015.
        assert found >= 0.88, f"recall {found}"
        assert last_scan(usual)["probes"] < 40
        classes.check_filters(usual, oracle, bit, metric, rows[3000:3003], rows[3003:3005])


def test_rows_that_have_nothing_in_common(both, rng):
    """All at a distance of 1, by Jaccard: they need not wait for each other."""
    fast, oracle = both
    rows = ["".join(map(str, row)) + "0" * 64 for row in rng.integers(2, size=(1000, 64))]
    rows[7] = rows[7][:-1] + "1"
    classes.make(fast, "bit", 128, rows)
    classes.index(fast, "bit", "jaccard", LISTS)
    query = "0" * 64 + "1" * 64
    classes.compare(fast, oracle, "bit(128)", "jaccard", [query], 10)
    classes.nearest(fast, "bit(128)", "jaccard", query, 10)
    scan = last_scan(fast)
    assert scan["rows_returned"] < 50, scan


@pytest.mark.parametrize("metric", METRICS)
def test_devices(db, both, rng, metric):
    """A device counts bits; it also trains and assigns: what it sees then are centroids and coarse vectors."""
    fast, oracle = both
    rows = clustered(rng, 1000, 128)
    classes.make(fast, "bit", 128, rows)
    with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as gpu:
        classes.index(gpu, "bit", metric, LISTS)
        classes.compare(gpu, oracle, "bit(128)", metric, rows[:3], 40)
        scan = last_scan(gpu)
        assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
        assert gpu.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert index_status(gpu)["hot_tier_state"].startswith("loaded")
        assert_fails(gpu, "0A000", "ORDER BY", "SELECT * FROM omen_search('t_v_idx', ARRAY['[1,2]'::vector], 5)")


def test_binary_quantize(both, rng):
    """As pgvector's documentation has it: search by signs, rerank by the vectors."""
    fast, _ = both
    rows = vectors.clustered(rng, 1500, 100)
    classes.make(fast, "vector", 100, [vectors.text(row) for row in rows])
    fast.execute("CREATE INDEX t_v_idx ON t USING omen ((binary_quantize(v)::bit(100)) bit_hamming_ops)")
    sql = """SELECT id FROM (SELECT * FROM t ORDER BY binary_quantize(v)::bit(100) <~> binary_quantize(%s::vector) LIMIT 60) s
             ORDER BY v <=> %s LIMIT 5"""
    for i in range(20):
        query = vectors.text(rows[i])
        plan = "\n".join(row[0] for row in fast.execute("EXPLAIN " + sql, (query, query)).fetchall())
        assert "Index Scan using t_v_idx" in plan, plan
        assert fast.execute(sql, (query, query)).fetchone() == (i,)
    check_index(fast)


@pytest.mark.parametrize("settings", ({"maintenance_work_mem": "1MB"}, {"max_parallel_maintenance_workers": 2, "min_parallel_table_scan_size": 0}))
def test_builds(both, rng, settings):
    """Entries that are spilled to a file, and rows that parallel workers read."""
    fast, oracle = both
    rows = clustered(rng, 12_000, 700)
    classes.make(fast, "bit", 700, rows)
    put(fast, **settings)
    classes.index(fast, "bit", "jaccard", LISTS)
    classes.compare(fast, oracle, "bit(700)", "jaccard", rows[:3], 100)
    check_index(fast)
    classes.check_size_estimate(fast)


def test_unlogged_and_empty(both, rng):
    fast, oracle = both
    fast.execute("CREATE UNLOGGED TABLE t (id integer, v bit(70), tag integer); CREATE INDEX t_v_idx ON t USING omen (v)")
    rows = clustered(rng, 300, 70)
    classes.add(fast, rows, 0)
    classes.compare(fast, oracle, "bit(70)", "hamming", rows[:3], 100)
    check_index(fast)


def test_sessions_have_one_thread(db, both, rng):
    """What makes coarse vectors of many rows at once is for the threads of a build: a session that inserts and searches starts none."""
    fast, _ = both
    rows = clustered(rng, 400, 128)
    classes.make(fast, "bit", 128, rows)
    classes.index(fast, "bit", "jaccard", LISTS)
    with db.connect(**BY_INDEX, **CPU) as fresh:
        classes.add(fresh, rows[:200], 400)
        classes.nearest(fresh, "bit(128)", "jaccard", rows[0], 50)
        fresh.execute("VACUUM t")
        check_index(fresh)
        assert len(os.listdir(f"/proc/{fresh.info.backend_pid}/task")) == 1


def test_what_is_refused(both):
    fast, _ = both
    fast.execute("CREATE TABLE t (v bit(3), long bit(64001), free varbit)")
    assert_fails(fast, "54000", "", "CREATE INDEX ON t USING omen (long bit_hamming_ops)")
    assert_fails(fast, "22023", "bit(768)", "CREATE INDEX ON t USING omen (free bit_hamming_ops)")
    fast.execute("CREATE INDEX ON t USING omen (v bit_jaccard_ops)")
    # An estimate takes the length from the rows: of those that have one.
    fast.execute("CREATE TABLE u (free varbit); INSERT INTO u VALUES ('')")
    assert_fails(fast, "22023", "bit(768)", "SELECT omen_estimate_build('u', 'free')")
    fast.execute("INSERT INTO u SELECT '1' FROM generate_series(1, 300)")
    assert fast.execute("SELECT rows FROM omen_estimate_build('u', 'free')").fetchone()[0] > 0
    fast.execute("CREATE TABLE w AS SELECT repeat('1', 64001)::varbit AS free")
    assert_fails(fast, "54000", "", "SELECT omen_estimate_build('w', 'free')")
    assert_fails(fast, "22000", "", "SELECT * FROM t ORDER BY v <%%> B'10' LIMIT 1")
