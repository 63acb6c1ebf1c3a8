"""Entries that VACUUM has removed since the service's tier was brought up to date: the device finds them still, and its answers are kept without them."""

import numpy as np
import pytest

from lib import vectors
from lib.batch import assert_near, batch
from lib.db import BY_INDEX, BY_SORT, REAL_GPU, assert_same, knn, last_scan, make_index, make_table
from lib.service import GPU, WAIT, counted, inject, loaders, searches, stat, vacuum_dead, wait_for, wait_until

pytestmark = pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")

DIM, LISTS = 48, 24
N, N_NEW = 3000, 60


def prepare(conn, rng):
    """A table whose index is in the service, some entries of it appended, and no refresh to come."""
    rows = vectors.clustered(rng, N, DIM)
    make_table(conn, rows)
    make_index(conn, lists=LISTS)
    knn(conn, "l2", rows[1], 10)
    wait_for(conn, loads=1)
    new = vectors.clustered(rng, N_NEW, DIM)
    vectors.copy_rows(conn, "t", np.arange(N, N + N_NEW), new)
    wait_until(lambda: knn(conn, "l2", rows[1], 10) and stat(conn)["refreshes"] >= 1 and not loaders(conn), "appended rows stay on pages", WAIT)
    inject(conn, "lose_loader")
    return np.concatenate([rows, new])


def check(conn, exact, queries) -> int:
    """Rounds that these searches took."""
    rounds = 0
    for q in queries:
        assert_same(knn(conn, "l2", q, 10), knn(exact, "l2", q, 10), complete_ties=False)
        scan = last_scan(conn)
        assert scan["engine"] == "gpu"
        rounds += scan["rounds"]
    return rounds


def test_the_dead_are_left_out(first, rng):
    """A twentieth of the rows dies, frozen and appended ones, and their places in the table go to rows that lie elsewhere. The device is asked once a search."""
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        rows = prepare(conn, rng)
        gone = rng.choice(len(rows), len(rows) // 20, replace=False)
        gone = np.concatenate([gone, np.arange(N, N + N_NEW, 7)]).tolist()
        conn.execute("DELETE FROM t WHERE id = ANY(%s)", (gone,))
        vacuum_dead(conn)
        # The slots of the dead in the table are these rows' now.
        others = 30 + vectors.clustered(rng, len(gone), DIM)
        vectors.copy_rows(conn, "t", np.arange(10_000, 10_000 + len(gone)), others)
        before, refreshes = counted(conn), stat(conn)["refreshes"]
        queries = rows[gone[:60]]
        rounds = check(conn, exact, queries) + check(conn, exact, others[:10])
        row = searches(conn, before + rounds)
        # A search whose results have mostly died has its lists left out, once.
        assert row["searches"] <= before + rounds + 3, row
        assert stat(conn)["refreshes"] == refreshes, "refreshed all the same"
        inject(conn, "none")


def test_batches_too(first, rng):
    """`omen_search` over a tier with dead entries."""
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        rows = prepare(conn, rng)
        gone = rng.choice(len(rows), len(rows) // 20, replace=False).tolist()
        conn.execute("DELETE FROM t WHERE id = ANY(%s)", (gone,))
        vacuum_dead(conn)
        vectors.copy_rows(conn, "t", np.arange(10_000, 10_000 + len(gone)), 30 + vectors.clustered(rng, len(gone), DIM))
        queries = rows[gone[:50]]
        found = batch(conn, queries, 10, LISTS)
        assert last_scan(conn)["engine"] == "gpu"
        for number, q in enumerate(queries, 1):
            assert_near(found[number], knn(exact, "l2", q, 10))
        inject(conn, "none")


def test_most_of_a_list_dies(first, rng):
    """Where nearly all that is near has died, the answers are right all the same."""
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_SORT) as exact:
        rows = prepare(conn, rng)
        near = [row_id for row_id, _ in knn(exact, "l2", rows[5], 200)]
        conn.execute("DELETE FROM t WHERE id = ANY(%s)", (near[:-3],))
        vacuum_dead(conn)
        queries = np.concatenate([rows[near[:10]], rows[rng.integers(0, len(rows), 10)]])
        check(conn, exact, queries)
        inject(conn, "none")
