"""Without a usable GPU every query is answered by the CPU: the cause is told, logged once and counted."""

import time

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, REAL_GPU, assert_same, knn, last_scan, make_index, make_table, put
from psycopg.rows import dict_row

no_card = pytest.mark.skipif(REAL_GPU, reason="this machine has a GPU")


def gpu_status(conn) -> list[dict]:
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute("SELECT * FROM omen_gpu_status()").fetchall()


@pytest.fixture
def searched(db, rng):
    """A table of clustered rows with an index, and a query."""
    rows = vectors.clustered(rng, 2000, 32)
    with db.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=16)
    return rows[5]


@no_card
@pytest.mark.every_major
def test_engine_gpu_without_a_card(db, shared_server, searched):
    with db.connect(**BY_INDEX, omen__engine="gpu", omen__probes=16) as conn, db.connect(**BY_SORT) as sort:
        with shared_server.log_of() as logged:
            for k in (1, 10, 100, None):
                found, wanted = knn(conn, "l2", searched, k), knn(sort, "l2", searched, k)
                assert_same(found, wanted, complete_ties=k is None)
                scan = last_scan(conn)
                assert scan["engine"] == "cpu" and scan["fallback_reason"], scan
        lines = [line for line in logged().splitlines() if "pg_omen" in line and "CPU" in line]
        assert len(lines) == 1, logged()
        status = gpu_status(conn)
        assert len(status) == 1 and status[0]["state"] == "unusable" and status[0]["reason"], status
        assert status[0]["fallbacks"] >= 4


@no_card
def test_engine_auto_without_a_card_is_silent(db, shared_server, searched):
    with db.connect(**BY_INDEX) as conn, shared_server.log_of() as logged:
        assert len(knn(conn, "l2", searched, 10)) == 10
        assert last_scan(conn)["engine"] == "cpu"
        assert "omen" not in logged()


@pytest.fixture
def big(db, searched):
    """A table whose index takes 14 MB on the GPU; the scratch of any tier takes 16 MB."""
    with db.connect() as conn:
        rows = vectors.clustered(vectors.rng_for("large"), 30_000, 200)
        make_table(conn, rows, name="big")
        make_index(conn, table="big", name="big_idx")
    return rows


def test_tier_that_does_not_fit(db, shared_server, big):
    """Of an index beyond the limit the lists searched most are loaded, and the CPU searches the others."""
    exact = BY_INDEX | {"omen__probes": 65_536}
    with db.connect(**exact, **GPU, omen__gpu_memory_limit="24MB") as limited, db.connect(**exact, **CPU) as cpu:
        for query in big[:20]:
            assert knn(limited, "l2", query, 10, table="big") == knn(cpu, "l2", query, 10, table="big")
            scan = last_scan(limited)
            assert scan["engine"] == "gpu" or scan["fallback_reason"] is None, scan
        status = limited.execute("SELECT hot_tier_state FROM omen_index_status('big_idx')").fetchone()
        current, lists = (int(word) for word in status[0].split() if word.isdigit())
        assert 0 < current < lists, status


def test_lists_searched_most_get_the_room(db, big):
    """A tier that lacks what is searched is made anew from what was searched most."""
    with db.connect(**BY_INDEX, **GPU, omen__gpu_memory_limit="20MB", omen__probes=1) as conn:
        def engine(query) -> str:
            knn(conn, "l2", query, 10, table="big")
            return last_scan(conn)["engine"]

        engine(big[0])
        absent = [query for query in big[:400] if engine(query) == "cpu"][:10]
        assert absent, "a tier of a third of the lists has all that are searched"
        until = time.monotonic() + 60
        while "cpu" in (engines := [engine(query) for query in absent]):
            assert time.monotonic() < until, engines


def test_tier_of_which_nothing_fits(db, shared_server, big, searched):
    """Not even one list fits: the CPU answers, the reason names memory."""
    with (db.connect(**BY_INDEX, **GPU, omen__gpu_memory_limit="15MB") as limited, db.connect(**BY_INDEX, **CPU) as cpu,
          shared_server.log_of() as logged):
        for query in big[:20]:
            assert knn(limited, "l2", query, 10, table="big") == knn(cpu, "l2", query, 10, table="big")
        scan = last_scan(limited)
        assert scan["engine"] == "cpu" and "memory" in scan["fallback_reason"].lower(), scan
        assert len([line for line in logged().splitlines() if "memory" in line.lower()]) == 1, logged()


def test_tiers_make_room_for_each_other(db, big, searched):
    with db.connect(**BY_INDEX, **GPU, omen__gpu_memory_limit="24MB") as limited:
        for _ in range(2):
            knn(limited, "l2", big[0], 10, table="big")
            knn(limited, "l2", searched, 10)
            assert last_scan(limited)["engine"] == "gpu", last_scan(limited)


def test_switching_engines_in_one_session(db, searched):
    with db.connect(**BY_INDEX) as conn:
        answers = []
        for settings in (CPU, GPU, CPU, GPU, GPU):
            put(conn, **settings)
            answers.append(knn(conn, "l2", searched, 50))
        assert all(a == answers[0] for a in answers)
        put(conn, **GPU)
        knn(conn, "l2", searched, 5)
        assert last_scan(conn)["engine"] == "gpu"
        put(conn, **CPU)
        knn(conn, "l2", searched, 5)
        assert last_scan(conn)["engine"] == "cpu"


def test_two_sessions_each_with_a_tier(db, searched):
    with db.connect(**BY_INDEX, **GPU) as one, db.connect(**BY_INDEX, **GPU) as two, db.connect(**BY_INDEX, **CPU) as cpu:
        for _ in range(3):
            assert knn(one, "l2", searched, 30) == knn(two, "l2", searched, 30) == knn(cpu, "l2", searched, 30)
        assert last_scan(one)["engine"] == last_scan(two)["engine"] == "gpu"


def test_settings_out_of_range(db):
    with db.connect() as conn:
        for name, value in (("omen.engine", "quantum"), ("omen.probes", "-1"), ("omen.probes", "70000"), ("omen.gpu_memory_limit", "-5"),
                            ("omen.gpu_timeout", "-1"), ("omen.iterative_scan", "maybe")):
            with pytest.raises(Exception, match=name.split(".")[1]):
                conn.execute(f"SET {name} = '{value}'")
        assert np.isclose(float(conn.execute("SHOW omen.recall").fetchone()[0]), 0.95)
