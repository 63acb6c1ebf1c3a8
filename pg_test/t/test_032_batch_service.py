"""omen_search() through the shared GPU service: the rows of an exact search, whatever happens meanwhile, and no context of the session's own."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.batch import DIM, LISTS, assert_exact, assert_near, batch, exact
from lib.churn import DIM as CHURN_DIM
from lib.churn import Churn, fill
from lib.db import BY_INDEX, CPU, ONE_ON_EVERY_MAJOR, REAL_GPU, assert_same, knn, last_scan, make_database, make_index, make_table, put
from lib.exact import OPERATORS
from lib.service import GPU, PRELOADED, WAIT, counted, inject, searches, stat, vacuum_dead, wait_for, wait_until

ROWS = 3000


@pytest.fixture
def table(first, rng):
    with first.connect() as conn:
        rows = vectors.clustered(rng, ROWS, DIM)
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
    return rows


@pytest.fixture
def session(first, table):
    """A session whose index the service holds."""
    with first.connect(**GPU) as conn:
        batch(conn, table[:1], 1)
        assert by_service(conn)
        yield conn


def by_service(conn) -> bool:
    """Whether the last search was the GPU's, and the session has nothing of its own there."""
    own = conn.execute("SELECT sum(hot_tiers) FROM omen_gpu_status()").fetchone()[0]
    assert own == 0
    scan = last_scan(conn)
    # The last round may have had queries alone whose lists are all out of date on the device.
    return scan["engine"] == "gpu" or (scan["rounds"] > 1 or scan["queries"] > 1) and scan["gpu_us"] > 0 and scan["fallback_reason"] is None


def own_rows(conn, rows, ids, k=1):
    """Each row is the nearest to itself, among all lists."""
    found = batch(conn, rows[ids], k, LISTS)
    assert [found[i + 1][0][0] for i in range(len(ids))] == list(ids)
    assert all(len(mine) == k for mine in found.values())


@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_all_lists_are_exact(first, rng, metric):
    rows = vectors.clustered(rng, 2000, DIM)
    with first.connect(**GPU) as conn:
        make_table(conn, rows)
        make_index(conn, metric, lists=LISTS)
        asked = 0
        for n, k in ((1, 1), (7, 10), (150, 3), (40, 33), (3, 1200)):
            assert_exact(conn, metric, vectors.clustered(rng, n, DIM), k)
            scan = last_scan(conn)
            assert (scan["queries"], scan["probes"], scan["rows_returned"]) == (n, LISTS, n * k), scan
            assert by_service(conn), scan
            asked += n
        row = searches(conn, asked)
        # Each query once: none was out of date, and none had too few candidates.
        assert row["searches"] == asked and 40 <= row["max_batch"] <= 256 and row["failed_batches"] == 0, row
        assert row["batches"] <= row["searches"] and row["abandoned"] == row["refused"] == 0, row


def test_same_rows_as_the_cpu_from_few_lists(first, session, table, rng):
    queries = (table[:300] + 0.3 * vectors.uniform(rng, 300, DIM)).astype(np.float32)
    with first.connect(**CPU) as cpu:
        for conn in (session, cpu):
            # Of a list with few rows others would be added.
            put(conn, omen__iterative_scan="off")
        for probes in (1, 3, 7):
            found, wanted = batch(session, queries, 10, probes), batch(cpu, queries, 10, probes)
            assert by_service(session) and last_scan(session)["probes"] == probes
            # Lists may differ where two are as good as equally far.
            same = [[i for i, _ in found[n]] == [i for i, _ in wanted[n]] for n in found]
            assert sum(same) >= 290, (probes, sum(same))


def test_thousands(session, table, rng):
    """More queries than messages hold, slots give and batches take."""
    before = counted(session)
    ids = rng.integers(ROWS, size=5000).tolist()
    own_rows(session, table, ids)
    assert by_service(session) and last_scan(session)["queries"] == 5000
    row = searches(session, before + 5000)
    assert row["searches"] == before + 5000 and row["max_batch"] <= 256 and row["queued"] == 0, row


def test_more_than_the_device_or_a_message_can_hold(session, table):
    """The CPU answers; likewise queries that no device takes, beside those that it does."""
    for k in (2500, 3000, 3001):
        found = batch(session, table[:3], k, LISTS)
        assert [len(rows) for rows in found.values()] == [min(k, ROWS)] * 3
        assert last_scan(session)["engine"] == "cpu" and last_scan(session)["fallback_reason"]
    huge = np.full((2, DIM), 3e37, dtype=np.float32)
    queries = np.vstack([huge[:1], table[:5], huge[1:], table[5:9]])
    before = counted(session)
    found = batch(session, queries, 1, LISTS)
    searches(session, before + 9)
    assert [found[n][0][0] for n in (2, 3, 4, 5, 6, 8, 9, 10, 11)] == list(range(9))
    assert len(found[1]) == len(found[7]) == 1


@pytest.mark.parametrize("metric", OPERATORS)
def test_numbers_far_beyond_the_others(first, rng, metric):
    rows = vectors.clustered(rng, 1000, DIM)
    with first.connect(**GPU) as conn:
        make_table(conn, rows)
        make_index(conn, metric, lists=8)
        huge = rng.choice([-1, 1], (60, DIM)) * 10.0 ** rng.uniform(6, 16, (60, 1))
        vectors.copy_rows(conn, "t", np.arange(2000, 2060), huge.astype(np.float32))
        queries = np.vstack([rows[:4], huge[:3].astype(np.float32)])
        assert_exact(conn, metric, queries, 10, 8, tolerance=0.03)
        if metric == "cosine":
            found = batch(conn, np.vstack([np.zeros((1, DIM)), rows[3:4]]), 10, 8)
            assert len(found[1]) == 10 and all(np.isnan(d) for _, d in found[1])
            assert_near(found[2], exact(conn, "cosine", rows[3], 10))


def test_bad_arguments(session, table):
    """As without the service, and it is as before afterwards."""
    q = vectors.text(table[0])
    call = "SELECT * FROM omen_search('t_v_idx', %s::vector[], %s, %s)"
    for queries, k, probes in (([q], 0, None), ([q], 100_001, None), ([q], 5, 0), ([q, "[1,2]"], 5, None), ([q, None], 5, None)):
        with pytest.raises(psycopg.Error):
            session.execute(call, (queries, k, probes))
    assert session.execute(call, ([], 5, None)).fetchall() == []
    own_rows(session, table, [5, 6])
    assert by_service(session) and stat(session)["queued"] == 0


def test_appended_rows(session, table, rng):
    """Rows inserted after the tier was loaded are found, and found again once VACUUM has folded them."""
    for step in range(4):
        near = table[step * 100] + 0.01 * vectors.uniform(rng, 200, DIM)
        vectors.copy_rows(session, "t", np.arange(10_000 + 1000 * step, 10_200 + 1000 * step), near.astype(np.float32))
        queries = [table[step * 100], *vectors.clustered(rng, 130, DIM)]
        found = batch(session, queries, 20, 2)
        assert sum(i >= 10_000 for i, _ in found[1]) >= 19 and by_service(session)
        assert_exact(session, "l2", queries[:20], 20)
        if step % 2:
            session.execute("VACUUM t")
            assert_exact(session, "l2", queries[:20], 20)


def test_reused_slots(first, session, table, rng):
    """Rows die, VACUUM gives their slots to others: what the service's tier holds of old is not returned."""
    with first.connect() as writer:
        for step in range(3):
            query = table[7 + step]
            near = [i for i, _ in exact(writer, "l2", query, 80)]
            writer.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s)", (near,))
            writer.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
            vacuum_dead(writer)
            first_id = 20_000 + 1000 * step
            far = (query - 40 + vectors.uniform(rng, 80, DIM)).astype(np.float32)
            vectors.copy_rows(writer, "t", np.arange(first_id, first_id + 80), far)
            reused = writer.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = gone.slot WHERE id >= %s", (first_id,)).fetchone()[0]
            writer.execute("DROP TABLE gone")
            assert reused > 20, f"only {reused} slots were reused: the test would prove nothing"
            queries = [query, query - 40, *vectors.clustered(rng, 150, DIM)]
            few = batch(session, queries, 10, 2)
            assert all(i < 20_000 and i not in near for i, _ in few[1]) and all(i >= first_id for i, _ in few[2])
            assert_exact(session, "l2", queries[:10], 15, tolerance=0.03)


def test_own_changes(session, table, rng):
    """What the transaction itself deleted, updated or rolled back; most candidates are dead, so the search goes deeper."""
    queries = np.vstack([table[:6], vectors.clustered(rng, 4, DIM)])
    with session.transaction(force_rollback=True):
        for query in queries:
            near = [i for i, _ in exact(session, "l2", query, 300)]
            session.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
        assert_exact(session, "l2", queries, 10)
        session.execute("UPDATE t SET id = id + 100000 WHERE id % 2 = 0")
        session.execute("UPDATE t SET v = v + v WHERE id % 3 = 0")
        assert_exact(session, "l2", queries, 25)
        session.execute("DELETE FROM t")
        assert batch(session, queries, 5) == {i: [] for i in range(1, len(queries) + 1)}
    assert_exact(session, "l2", queries, 25)


def test_everything_at_once(first, rng):
    """Inserts, deletes, VACUUM and searches; batches of many messages too, each of some queries checked in its snapshot."""
    fill(first, 4000)
    churn = Churn(first, 12, [GPU, GPU, CPU])

    def large_batches():
        numbers = vectors.rng_for("large batches")
        with first.connect(**GPU) as conn:
            while churn.going():
                queries = vectors.clustered(numbers, 300, CHURN_DIM)
                with conn.transaction():
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    found = batch(conn, queries, 10, 24)
                    for number in numbers.integers(300, size=4).tolist():
                        try:
                            assert_near(found[number + 1], exact(conn, "l2", queries[number], 10), 0.03)
                        except AssertionError as error:
                            churn.problems.append(f"large batch, query {number}, seed {vectors.SEED}: {error}")

    churn.threads.append(threading.Thread(target=churn._guarded, args=(large_batches,), daemon=True))
    churn.run()
    churn.check_end()
    assert not churn.problems, "\n".join(churn.problems)
    assert all(churn.counts.values()), churn.counts
    with first.connect() as conn:
        row = wait_for(conn, queued=0)
        assert row["max_batch"] > 50 and row["failed_batches"] == 0, row


def test_many_sessions_with_few_slots(make_server, rng):
    """Eight slots: batches of some roles and single searches of another get their answers, and a session takes one slot if it must."""
    server = make_server("few", PRELOADED | {"omen.gpu_queue_slots": 8})
    db = make_database(server, "first")
    rows = vectors.clustered(rng, ROWS, DIM)
    with db.connect(**GPU) as conn:
        wait_for(conn, state="up")
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        own_rows(conn, rows, [1])
        conn.execute("CREATE ROLE one; CREATE ROLE two; GRANT SELECT ON t TO one, two")
        conn.execute("SELECT omen_stat_reset()")
    failures, by_gpu = [], {"batches": 0, "singles": 0}

    def many(number: int):
        numbers = vectors.rng_for(f"batches {number}")
        with db.connect(**GPU) as conn:
            conn.execute(f"SET ROLE {'one' if number % 2 else 'two'}")
            for _ in range(4):
                own_rows(conn, rows, numbers.integers(ROWS, size=700).tolist(), k=2)
                by_gpu["batches"] += last_scan(conn)["engine"] == "gpu"

    def single(number: int):
        with db.connect(**GPU, **BY_INDEX, omen__probes=LISTS) as conn:
            for i in range(60):
                assert knn(conn, "l2", rows[number * 60 + i], 3)[0][0] == number * 60 + i
                by_gpu["singles"] += last_scan(conn)["engine"] == "gpu"

    def guarded(job, number):
        try:
            job(number)
        except BaseException as error:
            failures.append((job.__name__, number, error))

    threads = [threading.Thread(target=guarded, args=(job, n)) for n in range(6) for job in (many, single)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    # Whoever finds no slot free is answered by the CPU.
    assert by_gpu["batches"] > 0 and by_gpu["singles"] > 0, by_gpu
    with db.connect() as conn:
        row = wait_for(conn, queued=0)
        assert row["max_batch"] > 50 and row["failed_batches"] == 0, row


def test_settings(session, table):
    """A session's own context where it is wanted."""
    before = counted(session)
    own = {"omen__gpu_context": "backend"} | ({} if REAL_GPU else {"omen__simulate_gpu": "on"})
    put(session, **own)
    own_rows(session, table, [3, 4])
    assert last_scan(session)["engine"] == "gpu" and stat(session)["searches"] == before
    assert session.execute("SELECT sum(hot_tiers) FROM omen_gpu_status()").fetchone()[0] == 1
    put(session, omen__gpu_context="shared")
    own_rows(session, table, [3, 4])
    assert last_scan(session)["engine"] == "gpu"
    searches(session, before + 2)
    session.execute("ALTER INDEX t_v_idx SET (hot = off)")
    own_rows(session, table, [3, 4])
    assert last_scan(session)["engine"] == "cpu"
    session.execute("ALTER INDEX t_v_idx SET (hot = auto)")
    put(session, omen__engine="cpu")
    own_rows(session, table, [3, 4])
    assert last_scan(session)["engine"] == "cpu"


def test_auto_goes_over_to_the_service(first, table, rng):
    """With omen.engine = auto a large batch pays for loading; a process of its own does that, and the session goes over."""
    with first.connect(omen__engine="auto") as conn:
        def is_by_service():
            ids = rng.integers(ROWS, size=4000).tolist()
            own_rows(conn, table, ids)
            return by_service(conn)
        wait_until(is_by_service, "the GPU is not used")
        assert last_scan(conn)["load_us"] == 0 and stat(conn)["loads"] == 1


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_a_worker_that_ends_in_the_middle(first, session, table, rng):
    """The CPU finishes: every query gets its rows."""
    for fault in ("exit", "lost"):
        before = wait_for(session, state="up")
        killer = threading.Timer(0.1, lambda fault=fault: inject(killer_conn, fault))
        with first.connect() as killer_conn:
            killer.start()
            end = time.monotonic() + WAIT
            while stat(session)["state"] == "up":
                own_rows(session, table, rng.integers(ROWS, size=1500).tolist())
                assert time.monotonic() < end
            own_rows(session, table, rng.integers(ROWS, size=300).tolist())
            killer.join()
            inject(killer_conn, "none")
        while stat(session)["starts"] == before["starts"]:
            time.sleep(0.05)
            assert time.monotonic() < end
        wait_for(session, state="up")

        def is_by_service():
            own_rows(session, table, [8, 9])
            return by_service(session)
        # An index whose load failed, as the worker ended, rests for half a minute.
        wait_until(is_by_service, "the GPU is not used again", 3 * WAIT)
    assert stat(session)["queued"] == 0 and "terminated by signal" not in first.server.log_text()


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_cancelled_in_the_middle(first, session, table, rng):
    """A batch that waits is cancelled, and leaves no slot behind; one that runs into the time limit is the CPU's."""
    queries = [vectors.text(row) for row in table[:600]]
    call = "SELECT count(*) FROM omen_search('t_v_idx', %s::vector[], 5, 3)"
    inject(session, "hang")
    put(session, statement_timeout="1500ms", omen__gpu_timeout="60s")
    end = time.monotonic() + WAIT
    while True:
        try:
            session.execute(call, (queries,))
        except psycopg.errors.QueryCanceled:
            break
        assert time.monotonic() < end
    row = stat(session)
    assert row["abandoned"] >= 128 and row["timeouts"] == 0, row
    put(session, statement_timeout="0", omen__gpu_timeout="300ms")
    own_rows(session, table, list(range(200)))
    assert last_scan(session)["engine"] == "cpu" and "in time" in last_scan(session)["fallback_reason"]
    assert stat(session)["breaker"] == "open"
    inject(session, "none")
    put(session, omen__gpu_timeout="5s")

    def is_by_service():
        own_rows(session, table, [8, 9])
        return by_service(session)
    wait_until(is_by_service, "the GPU is not used again")
    # Cancelled while it works, several times: slots are not lost.
    for _ in range(5):
        canceller = threading.Timer(float(rng.uniform(0.01, 0.2)), session.cancel)
        canceller.start()
        try:
            session.execute("SELECT count(*) FROM omen_search('t_v_idx', %s::vector[], 300, 20)", (queries * 5,))
        except psycopg.errors.QueryCanceled:
            pass
        canceller.join()
    session.execute("SELECT 1")
    own_rows(session, table, [8, 9])
    wait_for(session, queued=0)


def test_scans_beside_batches(first, session, table, rng):
    """Single searches of other sessions keep their answers right while batches of thousands run."""
    stop = threading.Event()
    failures = []

    def large():
        try:
            with first.connect(**GPU) as conn:
                while not stop.is_set():
                    own_rows(conn, table, rng.integers(ROWS, size=2000).tolist())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=large)
    thread.start()
    try:
        with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn, first.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as cpu:
            engines = []
            for i in range(60):
                assert_same(knn(conn, "l2", table[i], 10), knn(cpu, "l2", table[i], 10), complete_ties=False)
                engines.append(last_scan(conn)["engine"])
            assert engines.count("gpu") == 60, engines
    finally:
        stop.set()
        thread.join()
    assert not failures, failures[0]
