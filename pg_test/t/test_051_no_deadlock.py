"""Many inserters, VACUUM, REINDEX CONCURRENTLY, folds and searches at once, with the shared service's tier brought up to date all the while: nobody waits
for long, and nobody for each other."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.churn import Churn, fill
from lib.db import BY_INDEX, CPU, GPU, Db, make_index
from lib.service import GPU as SERVICE
from lib.service import stat

# Seconds that a statement may take on a busy machine, builds among them; whoever waits in a circle waits for ever.
MOST_SECONDS = 30


class Crowd:
    """A `Churn`, sessions that insert into one list of it, and others that rebuild its indexes or update rows in transactions of many statements."""

    def __init__(self, db: Db, seconds: float, searchers: list[dict], reloads: bool):
        self.db, self.seconds = db, seconds
        self.churn = Churn(db, seconds, searchers, reloads=reloads)
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
        first = 20_000_000 + 1_000_000 * number + self.counts["inserts"] * 30
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
        self.churn.start()
        for thread in self.threads:
            thread.start()
        self.churn.wait()
        for thread in self.threads:
            thread.join(2 * MOST_SECONDS)
            assert not thread.is_alive(), "a session hangs"
        self.churn.check_end()
        return self


@pytest.mark.every_major
@pytest.mark.parametrize("context", ("sessions", "service"))
def test_everybody_at_once(request, context):
    """Ten sessions insert into one list, three more do all else, and VACUUM and the tier's refreshes go on: no deadlock, no long wait, all rows."""
    db = request.getfixturevalue("db" if context == "sessions" else "first")
    fill(db, 3000)
    with db.connect() as conn:
        make_index(conn, "ip", lists=6, name="other")
    crowd = Crowd(db, 10, [CPU, GPU] if context == "sessions" else [CPU, SERVICE, SERVICE], reloads=False).run()
    print(f"{crowd.counts}, {crowd.churn.counts}")
    assert not crowd.churn.problems, "\n".join(crowd.churn.problems)
    assert crowd.counts["inserts"] > 50 and crowd.counts["reindexes"] and crowd.churn.counts["vacuums"] > 1
    assert crowd.counts["longest wait"] < 5
    with db.connect(**BY_INDEX) as conn:
        print(f"{check_indexes(conn)} rows compared")
        if context == "service":
            assert stat(conn)["starts"] == 1 and crowd.churn.counts["by gpu"] > 0
