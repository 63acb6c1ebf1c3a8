"""omen_search() as the tests call it, and what is right."""

import numpy as np
import pytest

from . import vectors
from .db import CPU, GPU, last_scan, make_index, make_table, put
from .exact import OPERATORS

DIM = 40
LISTS = 20
ENGINES = {"cpu": CPU, "gpu": GPU}


def batch(conn, queries, k, probes=None, index="t_v_idx", table="t") -> dict[int, list[tuple[int, float]]]:
    """Per query number, from 1: (id, distance) as returned, found through the ctids."""
    found = {i + 1: [] for i in range(len(queries))}
    rows = conn.execute(
        f"SELECT s.query_no, t.id, s.distance FROM omen_search(%s, %s::vector[], %s, %s) WITH ORDINALITY s(query_no, ctid, distance, n) "
        f"JOIN {table} t ON t.ctid = s.ctid ORDER BY n", (index, [vectors.text(q) for q in queries], k, probes)).fetchall()
    for number, row, distance in rows:
        found[number].append((row, distance))
    return found


def exact(conn, metric, query, k, table="t") -> list[tuple[int, float]]:
    """The same for one query, by sorting the table."""
    put(conn, omen__enable_scan="off")
    rows = conn.execute(f"SELECT id, v {OPERATORS[metric]} %s::vector FROM {table} ORDER BY 2 LIMIT {k}", (vectors.text(query),)).fetchall()
    put(conn, omen__enable_scan="on")
    return rows


def assert_near(found, wanted, tolerance=5e-3):
    """As many rows, none twice, ascending, and at each place the distance that belongs there but for half precision."""
    assert len(found) == len(wanted)
    assert len({i for i, _ in found}) == len(found), "a row came twice"
    got = np.array([d for _, d in found])
    assert np.all(np.diff(got) >= 0), got
    true = np.array([d for _, d in wanted])
    # An inner product may be small although both vectors are long.
    scale = max(1.0, np.abs(true).max(initial=0))
    assert np.all(np.abs(got - true) <= tolerance * scale), (got, true)


def assert_exact(conn, metric, queries, k, probes=LISTS, tolerance=5e-3):
    found = batch(conn, queries, k, probes)
    for number, query in enumerate(queries, 1):
        assert_near(found[number], exact(conn, metric, query, k), tolerance)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def table(db, rng):
    with db.connect() as conn:
        rows = vectors.clustered(rng, 3000, DIM)
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
    return rows


@pytest.fixture
def session(db, table, engine):
    """A session on that table; where the GPU is to search it, its hot tier is loaded."""
    with db.connect(**ENGINES[engine]) as conn:
        batch(conn, table[:1], 1)
        assert last_scan(conn)["engine"] == engine, last_scan(conn)
        yield conn
