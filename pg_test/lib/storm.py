"""Clients that are cancelled, terminated, cut off or killed at any moment of a search or a load, and what must not be left of them."""

import os
import re
import select
import signal
import socket
import threading
import time
from contextlib import suppress

import numpy as np
import psycopg

from . import vectors
from .db import BY_INDEX, BY_SORT, REAL_GPU, Db, knn_sql, last_scan, make_index, make_table, put
from .figures import figure
from .service import GPU, load, loaders, stat, wait_for, wait_until

DIM, LISTS, ROWS, K = 48, 24, 3000, 10
N_QUERIES = 40
PER_STATEMENT = 4
MEASURE_EVERY = 20
# What many rounds may add to a process: leftovers of the allocator, and of a card's driver, not something for each round.
SLACK = (64 if REAL_GPU else 4) << 20
FILES_SLACK = 8
# t is searched by the GPU always; u when it pays, is loaded by loaders, by hand, and evicted.
TABLES = {"t": GPU, "u": {"omen__engine": "auto"}}
# So long at most until a process that was killed has all others end, on a machine that has much else to do.
NOTICED = 10
GENTLE = ("none", "timeout", "cancel")
ACTIONS = GENTLE + ("terminate", "disconnect", "end loader")
CANCELED, TERMINATED, CRASHED, NOT_LOADED = "57014", "57P01", "57P02", "58000"


def memory_of(pid: int) -> int:
    """Bytes of a process's own memory."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def deaths(log: str) -> list[tuple[int, str]]:
    """The processes that a server's log says a signal has ended, and which one; of each crash the first that the postmaster saw."""
    return [(int(pid), signal) for pid, signal in re.findall(r"\(PID (\d+)\) was terminated by signal (\d+)", log)]


class Client(threading.Thread):
    """Does one statement after the other, most of which are ended in the middle by a second connection, or by losing the first."""

    def __init__(self, storm: "Storm", number: int):
        super().__init__(daemon=True)
        self.storm = storm
        self.rng = vectors.rng_for(f"storm {number} {storm.n_runs}")
        # The first one keeps its session, so that what that leaks adds up.
        self.is_faithful = number == 0
        self.n_rounds = 0
        self.actions = GENTLE if self.is_faithful else ACTIONS
        self.conn = self.other = None

    def run(self):
        while self.storm.next_round():
            crashes = self.storm.crashes
            try:
                if self.conn is None:
                    self.connect()
                self.round()
                self.n_rounds += 1
                if self.is_faithful and self.n_rounds % MEASURE_EVERY == 0:
                    # A crash may have ended it meanwhile, which its next statement finds out.
                    with suppress(OSError, StopIteration):
                        self.storm.session_memory.append(memory_of(self.conn.info.backend_pid))
            except psycopg.OperationalError as error:
                self.close()
                if self.storm.crashes == crashes and not self.storm.is_crashing:
                    self.storm.problems.append(f"lost: {error}")
                time.sleep(0.05)
            except Exception as error:  # noqa: BLE001  # reported by the caller, from the main thread
                self.storm.problems.append(repr(error))

    def connect(self):
        self.conn = self.storm.db.connect(**BY_INDEX, omen__probes=LISTS)
        self.other = self.storm.db.connect()

    def close(self):
        for conn in (self.conn, self.other):
            if conn is not None:
                with suppress(psycopg.Error):
                    conn.close()
        self.conn = self.other = None

    def put(self, **settings):
        """Sets settings, though the last statement's time limit or cancellation may end that."""
        while True:
            with suppress(psycopg.errors.QueryCanceled):
                return put(self.conn, **settings)

    def round(self):
        rng, action = self.rng, self.rng.choice(self.actions)
        table = rng.choice(list(TABLES))
        self.put(statement_timeout=0)
        self.put(**TABLES[table], statement_timeout=int(rng.integers(1, 12)) if action == "timeout" else 0)
        first = int(rng.integers(N_QUERIES - PER_STATEMENT))
        does = rng.choice(["search", "search", "search", "load", "load", "evict"])
        wanted = [[i] for i in self.storm.wanted[first:first + PER_STATEMENT].ravel()] if does == "search" else None
        sql = {"search": f"SELECT n.id FROM (SELECT * FROM q WHERE no >= {first} ORDER BY no LIMIT {PER_STATEMENT}) q, "
                         f"LATERAL (SELECT id FROM {table} ORDER BY v <-> q.v LIMIT {K}) n",
               "load": "SELECT omen_load('u_v_idx')", "evict": "SELECT omen_evict('u_v_idx')"}[does]
        self.conn.pgconn.send_query(sql.encode())
        time.sleep(float(rng.exponential(0.004)))
        pid = self.conn.info.backend_pid
        if action in ("cancel", "terminate"):
            self.other.execute(f"SELECT pg_{action}_backend(%s)", (pid,))
        elif action == "end loader":
            how = rng.choice(["cancel", "terminate"])
            self.other.execute(f"SELECT pg_{how}_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_omen loader'")
        elif action == "disconnect":
            with socket.socket(fileno=os.dup(self.conn.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)
            self.close()
            self.storm.count("disconnected")
            return
        try:
            state, rows = self.result()
        except psycopg.OperationalError:
            if action != "terminate":
                raise
            state, rows = TERMINATED, None
        if action == "terminate":
            self.close()
        allowed = {None, CANCELED} | ({TERMINATED} if action == "terminate" else set()) | ({NOT_LOADED} if does != "search" else set())
        if state == CRASHED:
            raise psycopg.OperationalError("the server crashed")
        if state not in allowed or state is None and wanted is not None and rows != wanted:
            self.storm.problems.append(f"{does} of {table}, {action}: {state}, {rows} instead of {wanted}")
        self.storm.count({None: f"{does}, done", CANCELED: f"{does}, cancelled", TERMINATED: f"{does}, terminated"}.get(state, "not loaded"))

    def result(self) -> tuple[str | None, list]:
        """The state of the statement under way if it failed, and its rows of integers."""
        pgconn, state, rows = self.conn.pgconn, None, []
        while True:
            while pgconn.is_busy():
                if not select.select([pgconn.socket], [], [], 60)[0]:
                    raise RuntimeError("a statement hangs")
                pgconn.consume_input()
            found = pgconn.get_result()
            if found is None:
                return state, rows
            error = found.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
            state = error.decode() if error else state
            rows += [[int(found.get_value(row, 0))] for row in range(found.ntuples)]


class Storm:
    """Rounds of that by some clients; `problems` holds what was wrong, `counts` how the statements ended."""

    def __init__(self, db: Db, clients: int = 6):
        self.db, self.n_clients = db, clients
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}
        self.lock = threading.Lock()
        self.left = self.n_runs = self.crashes = self.wanted_crashes = 0
        self.is_crashing = False
        # Process and kind of those that were killed.
        self.killed: list[tuple[int, str]] = []
        # Bytes of the session that is kept through a run, as time goes by.
        self.session_memory: list[int] = []

    def fill(self):
        """The tables, their indexes, the queries and the right answers."""
        rng = vectors.rng_for("storm")
        rows = vectors.clustered(rng, ROWS, DIM)
        queries = (rows[rng.choice(ROWS, N_QUERIES, replace=False)] + 0.1 * vectors.uniform(rng, N_QUERIES, DIM)).astype(np.float32)
        with self.db.connect(**BY_SORT) as conn:
            for table in TABLES:
                make_table(conn, rows, name=table)
                make_index(conn, lists=LISTS, table=table, name=f"{table}_v_idx")
            conn.execute("ALTER INDEX u_v_idx SET (hot = on)")
            conn.execute(f"CREATE TABLE q (no integer, v vector({DIM}))")
            vectors.copy_rows(conn, "q", np.arange(N_QUERIES), queries, "no, v")
            by_sort = [conn.execute(knn_sql("l2", K), (vectors.text(q), vectors.text(q))).fetchall() for q in queries]
        self.wanted = np.array([[i for i, _ in rows] for rows in by_sort])
        self.bytes = self.loaded_bytes()

    def count(self, what: str):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def next_round(self) -> bool:
        with self.lock:
            self.left -= 1
            return (self.left >= 0 or self.crashes < self.wanted_crashes) and not self.problems

    def run(self, rounds: int, crashes: int = 0):
        """So many rounds, or more until so many processes have been killed in the midst of them, each of which has the whole server start anew."""
        self.wanted_crashes = self.crashes + crashes
        self.left, self.n_runs, self.session_memory = rounds, self.n_runs + 1, []
        clients = [Client(self, number) for number in range(self.n_clients)]
        for client in clients:
            client.start()
        for crash in range(crashes):
            share = rounds * (crashes - crash) // (crashes + 1)
            wait_until(lambda: self.left < share or self.problems, "the storm does not go on", 600)
            self.crash()
        for client in clients:
            client.join(600)
            if client.is_alive():
                self.problems.append("a client hangs")
            client.close()
        return self

    def crash(self):
        """Kills a process that has something to do with the service, as no administrator should; the service comes back with the server."""
        self.is_crashing = True
        with self.db.connect() as conn:
            wait_until(lambda: self.has_killed(conn), "no process was killed of which the postmaster took notice", 60)

        def is_back():
            with suppress(psycopg.OperationalError), self.db.connect() as conn:
                return stat(conn)["state"] == "up"
        wait_until(is_back, "the service does not come back", 60)
        self.crashes += 1
        self.is_crashing = False
        self.count("crashes")

    def has_killed(self, conn) -> bool:
        """Kills somebody, if there is anybody; whether the server starts anew for it, which ends `conn` too. Who has just ended by itself can be sent
        a signal until the postmaster has seen to it, and nothing comes of that."""
        sql = ("SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() "
               "ORDER BY state = 'active' DESC, random() LIMIT 1")
        found = conn.execute(sql).fetchone()
        if found is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
        end = time.monotonic() + NOTICED
        with suppress(psycopg.OperationalError):
            while time.monotonic() < end:
                conn.execute("SELECT 1")
                time.sleep(0.02)
            self.count("killed in vain")
            return False
        figure("kills of a session")
        self.killed.append(found)
        return True

    def loaded_bytes(self) -> int:
        """What the tiers of both indexes take that are loaded into an empty device."""
        with self.db.connect() as conn:
            conn.execute("SELECT omen_evict()")
            row = stat(conn)
            assert row["hot_tiers"] == row["hot_bytes"] == 0, row
            for table in TABLES:
                load(conn, f"{table}_v_idx")
            return wait_for(conn, hot_tiers=len(TABLES))["hot_bytes"]

    def check_quiet(self):
        """Nothing was wrong, and nothing is left: no session or loader, slot, lock, or device memory; and the service answers."""
        assert not self.problems, "\n".join(self.problems)
        with self.db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
            others = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
            wait_until(lambda: conn.execute(others).fetchone()[0] == 0 and not loaders(conn), "sessions are left")
            wait_for(conn, queued=0, queue_slots_used=0, state="up")
            locks = conn.execute("SELECT * FROM pg_locks WHERE pid IS DISTINCT FROM pg_backend_pid()").fetchall()
            assert not locks, locks
            assert self.loaded_bytes() == self.bytes
            sql = f"SELECT id FROM t ORDER BY v <-> (SELECT v FROM q WHERE no = %s) LIMIT {K}"
            for no in range(N_QUERIES):
                assert [i for (i,) in conn.execute(sql, (no,))] == self.wanted[no].tolist()
                assert last_scan(conn)["engine"] == "gpu", last_scan(conn)
            wait_for(conn, queued=0, queue_slots_used=0)
            return stat(conn)

    def check_loader(self):
        """The claim of loaders is not held by one that is gone: an index is loaded for who searches it, though it may rest for some seconds."""
        with self.db.connect(**BY_INDEX, **TABLES["u"], omen__probes=LISTS) as conn:
            conn.execute("SELECT omen_evict('u_v_idx')")
            n_loaders = stat(conn)["loaders"]

            def is_loaded():
                conn.execute(f"SELECT id FROM u ORDER BY v <-> (SELECT v FROM q WHERE no = 0) LIMIT {K}")
                return stat(conn)["loaders"] > n_loaders and stat(conn)["hot_tiers"] == len(TABLES)
            wait_until(is_loaded, "no loader comes", 60)


def through_storms(storm: Storm, rounds: int, crashes: int) -> dict:
    """A seventh of the rounds to warm up, then most of them, after which the worker and a session must not have grown; the last seventh
    with crashes. Returns figures."""
    part, figures = rounds // 7, {}
    with storm.db.server.log_of() as lines:
        storm.fill()
        storm.run(part)
        before = storm.check_quiet()
        pid = before["pid"]
        memory, files = memory_of(pid), len(os.listdir(f"/proc/{pid}/fd"))
        storm.run(rounds - 2 * part)
        after = storm.check_quiet()
        storm.check_loader()
        sessions = storm.session_memory
        figures = {"worker MB": [round(n / 2**20, 1) for n in (memory, memory_of(pid))], "abandoned": after["abandoned"],
                   "session MB": [round(n / 2**20, 1) for n in (sessions[0], sessions[-1])], "searches": after["searches"]}
        # The same worker all along, though searches were given up.
        assert after["pid"] == pid and after["starts"] == before["starts"] and after["abandoned"] > before["abandoned"], after
        assert memory_of(pid) < memory + SLACK and sessions[-1] < sessions[0] + SLACK, figures
        assert len(os.listdir(f"/proc/{pid}/fd")) <= files + FILES_SLACK
        assert not deaths(lines()), deaths(lines())
        storm.run(part, crashes)
        storm.check_quiet()
        expected = [(pid, "9") for pid, _ in storm.killed]
        assert deaths(lines()) == expected and len(expected) == storm.crashes == crashes, (deaths(lines()), storm.killed, storm.crashes, storm.counts)
        assert not re.search(r"leak|PANIC|panicked|TRAP", lines())
    return figures
