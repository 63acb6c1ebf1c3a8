"""Sessions do everything to tables and indexes, the server is killed at random points: what was committed is there, whole, and in every index.

A standby replays all of it and compares each page with that of the primary (wal_consistency_checking): a difference would end it.
`make soak SECONDS=600 SOAK="--mode crash"` does the same for as long as wanted.
"""

import time

import pytest

from lib import vectors
from lib.crashes import CONF, Crashes, check_standby, make_tables
from lib.db import make_database

ROUNDS, SECONDS = 10, 35


@pytest.mark.every_major
def test_nothing_is_lost(make_server):
    primary = make_server("primary", CONF, checksums=True)
    db = make_database(primary, "crashes")
    make_tables(db, workers=4)
    standby = make_server("standby", source=primary)
    crashes, end = Crashes(db, standby), time.monotonic() + SECONDS
    while crashes.figures["rounds"] < ROUNDS and time.monotonic() < end:
        crashes.round(1.5)
    print(f"seed {vectors.SEED}: {crashes.figures}, {crashes.steps}")
    assert crashes.figures["rounds"] >= 3
    check_standby(standby)
    primary.check_checksums()
    standby.check_checksums()
