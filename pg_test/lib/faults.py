"""Faults of the shared GPU service, one after the other, while a `Churn` goes on: each shows, and is over when it is lifted."""

import time

import psycopg

from . import vectors
from .churn import Churn, rows_of
from .db import BY_INDEX, knn, last_scan
from .service import GPU, inject, load, stat, wait_for, wait_until


def grows(figure: str):
    return lambda before, now: now[figure] > before[figure]


# What shows that a fault is there, by omen_stat_gpu before and now; and how many seconds the GPU may take to answer again afterwards.
FAULTS = {
    "out_of_memory": (grows("failed_batches"), 10),
    "fail_launch": (grows("failed_batches"), 10),
    "flaky_launch": (grows("failed_batches"), 10),
    "slow_load": (lambda before, now: now["hot_tiers"] == 0, 10),
    "fail_load": (grows("failed_loads"), 10),
    # The breaker is open for five seconds.
    "hang": (grows("timeouts"), 20),
    # Started again after five. No later: a worker that ends once more under the fault is started again later each time.
    "exit": (lambda before, now: now["state"] != "up", 20),
    "lost": (lambda before, now: now["state"] != "up", 20),
    # Ended after ten.
    "stuck": (grows("timeouts"), 40),
}
ENDS = ("exit", "lost", "stuck")


# A load that failed is tried again after half a minute, after two if it failed three times.
REST = 150


class Faults:
    """Has the service of `churn` make mistakes."""

    def __init__(self, churn: Churn):
        self.churn = churn
        self.query = rows_of(vectors.rng_for("faults"), 1, 0)[0]

    def ride_out(self, fault: str, seconds: float = 0.3, by_hand: bool = True) -> float:
        """One fault, that lasts so long; returns how many seconds later the GPU answered again. Loads that failed are tried again `by_hand`,
        or by themselves, which takes longer."""
        shows, bound = FAULTS[fault]
        with self.churn.db.connect(**BY_INDEX, **GPU) as conn:
            self.wait_for_gpu(conn, fault, bound, by_hand=True)
            before = stat(conn)
            inject(conn, fault)
            if fault.endswith("load"):
                conn.execute("SELECT omen_evict('t_v_idx')")
            wait_until(lambda: shows(before, stat(conn)), f"{fault} does not show")
            if fault == "out_of_memory":
                wait_until(lambda: self.is_refused(conn), "there is memory for a tier")
            if fault == "flaky_launch":
                by_gpu = self.churn.counts["by gpu"]
                wait_until(lambda: self.churn.counts["by gpu"] > by_gpu, "no batch is well")
            time.sleep(seconds)
            inject(conn, "none")
            lifted = time.monotonic()
            if fault in ENDS:
                wait_until(lambda: stat(conn)["starts"] > before["starts"], f"not started again after {fault}", bound)
            self.wait_for_gpu(conn, fault, bound if by_hand else bound + REST, by_hand)
            return time.monotonic() - lifted

    def is_refused(self, conn) -> bool:
        """Whether a tier cannot be loaded for want of memory, and not because somebody else loads."""
        try:
            conn.execute("SELECT omen_load('t_v_idx')")
        except psycopg.errors.OutOfMemory:
            return True
        except psycopg.errors.SystemError:
            pass
        return False

    def wait_for_gpu(self, conn, fault: str, bound: float, by_hand: bool):
        """Waits until the service answers, `by_hand` from a tier that is fresh."""
        wait_for(conn, bound, state="up")

        if by_hand:
            load(conn, seconds=bound)

        def answers():
            assert not self.churn.problems, self.churn.problems
            knn(conn, "l2", self.query, 10)
            return last_scan(conn)["engine"] == "gpu"
        wait_until(answers, f"{fault}: the GPU does not answer", bound)
