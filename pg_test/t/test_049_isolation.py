"""SERIALIZABLE notices what searches read; cursors keep to their snapshot whatever happens to the index meanwhile, and go backward rightly or not at all."""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_by_index, assert_fails, assert_same, last_scan, make_index, make_table, plan, put

DIM, LISTS = 16, 6
ENGINES = {"cpu": CPU, "gpu": GPU}


@pytest.fixture
def rows(db, rng):
    """Rows of a table with an index; `note` is not indexed, and pages have room for HOT updates."""
    rows = vectors.clustered(rng, 900, DIM)
    with db.connect() as conn:
        make_table(conn, rows, options="WITH (fillfactor = 50)")
        conn.execute("ALTER TABLE t ADD note integer NOT NULL DEFAULT 0")
        make_index(conn, lists=LISTS)
    return rows


def by_scan(conn, query) -> list[str]:
    """Places of the nearest rows by an index scan."""
    assert_by_index(conn, "l2", query, 5)
    return [at for at, in conn.execute("SELECT ctid::text FROM t ORDER BY v <-> %s::vector LIMIT 5", (vectors.text(query),))]


def by_batch(conn, query) -> list[str]:
    """The same by omen_search(), for which no executor takes locks."""
    return [at for at, in conn.execute("SELECT ctid::text FROM omen_search('t_v_idx', ARRAY[%s]::vector[], 5)", (vectors.text(query),))]


def outcomes(db, settings, first, second) -> list[bool]:
    """Two SERIALIZABLE transactions at once: both do `first(conn, number)`, then both `second(conn, number)`, then commit. Which succeeded."""
    with db.connect(**BY_INDEX, **settings) as a, db.connect(**BY_INDEX, **settings) as b:
        succeeded = [True, True]
        for conn in (a, b):
            conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        for step in (first, second, lambda conn, _: conn.execute("COMMIT")):
            for number, conn in enumerate((a, b)):
                try:
                    if succeeded[number]:
                        step(conn, number)
                except psycopg.errors.SerializationFailure:
                    conn.execute("ROLLBACK")
                    succeeded[number] = False
        return succeeded


@pytest.mark.every_major
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("search", (by_scan, by_batch))
def test_write_skew_by_inserts(db, rows, search, engine):
    """Each looks where the other inserts: no order of the two gives what both saw, so one must fail. Only the index's predicate lock shows that."""
    queries = rows[3], rows[500]
    seen = {}

    def look(conn, number):
        seen[number] = search(conn, queries[number])
        assert len(seen[number]) == 5
        scan = last_scan(conn)
        assert scan["engine"] == engine, scan

    def insert(conn, number):
        conn.execute("INSERT INTO t VALUES (%s, %s)", (5000 + number, vectors.text(queries[1 - number])))

    for _ in range(3):
        assert sorted(outcomes(db, ENGINES[engine], look, insert)) == [False, True]
    with db.connect() as conn:
        assert conn.execute("SELECT count(*) FROM t WHERE id >= 5000").fetchone()[0] == 3
        check_indexes_of(conn)


def check_indexes_of(conn):
    """With ids made unique again, which the check wants."""
    conn.execute("UPDATE t SET id = 10000 + s.n FROM (SELECT ctid AS at, row_number() OVER () AS n FROM t WHERE id >= 5000) s WHERE t.ctid = s.at")
    check_indexes(conn)


@pytest.mark.every_major
@pytest.mark.parametrize("search", (by_scan, by_batch))
def test_write_skew_by_updates(db, rows, search):
    """Both read the same nearest rows; one marks the first, the other the second. HOT updates leave the index alone: the rows' own locks show it."""
    seen = {}

    def look(conn, number):
        seen[number] = search(conn, rows[7])

    def mark(conn, number):
        # By its place: a search for it in the table would lock all of that.
        conn.execute("UPDATE t SET note = note + 1 WHERE ctid = %s::tid", (seen[number][number],))

    assert sorted(outcomes(db, CPU, look, mark)) == [False, True]


@pytest.mark.parametrize("search", (by_scan, by_batch))
def test_no_failure_without_a_cycle(db, rows, search):
    """One looks, the other inserts: that is an order. Nor does what was rolled back count."""
    def first(conn, number):
        if number == 0:
            search(conn, rows[3])

    def second(conn, number):
        if number == 1:
            conn.execute("INSERT INTO t VALUES (6000, %s)", (vectors.text(rows[3]),))

    assert outcomes(db, CPU, first, second) == [True, True]


def search_text(query, where: str = "true") -> str:
    return f"SELECT id, v <-> '{vectors.text(query)}' FROM t WHERE {where} ORDER BY v <-> '{vectors.text(query)}'"


def change_everything(conn, rng, round: int):
    """Most rows go, VACUUM gives their slots away, others come there, lists are folded."""
    conn.execute("DELETE FROM t WHERE id %% 4 <> %s", (round % 4,))
    conn.execute("VACUUM (TRUNCATE off) t")
    vectors.copy_rows(conn, "t", 10_000 * (round + 1) + np.arange(600), vectors.clustered(rng, 600, DIM))
    conn.execute("UPDATE t SET note = note + 1")
    conn.execute("VACUUM (TRUNCATE off) t")


@pytest.mark.every_major
@pytest.mark.parametrize("engine", ENGINES)
def test_cursors_over_vacuum(db, rows, rng, engine):
    """Cursors of four moments, each with another part fetched, while rows come and go; each gives what its snapshot saw."""
    query = rows[11]
    cursors = []
    with db.connect() as writer:
        for round in range(4):
            for n in (1, 40, 500):
                conn = db.connect(**BY_INDEX, **ENGINES[engine], omen__probes=LISTS)
                conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                conn.execute(f"DECLARE c NO SCROLL CURSOR FOR {search_text(query)}")
                cursors.append((conn, conn.execute(f"FETCH {n} FROM c").fetchall()))
            change_everything(writer, rng, round)
            if round == 1:
                # Waits for those that use the old one when it drops it, so without CONCURRENTLY it would never come.
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    writer.execute("SET lock_timeout = '100ms'; REINDEX INDEX t_v_idx")
        for n, (conn, begun) in enumerate(cursors):
            # In steps of different sizes.
            while some := conn.execute(f"FETCH {1 + n * 7} FROM c").fetchall():
                begun += some
            put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
            assert_same(begun, conn.execute(search_text(query)).fetchall())
            conn.close()
        check_indexes(writer)


@pytest.mark.parametrize("engine", ENGINES)
def test_cursors_with_hold(db, rows, rng, engine):
    """What is left of a cursor at commit is kept, even if the index and the table go."""
    with db.connect(**BY_INDEX, **ENGINES[engine], omen__probes=LISTS) as conn:
        wanted = conn.execute(search_text(rows[5])).fetchall()
        conn.execute("BEGIN")
        conn.execute(f"DECLARE c CURSOR WITH HOLD FOR {search_text(rows[5])}")
        found = conn.execute("FETCH 10 FROM c").fetchall()
        conn.execute("COMMIT")
        change_everything(conn, rng, 0)
        found += conn.execute("FETCH 100 FROM c").fetchall()
        conn.execute("DROP INDEX t_v_idx")
        found += conn.execute("FETCH 100 FROM c").fetchall()
        conn.execute("DROP TABLE t")
        found += conn.execute("FETCH ALL FROM c").fetchall()
        assert_same(found, wanted)


@pytest.mark.every_major
def test_backward(db, rows):
    """A cursor that was not asked to go backward refuses to; one that was keeps what it has fetched."""
    with db.connect(**BY_INDEX, omen__probes=LISTS) as conn:
        wanted = conn.execute(search_text(rows[5])).fetchall()
        for how in ("", "NO SCROLL"):
            conn.execute("BEGIN")
            conn.execute(f"DECLARE c {how} CURSOR FOR {search_text(rows[5])}")
            assert conn.execute("FETCH 3 FROM c").fetchall() == wanted[:3]
            assert_fails(conn, "55000", "SCROLL", "FETCH BACKWARD 1 FROM c")
            conn.execute("ROLLBACK")
        conn.execute("BEGIN")
        conn.execute(f"DECLARE c SCROLL CURSOR FOR {search_text(rows[5])}")
        assert "Materialize" in plan(conn, f"DECLARE d SCROLL CURSOR FOR {search_text(rows[5])}")
        for statement, part in (("FETCH 5", wanted[:5]), ("FETCH BACKWARD 2", wanted[3:1:-1]), ("FETCH PRIOR", wanted[1:2]),
                                ("FETCH ABSOLUTE 700", wanted[699:700]), ("FETCH RELATIVE -600", wanted[99:100]), ("FETCH LAST", wanted[-1:]),
                                ("FETCH BACKWARD ALL", wanted[-2::-1]), ("FETCH FIRST", wanted[:1]), ("FETCH FORWARD ALL", wanted[1:])):
            assert conn.execute(f"{statement} FROM c").fetchall() == part, statement
        conn.execute("COMMIT")


def test_current_of(db, rows):
    """UPDATE ... WHERE CURRENT OF a search's cursor changes the row that it stands at."""
    with db.connect(**BY_INDEX, omen__probes=LISTS) as conn:
        conn.execute("BEGIN")
        conn.execute(f"DECLARE c CURSOR FOR {search_text(rows[5])} FOR UPDATE")
        marked = []
        for _ in range(30):
            marked += [i for i, _ in conn.execute("FETCH 2 FROM c")][1:]
            conn.execute("UPDATE t SET note = 7 WHERE CURRENT OF c")
        conn.execute("COMMIT")
        assert sorted(i for i, in conn.execute("SELECT id FROM t WHERE note = 7")) == sorted(marked)
        check_indexes(conn)
