"""Hot tiers of codes alone: the device names slots, the CPU reads their vectors from the index's pages; the rows are those of the CPU."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import assert_near, batch
from lib.churn import fold_beside
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, ONE_ON_EVERY_MAJOR, assert_same, index_status, knn, last_scan, make_index, make_table, put
from lib.exact import recall
from psycopg.rows import dict_row

DIM = 640
LISTS = 24
ROWS = 6000
# Codes of 6,000 rows take 0.7 MB and their vectors 8 MB, beside 16 MB of scratch.
LIMIT = "20MB"
ALONE = GPU | {"omen__gpu_memory_limit": LIMIT}


@pytest.fixture
def three(db):
    """Sessions that search on a GPU with room for codes alone, on the CPU, and by sorting the table."""
    with db.connect(**BY_INDEX, **ALONE) as gpu, db.connect(**BY_INDEX, **CPU) as cpu, db.connect(**BY_SORT) as oracle:
        yield gpu, cpu, oracle


def make(conn, rng, metric="l2", n=ROWS) -> np.ndarray:
    rows = vectors.clustered(rng, n, DIM)
    make_table(conn, rows)
    make_index(conn, metric, lists=LISTS)
    return rows


def scan_of(conn) -> dict:
    scan = last_scan(conn)
    assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
    assert 0 < scan["reranked"] <= scan["candidates"], scan
    return scan


def assert_ascending(found):
    assert np.all(np.diff([d for _, d in found]) >= 0), found
    assert len({i for i, _ in found}) == len(found), "a row came twice"


def gpu_status(conn) -> dict:
    with conn.cursor(row_factory=dict_row) as cur:
        return next(row for row in cur.execute("SELECT * FROM omen_gpu_status()").fetchall() if row["state"] == "in use")


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_ordered_scans(three, rng, metric):
    """The CPU's rows, from as many lists as are asked for or as the recall asked for takes; and that recall."""
    gpu, cpu, _ = three
    drawn = vectors.clustered(rng, ROWS + 400, DIM)
    rows, others = drawn[:ROWS], drawn[ROWS:]
    make_table(cpu, rows)
    make_index(cpu, metric, lists=LISTS)
    near = (rows[:40] + 0.3 * vectors.uniform(rng, 40, DIM)).astype(np.float32)
    # Probes of 0: as many as the recall takes, which is promised as a mean over rows of the table's kind. The filter of either engine errs
    # in less than one of a thousand queries, and lists as good as equally far are rarer still: so many queries may differ.
    for probes, queries, most_differ in ((1, near, 2), (5, near, 2), (LISTS - 1, near, 2), (0, others, 5)):
        for session in (gpu, cpu):
            put(session, omen__probes=probes, omen__recall=0.95, omen__iterative_scan="off")
        n_differ, shares = 0, []
        for query in queries:
            found, wanted = knn(gpu, metric, query, 10), knn(cpu, metric, query, 10)
            scan = scan_of(gpu)
            assert scan["probes"] == (probes or scan["probes"]) and scan["rounds"] <= 2, scan
            assert_ascending(found)
            n_differ += found != wanted
            shares.append(recall(metric, rows, query, [i for i, _ in found], 10))
        assert n_differ <= most_differ, f"{metric}, {probes} lists: {n_differ} of {len(queries)} queries"
        if probes == LISTS - 1:
            assert scan["reranked"] < scan["candidates"] / 4, scan
    assert index_status(gpu)["hot_tier_state"] == "loaded, codes alone"
    assert 0 < index_status(gpu)["hot_tier_bytes"] < ROWS * DIM
    # By inner product a query finds all or nothing, since its neighbours lie in one cluster: 400 queries leave a standard error of 0.011
    # (40 would 0.034), and the calibration's queries half as much. Each build draws anew, whatever the seed.
    assert np.mean(shares) >= 0.9, np.mean(shares)


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_batches(three, rng, metric):
    """omen_search() of many queries, more than are asked at a time, and of a few for many rows."""
    gpu, cpu, _ = three
    rows = make(cpu, rng, metric)
    for n, k, probes in ((2500, 2, 2), (40, 10, LISTS - 1), (3, 300, 6), (1, 10, 5)):
        queries = (rows[rng.integers(ROWS, size=n)] + 0.3 * vectors.uniform(rng, n, DIM)).astype(np.float32)
        found, wanted = batch(gpu, queries, k, probes), batch(cpu, queries, k, probes)
        assert scan_of(gpu)["probes"] == probes
        assert all([len(found[number]) == k for number in found])
        n_same = 0
        for number in found:
            assert_ascending(found[number])
            n_same += [i for i, _ in found[number]] == [i for i, _ in wanted[number]]
        assert n_same >= 0.9 * n - 1, f"{metric} k {k}, {probes} lists: {n_same} of {n} queries"
    assert index_status(gpu)["hot_tier_state"] == "loaded, codes alone"


def test_exact_searches_are_the_cpus(three, rng):
    """Codes may err, so that a search of all lists does not use them; the reason is told and counted."""
    gpu, cpu, oracle = three
    rows = make(cpu, rng)
    knn(gpu, "l2", rows[0], 10)
    fallbacks = gpu_status(gpu)["fallbacks"]
    put(gpu, omen__probes=LISTS)
    for query in rows[:5]:
        assert_same(knn(gpu, "l2", query, 10), knn(oracle, "l2", query, 10), complete_ties=False)
        scan = last_scan(gpu)
        assert scan["engine"] == "cpu" and "exact" in scan["fallback_reason"], scan
    found = batch(gpu, rows[:5], 10, LISTS)
    scan = last_scan(gpu)
    assert scan["engine"] == "cpu" and "exact" in scan["fallback_reason"], scan
    for i in range(5):
        assert_near(found[i + 1], knn(oracle, "l2", rows[i], 10))
    status = gpu_status(gpu)
    assert status["fallbacks"] >= fallbacks + 6 and "unsupported" in status["reason"], status
    # Others are the device's still.
    put(gpu, omen__probes=3)
    knn(gpu, "l2", rows[0], 10)
    scan_of(gpu)


def test_scans_that_go_on(three, rng):
    """Far beyond what the first round took: all rows come, each once, in order where the order is strict."""
    gpu, cpu, oracle = three
    rows = make(cpu, rng, n=3000)
    put(gpu, omen__gpu_memory_limit="18MB", omen__iterative_scan="relaxed_order")
    # Of few lists all entries are named, of many those that may be near.
    for probes in (1, 3, 20, 0):
        put(gpu, omen__probes=probes)
        for query in rows[rng.integers(3000, size=3)]:
            # After some scans of few rows few are expected.
            for _ in range(10):
                knn(gpu, "l2", query, 1)
            scan_of(gpu)
            with gpu.transaction():
                gpu.execute("DECLARE c CURSOR FOR SELECT id, v <-> %s::vector FROM t ORDER BY v <-> %s::vector", (vectors.text(query),) * 2)
                for _ in range(10):
                    knn(gpu, "l2", query, 1)
                found = gpu.execute("FETCH 5 FROM c").fetchall()
                found += gpu.execute("FETCH ALL FROM c").fetchall()
            assert last_scan(gpu)["rounds"] > 1, last_scan(gpu)
            assert_same(sorted(found, key=lambda row: row[1]), knn(oracle, "l2", query, None))
            filtered = knn(gpu, "l2", query, 10, where="id %% 97 < 3")
            assert len({i for i, _ in filtered}) == len(filtered) == 10 and all(i % 97 < 3 for i, _ in filtered)
    assert index_status(gpu)["hot_tier_state"] == "loaded, codes alone"
    put(gpu, omen__iterative_scan="strict_order", omen__probes=2)
    for query in rows[rng.integers(3000, size=3)]:
        found = knn(gpu, "l2", query, None)
        scan = last_scan(gpu)
        assert scan["rounds"] > 1 and scan["probes"] == LISTS, scan
        assert_ascending(found)
        assert len(found) + scan["late"] >= 3000, scan


def test_codes_that_rule_out_little(three, rng):
    """Vectors without structure, nearly all of which may be the nearest by their codes: the device is asked for more."""
    gpu, cpu, _ = three
    rows = vectors.uniform(rng, 5000, DIM)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    put(gpu, omen__probes=LISTS - 1, omen__iterative_scan="off")
    put(cpu, omen__probes=LISTS - 1, omen__iterative_scan="off")
    queries = vectors.uniform(rng, 12, DIM)
    named, searched = batch(gpu, queries, 10, LISTS - 1), batch(cpu, queries, 10, LISTS - 1)
    assert scan_of(gpu)["rounds"] > 1, last_scan(gpu)
    n_same = 0
    for number, query in enumerate(queries, 1):
        found, wanted = knn(gpu, "l2", query, 10), knn(cpu, "l2", query, 10)
        assert scan_of(gpu)["rounds"] <= 2 and last_scan(gpu)["reranked"] > 1500, last_scan(gpu)
        assert_ascending(found)
        n_same += found == wanted
        n_same += [i for i, _ in named[number]] == [i for i, _ in searched[number]]
    assert n_same >= 22, f"{n_same} of 24"


def test_many_rows_at_once(three, rng):
    """A LIMIT in the hundreds is one round of the device; one beyond what it names at a time is the CPU's."""
    gpu, cpu, _ = three
    rows = make(cpu, rng)
    put(gpu, omen__iterative_scan="off")
    put(cpu, omen__iterative_scan="off")
    for query in rows[:4]:
        for k, probes in ((400, 12), (5000, LISTS - 1)):
            put(gpu, omen__probes=probes)
            put(cpu, omen__probes=probes)
            found, wanted = knn(gpu, "l2", query, k), knn(cpu, "l2", query, k)
            scan = last_scan(gpu)
            assert (scan["engine"], scan["fallback_reason"] is None) == (("gpu", True) if k == 400 else ("cpu", False)), scan
            assert_ascending(found)
            assert len(found) == len(wanted)
            assert len({i for i, _ in found} & {i for i, _ in wanted}) >= 0.99 * len(wanted)


def test_appended_and_dead_rows(three, rng):
    """Appended rows are found; lists that VACUUM changed are searched on pages, although their slots hold other rows by now."""
    gpu, cpu, oracle = three
    rows = vectors.clustered(rng, ROWS, DIM)
    # The neighbours of the first row lie together in the table's last page, whose slots are used again.
    rows[-30:] = rows[0] + 0.05 * vectors.uniform(rng, 30, DIM)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    put(gpu, omen__probes=LISTS - 1)
    queries = rows[1:21]
    knn(gpu, "l2", queries[0], 10)
    near = (queries + 0.01 * vectors.uniform(rng, 20, DIM)).astype(np.float32)
    vectors.copy_rows(cpu, "t", np.arange(10_000, 10_020), near)
    for i, query in enumerate(queries):
        found = knn(gpu, "l2", query, 5)
        assert scan_of(gpu)["load_us"] == 0
        assert {found[0][0], found[1][0]} == {i + 1, 10_000 + i}, found
    answers = batch(gpu, queries, 2, 3)
    assert scan_of(gpu)["load_us"] == 0
    assert all({row for row, _ in answers[i + 1]} == {i + 1, 10_000 + i} for i in range(20)), answers
    # Dead rows whose entries are there still.
    gone = [i for i, _ in knn(oracle, "l2", rows[0], 25)]
    cpu.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s)", (gone,))
    cpu.execute("DELETE FROM t WHERE id = ANY(%s)", (gone,))
    assert not {i for i, _ in knn(gpu, "l2", rows[0], 10)} & set(gone)
    assert not {i for i, _ in batch(gpu, rows[:1], 10, LISTS - 1)[1]} & set(gone)
    scan_of(gpu)
    # Far rows take their slots.
    cpu.execute("VACUUM t")
    far = (rows[0] + 30 + vectors.uniform(rng, 20, DIM)).astype(np.float32)
    vectors.copy_rows(cpu, "t", np.arange(20_000, 20_020), far)
    reused = cpu.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = gone.slot WHERE id >= 20000").fetchone()[0]
    assert reused > 5, f"only {reused} slots were reused: the test would prove nothing"
    state = index_status(gpu)["hot_tier_state"]
    assert state.startswith("loaded, codes alone, ") and state.endswith("lists current"), state
    # The first search finds out, the second knows.
    for _ in range(2):
        for query in (rows[0], rows[1], rows[0] + 30):
            wanted = knn(oracle, "l2", query, 10)
            found = knn(gpu, "l2", query, 10)
            assert last_scan(gpu)["load_us"] == 0
            # One list of all is left out.
            assert len({i for i, _ in found} & {i for i, _ in wanted}) >= 9, (found, wanted)
            assert_ascending(found)
            found = batch(gpu, [query], 10, LISTS - 1)[1]
            assert len({i for i, _ in found} & {i for i, _ in wanted}) >= 9, (found, wanted)


def test_while_lists_are_folded(db, rng):
    """Rows are inserted beside the query, deleted, and folded by VACUUM, all the time: what comes is what the snapshot has."""
    with db.connect() as conn:
        make(conn, rng)
        query = vectors.clustered(rng, 1, DIM)[0]
    end = time.monotonic() + 6
    thread, failed = fold_beside(db, query, "fold codes", end)
    by_gpu, shares = 0, []
    try:
        with db.connect(**BY_INDEX, **ALONE, omen__probes=LISTS - 1) as conn:
            while time.monotonic() < end:
                with conn.transaction():
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    found = knn(conn, "l2", query, 30)
                    by_gpu += last_scan(conn)["engine"] == "gpu"
                    named = batch(conn, [query], 30, LISTS - 1)[1]
                    put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
                    wanted = {i for i, _ in knn(conn, "l2", query, 30)}
                    put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
                for rows in (found, named):
                    assert_ascending(rows)
                    assert len(rows) == 30
                    shares.append(len({i for i, _ in rows} & wanted) / 30)
    finally:
        thread.join()
    assert not failed, failed
    assert by_gpu > 5
    # The farthest list of all is left out, which may be the query's only by accident.
    assert np.mean(shares) > 0.99, shares


def test_cancel(db, rng):
    """A large batch ends soon after it is cancelled, and the session goes on with the device."""
    with db.connect(**ALONE) as conn:
        rows = make(conn, rng)
        batch(conn, rows[:2], 10, 3)
        canceller = threading.Timer(1.0, conn.cancel)
        canceller.start()
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT count(*) FROM omen_search('t_v_idx', (SELECT array_agg(v) FROM t, generate_series(1, 4)), 100, 20)")
        canceller.join()
        assert time.monotonic() - began < 10
        found = batch(conn, rows[:20], 1, 3)
        assert scan_of(conn)["load_us"] == 0
        assert [found[i + 1][0][0] for i in range(20)] == list(range(20))


def test_more_room_by_hand(three, rng):
    """omen_load() takes the rows too, once there is room; without room it leaves the codes."""
    gpu, cpu, oracle = three
    rows = make(cpu, rng)
    put(gpu, omen__engine="auto")
    alone = gpu.execute("SELECT omen_load('t_v_idx')").fetchone()[0]
    assert index_status(gpu)["hot_tier_state"] == "loaded, codes alone"
    # The first search of the session is on the GPU.
    put(gpu, omen__probes=3)
    assert knn(gpu, "l2", rows[3], 5)[0][0] == 3
    assert scan_of(gpu)["load_us"] == 0
    assert gpu.execute("SELECT omen_load('t_v_idx')").fetchone()[0] <= 2 * alone
    assert index_status(gpu)["hot_tier_state"] == "loaded, codes alone"
    put(gpu, omen__gpu_memory_limit=0)
    assert gpu.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > ROWS * DIM * 2
    assert index_status(gpu)["hot_tier_state"] == "loaded"
    put(gpu, omen__engine="gpu", omen__probes=LISTS)
    assert_same(knn(gpu, "l2", rows[3], 10), knn(oracle, "l2", rows[3], 10), complete_ties=False)
    assert last_scan(gpu)["engine"] == "gpu", last_scan(gpu)
