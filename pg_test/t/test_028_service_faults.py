"""The shared GPU service makes mistakes while many search, insert and delete: no query fails, no row is wrong, and it is back by itself."""

import pytest

from lib.churn import Churn, fill
from lib.db import CPU, REAL_GPU
from lib.faults import FAULTS, Faults
from lib.service import GPU, stat

pytestmark = pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")


def test_every_fault(first):
    fill(first, 4000)
    searchers = [GPU | {"omen__gpu_timeout": "1s"}] * 4 + [{"omen__engine": "auto", "omen__gpu_timeout": "1s"}, CPU]
    with first.server.log_of() as lines:
        churn = Churn(first, 600, searchers).start()
        try:
            faults = Faults(churn)
            took = {fault: round(faults.ride_out(fault), 1) for fault in FAULTS}
        finally:
            churn.stop().wait()
        churn.check_end()
        log = lines()
    print(took, churn.counts)
    assert not churn.problems, "\n".join(churn.problems)
    assert all(churn.counts.values()), churn.counts
    with first.connect() as conn:
        row = stat(conn)
        assert row["starts"] == 4 and row["queue_slots_used"] == 0 and row["failed_loads"] >= 2, row
    assert "did not come back" in log and "terminated by signal" not in log and "reinitializing" not in log
