"""Inserters, deleters, VACUUM and searchers at once on one table; every answer is checked while it all runs, and now and then the index.

Rows lie in two places far from each other, and slots of the heap that VACUUM frees in one are used again for rows of the other: an entry of
a hot tier that is out of date then shows as a row of the wrong place, as a row that comes twice, or as a lower bound that was none.
"""

import re
import threading
import time

import numpy as np
import psycopg

from . import vectors
from .db import BY_INDEX, BY_SORT, CPU, Db, check_index, index_status, knn, last_scan, make_index, make_table, put
from .figures import figure
from .service import load

DIM = 24
PLACES = (0.0, 8.0)
LISTS = 24


def rows_of(rng: np.random.Generator, n: int, place: float) -> np.ndarray:
    """`n` rows about one of the places."""
    return vectors.clustered(rng, n, DIM) + np.float32(place)


def fill(db: Db, n: int):
    """Table t of `n` rows, half in each place, and its index."""
    rng = vectors.rng_for("churn")
    with db.connect() as conn:
        make_table(conn, np.concatenate([rows_of(rng, n // 2, place) for place in PLACES]))
        make_index(conn, lists=LISTS)


class Churn:
    """Runs the threads for some seconds; `problems` holds what was wrong, `counts` how much of each was done.

    There is a searcher for each of `searchers`, its settings; `reloads`: somebody has the shared service load the tier anew all the time; `checks`: somebody
    checks the index now and then; `reader`: where they search, if elsewhere. A standby may cancel them in favour of what it replays, which is counted.
    """

    def __init__(self, db: Db, seconds: float, searchers: list[dict], inserters: int = 2, reloads: bool = False, checks: bool = True,
                 reader: Db | None = None):
        self.db, self.seconds, self.reader = db, seconds, reader or db
        self.problems: list[str] = []
        self.counts = {"inserted": 0, "deleted": 0, "vacuums": 0, "searches": 0, "by gpu": 0}
        jobs = [(self.insert, number) for number in range(inserters)] + [(self.delete,), (self.vacuum,)]
        jobs += [(self.search, settings, number) for number, settings in enumerate(searchers)]
        for job, what in ((self.reload, "reloads"),) * reloads + ((self.check, "checks"),) * checks:
            jobs.append((job,))
            self.counts[what] = 0
        self.threads = [threading.Thread(target=self._guarded, args=job, daemon=True) for job in jobs]
        self.lock = threading.Lock()

    def count(self, what: str, n: int = 1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def going(self) -> bool:
        return time.monotonic() < self.end and not self.problems

    def start(self):
        """Starts all threads."""
        self.end = time.monotonic() + self.seconds
        for thread in self.threads:
            thread.start()
        return self

    def stop(self):
        """Has the threads end before their time."""
        self.end = 0
        return self

    def wait(self):
        """Waits until all threads have ended."""
        for thread in self.threads:
            thread.join(max(self.end - time.monotonic(), 0) + 120)
            if thread.is_alive():
                self.problems.append("a session hangs")
        return self

    def run(self):
        """All of it."""
        return self.start().wait()

    def _guarded(self, job, *args):
        try:
            job(*args)
        except Exception as e:  # noqa: BLE001  # reported at the end, from the main thread
            self.problems.append(f"{job.__name__}: {e!r}")

    def insert(self, number):
        rng = vectors.rng_for(f"churn insert {number}")
        next_id = 1_000_000 * (number + 1)
        with self.db.connect() as conn:
            while self.going():
                n = int(rng.integers(1, 60))
                vectors.copy_rows(conn, "t", np.arange(next_id, next_id + n), rows_of(rng, n, rng.choice(PLACES)))
                next_id += n
                self.count("inserted", n)
                # Faster, the table would grow until a sort takes seconds.
                time.sleep(0.02)

    def delete(self):
        rng = vectors.rng_for("churn delete")
        with self.db.connect() as conn:
            while self.going():
                done = conn.execute("DELETE FROM t WHERE mod(id, 53) = %s", (int(rng.integers(53)),)).rowcount
                self.count("deleted", done)
                time.sleep(0.05)

    def vacuum(self):
        with self.db.connect() as conn:
            while self.going():
                conn.execute("VACUUM t")
                self.count("vacuums")
                time.sleep(0.1)

    def check(self):
        with self.db.connect() as conn:
            while self.going():
                check_index(conn)
                self.count("checks")
                time.sleep(1)

    def reload(self):
        with self.reader.connect() as conn:
            while self.going():
                load(conn)
                self.count("reloads")
                time.sleep(0.2)

    def search(self, settings, number):
        rng = vectors.rng_for(f"churn search {number}")
        while self.going():
            try:
                with self.reader.connect(**BY_INDEX, **settings) as conn:
                    lists = index_status(conn)["lists"]
                    put(conn, omen__probes=lists)
                    while self.going():
                        self.check_once(conn, rng, settings, lists)
            except psycopg.OperationalError as error:
                # A standby cancels a statement, or ends a session between two of them, whose connection is then lost.
                if self.reader is self.db or error.sqlstate not in (None, "40001"):
                    raise
                self.count("conflicts")

    def check_once(self, conn, rng, settings, lists):
        query, k = rows_of(rng, 1, rng.choice(PLACES))[0], int(rng.choice([1, 10, 200]))
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.check_exact(conn, query, k, settings["omen__engine"])
            if rng.integers(8) == 0:
                self.check_few_lists(conn, query, settings)
                put(conn, omen__probes=lists)

    def check_exact(self, conn, query, k, engine):
        """In one snapshot, the answers of a scan, of a batch and of a sort must be the same; probes are exact, so every row counts."""
        found = knn(conn, "l2", query, k)
        scan = last_scan(conn)
        in_batch = conn.execute(
            "SELECT id, distance FROM omen_search('t_v_idx', ARRAY[%s, %s]::vector[], %s) s JOIN t ON t.ctid = s.ctid "
            "WHERE query_no = 2 ORDER BY distance", (vectors.text(-query), vectors.text(query), k)).fetchall()
        put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
        wanted = knn(conn, "l2", query, k)
        put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
        self.count("searches")
        figure("answers checked beside writers")
        self.count("by gpu", scan["engine"] == "gpu")
        if engine == "gpu":
            self.count("wanted by gpu")
        if scan["fallback_reason"]:
            self.count(re.sub(r"\d+", "N", scan["fallback_reason"]))
        if [d for _, d in found] != [d for _, d in wanted] or len({i for i, _ in found}) != len(found):
            self.problems.append(f"{scan['engine']}, k = {k}, seed {vectors.SEED}: {found[:5]}... instead of {wanted[:5]}...")
        # A batch orders by the stored form: the same distances, up to its rounding.
        nearly = np.allclose([d for _, d in in_batch], [d for _, d in wanted], atol=0.03) if len(in_batch) == len(wanted) else False
        if not nearly or len({i for i, _ in in_batch}) != len(wanted):
            self.problems.append(f"batch, k = {k}, seed {vectors.SEED}: {in_batch[:5]}... instead of {wanted[:5]}...")

    def check_few_lists(self, conn, query, settings):
        """All rows of few lists: those of the nearest list by the CPU, and none beyond four. Which lists are the nearest is a matter of rounding
        where they are as good as equally far, so not exactly those of two."""
        ids = {}
        put(conn, omen__iterative_scan="off")
        for lists, engine in ((1, CPU), (2, settings), (4, CPU)):
            put(conn, omen__probes=lists, **engine)
            ids[lists] = [i for i, _ in knn(conn, "l2", query, None)]
        put(conn, omen__iterative_scan="strict_order", **settings)
        least, found, most = (set(ids[lists]) for lists in (1, 2, 4))
        if not least <= found <= most or len(found) != len(ids[2]):
            self.problems.append(f"few lists, seed {vectors.SEED}: lacks {list(least - found)[:5]}, has {list(found - most)[:5]} of no list, "
                                 f"{len(ids[2])} rows of which {len(found)} are different")

    def check_end(self):
        """When all is quiet: the index is sound before and after VACUUM, and holds the rows of the table."""
        with self.db.connect(**BY_INDEX) as conn:
            check_index(conn)
            conn.execute("VACUUM t")
            self.counts["rows checked"] = check_index(conn)["rows_checked"]
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
