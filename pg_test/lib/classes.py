"""Tables and indexes of any operator class: values as text, answers of an index against a sort of the table."""

import numpy as np

from .db import assert_same, check_index, put

OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>", "l1": "<+>", "hamming": "<~>", "jaccard": "<%%>"}  # doubled, as a percent sign is in statements with parameters


def bit_strings(rng, n: int, dim: int) -> list[str]:
    """Strings around some that have half of their bits set, or a tenth."""
    centres = rng.random((30, dim)) < np.where(np.arange(30) % 2, 0.5, 0.1)[:, None]
    rows = centres[rng.integers(30, size=n)] ^ (rng.random((n, dim)) < 0.08)
    return ["".join(map(str, row)) for row in rows.astype(int)]


def make(conn, kind: str, dim: int, values: list[str | None]):
    """Table t (id integer from 0, v kind(dim), tag integer) with `values`."""
    conn.execute("DROP TABLE IF EXISTS t")
    conn.execute(f"CREATE TABLE t (id integer, v {kind}({dim}), tag integer)")
    add(conn, values, 0)
    conn.execute("ANALYZE t")


def add(conn, values: list[str | None], first: int):
    """Inserts rows with ids from `first` on."""
    with conn.cursor().copy("COPY t FROM STDIN") as copy:
        for i, value in enumerate(values):
            copy.write_row((first + i, value, (first + i) * 7919 % 100))


def index(conn, kind: str, metric: str, lists: int, expression: str = "v"):
    conn.execute(f"CREATE INDEX t_v_idx ON t USING omen ({expression} {kind}_{metric}_ops) WITH (lists = {lists})")


def nearest(conn, kind: str, metric: str, query: str, k: int | None, where: str = "true", column: str = "v"):
    """(id, distance) of the `k` nearest rows that pass a filter."""
    order = f"{column} {OPERATORS[metric]} %s::{kind}"
    limit = "" if k is None else f"LIMIT {k}"
    return conn.execute(f"SELECT id, {order} FROM t WHERE {where} ORDER BY {order} {limit}", (query, query)).fetchall()


def assert_by_index(conn, kind: str, metric: str, query: str, column: str = "v"):
    sql = f"EXPLAIN (COSTS OFF) SELECT id FROM t ORDER BY {column} {OPERATORS[metric]} %s::{kind} LIMIT 5"
    plan = "\n".join(row[0] for row in conn.execute(sql, (query,)).fetchall())
    assert "Index Scan using t_v_idx" in plan and "Sort" not in plan, plan


def compare(fast, oracle, kind: str, metric: str, queries: list[str], k: int, **kwargs) -> int:
    """The index's answers are those of a sort, distance by distance. Returns the number of rows compared."""
    n = 0
    for query in queries:
        found = nearest(fast, kind, metric, query, k, **kwargs)
        wanted = nearest(oracle, kind, metric, query, k, **kwargs)
        assert len(found) == len(wanted), (kind, metric, len(found), len(wanted))
        assert_same(found, wanted, complete_ties=False)
        n += len(found)
    return n


def recall(fast, oracle, kind: str, metric: str, queries: list[str], k: int = 10) -> float:
    """Share of the `k` nearest rows that the index finds; one as near as the k-th counts."""
    shares = []
    for query in queries:
        wanted = nearest(oracle, kind, metric, query, k)
        found = nearest(fast, kind, metric, query, k)
        assert all(a <= b for (_, a), (_, b) in zip(found, found[1:])), found
        shares.append(min(sum(d <= wanted[-1][1] for _, d in found), k) / k)
    return float(np.mean(shares))


def check_changes(fast, oracle, kind: str, metric: str, queries: list[str], k: int) -> int:
    """Rows go, VACUUM makes room, rows change, the index is built anew: each time as compare() has it, and the index is sound. Returns the number of rows compared."""
    n = 0
    for statements in (("DELETE FROM t WHERE id % 3 = 1",), ("VACUUM t", "UPDATE t SET v = v WHERE id % 5 = 0"), ("REINDEX INDEX t_v_idx",)):
        for statement in statements:
            fast.execute(statement)
        n += compare(fast, oracle, kind, metric, queries, k)
        check_index(fast)
    return n


def check_filters(usual, oracle, kind: str, metric: str, queries: list[str], compared: list[str]):
    """Filters keep their rows, in order, while more exist; in all of 40 lists they are those of a sort."""
    for where in ("tag < 1", "tag %% 10 = 3", "tag < 50"):
        for query in queries:
            got = nearest(usual, kind, metric, query, 20, where=where)
            assert len(got) == 20 and all(a <= b for (_, a), (_, b) in zip(got, got[1:])), (where, got)
        put(usual, omen__probes=40)
        compare(usual, oracle, kind, metric, compared, 20, where=where)
        put(usual, omen__probes=0)


def check_size_estimate(conn):
    """The estimate of the index that t has."""
    estimate = conn.execute("SELECT index_bytes FROM omen_estimate_build('t', 'v', 5)").fetchone()[0]
    size = conn.execute("SELECT pg_relation_size('t_v_idx')").fetchone()[0]
    assert 0.7 < estimate / size < 1.4, (estimate, size)
