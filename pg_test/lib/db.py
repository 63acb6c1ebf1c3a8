"""A database with the extension in it, and the statements the tests keep saying."""

import os

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

from . import vectors
from .exact import OPERATORS
from .figures import figure
from .server import Server

# On a machine with a GPU the same tests run on it; elsewhere a test build has a hot tier in host memory.
REAL_GPU = os.environ.get("OMEN_REAL_GPU") == "1"
CPU = {"omen__engine": "cpu"}
GPU = {"omen__engine": "gpu"} | ({} if REAL_GPU else {"omen__simulate_gpu": "on"})
# The planner of a test table of a few thousand rows would rightly sort: take the choice away.
BY_INDEX = {"enable_seqscan": "off", "enable_sort": "off"}
BY_SORT = {"enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_bitmapscan": "off"}
# For tests of what a device finds, which knows of no server: on majors other than the main one a metric is enough.
ONE_ON_EVERY_MAJOR = [pytest.param(metric, marks=pytest.mark.every_major) if metric == "l2" else metric for metric in OPERATORS]


class Db:
    """One database of `server`."""

    def __init__(self, server: Server, name: str):
        self.server, self.name = server, name

    def connect(self, **settings) -> psycopg.Connection:
        """A connection with these settings; the extension's library is loaded, so that its settings are known."""
        conn = self.server.connect(self.name)
        conn.execute("LOAD 'pg_omen'")
        put(conn, **settings)
        return conn


def put(conn, **settings):
    """Sets settings of a session; two underscores stand for a dot."""
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name.replace("__", "."), str(value)))


def empty_database(server: Server, name: str) -> Db:
    """Creates database `name`, in place of one that another test has left."""
    with server.connect() as conn:
        conn.execute(f'DROP DATABASE IF EXISTS "{name}"')
        conn.execute(f'CREATE DATABASE "{name}"')
    return Db(server, name)


def make_database(server: Server, name: str) -> Db:
    """Creates database `name` with the extension."""
    db = empty_database(server, name)
    server.sql("CREATE EXTENSION pg_omen", dbname=name)
    return db


def make_table(conn, rows: np.ndarray, name: str = "t", kind: str = "", options: str = ""):
    """Table `name` (id integer from 0, v vector(dim)) with `rows` [n, dim]."""
    conn.execute(f"CREATE {kind} TABLE {name} (id integer, v vector({rows.shape[1]})) {options}")
    vectors.copy_rows(conn, name, np.arange(len(rows)), rows)
    conn.execute(f"ANALYZE {name}")


def make_index(conn, metric: str = "l2", lists: int | None = None, table: str = "t", name: str = "t_v_idx", concurrently=False):
    """An omen index on `table`.v."""
    option = f" WITH (lists = {lists})" if lists else ""
    how = "CONCURRENTLY" if concurrently else ""
    conn.execute(f"CREATE INDEX {how} {name} ON {table} USING omen (v vector_{metric}_ops){option}")


def knn_sql(metric: str, k: int | None, table: str = "t", where: str = "", offset: int = 0) -> str:
    """The nearest-neighbour query; its one parameter is the query vector, which is given twice."""
    op = OPERATORS[metric]
    where = f"WHERE {where}" if where else ""
    limit = f"LIMIT {k}" if k is not None else ""
    return f"SELECT id, v {op} %s::vector FROM {table} {where} ORDER BY v {op} %s::vector {limit} OFFSET {offset}"


def knn(conn, metric: str, query, k: int | None, **kwargs) -> list[tuple[int, float]]:
    """(id, distance) of the `k` nearest rows as the server returns them; all rows when `k` is None."""
    q = vectors.text(query)
    return conn.execute(knn_sql(metric, k, **kwargs), (q, q)).fetchall()


def plan(conn, sql: str, params=()) -> str:
    """The plan of a statement, as text."""
    return "\n".join(r[0] for r in conn.execute("EXPLAIN (COSTS OFF) " + sql, params).fetchall())


def assert_by_index(conn, metric: str, query, k: int | None, **kwargs):
    """Fails unless the plan of this search is an ordered scan of an omen index."""
    q = vectors.text(query)
    text = plan(conn, knn_sql(metric, k, **kwargs), (q, q))
    assert "Index Scan using" in text and "Order By: (v" in text and "Sort" not in text, text


def last_scan(conn) -> dict:
    """omen_last_scan() as a dict."""
    with conn.cursor(row_factory=dict_row) as cur:
        row = cur.execute("SELECT * FROM omen_last_scan()").fetchone()
    assert row is not None, "no scan was recorded"
    return row


def index_status(conn, name: str = "t_v_idx") -> dict:
    """omen_index_status() as a dict."""
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute("SELECT * FROM omen_index_status(%s::regclass)", (name,)).fetchone()


def assert_same(found: list[tuple], wanted: list[tuple], complete_ties: bool = True):
    """The same distances in the same order, and the same rows but for the order within ties.

    `complete_ties`: the last distance is not shared with rows left out (no LIMIT, or k is known to cut no tie).
    """
    assert [d for _, d in found] == [d for _, d in wanted]
    assert len({i for i, _ in found}) == len(found), "a row came twice"
    last = wanted[-1][1] if wanted and not complete_ties else None
    assert sorted((d, i) for i, d in found if d != last) == sorted((d, i) for i, d in wanted if d != last)


def assert_fails(conn, sqlstate: str, hint: str, statement: str, params=()):
    """The statement fails with this state and a hint that says this."""
    with pytest.raises(psycopg.Error) as error:
        conn.execute(statement, params)
    assert error.value.sqlstate == sqlstate, (error.value.sqlstate, error.value)
    assert hint in (error.value.diag.message_hint or ""), error.value.diag.message_hint


def check_index(conn, name: str = "t_v_idx", heap_all_indexed: bool = True, complete: bool = True) -> dict:
    """omen_check() as a dict: raises what is wrong with the index, and with its table's rows in it. `complete` False: it may change meanwhile."""
    with conn.cursor(row_factory=dict_row) as cur:
        row = cur.execute("SELECT * FROM omen_check(%s::regclass, %s)", (name, heap_all_indexed)).fetchone()
    assert row["complete"] or not complete, row
    figure("indexes checked")
    figure("rows checked", row["rows_checked"] or 0)
    return row


def omen_indexes(conn, table: str | None = None) -> list[str]:
    """Omen indexes that have pages and are valid, of `table` or of the database."""
    return [name for (name,) in conn.execute(
        "SELECT x.indexrelid::regclass::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am a ON a.oid = i.relam "
        "WHERE a.amname = 'omen' AND i.relkind = 'i' AND x.indisvalid AND x.indrelid = coalesce(%s::regclass, x.indrelid) ORDER BY 1", (table,))]


def check_all(conn, table: str | None = None) -> list[dict]:
    """check_index() of each omen_indexes()."""
    return [check_index(conn, name) for name in omen_indexes(conn, table)]


def findings(conn, name: str = "t_v_idx", heap_all_indexed: bool = False) -> list[tuple]:
    """(list, block, what) of each finding of omen_check_findings(); notes are left out."""
    sql = "SELECT list, block, what FROM omen_check_findings(%s::regclass, %s) WHERE severity = 'error'"
    return conn.execute(sql, (name, heap_all_indexed)).fetchall()
