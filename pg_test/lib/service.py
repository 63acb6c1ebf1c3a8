"""Servers with the shared GPU service, and what the tests ask it."""

import time
from contextlib import suppress

import psycopg
from psycopg.rows import dict_row

from .db import REAL_GPU

PRELOADED = {"shared_preload_libraries": "pg_omen"} | ({} if REAL_GPU else {"omen.simulate_gpu": "on"})
# The worker has the device: what sessions simulate does not matter.
GPU = {"omen__engine": "gpu"}
WAIT = 30


def stat(conn) -> dict:
    """The row of omen_stat_gpu."""
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute("SELECT * FROM omen_stat_gpu").fetchone()


def wait_for(conn, seconds: float = WAIT, **values) -> dict:
    """Waits until columns of omen_stat_gpu have these values."""
    end = time.monotonic() + seconds
    while True:
        row = stat(conn)
        if all(row[name] == value for name, value in values.items()):
            return row
        assert time.monotonic() < end, row
        time.sleep(0.02)


def wait_until(condition, what: str, seconds: float = WAIT):
    """Waits until `condition()` holds; returns what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def searches(conn, least: int) -> dict:
    """Waits until so many searches are counted, which the worker does after it has answered."""
    end = time.monotonic() + WAIT
    while (row := stat(conn))["searches"] < least:
        assert time.monotonic() < end, row
        time.sleep(0.02)
    return row


def counted(conn) -> int:
    """Searches counted once the worker has counted what it had answered before this call."""
    before, now = -1, stat(conn)["searches"]
    while now != before:
        time.sleep(0.3)
        before, now = now, stat(conn)["searches"]
    return now


def inject(conn, fault: str):
    """Has processes of the service make a mistake (test builds)."""
    conn.execute("ALTER SYSTEM SET omen.inject_fault = '%s'" % fault)
    conn.execute("SELECT pg_reload_conf()")


def load(conn, index: str = "t_v_idx", seconds: float = WAIT):
    """omen_load(), as soon as nobody else loads, and the service is up and as well as it should be."""
    def is_loaded():
        with suppress(psycopg.errors.SystemError, psycopg.errors.OutOfMemory):
            return conn.execute("SELECT omen_load(%s::regclass)", (index,)).rowcount
    wait_until(is_loaded, f"{index} is not loaded", seconds)


def vacuum_dead(conn, table: str = "t"):
    """VACUUM until no dead row is left: what another process looks up in the catalog, a loader for one, may hold it back."""
    def is_done():
        conn.execute(f"VACUUM {table}")
        return conn.execute("SELECT pg_stat_get_dead_tuples(%s::regclass)", (table,)).fetchone()[0] == 0
    wait_until(is_done, "dead rows are kept")


def loaders(conn) -> list[int]:
    """Process ids of the loaders there are."""
    return [pid for (pid,) in conn.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_omen loader'").fetchall()]
