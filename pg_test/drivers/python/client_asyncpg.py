"""asyncpg, which speaks binary alone: prepared statements, and COPY of records."""

import asyncio

import asyncpg
from pgvector import HalfVector, SparseVector, Vector
from pgvector.asyncpg import register_vector

from common import DATABASE, HOST, KINDS, PORT, USER, K, check_answer, check_plan, check_stored, index_sql, main

# Bits are a type of asyncpg's own.
CLASSES = {"vector": Vector, "halfvec": HalfVector, "sparsevec": SparseVector, "bit": asyncpg.BitString}


def plain(kind, value):
    """A value as it was drawn."""
    return value.as_string().replace(" ", "") if kind == "bit" else value.to_list()


async def run(kind, values, query):
    make, table = CLASSES[kind], f"a_{kind}"
    conn = await asyncpg.connect(host=HOST, port=int(PORT), user=USER, database=DATABASE)
    try:
        await register_vector(conn)
        await conn.execute(f"CREATE TABLE {table} (id integer, embedding {KINDS[kind].column})")
        await conn.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(i, make(values[i])) for i in range(50)])
        await conn.copy_records_to_table(table, records=[(i, make(values[i])) for i in range(50, len(values))])
        await conn.execute(index_sql(kind, table))
        check_stored(values, {i: plain(kind, value) for i, value in await conn.fetch(f"SELECT id, embedding FROM {table}")})
        distance = f"embedding {KINDS[kind].operator} $1"
        nearest = f"SELECT id, {distance} FROM {table} ORDER BY {distance} LIMIT {K}"
        check_plan("\n".join(row[0] for row in await conn.fetch("EXPLAIN " + nearest, make(query))))
        statement = await conn.prepare(nearest)
        # More than five times: from then on the plan may be one for all parameters.
        for _ in range(8):
            check_answer(kind, values, query, [tuple(row) for row in await statement.fetch(make(query))])
    finally:
        await conn.close()


main(lambda *args: asyncio.run(run(*args)))
