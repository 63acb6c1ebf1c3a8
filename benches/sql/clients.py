"""Clients: each one connection in a process of its own, running prepared statements one after the other."""

import multiprocessing
import time
from dataclasses import dataclass

import numpy as np
import psycopg

import server


@dataclass
class Timed:
    """What n executions took."""

    seconds: np.ndarray  # [n] each, by the client's clock
    cpu: float | None  # of the backend, seconds, all together; None: not readable

    @property
    def cpu_us(self) -> float | None:
        """Microseconds of the backend's CPU an execution."""
        return None if self.cpu is None else self.cpu / len(self.seconds) * 1e6


@dataclass
class Laps:
    """A run in parts that are timed by themselves: each part executes all queries `passes` times."""

    passes: int
    laps: int


def timed(conn: psycopg.Connection, sql: str, parameters: list[tuple]) -> tuple[list, Timed]:
    """Executes `sql` with each of `parameters`, prepared, binary both ways; the rows of each, and what it took."""
    cur, pid = conn.cursor(binary=True), server.backend_pid(conn)
    rows, seconds = [], np.empty(len(parameters))
    before = server.backend_cpu(pid)
    for i, values in enumerate(parameters):
        began = time.perf_counter()
        cur.execute(sql, values, prepare=True)
        rows.append(cur.fetchall() if cur.description else None)
        seconds[i] = time.perf_counter() - began
    after = server.backend_cpu(pid)
    return rows, Timed(seconds, None if before is None or after is None else after - before)


def found_ids(rows: list, k: int) -> np.ndarray:
    """The ids (first column) of each query's rows, [n_queries, k], -1 where there are fewer."""
    ids = np.full((len(rows), k), -1, np.int64)
    for i, of_query in enumerate(rows):
        ids[i, :len(of_query)] = [row[0] for row in of_query]
    return ids


def serve(pipe, dsn: str, database: str, session: dict, sql: str, queries: np.ndarray, k: int, offset: int):
    """Body of a client's process: ("set", settings), ("last", query), ("find", None), ("run", Laps) until None comes.

    Answers to `pipe`: nothing; one value; the ids found [n_queries, k] and what it took; what each lap took.
    """
    conn = server.connect(dsn, database)
    server.settings(conn, session)
    parameters = [(query,) for query in np.roll(queries, -offset, axis=0)]
    while (order := pipe.recv()) is not None:
        verb, argument = order
        if verb == "set":
            pipe.send(server.settings(conn, argument))
        elif verb == "last":
            row = conn.execute(argument).fetchone()
            pipe.send(row and row[0])
        elif verb == "find":
            rows, took = timed(conn, sql, parameters)
            pipe.send((np.roll(found_ids(rows, k), offset, axis=0), took))
        else:
            pipe.send([timed(conn, sql, parameters * argument.passes)[1] for _ in range(argument.laps)])


class Clients:
    """`count` clients that search with the same queries [n_queries, dim], each beginning at another one."""

    def __init__(self, count: int, dsn: str, database: str, session: dict, sql: str, queries: np.ndarray, k: int):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for i in range(count):
            here, there = context.Pipe()
            offset = i * len(queries) // count
            process = context.Process(target=serve, args=(there, dsn, database, session, sql, queries, k, offset), daemon=True)
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def all(self, verb: str, argument, count: int | None = None) -> list:
        """Gives an order to the first `count` clients (None: all) at once; their answers."""
        pipes = self.pipes[:count]
        for pipe in pipes:
            pipe.send((verb, argument))
        try:
            return [pipe.recv() for pipe in pipes]
        except EOFError:
            raise SystemExit("a client's process ended; its error is above") from None

    def close(self):
        for pipe, process in zip(self.pipes, self.processes):
            try:
                pipe.send(None)
            except OSError:
                pass  # it has ended
            process.join()
