"""psycopg 3 with pgvector's package: parameters and results in text and in binary, COPY in binary both ways."""

import psycopg
from pgvector import Bit, HalfVector, SparseVector, Vector
from pgvector.psycopg import register_vector

from common import KINDS, K, check_answer, check_plan, check_stored, index_sql, main

CLASSES = {"vector": Vector, "halfvec": HalfVector, "sparsevec": SparseVector, "bit": Bit}


def plain(kind, value):
    """A value as it was drawn, of one that came from the server; the package has no loader for bits."""
    if kind == "bit":
        return (value if isinstance(value, str) else Bit.from_binary(value).to_text())
    return value.to_list()


def check(kind, values, query):
    make, table = CLASSES[kind], f"p_{kind}"
    with psycopg.connect(autocommit=True) as conn:
        register_vector(conn)
        conn.execute(f"CREATE TABLE {table} (id integer, embedding {KINDS[kind].column})")
        for placeholder, part in (("%t", range(20)), ("%b", range(20, 40))):
            with conn.cursor() as cur:
                cur.executemany(f"INSERT INTO {table} VALUES (%s, {placeholder})", [(i, make(values[i])) for i in part])
        with conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", kind])
            for i in range(40, len(values)):
                copy.write_row((i, make(values[i])))
        conn.execute(index_sql(kind, table))
        for binary in (False, True):
            with conn.cursor(binary=binary) as cur:
                stored = cur.execute(f"SELECT id, embedding FROM {table}").fetchall()
                check_stored(values, {i: plain(kind, value) for i, value in stored})
                placeholder = "%b" if binary else "%t"
                distance = f"embedding {KINDS[kind].operator} {placeholder}"
                nearest = f"SELECT id, {distance} FROM {table} ORDER BY {distance} LIMIT {K}"
                parameters = (make(query), make(query))
                check_plan("\n".join(line for line, in conn.execute("EXPLAIN " + nearest, parameters).fetchall()))
                for prepare in (False, True):
                    check_answer(kind, values, query, cur.execute(nearest, parameters, prepare=prepare).fetchall())
        with conn.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", kind])
            check_stored(values, {i: plain(kind, value) for i, value in copy.rows()})


main(check)
