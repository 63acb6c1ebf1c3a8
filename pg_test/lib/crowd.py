"""Many sessions that insert into one list of a `Churn`, and others that rebuild its indexes or update rows: who waits for whom, and for how long."""

import threading
import time

import numpy as np
import psycopg

from . import vectors
from .checks import check_indexes
from .churn import Churn, fill
from .db import BY_INDEX, Db, make_index

# Seconds that a statement may take on a busy machine, builds among them; whoever waits in a circle waits for ever.
MOST_SECONDS = 30
# Seconds that it may wait for a list.
MOST_WAIT = 5


class Crowd:
    """A `Churn`, sessions that insert into one list of it, and others that rebuild its indexes or update rows in transactions of many statements."""

    def __init__(self, db: Db, seconds: float, searchers: list[dict]):
        """Makes the table and its two indexes."""
        fill(db, 3000)
        with db.connect() as conn:
            make_index(conn, "ip", lists=6, name="other")
        self.db = db
        # REINDEX CONCURRENTLY waits for whoever waits for its lock with a snapshot, as a check would, which keeps writers away.
        self.churn = Churn(db, seconds, searchers, checks=False)
        self.counts = {"inserts": 0, "updates": 0, "reindexes": 0, "waits for a list": 0, "longest wait": 0.0}
        self.waits = {}
        jobs = [(self.insert, n) for n in range(10)] + [(self.update, n) for n in range(2)] + [(self.reindex,), (self.watch,)]
        self.threads = [threading.Thread(target=self.guarded, args=job, daemon=True) for job in jobs]

    def guarded(self, job, *args):
        try:
            with self.db.connect(statement_timeout=f"{MOST_SECONDS}s", deadlock_timeout="100ms") as conn:
                while self.churn.going():
                    job(conn, *args)
        except psycopg.Error as error:
            self.churn.problems.append(f"{job.__name__}: {error!r}")

    def insert(self, conn, number):
        """All near one place: most go to one list."""
        rng = np.random.default_rng(time.monotonic_ns())
        first = 20_000_000 + 100_000_000 * number + self.counts["inserts"] * 30
        vectors.copy_rows(conn, "t", first + np.arange(30), (np.full(24, 3) + 0.1 * vectors.uniform(rng, 30, 24)).astype(np.float32))
        with self.churn.lock:
            self.counts["inserts"] += 1
        time.sleep(0.03)

    def update(self, conn, number):
        """Rows of its own, which nobody deletes: what sessions may wait for is the index alone."""
        ids = [-60 * number - i for i in range(1, 31)]
        with conn.transaction():
            if not conn.execute("UPDATE t SET v = v WHERE id = ANY(%s)", (ids,)).rowcount:
                vectors.copy_rows(conn, "t", ids, np.full((30, 24), 3, np.float32))
            for i in ids[::5]:
                conn.execute("UPDATE t SET v = v WHERE id = %s", (i,))
        with self.churn.lock:
            self.counts["updates"] += 1

    def reindex(self, conn):
        conn.execute("REINDEX INDEX CONCURRENTLY other")
        self.counts["reindexes"] += 1
        time.sleep(0.5)

    def watch(self, conn):
        """How long sessions wait for lists."""
        waiting = {pid for pid, in conn.execute("SELECT pid FROM pg_locks WHERE locktype = 'page' AND NOT granted")}
        now = time.monotonic()
        self.counts["waits for a list"] += len(waiting - self.waits.keys())
        self.waits = {pid: self.waits.get(pid, now) for pid in waiting}
        self.counts["longest wait"] = max([self.counts["longest wait"]] + [now - since for since in self.waits.values()])
        time.sleep(0.01)

    def run(self):
        """All of it, and the checks: nobody failed, hung, or waited for long, and nothing is lost."""
        self.churn.start()
        for thread in self.threads:
            thread.start()
        self.churn.wait()
        for thread in self.threads:
            thread.join(2 * MOST_SECONDS)
            assert not thread.is_alive(), "a session hangs"
        self.churn.check_end()
        print(f"{self.counts}, {self.churn.counts}")
        assert not self.churn.problems, "\n".join(self.churn.problems)
        assert self.counts["inserts"] > 50 and self.counts["reindexes"] and self.churn.counts["vacuums"] > 1
        assert self.counts["longest wait"] < MOST_WAIT
        with self.db.connect(**BY_INDEX) as conn:
            print(f"{check_indexes(conn)} rows compared")
        return self
