"""Clients as applications have them: pgvector's own packages, in the versions that registries have, against our types and index.

Each of `drivers/` makes tables of each type, sends random values, reads them back, and has the index find the nearest. What they
need comes by `tools/setup.sh drivers`. On PostgreSQL 18 the same with pgvector installed first: its types, and our index.
"""

import os
import subprocess
from pathlib import Path

import pytest

from lib import vectors
from lib.db import empty_database
from lib.pgvector import install
from lib.server import PORT, major

DRIVERS = Path(__file__).parents[1] / "drivers"
BUILT = Path(__file__).parents[2] / "build" / "drivers"
PYTHON, NODE, RUST = BUILT / "venv/bin/python", BUILT / "venv/bin/node", BUILT / "rust/debug"

CLIENTS = {f"python-{name}": [PYTHON, DRIVERS / f"python/client_{name}.py"] for name in ("psycopg", "asyncpg", "sqlalchemy", "django", "langchain")}
CLIENTS |= {"node-pg": [NODE, DRIVERS / "node/client.cjs"], "rust-tokio-postgres": [RUST / "tokio_postgres"], "rust-sqlx": [RUST / "sqlx"]}
# Settings of the database, so that clients find them in force: answers are exact, and by the index although the tables are small.
SETTINGS = {"enable_seqscan": "off", "enable_sort": "off", "omen.probes": 1000}

pytestmark = pytest.mark.every_major
# PyPI has pgvector 0.8 for 18 and 0.7 for 16.
TYPES = ["own types"] + ([pytest.param("pgvector's types", marks=pytest.mark.pgvector)] if major() in (16, 18) else [])


@pytest.fixture(params=TYPES)
def database(shared_server, request):
    """A database for clients, with our types or pgvector's."""
    name = "clients"
    empty_database(shared_server, name)
    for setting, value in SETTINGS.items():
        shared_server.sql(f"ALTER DATABASE {name} SET {setting} = {value}")
    if request.param == "pgvector's types":
        install()
        shared_server.sql("CREATE EXTENSION vector", dbname=name)
    shared_server.sql("CREATE EXTENSION pg_omen", dbname=name)
    yield name
    shared_server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("client", CLIENTS)
def test_client(shared_server, database, client):
    assert CLIENTS[client][0].exists(), "run tools/setup.sh drivers first"
    # LangChain's package takes the pgvector that it was released for.
    newest = {} if client == "python-langchain" else {"PYTHONPATH": str(BUILT / "newest")}
    environment = dict(os.environ, PGHOST=str(shared_server.dir), PGPORT=str(PORT), PGUSER="postgres", PGDATABASE=database, PGOPTIONS="",
                       OMEN_TEST_SEED=str(vectors.SEED), NODE_PATH=str(BUILT / "node/node_modules"), PYTHONDONTWRITEBYTECODE="1", **newest)
    done = subprocess.run([str(word) for word in CLIENTS[client]], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.fail(f"{client}:\n{done.stdout}{done.stderr}", pytrace=False)
    print(done.stdout)
