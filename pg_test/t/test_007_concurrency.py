"""Inserts, deletions, VACUUM and searches at once: every answer is right, and so is the end."""

import threading

import numpy as np
import pytest

from lib import vectors
from lib.churn import Churn, fill
from lib.db import BY_INDEX, CPU, GPU, check_index, knn, make_index, make_table, put


@pytest.mark.every_major
def test_everything_at_once(db):
    fill(db, 4000)
    churn = Churn(db, 12, [CPU, CPU, GPU]).run()
    churn.check_end()
    print(churn.counts)
    assert not churn.problems, "\n".join(churn.problems)
    assert all(churn.counts.values()), churn.counts


def test_many_inserters_into_one_list(db, rng):
    """All go to the same list: no row is lost where sessions race for the same append page."""
    with db.connect() as conn:
        make_table(conn, vectors.uniform(rng, 100, 8))
        make_index(conn, lists=1)
    failed = []

    def insert(number):
        try:
            with db.connect() as conn:
                own = vectors.rng_for(f"inserter {number}")
                for i in range(60):
                    first = 1000 + 10_000 * number + 10 * i
                    vectors.copy_rows(conn, "t", np.arange(first, first + 10), vectors.uniform(own, 10, 8))
        except Exception as e:  # noqa: BLE001  # reported below, from the main thread
            failed.append(e)

    threads = [threading.Thread(target=insert, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with db.connect(**BY_INDEX) as conn:
        check_index(conn)
        put(conn, omen__probes=1)
        assert len({i for i, _ in knn(conn, "l2", np.zeros(8), None)}) == 100 + 8 * 600


def test_cancel_and_timeout(db, rng):
    """A canceled build or search leaves nothing behind that disturbs the next statement."""
    with db.connect(**BY_INDEX) as conn:
        make_table(conn, vectors.uniform(rng, 30_000, 96))
        conn.execute("SET statement_timeout = '150ms'")
        with pytest.raises(Exception, match="statement timeout"):
            make_index(conn, lists=400)
        conn.execute("SET statement_timeout = 0")
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0] == 0
        make_index(conn, lists=20)
        conn.execute("SET statement_timeout = '3ms'")
        put(conn, omen__probes=20)
        timed_out = 0
        for _ in range(5):
            try:
                knn(conn, "l2", np.zeros(96), None)
            except Exception as e:  # noqa: BLE001
                assert "statement timeout" in str(e)
                timed_out += 1
        assert timed_out
        conn.execute("SET statement_timeout = 0")
        assert len(knn(conn, "l2", np.zeros(96), None)) == 30_000
        check_index(conn)
