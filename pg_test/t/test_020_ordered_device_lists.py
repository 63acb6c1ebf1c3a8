"""Ordered scans whose first lists the device chooses: in order, no row lost or twice, in the first round and in those that follow."""

import time

import numpy as np
import pytest

from lib import vectors
from lib.churn import fold_beside
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, ONE_ON_EVERY_MAJOR, assert_same, index_status, knn, last_scan, make_index, make_table, put

DIM = 48
LISTS = 24


@pytest.fixture
def three(db):
    """Sessions that search on the GPU, on the CPU, and by sorting the table."""
    with db.connect(**BY_INDEX, **GPU) as gpu, db.connect(**BY_INDEX, **CPU) as cpu, db.connect(**BY_SORT) as oracle:
        yield gpu, cpu, oracle




def assert_ascending(found):
    assert np.all(np.diff([d for _, d in found]) >= 0), found
    assert len({i for i, _ in found}) == len(found), "a row came twice"


def scan_of(conn) -> dict:
    scan = last_scan(conn)
    assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
    return scan




@pytest.mark.parametrize("dim", [DIM, 640])
@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_one_round(three, rng, metric, dim):
    """Without codes and with them: the CPU's rows, but where lists are as good as equally far; with all lists the table's."""
    gpu, cpu, oracle = three
    rows = vectors.clustered(rng, 2500, dim)
    make_table(cpu, rows)
    make_index(cpu, metric, lists=LISTS)
    queries = (rows[:40] + 0.3 * vectors.uniform(rng, 40, dim)).astype(np.float32)
    put(gpu, omen__iterative_scan="off")
    put(cpu, omen__iterative_scan="off")
    for probes in (1, 5, LISTS):
        put(gpu, omen__probes=probes)
        put(cpu, omen__probes=probes)
        n_same = 0
        for query in queries:
            found, wanted = knn(gpu, metric, query, 10), knn(cpu, metric, query, 10)
            assert scan_of(gpu)["probes"] == last_scan(cpu)["probes"] == probes
            assert scan_of(gpu)["rounds"] <= 2, last_scan(gpu)
            assert_ascending(found)
            if probes == LISTS:
                assert_same(found, knn(oracle, metric, query, 10), complete_ties=False)
            n_same += [d for _, d in found] == [d for _, d in wanted]
        # With so few lists the filter of the CPU may err.
        assert n_same >= 36, f"{metric}, {probes} lists: {n_same} of 40 queries"


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_rounds_that_follow(three, rng, metric):
    """Scans that go on: through LIMIT, without one, and with a filter; all rows come, each once, and none out of order."""
    gpu, cpu, oracle = three
    rows = vectors.clustered(rng, 3000, DIM)
    make_table(cpu, rows)
    make_index(cpu, metric, lists=LISTS)
    put(gpu, omen__iterative_scan="relaxed_order")
    for probes in (1, 3, 0, LISTS):
        put(gpu, omen__probes=probes)
        for query in rows[rng.integers(3000, size=4)]:
            # The first scan of a session expects few rows.
            for k in (10, 700, None):
                found, wanted = knn(gpu, metric, query, k), knn(oracle, metric, query, k)
                scan = scan_of(gpu)
                assert len({i for i, _ in found}) == len(found) == len(wanted), (scan, k)
                if k is None:
                    assert_same(sorted(found, key=lambda row: row[1]), wanted)
                if probes == LISTS:
                    assert_same(found, wanted, complete_ties=k is None)
            # After some scans of few rows few are expected.
            for _ in range(10):
                knn(gpu, metric, query, 1)
            filtered = knn(gpu, metric, query, 10, where="id %% 97 < 3")
            assert scan_of(gpu)["rounds"] > 1
            assert len({i for i, _ in filtered}) == len(filtered) == 10 and all(i % 97 < 3 for i, _ in filtered)
    # In strict order rows that come too late are left out, and nothing else.
    put(gpu, omen__iterative_scan="strict_order", omen__probes=2)
    for query in rows[rng.integers(3000, size=4)]:
        found = knn(gpu, metric, query, None)
        scan = scan_of(gpu)
        assert scan["rounds"] > 1 and scan["probes"] == LISTS
        assert_ascending(found)
        assert len(found) + scan["late"] >= 3000, scan


def test_later_round_on_the_cpu(three, rng):
    """The GPU goes between two rounds of one scan: the CPU takes over with the lists that the device chose."""
    gpu, cpu, _ = three
    rows = vectors.clustered(rng, 3000, 640)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    knn(gpu, "l2", rows[0], 10)
    for probes in (3, LISTS):
        put(gpu, omen__engine="gpu", omen__probes=probes, omen__iterative_scan="relaxed_order")
        with gpu.transaction():
            gpu.execute("DECLARE c CURSOR FOR SELECT id, v <-> %s::vector FROM t ORDER BY v <-> %s::vector", (vectors.text(rows[7]),) * 2)
            # After these the cursor's scan expects few rows too, whatever it was planned for.
            for _ in range(10):
                knn(gpu, "l2", rows[0], 10)
            found = gpu.execute("FETCH 5 FROM c").fetchall()
            put(gpu, omen__engine="cpu")
            found += gpu.execute("FETCH ALL FROM c").fetchall()
        assert last_scan(gpu)["engine"] == "cpu" and last_scan(gpu)["rounds"] > 1
        assert found[0][0] == 7 and sorted(i for i, _ in found) == list(range(3000))
        if probes == LISTS:
            assert_ascending(found)


def test_appended_and_dead_rows(three, rng):
    """Appended rows are found; lists that VACUUM changed are searched on pages, although their slots hold other rows by now."""
    gpu, cpu, oracle = three
    rows = vectors.clustered(rng, 3000, DIM)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    put(gpu, omen__probes=3)
    queries = rows[:30]
    knn(gpu, "l2", queries[0], 10)
    assert index_status(gpu)["hot_tier_state"] == "loaded"
    near = (queries + 0.01 * vectors.uniform(rng, 30, DIM)).astype(np.float32)
    vectors.copy_rows(cpu, "t", np.arange(10_000, 10_030), near)
    for i, query in enumerate(queries):
        found = knn(gpu, "l2", query, 5)
        assert scan_of(gpu)["load_us"] == 0
        assert {found[0][0], found[1][0]} == {i, 10_000 + i}, found
    # A few lists lose the rows nearest to a query; far rows take their slots.
    gone = [i for i, _ in knn(oracle, "l2", rows[0], 20)]
    cpu.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s)", (gone,))
    cpu.execute("DELETE FROM t WHERE id = ANY(%s)", (gone,))
    cpu.execute("VACUUM t")
    vectors.copy_rows(cpu, "t", np.arange(20_000, 20_020), (rows[0] + 30 + vectors.uniform(rng, 20, DIM)).astype(np.float32))
    reused = cpu.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = gone.slot WHERE id >= 20000").fetchone()[0]
    assert reused > 5, f"only {reused} slots were reused: the test would prove nothing"
    assert "current" in index_status(gpu)["hot_tier_state"]
    # The first search finds out, the second knows.
    put(cpu, omen__probes=1, omen__iterative_scan="off")
    for _ in range(2):
        # More than the list has, and no more than the device takes.
        put(gpu, omen__probes=1, omen__iterative_scan="off")
        found, wanted = knn(gpu, "l2", rows[0], 1000), knn(cpu, "l2", rows[0], 1000)
        assert last_scan(gpu)["rounds"] == 1 and 0 < len(found) < 1000
        assert_same(found, wanted)
        put(gpu, omen__probes=LISTS, omen__iterative_scan="strict_order")
        for query in (rows[0], rows[1], rows[0] + 30):
            assert_same(knn(gpu, "l2", query, 10), knn(oracle, "l2", query, 10), complete_ties=False)


def test_while_lists_are_folded(db, rng):
    """Rows are inserted beside the query, deleted, and folded by VACUUM, all the time: in one snapshot scan and sort agree."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 3000, DIM))
        make_index(conn, lists=LISTS)
        query = vectors.clustered(rng, 1, DIM)[0]
    end = time.monotonic() + 6
    thread, failed = fold_beside(db, query, "fold", end)
    by_gpu = 0
    try:
        with db.connect(**BY_INDEX, **GPU) as conn:
            put(conn, omen__probes=LISTS)
            while time.monotonic() < end:
                with conn.transaction():
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    found = knn(conn, "l2", query, 30)
                    by_gpu += last_scan(conn)["engine"] == "gpu"
                    put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
                    wanted = knn(conn, "l2", query, 30)
                    put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
                assert_same(found, wanted, complete_ties=False)
    finally:
        thread.join()
    assert not failed, failed
    assert by_gpu > 5
