"""Indexes of sparse vectors: exact answers are a sort's, through all that happens to an index, whatever a row has no room for."""

import numpy as np
import pytest

from lib import classes
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_fails, check_index, index_status, last_scan, put

METRICS = ("l2", "ip", "cosine", "l1")
LISTS = 5


@pytest.fixture
def both(db):
    """Sessions that search by the index, all lists of it, and by sorting the table."""
    with db.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as fast, db.connect(**BY_SORT) as oracle:
        yield fast, oracle


def text(dim: int, indices, values) -> str:
    return "{" + ",".join(f"{i + 1}:{x:.9g}" for i, x in sorted(zip(indices, values))) + "}/" + str(dim)


def clustered(rng, n: int, dim: int, most: int = 60) -> list[str]:
    """Vectors that share a topic's dimensions with some others, and have some of their own; of very different lengths and numbers of elements."""
    topics = [rng.choice(dim, size=min(dim, most), replace=False) for _ in range(20)]
    out = []
    for i in range(n):
        topic = topics[i % 20]
        own = topic[rng.random(len(topic)) < rng.uniform(0.4, 1)]
        noise = rng.integers(dim, size=rng.integers(0, max(1, min(dim, most) // 6) + 1))
        indices = np.unique(np.concatenate([own, noise, topic[:1]]))
        values = np.abs(rng.standard_normal(len(indices))) + 0.1
        out.append(text(dim, indices, values.astype(np.float32) * np.float32(rng.lognormal(0, 0.3))))
    return out


def with_elements(rng, dim: int, n: int) -> str:
    return text(dim, rng.choice(dim, size=n, replace=False), rng.standard_normal(n).astype(np.float32))


@pytest.mark.every_major
@pytest.mark.parametrize("metric", METRICS)
def test_exact_answers(both, rng, metric):
    """Of few and of a thousand million dimensions; with NULLs, zeros, rows beyond the room of an entry, rows that come and go, folds and REINDEX."""
    fast, oracle = both
    n = 0
    for dim in (1, 7, 100, 30_000, 1_000_000_000):
        rows = clustered(rng, 260, dim)
        queries = [rows[3], clustered(rng, 1, dim)[0], text(dim, [0], [1.5])]
        values = rows[:200]
        values[5], values[6], values[7] = None, text(dim, [], []), values[3]
        if dim > 10_000:
            values[8] = with_elements(rng, min(dim, 30_000), 1000).split("/")[0] + f"/{dim}"
        kind = f"sparsevec({dim})"
        classes.make(fast, "sparsevec", dim, values)
        classes.index(fast, "sparsevec", metric, LISTS)
        classes.assert_by_index(fast, kind, metric, queries[0])
        n += classes.compare(fast, oracle, kind, metric, queries, 190)
        classes.add(fast, rows[200:], 200)
        if dim > 10_000:
            classes.add(fast, [with_elements(rng, min(dim, 30_000), k).split("/")[0] + f"/{dim}" for k in (999, 4000)], 300)
        n += classes.check_changes(fast, oracle, kind, metric, queries, 150)
        status = index_status(fast)
        assert (status["metric"], status["dimension"], status["stored_as"]) == (metric, dim, "sparse")
    print(f"{n} rows compared")


@pytest.mark.parametrize("metric", METRICS)
def test_recall_and_filters(db, both, rng, metric):
    """At defaults the nearest are found; filters keep their rows, in order, while more exist."""
    fast, oracle = both
    rows = clustered(rng, 3060, 30_000)
    classes.make(fast, "sparsevec", 30_000, rows[:3000])
    classes.index(fast, "sparsevec", metric, 40)
    kind = "sparsevec(30000)"
    with db.connect(**BY_INDEX, **CPU) as usual:
        found = classes.recall(usual, oracle, kind, metric, rows[3000:])
        # What is asked for is 0.95; the mean of sixty queries has a standard error of about 0.015.
        assert found >= 0.88, f"recall {found}"
        classes.check_filters(usual, oracle, kind, metric, rows[3000:3003], rows[3003:3005])


def signs(rng, dim: int, n: int) -> str:
    return text(dim, rng.choice(dim, size=n, replace=False), rng.choice((-1.0, 1.0), size=n))


@pytest.mark.parametrize("metric, n_long", (("l2", 5), ("l1", 5), ("l2", 28), ("l1", 28)))
def test_rows_without_room_in_later_lists(db, both, rng, metric, n_long):
    """Rows that the index knows next to nothing of come in their place, from whatever list, also when the scan is far beyond their lower bound."""
    _, oracle = both
    dim, kind = 30_000, "sparsevec(30000)"
    n_short = 995 * n_long // 5
    # Far ones of all sizes; and some that are as near as the short ones.
    n_mixed = 0 if n_long == 5 else n_long // 2
    rows = [signs(rng, dim, 10) for _ in range(n_short)] + [signs(rng, dim, k) for k in rng.integers(500, 1000, n_long - n_mixed)]
    rows += [text(dim, rng.choice(dim, size=500, replace=False), rng.choice((-1, 1), 500) * rng.uniform(0.001, 0.2)) for _ in range(n_mixed)]
    classes.make(oracle, "sparsevec", dim, rows)
    classes.index(oracle, "sparsevec", metric, 20)
    with db.connect(**BY_INDEX, **CPU, omen__probes=1) as fast:
        for query in (rows[0], signs(rng, dim, 10)):
            put(fast, omen__iterative_scan="strict_order")
            far = f"id >= {n_short} AND id < {len(rows) - n_mixed}"
            classes.compare(fast, oracle, kind, metric, [query], n_long - n_mixed, where=far)
            found = classes.nearest(fast, kind, metric, query, None)
            distances = [d for _, d in found]
            assert distances == sorted(distances) and len({i for i, _ in found}) == len(found)
            assert len(found) + last_scan(fast)["late"] == len(rows)
            put(fast, omen__iterative_scan="relaxed_order")
            assert len(classes.nearest(fast, kind, metric, query, None)) == len(rows)


@pytest.mark.parametrize("metric", ("l2", "ip"))
def test_devices(db, both, rng, metric):
    """The CPU answers, and says why; nothing is loaded."""
    fast, oracle = both
    rows = clustered(rng, 800, 1000)
    classes.make(fast, "sparsevec", 1000, rows)
    with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as gpu:
        classes.index(gpu, "sparsevec", metric, LISTS)
        classes.compare(gpu, oracle, "sparsevec(1000)", metric, rows[:3], 40)
        scan = last_scan(gpu)
        assert scan["engine"] == "cpu" and "sparse" in scan["fallback_reason"], scan
        assert "sparse" in index_status(gpu)["hot_tier_state"]
        assert_fails(gpu, "0A000", "CPU", "SELECT omen_load('t_v_idx')")
        assert_fails(gpu, "0A000", "ORDER BY", "SELECT * FROM omen_search('t_v_idx', ARRAY['[1,2]'::vector], 5)")
    # Nobody asks for a device here, so none is looked for.
    with db.connect(**BY_INDEX, **{**GPU, "omen__engine": "auto"}, omen__probes=LISTS) as auto:
        classes.compare(auto, oracle, "sparsevec(1000)", metric, rows[:1], 40)
        scan = last_scan(auto)
        assert scan["engine"] == "cpu" and scan["fallback_reason"] is None, scan


@pytest.mark.parametrize("settings", ({"maintenance_work_mem": "1MB"}, {"max_parallel_maintenance_workers": 2, "min_parallel_table_scan_size": 0}))
def test_builds(both, rng, settings):
    """Entries that are spilled to a file, and rows that parallel workers read."""
    fast, oracle = both
    rows = clustered(rng, 6000, 5000)
    classes.make(fast, "sparsevec", 5000, rows)
    put(fast, **settings)
    classes.index(fast, "sparsevec", "ip", LISTS)
    classes.compare(fast, oracle, "sparsevec(5000)", "ip", rows[:3], 100)
    check_index(fast)
    classes.check_size_estimate(fast)


def test_limits(both, rng):
    """Rows of more elements than the operators' rounding allows for are refused; queries are not, and sort right."""
    fast, oracle = both
    rows = clustered(rng, 200, 30_000)
    classes.make(fast, "sparsevec", 30_000, rows)
    fast.execute("CREATE INDEX t_v_idx ON t USING omen (v)")
    put(fast, omen__probes=1)
    classes.compare(fast, oracle, "sparsevec(30000)", "l2", [with_elements(rng, 30_000, 9000)], 20)
    assert_fails(fast, "54000", "", f"INSERT INTO t VALUES (0, '{with_elements(rng, 30_000, 4097)}')")
    assert_fails(fast, "22000", "", "SELECT * FROM t ORDER BY v <-> '{1:1}/5' LIMIT 1")
    fast.execute("CREATE UNLOGGED TABLE u (v sparsevec(9), free sparsevec); CREATE INDEX ON u USING omen (v sparsevec_cosine_ops)")
    fast.execute("INSERT INTO u VALUES ('{1:1}/9'), ('{}/9'), ('{2:-1}/9')")
    assert len(fast.execute("SELECT v FROM u ORDER BY v <=> '{1:2}/9' LIMIT 5").fetchall()) == 2
    assert_fails(fast, "22023", "sparsevec(30000)", "CREATE INDEX ON u USING omen (free)")
