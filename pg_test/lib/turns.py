"""Processes that run tests beside each other, and tests that want the machine to themselves.

Tests that compare times, or want something done within a second or so, are marked `quiet`: such a test begins when those that run have ended, and
no other begins before it has. A process that runs all tests alone has nobody to wait for.
"""

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(os.environ["OMEN_RUN_DIR"])


@contextmanager
def turn(quiet: bool):
    """Waits for a test's turn, and has it for the block."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with open(FOLDER / "door.lock", "a") as door, open(FOLDER / "room.lock", "a") as room:
        # Who waits for an empty room stands in the door, so that nobody else enters.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if quiet else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
