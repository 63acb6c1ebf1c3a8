"""Operator classes of vector and halfvec beyond Euclidean distance of vectors: exact answers are a sort's, through all that happens to an index."""

import numpy as np
import pytest
from psycopg.rows import dict_row

from lib import classes, pgvector, vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_fails, check_index, empty_database, index_status, last_scan

CLASSES = [("vector", "l1"), ("halfvec", "l2"), ("halfvec", "ip"), ("halfvec", "cosine"), ("halfvec", "l1")]
LISTS = 5


@pytest.fixture
def both(db):
    """Sessions that search by the index, all lists of it, and by sorting the table."""
    with db.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as fast, db.connect(**BY_SORT) as oracle:
        yield fast, oracle


def texts(rows: np.ndarray) -> list[str]:
    return [vectors.text(row) for row in rows]


@pytest.mark.every_major
@pytest.mark.parametrize("kind, metric", CLASSES)
def test_exact_answers(both, rng, kind, metric):
    """Of dimensions around those of the format; with zeros, NULLs, equal rows, rows that come and go, folds and REINDEX."""
    fast, oracle = both
    n = 0
    for dim in (1, 7, 16, 63, 64, 65, 100, 1000):
        rows = vectors.clustered(rng, 260, dim)
        # Of other lengths too: L1 and inner products mind.
        rows *= rng.lognormal(0, 0.7, (260, 1)).astype(np.float32)
        queries = [*texts(vectors.uniform(rng, 3, dim)), vectors.text(rows[3])]
        values = texts(rows[:200])
        values[5], values[6], values[7] = None, vectors.text(np.zeros(dim)), values[3]
        classes.make(fast, kind, dim, values)
        classes.index(fast, kind, metric, LISTS)
        classes.assert_by_index(fast, kind, metric, queries[0])
        n += classes.compare(fast, oracle, kind, metric, queries, 190)
        classes.add(fast, texts(rows[200:]), 200)
        n += classes.check_changes(fast, oracle, kind, metric, queries, 150)
        status = index_status(fast)
        assert (status["metric"], status["dimension"], status["stored_as"]) == (metric, dim, "half")
    print(f"{n} rows compared")


@pytest.mark.parametrize("kind, metric", CLASSES)
def test_recall_and_filters(db, both, rng, kind, metric):
    """At defaults the nearest are found; filters keep their rows, in order, while more exist."""
    fast, oracle = both
    rows = vectors.clustered(rng, 4100, 48)
    classes.make(fast, kind, 48, texts(rows[:4000]))
    classes.index(fast, kind, metric, 40)
    with db.connect(**BY_INDEX, **CPU) as usual:
        found = classes.recall(usual, oracle, kind, metric, texts(rows[4000:]))
        # What is asked for is 0.95; the mean of a hundred queries has a standard error of about 0.01.
        assert found >= 0.9, f"recall {found}"
        classes.check_filters(usual, oracle, kind, metric, texts(rows[4000:4005]), texts(rows[4005:4007]))
        # All rows, in order, one after another.
        assert len(classes.nearest(usual, kind, metric, vectors.text(rows[0]), 1000)) == 1000


@pytest.mark.parametrize("kind, metric", CLASSES)
def test_devices(db, both, rng, kind, metric):
    """A device searches halfvec as it does vector, by each metric. The rows are the same."""
    fast, oracle = both
    rows = vectors.clustered(rng, 1500, 64)
    classes.make(fast, kind, 64, texts(rows))
    classes.index(fast, kind, metric, LISTS)
    with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as gpu:
        classes.compare(gpu, oracle, kind, metric, texts(vectors.uniform(rng, 3, 64)), 40)
        scan = last_scan(gpu)
        assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
        assert gpu.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        assert index_status(gpu)["hot_tier_state"].startswith("loaded")
        # Other indexes are the device's as before.
        gpu.execute("CREATE TABLE u AS SELECT id, v::vector(64) FROM t; CREATE INDEX ON u USING omen (v vector_l2_ops) WITH (lists = 5)")
        gpu.execute("SELECT id FROM u ORDER BY v <-> %s LIMIT 5", (vectors.text(rows[0]),)).fetchall()
        assert last_scan(gpu)["engine"] == "gpu"
        # Many queries at once, as vectors.
        queries = texts(rows[:20])
        with gpu.cursor(row_factory=dict_row) as cur:
            many = cur.execute("SELECT query_no, t.id, distance FROM omen_search('t_v_idx', %s::vector[], 5) s JOIN t ON t.ctid = s.ctid"
                               " ORDER BY query_no, distance", (queries,)).fetchall()
        assert len(many) == 100
        # Distances are those of stored vectors, and of a row to itself what rounding leaves: of 2^-11 of each coordinate, by length, or by the square.
        lengths = np.linalg.norm(rows, axis=1).max()
        tolerance = {"l2": 1e-3 * lengths, "ip": 1e-3 * lengths**2, "cosine": 5e-4, "l1": 1e-3 * np.abs(rows).sum(axis=1).max()}[metric]
        for i, query in enumerate(queries):
            mine = [row["distance"] for row in many if row["query_no"] == i + 1]
            wanted = [d for _, d in classes.nearest(oracle, kind, metric, query, 5)]
            assert np.allclose(mine, wanted, rtol=2e-3, atol=tolerance), (mine, wanted)


def test_expression_indexes(both, rng):
    """As pgvector's documentation has them: halves of vectors, and subvectors with a rerank by the whole."""
    fast, oracle = both
    rows = vectors.clustered(rng, 800, 96)
    classes.make(fast, "vector", 96, texts(rows))
    query = vectors.text(rows[9])
    classes.index(fast, "halfvec", "l2", LISTS, "(v::halfvec(96))")
    classes.assert_by_index(fast, "halfvec(96)", "l2", query, column="v::halfvec(96)")
    classes.compare(fast, oracle, "halfvec(96)", "l2", [query], 50, column="v::halfvec(96)")
    check_index(fast)
    fast.execute("DROP INDEX t_v_idx")
    classes.index(fast, "vector", "cosine", LISTS, "(subvector(v, 1, 24)::vector(24))")
    rerank = """SELECT id FROM (SELECT * FROM t ORDER BY subvector(v, 1, 24)::vector(24) <=> subvector(%s::vector, 1, 24) LIMIT 200) s
                ORDER BY v <=> %s LIMIT 5"""
    plan = "\n".join(row[0] for row in fast.execute("EXPLAIN " + rerank, (query, query)).fetchall())
    assert "Index Scan using t_v_idx" in plan, plan
    assert fast.execute(rerank, (query, query)).fetchone() == (9,)
    check_index(fast)


@pytest.mark.every_major
def test_classes_of_types_of_pgvector(shared_server, rng):
    """Beside pgvector, in whatever schema, the classes are bound to its types and operators, and answer as a sort by its operators does."""
    version = pgvector.install()
    beside = empty_database(shared_server, "beside")
    shared_server.sql("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext; CREATE EXTENSION pg_omen", dbname="beside")
    path = {"search_path": "public, ext"}
    sparse = ["{1:%.3f,%d:%.3f}/40" % (x, i, y) for x, i, y in zip(rng.standard_normal(300), rng.integers(2, 41, 300), rng.standard_normal(300))]
    bits = ["".join(map(str, row)) for row in rng.integers(2, size=(300, 40))]
    dense = texts(vectors.clustered(rng, 300, 40))
    values = {"vector": dense, "halfvec": dense, "bit": bits, "sparsevec": sparse}
    n = 0
    with beside.connect(**BY_INDEX, **CPU, **path, omen__probes=LISTS) as fast, beside.connect(**BY_SORT, **path) as oracle:
        classes_there = fast.execute("""SELECT opcname FROM pg_opclass WHERE opcmethod = (SELECT oid FROM pg_am WHERE amname = 'omen')
                                        ORDER BY opcname""").fetchall()
        assert len(classes_there) == 14, (version, classes_there)
        for (name,) in classes_there:
            kind, metric, _ = name.split("_")
            classes.make(fast, kind, 40, values[kind])
            classes.index(fast, kind, metric, LISTS)
            n += classes.compare(fast, oracle, f"{kind}(40)", metric, values[kind][:3], 100)
            check_index(fast)
    print(f"{n} rows compared beside pgvector {version}")


def test_what_is_refused(both):
    fast, _ = both
    fast.execute("CREATE TABLE t (v halfvec(3), free halfvec)")
    assert_fails(fast, "22023", "halfvec(768)", "CREATE INDEX ON t USING omen (free halfvec_l2_ops)")
    fast.execute("CREATE INDEX ON t USING omen (v halfvec_l1_ops)")
    assert_fails(fast, "22000", "", "SELECT * FROM t ORDER BY v <+> '[1,2]' LIMIT 1")
    fast.execute("SELECT * FROM omen_estimate_build('t', 'v')")
