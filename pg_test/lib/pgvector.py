"""pgvector beside us: its extension in the server under test, where there is a build of it (tools/setup.sh pgvector)."""

import pytest

from .db import Db
from .server import Server


def need_pgvector(server: Server) -> str:
    """Version of pgvector that the server has; skips the test without."""
    found = server.sql("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if not found:
        pytest.skip("there is no build of pgvector for this PostgreSQL major among what tools/setup.sh pgvector gets")
    return found[0][0]


def make_pgvector_database(server: Server, name: str, schema: str = "public", ours: bool = True) -> Db:
    """Creates database `name` with pgvector in `schema`, and then, if wanted, our extension in public."""
    server.sql(f'DROP DATABASE IF EXISTS "{name}"')
    server.sql(f'CREATE DATABASE "{name}"')
    if schema != "public":
        server.sql(f'CREATE SCHEMA "{schema}"', dbname=name)
    server.sql(f'CREATE EXTENSION vector SCHEMA "{schema}"', dbname=name)
    if ours:
        server.sql("CREATE EXTENSION pg_omen", dbname=name)
    return Db(server, name)
