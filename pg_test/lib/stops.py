"""Sessions that stop between two changes of an index's pages (`omen.stop_before`, test builds), so that others act just there."""

import os
import signal
import threading
import time

from .db import Db, put
from .server import is_stopped

WAIT = 30


class Stopping:
    """A session whose statements may stop before their n-th change of an index's pages."""

    def __init__(self, db: Db, **settings):
        self.conn = db.connect(**settings)
        self.pid = self.conn.info.backend_pid
        self.thread = self.error = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.go_on()
        self.conn.close()

    def execute(self, change: int, statement: str, params=None) -> bool:
        """Runs the statement in the background until it stops before its change of this number, or ends; whether it stopped."""
        put(self.conn, omen__stop_before=change)

        def run():
            try:
                self.conn.execute(statement, params)
            except Exception as e:  # noqa: BLE001  # raised again by `go_on`
                self.error = e

        self.thread, self.error = threading.Thread(target=run, daemon=True), None
        self.thread.start()
        end = time.monotonic() + WAIT
        while self.thread.is_alive() and not is_stopped(self.pid):
            assert time.monotonic() < end, f"{statement} neither stops nor ends"
            time.sleep(0.001)
        if is_stopped(self.pid):
            return True
        self.go_on()
        return False

    def go_on(self):
        """Has the statement go on to its end; raises what it failed with."""
        if self.thread is None:
            return
        if is_stopped(self.pid):
            os.kill(self.pid, signal.SIGCONT)
        self.thread.join(WAIT)
        assert not self.thread.is_alive(), "a session hangs"
        self.thread = None
        if self.error:
            raise self.error


def wait_for_lock(conn, pid: int, kind: str = "page"):
    """Waits until the process waits for a lock of this kind."""
    end = time.monotonic() + WAIT
    while not conn.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND locktype = %s AND NOT granted", (pid, kind)).fetchall():
        assert time.monotonic() < end, f"{pid} waits for no {kind} lock"
        time.sleep(0.005)
