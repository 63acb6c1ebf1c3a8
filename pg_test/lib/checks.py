"""What must hold of a table's omen indexes when all is quiet: the checks at the end of each round of a test."""

from .db import BY_INDEX, BY_SORT, check_index, omen_indexes, put
from .figures import figure

ALL_LISTS = 65_536
# Rows that omen_search() gives at most.
MOST_ROWS = 100_000


def check_indexes(conn, table: str = "t", column: str = "v", prepared: bool = False) -> int:
    """Each valid omen index of `table` is sound by omen_check(), and has exactly the rows that the table has, each once, by omen_check(), by omen_search()
    and by an ordered scan. Returns how many rows were compared by searches; `id` is unique in the table, and no value is NULL, nor zero under cosine.
    `prepared`: there are prepared transactions, for which omen_check() would wait."""
    n_compared = 0
    dim = conn.execute("SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s", (table, column)).fetchone()[0]
    query = "[" + ",".join(["1"] * dim) + "]"
    put(conn, omen__probes=ALL_LISTS)
    for index in omen_indexes(conn, table):
        n_rows, n_found, n_different, n_missing, n_foreign = conn.execute(
            f"WITH found AS MATERIALIZED (SELECT ctid AS at FROM omen_search(%s::regclass, ARRAY[%s]::vector[], {MOST_ROWS}, {ALL_LISTS})), "
            f"rows AS MATERIALIZED (SELECT ctid AS at FROM {table}) "
            "SELECT (SELECT count(*) FROM rows), (SELECT count(*) FROM found), (SELECT count(DISTINCT at) FROM found), "
            "(SELECT count(*) FROM (TABLE rows EXCEPT TABLE found) x), (SELECT count(*) FROM (TABLE found EXCEPT TABLE rows) x)",
            (index, query)).fetchone()
        assert n_rows < MOST_ROWS, "more rows than omen_search() gives"
        assert (n_found, n_different, n_missing, n_foreign) == (n_rows, n_rows, 0, 0), (
            f"{index}: {n_rows} rows in the table, {n_found} found, {n_different} of them different, "
            f"{n_missing} missing, {n_foreign} of no row")
        n_compared += n_rows
        if not prepared:
            assert check_index(conn, index)["rows_checked"] == n_rows
    operators = conn.execute(
        "SELECT DISTINCT oprname FROM pg_index i JOIN pg_opclass c ON c.oid = indclass[0] JOIN pg_amop a ON amopfamily = opcfamily "
        "JOIN pg_operator o ON o.oid = amopopr WHERE indrelid = %s::regclass AND indexrelid::regclass::text = ANY(%s)",
        (table, omen_indexes(conn, table))).fetchall()
    for (operator,) in operators:
        n_compared += _check_scan(conn, table, column, operator, query)
    figure("rows compared", n_compared)
    return n_compared


def _check_scan(conn, table: str, column: str, operator: str, query: str) -> int:
    """An ordered scan of all lists, beside a sort of the table."""
    statement = f"SELECT id, {column} {operator} %s::vector FROM {table} ORDER BY 2"
    before = {name: conn.execute(f"SHOW {name}").fetchone()[0] for name in (BY_INDEX | BY_SORT)}
    put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
    found = conn.execute(statement, (query,)).fetchall()
    put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
    wanted = conn.execute(statement, (query,)).fetchall()
    put(conn, **before)
    assert [d for _, d in found] == [d for _, d in wanted] and sorted(found) == sorted(wanted), (
        f"{table} by {operator}: the scan gives {len(found)} rows, {len({i for i, _ in found})} of them different, the table has {len(wanted)}")
    return len(found)
