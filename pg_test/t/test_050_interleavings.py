"""Inserts, folds, VACUUM and scans that meet at a given moment: one process stops between two changes of the index's pages, the others act just there."""

import threading

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, REAL_GPU, assert_same, knn, last_scan, make_index, make_table, put
from lib.stops import Stopping, wait_for_lock

pytestmark = pytest.mark.skipif(REAL_GPU, reason="processes stop in test builds alone")

DIM, LISTS = 24, 2
PLACES = (3, -3)
# An insert that folds nothing makes three changes at most: it finds the last page full, writes one, and links it.
FIRST_OF_FOLD = 4
# So many fold the list of `query`.
MOST_INSERTS = 400
INSERT = "INSERT INTO t VALUES (nextval('ids'), %s)"


@pytest.fixture
def query(db, rng):
    """A table and its index of two lists, which all searches visit; where rows are inserted and looked for: all in one list."""
    with db.connect() as conn:
        make_table(conn, np.concatenate([vectors.uniform(rng, 200, DIM) + place for place in PLACES]).astype(np.float32))
        make_index(conn, lists=LISTS)
        conn.execute("CREATE SEQUENCE ids START 1000")
    return (vectors.uniform(rng, 1, DIM)[0] + PLACES[0]).astype(np.float32)


def near(rng, query) -> str:
    return vectors.text(query + 0.1 * vectors.uniform(rng, 1, DIM)[0])


def until_stopped(session, change, rng, query) -> bool:
    """Inserts rows until one stops before its change of this number, which those that fold or start a page have; whether one did."""
    return any(session.execute(change, INSERT, (near(rng, query),)) for _ in range(MOST_INSERTS))


def shorten(conn):
    """Gives the lists the rows that they had in the beginning, so that each fold takes the same changes."""
    conn.execute("DELETE FROM t WHERE id >= 1000")
    conn.execute("VACUUM t")


def check(searcher, query):
    """A search of all lists, and of one, by the searcher's engine, beside a sort in the same snapshot."""
    with searcher.transaction():
        searcher.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = knn(searcher, "l2", query, None)
        put(searcher, **BY_SORT, enable_seqscan="on", enable_sort="on")
        wanted = knn(searcher, "l2", query, None)
        put(searcher, **{name: "on" for name in BY_SORT}, **BY_INDEX)
    assert_same(found, wanted)


class Cursor:
    """A search of which some rows are fetched before something happens, and the others after it."""

    def __init__(self, db, query, first: int, **settings):
        self.conn = db.connect(**BY_INDEX, omen__probes=LISTS, **settings)
        self.conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        self.query = vectors.text(query)
        self.search = f"SELECT id, v <-> '{self.query}' FROM t ORDER BY v <-> '{self.query}'"
        self.conn.execute(f"DECLARE c NO SCROLL CURSOR FOR {self.search}")
        self.rows = self.conn.execute(f"FETCH {first} FROM c").fetchall()

    def check(self):
        """Fetches the others: the rows that the snapshot sees, in order."""
        self.rows += self.conn.execute("FETCH ALL FROM c").fetchall()
        put(self.conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
        assert_same(self.rows, self.conn.execute(self.search).fetchall())
        self.conn.close()


def test_two_inserts_add_the_next_page(db, query, rng):
    """Both have written a page to follow the last one; one links it, the other finds that out, gives its page back, and goes to the first's."""
    with Stopping(db) as one, Stopping(db) as two, db.connect(**BY_INDEX) as conn:
        for _ in range(3):
            # An insert that finds the last page full, its first, writes a page and then links it.
            assert until_stopped(one, 3, rng, query)
            assert two.execute(3, INSERT, (near(rng, query),)), "the other insert is not to find room"
            two.go_on()
            one.go_on()
            check_indexes(conn)


def test_inserts_while_one_inserts(db, query, rng):
    """An insert that has not linked its page holds nobody up, and nobody folds the list under it."""
    with Stopping(db) as one, db.connect(**BY_INDEX, statement_timeout="20s") as conn:
        assert until_stopped(one, 3, rng, query)
        for _ in range(200):
            conn.execute(INSERT, (near(rng, query),))
        locks = conn.execute("SELECT mode FROM pg_locks WHERE locktype = 'page'").fetchall()
        assert locks == [("ShareLock",)], locks
        one.go_on()
        check_indexes(conn)


@pytest.mark.parametrize("engine", ("cpu", "gpu"))
def test_scans_while_a_list_is_folded(db, query, rng, engine):
    """Before each change of a fold: scans that began before, scans that begin now, scans that begin now and end later; inserts wait for it."""
    how = CPU if engine == "cpu" else GPU
    n_stops = n_by_gpu = 0
    with db.connect(**BY_INDEX, omen__probes=LISTS, **how) as searcher, db.connect() as watcher:
        check(searcher, query)
        for change in range(FIRST_OF_FOLD, 30):
            with Stopping(db) as folding, db.connect(statement_timeout="20s") as inserter:
                before = [Cursor(db, query, first, **how) for first in (1, 30, 300)]
                if not until_stopped(folding, change, rng, query):
                    break
                n_stops += 1
                check(searcher, query)
                n_by_gpu += last_scan(searcher)["engine"] == "gpu"
                before.append(Cursor(db, query, 20, **how))
                before[0].check()
                waiting = threading.Thread(target=inserter.execute, args=(INSERT, (near(rng, query),)))
                waiting.start()
                wait_for_lock(watcher, inserter.info.backend_pid)
                folding.go_on()
                waiting.join(20)
                assert not waiting.is_alive()
                for cursor in before[1:]:
                    cursor.check()
                check(searcher, query)
            shorten(watcher)
        check_indexes(searcher)
    print(f"{n_stops} moments of a fold, {n_by_gpu} searches of them by the GPU")
    # Pages written, the link, pages given back.
    assert n_stops >= 9 and (engine == "cpu" or n_by_gpu)


@pytest.mark.parametrize("engine", ("cpu", "gpu"))
def test_scans_and_inserts_while_vacuum_runs(db, query, rng, engine):
    """Before each change of a VACUUM: scans as above; inserts go on but where it folds. Slots of dead rows are used again right after it."""
    how = CPU if engine == "cpu" else GPU
    n_stops = n_by_gpu = 0
    with db.connect(**BY_INDEX, omen__probes=LISTS, **how) as searcher, db.connect() as writer:
        for change in range(1, 60):
            for _ in range(20):
                writer.execute(INSERT, (near(rng, query),))
            check(searcher, query)
            writer.execute("DELETE FROM t WHERE mod(id, 5) = %s", (change % 5,))
            with Stopping(db) as vacuum:
                before = [Cursor(db, query, first, **how) for first in (1, 30, 200)]
                # Rows that a cursor's snapshot does not see either are what VACUUM removes.
                if not vacuum.execute(change, "VACUUM (TRUNCATE off) t"):
                    for cursor in before:
                        cursor.check()
                    break
                n_stops += 1
                check(searcher, query)
                n_by_gpu += last_scan(searcher)["engine"] == "gpu"
                before.append(Cursor(db, query, 20, **how))
                before[0].check()
                is_folding = writer.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'page' AND mode = 'ExclusiveLock'").fetchone()[0]
                if not is_folding:
                    writer.execute(INSERT, (near(rng, query),))
                    check(searcher, query)
                vacuum.go_on()
                far = (query + 40 + vectors.uniform(rng, 50, DIM)).astype(np.float32)
                vectors.copy_rows(writer, "t", 100_000 + 50 * change + np.arange(50), far)
                for cursor in before[1:]:
                    cursor.check()
                check(searcher, query)
        check_indexes(searcher)
    print(f"{n_stops} moments of a VACUUM, {n_by_gpu} searches of them by the GPU")
    assert n_stops >= 5 and (engine == "cpu" or n_by_gpu)


def test_cancel_in_the_middle_of_a_fold(db, query, rng):
    """Whoever is cancelled there leaves the list as it was, or folded; the next VACUUM goes on with it."""
    with db.connect(**BY_INDEX) as conn:
        n_cancelled = 0
        for change in range(FIRST_OF_FOLD, 30):
            with Stopping(db) as folding:
                if not until_stopped(folding, change, rng, query):
                    break
                conn.execute("SELECT pg_cancel_backend(%s)", (folding.pid,))
                try:
                    folding.go_on()
                except psycopg.errors.QueryCanceled:
                    n_cancelled += 1
            check_indexes(conn)
            conn.execute("VACUUM t")
            check_indexes(conn)
            shorten(conn)
        assert n_cancelled
        assert not conn.execute("SELECT 1 FROM pg_locks WHERE locktype = 'page'").fetchall()
