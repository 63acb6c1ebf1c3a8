"""With pages on disk, which a search announces and has read ahead, it gives the rows it gives with pages in memory."""

import threading
import time

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, assert_by_index, knn, knn_sql, make_database, make_index, make_table, put

DIM = 240
N = 32_000
# The index is larger than that: what a search reads pushes out what the one before has read. A search of most
# lists announces so many pages that a read stream serves them, where there are read streams; with the filter it is ended
# in the middle, when vectors of the first lists are announced.
CONF = {"shared_buffers": "2MB"}


@pytest.fixture
def cold(make_server, rng):
    """A server with a small cache and a table, and queries."""
    server = make_server("cold", CONF)
    db = make_database(server, "cold")
    rows = vectors.clustered(rng, N, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=60)
        # Entries that are appended, dead, and folded to pages here and there.
        vectors.copy_rows(conn, "t", range(N, N + 1500), vectors.clustered(rng, 1500, DIM))
        conn.execute("DELETE FROM t WHERE id % 10 = 3")
        conn.execute("VACUUM t")
        vectors.copy_rows(conn, "t", range(2 * N, 2 * N + 500), vectors.clustered(rng, 500, DIM))
    queries = rows[rng.integers(N, size=6)] + 0.1 * vectors.uniform(rng, 6, DIM)
    return server, db, queries


def restart(server, **conf):
    """Starts the server anew, with nothing in its cache."""
    server.stop()
    server.configure(conf)
    server.start()


def searches(db, queries):
    """What searches of several kinds find; each begins in a session of its own."""
    found = []
    for probes, k in ((0, 10), (0, 300), (7, 40), (59, 40), (60, 10), (60, None)):
        with db.connect(**BY_INDEX, **CPU, omen__probes=probes) as conn:
            assert_by_index(conn, "l2", queries[0], k)
            found += [knn(conn, "l2", q, k) for q in (queries if k else queries[:1])]
    return found


def assert_quiet(server):
    """Nothing is wrong in the log: least of all pins that nobody gave back."""
    bad = [line for line in server.log_text().splitlines()
           if any(word in line for word in ("WARNING", "PANIC", "leak", "still", "TRAP", "terminated"))]
    assert not bad, bad[:20]


@pytest.mark.every_major
def test_cold_searches_find_what_warm_ones_find(cold):
    server, db, queries = cold
    restart(server, shared_buffers="256MB")
    searches(db, queries)
    warm = searches(db, queries)
    for buffers, concurrency in (("2MB", 0), ("2MB", 1), ("8MB", 32)):
        restart(server, shared_buffers=buffers, effective_io_concurrency=concurrency)
        assert searches(db, queries) == warm
        assert searches(db, queries) == warm
    restart(server, shared_buffers="256MB")
    assert searches(db, queries) == warm
    assert_quiet(server)


@pytest.mark.every_major
@pytest.mark.parametrize("probes", [9, 59])
def test_scans_side_by_side(cold, probes):
    """Two cursors fetched in turns, one closed early; and a join that scans again for each outer row."""
    server, db, queries = cold
    a, b = (vectors.text(q) for q in queries[:2])
    sql = "SELECT id, v <-> %s::vector FROM t ORDER BY v <-> %s::vector"
    with db.connect(**BY_INDEX, **CPU, omen__probes=probes) as conn:
        alone = [conn.execute(sql + " LIMIT 900", (q, q)).fetchall() for q in (a, b)]
    restart(server, effective_io_concurrency=16)
    with db.connect(**BY_INDEX, **CPU, omen__probes=probes) as conn, conn.transaction():
        for name, q in (("a", a), ("b", b)):
            conn.execute(f"DECLARE {name} CURSOR FOR " + sql, (q, q))
        together = [[], []]
        for part in range(30):
            for i, name in enumerate("ab"):
                together[i] += conn.execute(f"FETCH 30 FROM {name}").fetchall()
            if part == 20:
                with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                    conn.execute("FETCH 5 FROM a")
                    conn.execute("SELECT 1 / 0")
                together[0] += alone[0][len(together[0]):len(together[0]) + 5]
        conn.execute("CLOSE b")
        assert [t[:900] for t in together] == alone
    with db.connect(**BY_INDEX, **CPU) as conn:
        conn.execute("CREATE TABLE q AS SELECT id, v FROM t WHERE id % 500 = 1")
        join = ("SELECT q.id, n.id FROM q CROSS JOIN LATERAL"
                " (SELECT id FROM t ORDER BY t.v <-> q.v LIMIT 7) n ORDER BY 1, 2")
        put(conn, enable_sort="on")
        first = conn.execute(join).fetchall()
        assert len(first) == 7 * conn.execute("SELECT count(*) FROM q").fetchone()[0]
        assert conn.execute(join).fetchall() == first
    assert_quiet(server)


@pytest.mark.every_major
def test_cancels_leave_no_pins(cold, rng):
    """Searches that end in the middle: by a cancel, by a timeout within a subtransaction, and by LIMIT."""
    server, db, queries = cold
    restart(server, effective_io_concurrency=16)
    with db.connect(**BY_INDEX, **CPU, omen__probes=59) as conn:
        whole = knn(conn, "l2", queries[0], 500)
        q = vectors.text(queries[0])
        canceled = 0
        for _ in range(25):
            timer = threading.Timer(float(rng.uniform(0.0005, 0.02)), conn.cancel)
            timer.start()
            try:
                conn.execute(knn_sql("l2", None), (q, q)).fetchall()
            except psycopg.errors.QueryCanceled:
                canceled += 1
            timer.join()
            time.sleep(0.005)  # a late cancel finds no statement
        assert canceled
        put(conn, statement_timeout="2ms")
        for _ in range(20):
            try:
                conn.execute(knn_sql("l2", None), (q, q)).fetchall()
            except psycopg.errors.QueryCanceled:
                canceled += 1
        put(conn, statement_timeout="0")
        # An error within a subtransaction, of which the transaction goes on.
        with conn.transaction():
            for n in (1, 20, 400):
                with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
                    conn.execute(
                        "SELECT 1 / (%s - row_number() OVER ()) FROM"
                        " (SELECT id FROM t ORDER BY v <-> %s::vector) s", (n, q))
                assert knn(conn, "l2", queries[1], 5)
        assert knn(conn, "l2", queries[0], 500) == whole
        # With so small a cache, pins that stay would soon leave no buffer.
        put(conn, omen__probes=60)
        assert len(knn(conn, "l2", queries[0], None)) == conn.execute("SELECT count(*) FROM t").fetchone()[0]
    assert_quiet(server)
