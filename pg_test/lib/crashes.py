"""Sessions that do everything to tables with omen indexes while the server is killed, and a record of what they were told is committed.

Each session has rows of its own in a table that all share, and a table to itself. It notes the rows as they were before and will be after a
transaction, so that whatever was running when the server died must have been done in full or not at all. Vectors are made by the server from
a number; of numbers with the same thousands they are near each other, so that many inserts go to one list and have it folded.
"""

import os
import random
import signal
import threading
import time
from contextlib import contextmanager

import psycopg

from . import vectors
from .checks import check_indexes
from .db import BY_INDEX, Db
from .figures import figure

# A difference between a page as replayed and as the primary had it ends the standby. Few buffers: pages are written all the time.
CONF = {"wal_consistency_checking": "generic", "full_page_writes": "on", "shared_buffers": "16MB", "max_prepared_transactions": 20,
        "checkpoint_timeout": "30s", "wal_keep_size": "2GB", "max_wal_size": "2GB", "max_standby_streaming_delay": "-1"}
OWN_IDS = 10_000_000
MOST_ROWS = 700
# Own tables: dimensions (of the last one, a vector spans pages), operator class, lists, rows of an insert.
TABLES = ((24, "l2", 8, 12), (40, "ip", 5, 12), (96, "cosine", 8, 12), (4200, "l2", 2, 3))
SHARED = (24, "l2", 12, 12)
SETUP = """
CREATE FUNCTION made(no integer, dim integer) RETURNS vector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT array_agg((1.5 * sin(no / 1000 * 12.9898 + i * 78.233) + 0.1 * sin(no * 0.7 + i * i))::real ORDER BY i)::vector FROM generate_series(1, dim) i $$
"""


def make_tables(db: Db, workers: int):
    """The shared table and that of each worker, with their indexes."""
    with db.connect() as conn:
        conn.execute(SETUP)
        for name, (dim, metric, lists, _) in tables(workers).items():
            conn.execute(f"CREATE TABLE {name} (id integer, note integer, no integer, v vector({dim})) WITH (fillfactor = 60)")
            # A few rows to train on, deleted at once.
            conn.execute(f"INSERT INTO {name} SELECT -i, 0, i * 97, made(i * 97, {dim}) FROM generate_series(1, 200) i")
            conn.execute(f"CREATE INDEX {name}_idx ON {name} USING omen (v vector_{metric}_ops) WITH (lists = {lists})")
            conn.execute(f"DELETE FROM {name}")


def tables(workers: int) -> dict:
    """Names of the tables and how they are made."""
    return {"shared": SHARED} | {f"own_{n}": TABLES[n % len(TABLES)] for n in range(workers)}


class Worker(threading.Thread):
    """Does one thing after the other until the server goes away."""

    def __init__(self, db: Db, number: int, run: int, memory: "Worker | None"):
        super().__init__(daemon=True)
        self.db, self.number = db, number
        self.random = random.Random(f"{vectors.SEED} {number} {run}")
        self.tables = {name: how for name, how in tables(number + 1).items() if name in ("shared", f"own_{number}")}
        # Rows {id: (note, no)} of each table that are committed; and, of the transaction under way, what they are if it is done.
        self.rows = memory.rows if memory else {name: {} for name in self.tables}
        self.next_id = memory.next_id if memory else OWN_IDS * (number + 1)
        self.going: tuple[str, dict] | None = None
        # The transaction under way was prepared: it can be told to commit, and nothing else, after a crash.
        self.is_prepared = False
        self.counts: dict[str, int] = {}
        self.problem = None
        self.stopping = False

    def run(self):
        try:
            with self.db.connect(statement_timeout="60s") as self.conn:
                while not self.stopping:
                    self.step()
        except Exception as e:  # noqa: BLE001  # reported by the caller, from the main thread
            if not (isinstance(e, psycopg.OperationalError) and (self.conn.broken or e.sqlstate in ("57P01", "57P02", "57P03"))):
                self.problem = f"worker {self.number}, seed {vectors.SEED}: {e!r}"

    def step(self):
        table = self.random.choice(list(self.tables))
        what = self.random.choices(*zip(*STEPS.items()))[0]
        try:
            what(self, table)
            self.count(what.__name__)
        except psycopg.errors.DeadlockDetected:
            # CONCURRENTLY waits for the snapshots of those that wait for its lock, with any index.
            if what not in MAINTENANCE:
                raise
            self.count("builds that waited in a circle")

    def count(self, what: str, n: int = 1):
        self.counts[what] = self.counts.get(what, 0) + n

    @contextmanager
    def transaction(self, table: str):
        """A copy of the table's rows, to be changed along with the table; they count once the transaction is committed."""
        after = dict(self.rows[table])
        self.conn.execute("BEGIN")
        yield after
        self.going = table, after
        self.conn.execute("COMMIT")
        self.rows[table], self.going = after, None

    def change(self, statement: str, params, n: int):
        """A statement that concerns `n` rows."""
        done = self.conn.execute(statement, params).rowcount
        assert done == n, f"{done} rows instead of {n}: {statement} {params}"

    # Parts of transactions: each changes table and `rows` alike.

    def insert(self, table: str, rows: dict, n: int):
        dim = self.tables[table][0]
        near = 1000 * self.random.randrange(40)
        new = {self.next_id + i: (0, near + self.random.randrange(1000)) for i in range(n)}
        self.next_id += n
        self.change(f"INSERT INTO {table} SELECT i, 0, no, made(no, {dim}) FROM unnest(%s::int[], %s::int[]) u (i, no)",
                    (list(new), [no for _, no in new.values()]), n)
        rows |= new

    def delete(self, table: str, rows: dict, share: float):
        ids = self.random.sample(sorted(rows), int(share * len(rows)))
        self.change(f"DELETE FROM {table} WHERE id = ANY(%s)", (ids,), len(ids))
        for i in ids:
            del rows[i]

    def update(self, table: str, rows: dict, moves: bool):
        """With `moves` the vector changes too; otherwise the update is HOT where the page has room."""
        ids = self.random.sample(sorted(rows), min(len(rows), 20))
        for i in ids:
            rows[i] = (rows[i][0] + 1, self.random.randrange(40_000) if moves else rows[i][1])
        vector = f", no = u.no, v = made(u.no, {self.tables[table][0]})" if moves else ""
        self.change(f"UPDATE {table} t SET note = note + 1 {vector} FROM unnest(%s::int[], %s::int[]) u (i, no) WHERE t.id = u.i",
                    (ids, [rows[i][1] for i in ids]), len(ids))

    # Steps.

    def few(self, table):
        with self.transaction(table) as rows:
            self.insert(table, rows, self.random.randint(1, self.tables[table][3]))

    def many(self, table):
        """So many into one list that it is folded, some alone and some together."""
        with self.transaction(table) as rows:
            for _ in range(3):
                self.insert(table, rows, 6 * self.tables[table][3])

    def hot(self, table):
        with self.transaction(table) as rows:
            self.update(table, rows, moves=False)

    def moved(self, table):
        with self.transaction(table) as rows:
            self.update(table, rows, moves=True)

    def deleted(self, table):
        with self.transaction(table) as rows:
            self.delete(table, rows, 0.6 if len(rows) > MOST_ROWS / (1 + self.tables[table][0] // 400) else 0.2)

    def savepoints(self, table):
        with self.transaction(table) as rows:
            self.insert(table, rows, 3)
            self.conn.execute("SAVEPOINT a")
            undone = dict(rows)
            self.insert(table, undone, self.tables[table][3])
            self.delete(table, undone, 0.3)
            self.conn.execute("ROLLBACK TO a")
            self.update(table, rows, moves=True)

    def rolled_back(self, table):
        self.conn.execute("BEGIN")
        undone = dict(self.rows[table])
        self.insert(table, undone, 3 * self.tables[table][3])
        self.update(table, undone, moves=True)
        self.conn.execute("ROLLBACK")

    def prepared(self, table):
        """Committed or rolled back in the second phase, if the server lives until then."""
        name = f"of worker {self.number}"
        after, commits = dict(self.rows[table]), self.random.random() < 0.6
        self.conn.execute("BEGIN")
        self.insert(table, after, self.tables[table][3])
        self.delete(table, after, 0.1)
        if commits:
            self.going = table, after
        self.conn.execute(f"PREPARE TRANSACTION '{name}'")
        self.is_prepared = commits
        time.sleep(self.random.uniform(0, 0.15))
        self.conn.execute(f"{'COMMIT' if commits else 'ROLLBACK'} PREPARED '{name}'")
        if commits:
            self.rows[table] = after
        self.going, self.is_prepared = None, False

    def vacuum(self, table):
        self.conn.execute(f"VACUUM {table}")

    def index(self, table):
        self.build(table, "")

    def index_concurrently(self, table):
        self.build(table, "CONCURRENTLY")

    def build(self, table, how):
        name, (_, metric, lists, _) = f"extra_{table}_{self.number}", self.tables[table]
        self.conn.execute(f"DROP INDEX IF EXISTS {name}")
        self.conn.execute(f"CREATE INDEX {how} {name} ON {table} USING omen (v vector_{metric}_ops) WITH (lists = {lists})")

    def reindex(self, table):
        self.conn.execute(f"REINDEX INDEX {'CONCURRENTLY' if self.random.random() < 0.5 else ''} {table}_idx")

    def truncate(self, table):
        if table == "shared":
            return
        with self.transaction(table) as rows:
            self.conn.execute(f"TRUNCATE {table}")
            rows.clear()
            self.insert(table, rows, 5)

    # After the crash, by the caller.

    def settle(self, conn) -> int:
        """Ends what was prepared, and compares what the tables have with what they may have. Returns how many rows that are."""
        found = [gid for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts WHERE gid = %s", (f"of worker {self.number}",))]
        for gid in found:
            conn.execute(f"{'COMMIT' if self.going else 'ROLLBACK'} PREPARED '{gid}'")
        n = 0
        for table, (dim, *_) in self.tables.items():
            first = OWN_IDS * (self.number + 1)
            rows = conn.execute(f"SELECT id, note, no, v = made(no, {dim}) FROM {table} WHERE id >= %s AND id < %s", (first, first + OWN_IDS)).fetchall()
            actual = {i: (note, no) for i, note, no, _ in rows}
            assert len(actual) == len(rows) and all(whole for *_, whole in rows), f"{table}: rows that nobody wrote"
            going = self.going[1] if self.going and self.going[0] == table else None
            if actual == going:
                self.rows[table] = going
            assert actual == self.rows[table] and not (self.is_prepared and going not in (None, actual)), (
                f"{table}, worker {self.number}, seed {vectors.SEED}: {len(actual)} rows, {len(self.rows[table])} were committed; "
                f"lost {sorted(self.rows[table].items() - actual.items())[:5]}, added {sorted(actual.items() - self.rows[table].items())[:5]}, "
                f"in flight {self.going is not None}")
            n += len(rows)
        self.going, self.is_prepared = None, False
        return n


STEPS = {Worker.few: 8, Worker.many: 5, Worker.hot: 3, Worker.moved: 4, Worker.deleted: 4, Worker.savepoints: 2, Worker.rolled_back: 2,
         Worker.prepared: 2, Worker.vacuum: 4, Worker.index: 1, Worker.index_concurrently: 1, Worker.reindex: 1, Worker.truncate: 1}


MAINTENANCE = (Worker.vacuum, Worker.index, Worker.index_concurrently, Worker.reindex)


class Crashes:
    """Rounds of work and a kill; `figures` counts what was done. `standby`: replays all of it, and has the same rows after each round."""

    def __init__(self, db: Db, standby=None, workers: int = 4):
        self.db, self.server, self.standby = db, db.server, standby
        self.random = random.Random(vectors.SEED)
        self.workers: list[Worker | None] = [None] * workers
        self.figures = {"rounds": 0, "kills of the postmaster": 0, "kills of a session": 0, "rows compared": 0}
        self.steps: dict[str, int] = {}

    def round(self, seconds: float):
        """Works for up to so many seconds, kills, recovers and checks."""
        self.workers = [Worker(self.db, n, self.figures["rounds"], memory) for n, memory in enumerate(self.workers)]
        for worker in self.workers:
            worker.start()
        time.sleep(self.random.uniform(0.2, seconds))
        if self.random.random() < 0.3:
            # Recovery then starts on pages that are partly new.
            self.server.sql("CHECKPOINT")
            time.sleep(self.random.uniform(0, 0.3))
        self.kill()
        for worker in self.workers:
            worker.stopping = True
            worker.join(90)
            assert not worker.is_alive(), "a session hangs"
            assert worker.problem is None, worker.problem
            for what, n in worker.counts.items():
                self.steps[what] = self.steps.get(what, 0) + n
        self.figures["rounds"] += 1
        figure("rounds of crashes")
        self.check()

    def kill(self):
        """The postmaster, or a session: then the postmaster ends all others, and recovers."""
        if self.random.random() < 0.8:
            self.server.kill()
            self.server.start()
            self.figures["kills of the postmaster"] += 1
        else:
            [(pid,)] = self.server.sql("SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend' "
                                       "ORDER BY state <> 'active', random() LIMIT 1", (self.db.name,))
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
            self.server.wait_until_up()
            self.figures["kills of a session"] += 1
            figure("kills of a session")

    def check(self):
        """What was committed is there, all of it is in the indexes, and the standby has the same."""
        with self.db.connect(**BY_INDEX) as conn:
            for worker in self.workers:
                self.figures["rows compared"] += worker.settle(conn)
            for table in tables(len(self.workers)):
                self.figures["rows compared"] += check_indexes(conn, table)
                for (index,) in conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass AND "
                                             "(NOT indisvalid OR indexrelid::regclass::text LIKE 'extra%%')", (table,)).fetchall():
                    conn.execute(f"DROP INDEX {index}")
        if self.standby:
            self.server.wait_for(self.standby)
            replica = Db(self.standby, self.db.name)
            with replica.connect(**BY_INDEX) as conn, self.db.connect() as primary:
                for table in tables(len(self.workers)):
                    self.figures["rows compared"] += check_indexes(conn, table)
                    everything = f"SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM (SELECT id, note, no FROM {table}) t"
                    assert conn.execute(everything).fetchone() == primary.execute(everything).fetchone(), f"{table} differs on the standby"


def check_standby(standby):
    """The standby has replayed everything, and found no page other than the primary had made it."""
    log = standby.log_text()
    wrong = [line for line in log.splitlines() if any(word in line for word in ("FATAL", "PANIC", "inconsistent page", "WARNING"))]
    # The primary comes and goes.
    wrong = [line for line in wrong if not any(usual in line for usual in (
        "could not connect to the primary", "could not receive data from WAL stream", "could not send data to WAL stream", "terminating walreceiver", "the database system is",
        "could not send end-of-streaming", "connection to server on socket", "streaming replication receiver"))]
    assert not wrong, "\n".join(wrong)
