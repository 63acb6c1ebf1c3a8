"""The server: connections, the table, and what its processes cost, read from /proc (so it has to run on this machine)."""

import os
import struct
import sys
from pathlib import Path

import numpy as np
import psycopg
from psycopg.adapt import Dumper
from psycopg.conninfo import make_conninfo
from psycopg.pq import Format

from datasets import Dataset
from systems import System

TICKS = os.sysconf("SC_CLK_TCK")  # a second, in the unit of /proc/PID/stat
COPY_ROWS = 10_000


class VectorDumper(Dumper):
    """Sends float32 arrays in the binary format of type `vector`; a subclass a connection, since the type's oid differs."""

    format = Format.BINARY

    def dump(self, obj):
        return struct.pack(">hh", len(obj), 0) + obj.astype(">f4").tobytes()


def connect(dsn: str, database: str = "") -> psycopg.Connection:
    """An autocommit connection, to `database` instead of the dsn's if given, that sends arrays as vectors if there is the type."""
    conn = psycopg.connect(make_conninfo(dsn, **({"dbname": database} if database else {})), autocommit=True)
    conn.execute("SET client_min_messages = warning")
    oid = conn.execute("SELECT to_regtype('vector')::oid").fetchone()[0]
    if oid:
        conn.adapters.register_dumper(np.ndarray, type("Dumper", (VectorDumper,), {"oid": oid}))
    return conn


def make_database(dsn: str, systems: list[System]):
    """The database of these systems, anew, with their extensions."""
    database = systems[0].database
    with connect(dsn) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {database} TEMPLATE template0")
    with connect(dsn, database) as conn:
        for extension in dict.fromkeys(name for system in systems for name in system.extensions):
            conn.execute(f"CREATE EXTENSION {extension}")


def load_table(conn: psycopg.Connection, table: str, data: Dataset):
    """A table (id int primary key = row number, embedding vector(dim)), by binary COPY."""
    n, dim = data.base.shape
    conn.execute(f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (id int, embedding vector({dim}))")
    row = np.dtype([("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i4"), ("bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"),
                    ("values", ">f4", (dim,))])
    with conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for start in range(0, n, COPY_ROWS):
            values = data.base[start:start + COPY_ROWS]
            rows = np.zeros(len(values), row)
            rows["fields"], rows["id_bytes"], rows["bytes"], rows["dim"] = 2, 4, 4 + 4 * dim, dim
            rows["id"], rows["values"] = np.arange(start, start + len(values)), values
            copy.write(rows.tobytes())
        copy.write(b"\xff\xff")
    conn.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
    tidy(conn, table)


def tidy(conn: psycopg.Connection, table: str):
    """Leaves nothing to be done behind a measurement: no dead rows, current statistics, no dirty pages."""
    conn.execute(f"VACUUM (ANALYZE) {table}")
    conn.execute("CHECKPOINT")


def size(conn: psycopg.Connection, what: str) -> int:
    """Bytes on disk of a table without its indexes, or of an index."""
    return conn.execute("SELECT pg_total_relation_size(%s::regclass) - pg_indexes_size(%s::regclass)", (what, what)).fetchone()[0]


def settings(conn: psycopg.Connection, values: dict):
    for name, value in values.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))


def backend_pid(conn: psycopg.Connection) -> int | None:
    """The connection's server process, if that is one of this machine's."""
    try:
        pid = conn.info.backend_pid
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() in ("postgres", "postmaster") else None
    except OSError:
        return None


def backend_cpu(pid: int | None) -> float | None:
    """CPU seconds that the threads of a server process have used, in steps far below a microsecond; None where that cannot be read."""
    try:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9 or None  # 0: not counted
    except (OSError, ValueError, IndexError):
        return None


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on, so that [n - 3] is the one that proc(5) numbers n."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class ServerCpu:
    """CPU seconds of the whole server: what its live processes have used, and what those that ended have left to the postmaster.

    Good to a tick (10 ms) a process. Parallel workers and threads count, whether they have ended or not.
    """

    def __init__(self, conn: psycopg.Connection):
        backend = backend_pid(conn)
        self.postmaster = int(stat(backend)[1]) if backend else None
        if not backend:
            print("the server's processes are not in /proc here: CPU times are n/a", file=sys.stderr)

    def seconds(self) -> float | None:
        if self.postmaster is None:
            return None
        of = {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    of[int(path.name)] = stat(int(path.name))
                except OSError:
                    continue  # ended meanwhile
        server, grown = {self.postmaster}, True
        while grown:
            children = {pid for pid, fields in of.items() if int(fields[1]) in server} - server
            server |= children
            grown = bool(children)
        ticks = sum(int(of[pid][11]) + int(of[pid][12]) for pid in server if pid in of)
        return (ticks + int(of[self.postmaster][13]) + int(of[self.postmaster][14])) / TICKS
