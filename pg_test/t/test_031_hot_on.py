"""Tiers of indexes with hot = on stay in the shared GPU service where others want their room."""

import pytest

from lib import vectors
from lib.db import BY_INDEX, REAL_GPU, assert_fails, knn, last_scan, make_index, make_table, put
from lib.service import GPU, stat, wait_for, wait_until

DIM = 128
N_ROWS = 10_000
pytestmark = pytest.mark.skipif(REAL_GPU, reason="sizes of the simulated device")


@pytest.fixture
def tight(service, first, rng):
    """A session of a service that has room for one of its indexes a, b, c (2.7 MB each, and the 16 MB that searching takes at most at first),
    and not for a list of another beside it; and what the tables have in common."""
    service.stop()
    service.configure({"omen.gpu_memory_limit": "19MB", "omen.gpu_autoload": "off"})
    service.start()
    # Without clusters the two lists are about as long: a short one would find room.
    rows = vectors.uniform(rng, N_ROWS, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=2) as conn:
        wait_for(conn, state="up")
        for name in "abc":
            make_table(conn, rows, name=name)
            make_index(conn, lists=2, table=name, name=f"{name}_idx")
        yield conn, rows


def hot(conn) -> set[str]:
    """The indexes that the service has."""
    return {name[0] for (name,) in conn.execute("SELECT indexrelname FROM omen_stat_index WHERE hot").fetchall()}


def option(conn, name: str, value: str):
    conn.execute(f"ALTER INDEX {name}_idx SET (hot = {value})")


def search(conn, rows, name: str) -> str:
    """A search by one of the indexes; who answered."""
    assert knn(conn, "l2", rows[7], 1, table=name)[0][0] == 7
    return last_scan(conn)["engine"]


def load(conn, name: str):
    conn.execute("SELECT omen_load(%s::regclass)", (f"{name}_idx",))


@pytest.mark.every_major
def test_searches_do_not_push_it_out(tight):
    conn, rows = tight
    assert search(conn, rows, "a") == "gpu" and hot(conn) == {"a"}
    # Without the option the one unused for longest goes.
    assert search(conn, rows, "b") == "gpu" and hot(conn) == {"b"}
    option(conn, "a", "on")
    assert search(conn, rows, "a") == "gpu" and hot(conn) == {"a"}
    assert search(conn, rows, "b") == "cpu" and "memory" in last_scan(conn)["fallback_reason"]
    assert hot(conn) == {"a"}
    option(conn, "b", "on")
    for i in range(50):
        assert search(conn, rows, "b") == "cpu" and search(conn, rows, "a") == "gpu"
    row = stat(conn)
    assert (row["failed_loads"], row["loads"], row["loaders"]) == (1, 3, 0), "it is not tried again and again"


def test_loaders_do_not_push_it_out(tight, first):
    """Neither of another index that goes last, nor of one whose searches have made it pay."""
    conn, rows = tight
    option(conn, "a", "on")
    assert search(conn, rows, "a") == "gpu"
    option(conn, "b", "on")
    put(conn, omen__engine="auto")

    def is_refused():
        assert search(conn, rows, "b") == "cpu"
        return stat(conn)["failed_loads"]
    wait_until(is_refused, "it is not refused")
    for _ in range(50):
        assert search(conn, rows, "b") == "cpu"
    row = stat(conn)
    assert (row["failed_loads"], row["loads"], row["hot_tiers"]) == (1, 1, 1) and hot(conn) == {"a"}


def test_the_others_go_first(service, tight):
    """Also where they were used later."""
    conn, rows = tight
    conn.execute("ALTER SYSTEM SET omen.gpu_memory_limit = '22MB'")
    conn.execute("SELECT pg_reload_conf()")
    option(conn, "a", "on")
    load(conn, "a")
    # The worker sees its settings now and then; with the room that searching takes there is none for a third.
    wait_until(lambda: load(conn, "b") or hot(conn) == {"a", "b"}, "no room for two")
    load(conn, "c")
    assert hot(conn) == {"a", "c"}


def test_omen_load_pushes_it_out(tight):
    conn, rows = tight
    option(conn, "a", "on")
    assert search(conn, rows, "a") == "gpu"
    assert search(conn, rows, "b") == "cpu" and hot(conn) == {"a"}
    # By who may only read it, it is a wish like a search's.
    conn.execute("CREATE ROLE reader; GRANT SELECT ON b TO reader; SET ROLE reader")
    assert_fails(conn, "53200", "omen_evict", "SELECT omen_load('b_idx')")
    conn.execute("RESET ROLE")
    assert hot(conn) == {"a"}
    load(conn, "b")
    assert hot(conn) == {"b"} and search(conn, rows, "b") == "gpu"
    # What was pushed out comes back, as the other has not the option.
    assert search(conn, rows, "a") == "gpu" and hot(conn) == {"a"}


def test_the_option_counts_from_the_next_search(tight):
    conn, rows = tight
    assert search(conn, rows, "a") == "gpu"
    option(conn, "a", "on")
    assert search(conn, rows, "a") == "gpu"
    assert search(conn, rows, "b") == "cpu" and hot(conn) == {"a"}
    option(conn, "a", "auto")
    assert search(conn, rows, "a") == "gpu"
    assert search(conn, rows, "c") == "gpu" and hot(conn) == {"c"}


def test_what_fits_beside_it_is_loaded(tight, rng):
    """Of an index that has no room beside it, the lists that fit are loaded."""
    conn, rows = tight
    conn.execute("ALTER SYSTEM SET omen.gpu_memory_limit = '20MB'")
    conn.execute("SELECT pg_reload_conf()")
    make_index(conn, lists=100, table="c", name="c_many_idx")
    conn.execute("DROP INDEX c_idx")
    option(conn, "a", "on")
    load(conn, "a")
    put(conn, omen__probes=100)
    wait_until(lambda: search(conn, rows, "c") == "gpu", "nothing is loaded")
    rest = conn.execute("SELECT hot_lists FROM omen_stat_index WHERE indexrelname = 'c_many_idx'").fetchone()[0]
    assert 0 < rest < 100 and hot(conn) == {"a", "c"}
