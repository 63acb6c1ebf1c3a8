"""Searches and loads of the shared GPU service that are ended at any moment, over and over: nothing is left of them."""

import threading
import time

import pytest

from lib.db import BY_INDEX
from lib.service import GPU, load, stat, wait_for
from lib.storm import Storm, through_storms


def test_storms(first):
    """Cancellations, time limits, terminations, lost connections, of sessions and loaders; then a server that starts anew."""
    storm = Storm(first)
    through_storms(storm, rounds=900, crashes=2)
    print(storm.counts)
    for what in ("search, cancelled", "search, terminated", "search, done", "load, cancelled", "load, done", "disconnected"):
        assert storm.counts.get(what), (what, storm.counts)


@pytest.mark.quiet
def test_evicted_as_soon_as_loaded(first):
    """A load that finds its tier evicted when it is done is done all the same, and keeps no other from loading."""
    storm = Storm(first)
    storm.fill()
    end, n_evicted = time.monotonic() + 3, 0

    def evict():
        nonlocal n_evicted
        with first.connect() as conn:
            while time.monotonic() < end:
                n_evicted += conn.execute("SELECT omen_evict('t_v_idx')").fetchone()[0] > 0

    thread = threading.Thread(target=evict)
    thread.start()
    took = []
    with first.connect(**BY_INDEX, **GPU) as conn:
        while time.monotonic() < end:
            began = time.monotonic()
            load(conn)
            took.append(time.monotonic() - began)
        thread.join()
        assert n_evicted > 10 and max(took) < 2, (n_evicted, len(took), max(took))
        row = wait_for(conn, failed_loads=0)
        assert row["loads"] >= len(took) and stat(conn)["starts"] == 1
