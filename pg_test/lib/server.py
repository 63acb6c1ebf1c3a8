"""A PostgreSQL server of one's own: made, started, stopped, crashed, copied to a standby.

Environment: OMEN_PG_BIN (folder of the server's programs, with the extension installed), OMEN_RUN_DIR (where clusters
and sockets go; the server's user must be able to enter it), OMEN_TEST_USER (whom the server runs as when we are root).
Servers listen on a socket in their own folder only, and are stopped by the process id in their own pid file.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from .figures import figure

BIN = Path(os.environ["OMEN_PG_BIN"])
# Of several processes that run tests beside each other each has a folder of its own; its name is short because the path of a socket is limited.
RUN_DIR = Path(os.environ["OMEN_RUN_DIR"]) / os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
TEST_USER = os.environ.get("OMEN_TEST_USER", "postgres")
PORT = 5432

BASE_CONF = {
    "listen_addresses": "",
    "port": PORT,
    "fsync": "off",  # the machine does not crash in these tests, only processes do
    "shared_buffers": "64MB",
    "max_connections": 60,
    "max_wal_senders": 4,
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",  # standbys are back as soon as their primary is
    "max_wal_size": "512MB",
    "wal_init_zero": "off",  # copying clusters and filling new files of the log was what the kernel was busy with
    "log_min_messages": "warning",
    "log_line_prefix": "%p ",
    "timezone": "GMT",
    "log_timezone": "GMT",
    "jit": "off",
    "autovacuum": "off",  # tests say when
    "random_page_cost": 1.1,
}


def major(programs: Path = BIN) -> int:
    """Major version of the server under test, or of the one with these programs."""
    out = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return int(out.split("PostgreSQL) ")[1].split()[0].split(".")[0])


def as_user(args) -> list[str]:
    """The command `args`, run as the server's user."""
    args = [str(a) for a in args]
    return ["runuser", "-u", TEST_USER, "--"] + args if os.geteuid() == 0 else args


def environment() -> dict:
    """Environment of the server's programs: no locale or time zone of the machine, and their own libpq."""
    path = [str(BIN.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    # RUST_BACKTRACE would add a stack to the DETAIL of errors.
    return dict(os.environ, TZ="GMT", LC_ALL="C", PGOPTIONS="", RUST_BACKTRACE="0", LD_LIBRARY_PATH=":".join(p for p in path if p))


def run(args, **kwargs) -> subprocess.CompletedProcess:
    """Runs a program of the server as its user; raises with its output when it fails."""
    done = subprocess.run(as_user(args), capture_output=True, text=True, env=environment(), cwd="/", **kwargs)
    if done.returncode:
        raise RuntimeError(f"{args[0]} exited {done.returncode}: {done.stdout}{done.stderr}")
    return done


def _own_folder(path: Path) -> Path:
    """An empty folder that belongs to the server's user."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o755)
    if os.geteuid() == 0:
        shutil.chown(path, TEST_USER)
    return path


def _template(programs: Path) -> Path:
    """An empty cluster; initdb takes seconds, a copy of its result does not."""
    folder = RUN_DIR / ("template" if programs == BIN else f"template_{major(programs)}")
    if not (folder / "done").exists():
        _own_folder(folder)
        run([programs / "initdb", "-D", folder / "full", "-U", "postgres", "-A", "trust", "-N",
             "--encoding=UTF8", "--locale=C", "--no-instructions"])
        # Nearly half of it is zeros of a log that has not been written yet.
        run(["cp", "-a", "--sparse=always", folder / "full", folder / "data"])
        shutil.rmtree(folder / "full")
        (folder / "done").touch()
    return folder / "data"


def _children(pid: int) -> list[int]:
    """Process ids of the direct children of `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry.name))
        except OSError:
            pass  # gone meanwhile
    return found


def _state(pid: int) -> str:
    """State of a process in one letter; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by SIGSTOP."""
    return _state(pid) == "T"


def _wait_gone(pids, seconds: float) -> list[int]:
    """Waits until none of `pids` runs; returns those that still do after `seconds`. One that nobody has collected yet does not run."""
    end = time.monotonic() + seconds
    while True:
        left = [pid for pid in pids if _state(pid) not in ("", "Z")]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.02)


class Server:
    """One cluster in RUN_DIR/<name>, its socket, its log."""

    def __init__(self, name: str, conf: dict | None = None, source: "Server | None" = None, checksums: bool | None = None, programs: Path = BIN,
                 kb_per_s: int | None = None):
        """Makes the cluster: a fresh one, with checksums of its pages, without, or as the major has it, or with `source` a streaming standby of it, copied
        at so many kB/s at most. `programs`: those of another major than the one under test."""
        self.programs = programs
        self.dir = RUN_DIR / name
        self.data = self.dir / "data"
        self.log = self.dir / "log"
        self._end_leftover()
        _own_folder(self.dir)
        if source is None:
            run(["cp", "-a", _template(programs), self.data])
            if checksums is not None:
                self.set_checksums(checksums)
        else:
            run([self.programs / "pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
                 "-h", source.dir, "-p", PORT, "-U", "postgres", *(["-r", kb_per_s] if kb_per_s else [])])
        self.configure(BASE_CONF | {"unix_socket_directories": self.dir} | (conf or {}))

    def _end_leftover(self):
        """Ends the server that an interrupted run may have left in this folder."""
        pid = self.pid()
        try:
            if pid and str(self.data) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGQUIT)
                _wait_gone([pid], 30)
        except OSError:
            pass

    def configure(self, settings: dict):
        """Appends settings to postgresql.conf; they count from the next start or reload."""
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as f:
            f.writelines(f"{k} = '{v}'\n" for k, v in settings.items())

    def start(self, **variables) -> "Server":
        """Starts the server, with these environment variables, and waits until it accepts connections (recovery included)."""
        try:
            subprocess.run(as_user([self.programs / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "120", "start"]),
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                           env=environment() | variables)
        except subprocess.CalledProcessError as e:
            raise RuntimeError(f"the server in {self.dir} did not start:\n{self.log_text()[-3000:]}") from e
        return self

    def set_checksums(self, on: bool):
        """Makes a stopped server keep checksums of its pages, or not: by default it does from PostgreSQL 18 on."""
        said = run([self.programs / "pg_controldata", self.data]).stdout
        if ("Data page checksum version:           0" not in said) != on:
            run([self.programs / "pg_checksums", "--enable" if on else "--disable", "--no-sync", "-D", self.data])

    def pid(self) -> int | None:
        """The postmaster's process id, None when it is not running."""
        try:
            return int((self.data / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError, ValueError):
            return None

    def stop(self, mode: str = "fast"):
        """Stops the server: fast, or immediate (no checkpoint: the next start recovers)."""
        if self.pid() is not None:
            run([self.programs / "pg_ctl", "-D", self.data, "-m", mode, "-w", "-t", "60", "stop"])

    def kill(self):
        """Kills the postmaster with -9, and all its children, which would go on until they next wait for something."""
        pid = self.pid()
        # From here on there are no more of them.
        os.kill(pid, signal.SIGSTOP)
        children = _children(pid)
        for process in (pid, *children):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        left = _wait_gone([pid, *children], 20)
        assert not left, f"{left} cannot be killed"
        figure("kills of a server")
        # The next start would take a postmaster that nobody has collected yet for one that runs.
        for lock in (self.data / "postmaster.pid", self.dir / f".s.PGSQL.{PORT}.lock"):
            lock.unlink(missing_ok=True)

    def wait_until_up(self, seconds: float = 60):
        """Waits until a server that runs, or recovers after one of its processes was killed, accepts connections."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.sql("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < end, f"the server does not come back:\n{self.log_text()[-2000:]}"
                time.sleep(0.05)

    def check_checksums(self):
        """Stops the server and has every page's checksum compared; fails if one is wrong."""
        self.stop()
        run([self.programs / "pg_checksums", "--check", "-D", self.data])

    def remove(self):
        """Stops the server if it runs, and removes its folder."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def connect(self, dbname: str = "postgres", **settings) -> psycopg.Connection:
        """An autocommit connection; `settings` are set in its session (dots written as two underscores)."""
        conn = psycopg.connect(host=str(self.dir), port=PORT, user="postgres", dbname=dbname, autocommit=True)
        for name, value in settings.items():
            conn.execute("SELECT set_config(%s, %s, false)", (name.replace("__", "."), str(value)))
        return conn

    def sql(self, query: str, params=None, dbname: str = "postgres") -> list[tuple]:
        """Rows of one statement on a connection of its own."""
        with self.connect(dbname) as conn:
            cur = conn.execute(query, params)
            return cur.fetchall() if cur.description else []

    def program(self, name: str, *args, dbname: str = "postgres", **kwargs) -> str:
        """Standard output of a client program (psql, pg_dump, ...) connected to this server."""
        return run([self.programs / name, "-h", self.dir, "-p", PORT, "-U", "postgres", "-d", dbname, *args], **kwargs).stdout

    def log_text(self) -> str:
        """The server's log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @contextmanager
    def log_of(self):
        """Collects what the server logs in the block: `with s.log_of() as lines: ...; lines()`."""
        start = len(self.log_text())
        yield lambda: self.log_text()[start:]

    def wait_for(self, standby: "Server", seconds: float = 60):
        """Waits until the standby has replayed all this server has written."""
        # A record of our own: the end of the log may lie behind the header of a page with nothing on it yet, which nobody replays.
        lsn = self.sql("SELECT pg_logical_emit_message(false, '', '')::text")[0][0]
        self.sql("SELECT pg_switch_wal()")
        end = time.monotonic() + seconds
        while not standby.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,))[0][0]:
            assert time.monotonic() < end, f"standby does not catch up:\n{standby.log_text()[-2000:]}"
            time.sleep(0.05)
