"""Damaged files of indexes: whatever is done with the index ends with an answer or says that the index is damaged; the server lives; REINDEX helps.

`make soak SECONDS=600 SOAK="--mode damage"` does the same for as long as wanted.
"""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.damage import CRASHES, DAMAGES, KINDS, PAGE, kinds
from lib.damaged import Damaged, check_reindexed
from lib.db import BY_INDEX, GPU, Db
from lib.service import GPU as SHARED_GPU
from lib.service import PRELOADED

SECONDS = 12


@pytest.fixture(scope="module")
def damaged():
    made = Damaged(vectors.rng_for("damaged"))
    yield made
    made.server.remove()


def test_damaged_files(damaged, rng):
    assert damaged.kinds() >= set(KINDS.values()), damaged.kinds()
    seen = damaged.rounds(rng, SECONDS, GPU, {})
    assert sum(seen[how] for how in DAMAGES) == sum(seen.values()) / 2


@pytest.mark.every_major
def test_damaged_files_with_checksums(damaged, rng):
    """Postgres finds the damage when it reads the page."""
    damaged.rounds(rng, 0, GPU, {}, copies=3, checksums=True)


@pytest.mark.every_major
def test_damaged_files_and_the_service(damaged, rng):
    """The loaders of the shared service read the same pages; the service stays up."""
    damaged.rounds(rng, 0, SHARED_GPU, PRELOADED, copies=3)


def test_a_hole_in_the_wrong_place(damaged, rng):
    """What lies between pd_lower and pd_upper is cleared when a page is changed: where that cannot be, the page is not changed."""
    name, (metric, dim) = next(iter(damaged.tables.items()))
    def wrong_header(file, _rng):
        pages = bytearray(file.read_bytes())
        for block in kinds(pages).get("append", []):
            pages[block * PAGE + 12:block * PAGE + 16] = np.array([100, 110], "<u2").tobytes()
        file.write_bytes(pages)
    damaged.start(rng, {}, 1, False, wrong_header)
    db = Db(damaged.server, "copy_0")
    with db.connect(**BY_INDEX) as conn:
        # Into every list that has appended rows; with ids of their own, as the answers are compared by them.
        rows = conn.execute(f"SELECT 1000000 + id, v FROM {name} WHERE id > 400000 OR id BETWEEN 900 AND 1400").fetchall()
        refused = 0
        for row in rows:
            try:
                conn.execute(f"INSERT INTO {name} VALUES (%s, %s)", row)
            except psycopg.errors.IndexCorrupted as error:
                assert "header" in str(error) and "REINDEX" in error.diag.message_hint
                refused += 1
        assert 0 < refused
        check_reindexed(conn, name, metric, dim, rng)
    assert not CRASHES.search(damaged.server.log_text())
