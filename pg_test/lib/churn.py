"""Inserters, deleters, VACUUM and searchers at once on one table; every answer is checked while it all runs."""

import threading
import time

import numpy as np
import psycopg

from . import vectors
from .db import BY_INDEX, BY_SORT, Db, index_status, knn, last_scan, put

DIM = 24


class Churn:
    """Runs the threads for some seconds; `problems` holds what was wrong, `counts` how much of each was done."""

    def __init__(self, db: Db, seconds: float, gpu_settings: dict):
        self.db, self.gpu_settings = db, gpu_settings
        self.end = time.monotonic() + seconds
        self.problems: list[str] = []
        self.counts = {"inserted": 0, "deleted": 0, "vacuums": 0, "searches": 0, "by gpu": 0}
        self.lock = threading.Lock()

    def count(self, what: str, n: int = 1):
        with self.lock:
            self.counts[what] += n

    def going(self) -> bool:
        return time.monotonic() < self.end and not self.problems

    def run(self):
        """Starts two inserters, a deleter, a vacuumer, two searchers on the CPU and one on the tier; waits for them."""
        jobs = [(self.insert, 0), (self.insert, 1), (self.delete,), (self.vacuum,),
                (self.search, {"omen__engine": "cpu"}, 0), (self.search, {"omen__engine": "cpu"}, 1), (self.search, self.gpu_settings, 2)]
        threads = [threading.Thread(target=self._guarded, args=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.end - time.monotonic() + 120)
            if thread.is_alive():
                self.problems.append("a session hangs")
        return self

    def _guarded(self, job, *args):
        try:
            job(*args)
        except psycopg.Error as e:
            self.problems.append(f"{job.__name__}: {e}")

    def insert(self, number):
        rng = vectors.rng_for(f"churn insert {number}")
        next_id = 1_000_000 * (number + 1)
        with self.db.connect() as conn:
            while self.going():
                n = int(rng.integers(1, 60))
                vectors.copy_rows(conn, "t", np.arange(next_id, next_id + n), vectors.clustered(rng, n, DIM))
                next_id += n
                self.count("inserted", n)

    def delete(self):
        rng = vectors.rng_for("churn delete")
        with self.db.connect() as conn:
            while self.going():
                done = conn.execute("DELETE FROM t WHERE mod(id, 211) = %s", (int(rng.integers(211)),)).rowcount
                self.count("deleted", done)
                time.sleep(0.05)

    def vacuum(self):
        with self.db.connect() as conn:
            while self.going():
                conn.execute("VACUUM t")
                self.count("vacuums")
                time.sleep(0.1)

    def search(self, settings, number):
        """In one snapshot, the answers of a scan, of a batch and of a sort must be the same; probes are exact, so every row counts."""
        rng = vectors.rng_for(f"churn search {number}")
        with self.db.connect(**BY_INDEX, **settings) as conn:
            put(conn, omen__probes=index_status(conn)["lists"])
            while self.going():
                query, k = vectors.clustered(rng, 1, DIM)[0], int(rng.choice([1, 10, 200]))
                with conn.transaction():
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    found = knn(conn, "l2", query, k)
                    engine = last_scan(conn)["engine"]
                    in_batch = conn.execute(
                        "SELECT id, distance FROM omen_search('t_v_idx', ARRAY[%s, %s]::vector[], %s) s JOIN t ON t.ctid = s.ctid "
                        "WHERE query_no = 2 ORDER BY distance", (vectors.text(-query), vectors.text(query), k)).fetchall()
                    put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
                    wanted = knn(conn, "l2", query, k)
                    put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
                self.count("searches")
                self.count("by gpu", engine == "gpu")
                if [d for _, d in found] != [d for _, d in wanted] or len({i for i, _ in found}) != len(found):
                    self.problems.append(f"{engine}, k = {k}, seed {vectors.SEED}: {found[:5]}... instead of {wanted[:5]}...")
                # A batch orders by the stored form: the same distances, up to its rounding.
                nearly = np.allclose([d for _, d in in_batch], [d for _, d in wanted], atol=0.03) if len(in_batch) == len(wanted) else False
                if not nearly or len({i for i, _ in in_batch}) != len(wanted):
                    self.problems.append(f"batch, k = {k}, seed {vectors.SEED}: {in_batch[:5]}... instead of {wanted[:5]}...")

    def check_end(self):
        """When all is quiet: index and table hold the same rows."""
        with self.db.connect(**BY_INDEX) as conn:
            conn.execute("VACUUM t")
            put(conn, omen__probes=index_status(conn)["lists"])
            found = sorted(i for i, _ in knn(conn, "l2", np.zeros(DIM), None))
            table = sorted(i for (i,) in conn.execute("SELECT id FROM t"))
            if found != table:
                self.problems.append(f"at the end the index gives {len(found)} rows, the table has {len(table)}")


def fold_beside(db: Db, query: np.ndarray, name: str, end: float) -> tuple[threading.Thread, list]:
    """Starts a thread that until `end` inserts rows beside `query` into t, deletes some, and has VACUUM fold them; what it failed with."""
    failed = []

    def fold():
        try:
            rng = vectors.rng_for(name)
            with db.connect() as conn:
                first = 10_000
                while time.monotonic() < end:
                    near = (query + 0.5 * vectors.uniform(rng, 40, len(query))).astype(np.float32)
                    vectors.copy_rows(conn, "t", np.arange(first, first + 40), near)
                    conn.execute("DELETE FROM t WHERE id >= 10000 AND id %% 7 = %s", (int(rng.integers(7)),))
                    conn.execute("VACUUM t")
                    first += 40
        except Exception as e:  # noqa: BLE001  # reported by the caller, from the main thread
            failed.append(e)

    thread = threading.Thread(target=fold)
    thread.start()
    return thread, failed
