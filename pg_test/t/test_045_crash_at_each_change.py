"""The server is killed before each single change that an insert, a fold and a VACUUM make to an index's pages: nothing is lost at any of them."""

import psycopg
import pytest

from lib.checks import check_indexes
from lib.crashes import CONF, SETUP
from lib.db import BY_INDEX, REAL_GPU, make_database
from lib.stops import Stopping

pytestmark = pytest.mark.skipif(REAL_GPU, reason="processes stop in test builds alone")

# So many inserts fold the list at least once.
MOST_ROWS = 400


@pytest.fixture
def table(make_server, request):
    """A database with a table of few rows; its index has one list."""
    dim = request.getfixturevalue("dim")
    server = make_server("steps", CONF | {"checkpoint_timeout": "1h"}, checksums=True)
    db = make_database(server, "steps")
    with db.connect() as conn:
        conn.execute(SETUP)
        conn.execute(f"CREATE TABLE t (id serial, v vector({dim}))")
        conn.execute(f"INSERT INTO t (v) SELECT made(i, {dim}) FROM generate_series(1, 40) i")
        conn.execute("CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = 1)")
        # What is logged from here on has no image of the page before, but where it is changed for the first time.
        conn.execute("CHECKPOINT")
    yield db
    server.check_checksums()


def crash(db, stopped: Stopping) -> int:
    """Kills the server while a session is stopped, and checks what is there after recovery. Returns how many rows were compared."""
    # Writes the log up to here: what the stopped process has changed so far is to survive it.
    db.server.sql("SELECT pg_switch_wal()")
    db.server.kill()
    with pytest.raises(psycopg.OperationalError):
        stopped.go_on()
    db.server.start()
    with db.connect(**BY_INDEX) as conn:
        return check_indexes(conn)


def rows_in(db) -> int:
    with db.connect() as conn:
        return conn.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.mark.parametrize("dim", (24, 4200))
def test_insert_and_fold(table, dim):
    """An insert stops before its first change, its second, ... until none has so many; of 4200 dimensions, a vector spans pages, and
    the list would be folded after some four hundred."""
    most_rows = MOST_ROWS if dim == 24 else 20
    change, compared, n_rows = 1, 0, rows_in(table)
    while True:
        stops = False
        with Stopping(table) as session:
            for _ in range(most_rows):
                stops = session.execute(change, f"INSERT INTO t (v) VALUES (made((random() * 900)::int, {dim}))")
                if stops:
                    compared += crash(table, session)
                    break
                n_rows += 1
        if not stops:
            break
        assert rows_in(table) == n_rows
        change += 1
        # Each fold takes the same changes then.
        with table.connect() as conn:
            conn.execute("DELETE FROM t WHERE id > 40")
            conn.execute("VACUUM t")
        n_rows = 40
    print(f"{dim} dimensions: {change - 1} kills, {compared} rows compared")
    # A fold writes at least two pages, links them, and frees two; vectors that span pages take two of them, a record on a new page, and its link.
    assert change - 1 >= (7 if dim == 24 else 4)


@pytest.mark.every_major
@pytest.mark.parametrize("dim", (24, 4200))
def test_vacuum(table, dim):
    """Before its changes: entries of the frozen and the appended part that die, then the fold."""
    change, kills, compared = 1, 0, 0
    while True:
        with table.connect() as conn:
            # Enough of both that VACUUM folds the list.
            conn.execute(f"INSERT INTO t (v) SELECT made(i, {dim}) FROM generate_series(1, {50 if dim == 24 else 12}) i")
            conn.execute("DELETE FROM t WHERE random() < 0.4")
            n_rows = conn.execute("SELECT count(*) FROM t").fetchone()[0]
        with Stopping(table) as session:
            if not session.execute(change, "VACUUM t"):
                break
            compared += crash(table, session)
        assert rows_in(table) == n_rows
        kills += 1
        # Of many pages written or freed one after the other, not each.
        change += 1 + change // 12
    print(f"{dim} dimensions: {kills} kills, the last before change {change - 1}; {compared} rows compared")
    assert kills >= 7
