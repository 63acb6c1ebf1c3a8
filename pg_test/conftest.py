"""Fixtures of the server tests. The run's seed is printed first; OMEN_TEST_SEED=<seed> repeats a run,
but for what a build of an index draws: its sample, centroids and rotation are others each time."""

import re

import pytest

from lib import db as database
from lib import figures, turns, vectors
from lib.server import BIN, Server, major
from lib.service import PRELOADED, wait_for


def pytest_report_header(config):
    return f"OMEN_TEST_SEED={vectors.SEED}  PostgreSQL {major()} in {BIN}  GPU: {'real' if database.REAL_GPU else 'simulated'}"


def pytest_configure(config):
    config.addinivalue_line("markers", "every_major: runs on every PostgreSQL major, not only on the main one")
    config.addinivalue_line("markers", "quiet: compares times: no other test runs beside it (lib/turns.py)")
    config.addinivalue_line("markers", "pgvector: needs a build of pgvector for the PostgreSQL major under test")


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(figures.line())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with turns.turn(item.get_closest_marker("quiet") is not None):
        return (yield)


def pytest_sessionfinish(session):
    """A process that runs tests for another one hands it its figures."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["figures"] = figures.of_this_process()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Takes them; a process that was lost had none to give."""
    for what, n in getattr(node, "workeroutput", {}).get("figures", {}).items():
        figures.figure(what, n)


@pytest.fixture(scope="session")
def shared_server():
    """One server for all tests that need no server of their own."""
    server = Server("shared").start()
    yield server
    server.remove()


@pytest.fixture
def db(shared_server, request):
    """A fresh database with the extension on the shared server."""
    name = "t_" + re.sub(r"\W+", "_", request.node.name)[:50].strip("_").lower()
    made = database.make_database(shared_server, name)
    yield made
    shared_server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
    shared_server.sql(f'DROP DATABASE IF EXISTS "{name}"')


@pytest.fixture
def conn(db):
    """A connection to that database on which searches go through the index."""
    with db.connect(**database.BY_INDEX) as connection:
        yield connection


@pytest.fixture
def make_server(request):
    """Servers of the test's own, removed afterwards: make_server("name", conf), make_server("standby", source=primary)."""
    made = []

    def make(name, conf=None, source=None, checksums=None, start=True, programs=BIN, kb_per_s=None):
        # Short: the path of a socket has at most 107 bytes.
        test = re.sub(r"\W+", "_", request.node.name.removeprefix("test_"))[:18]
        made.append(Server(f"{test}_{name}", conf, source, checksums, programs, kb_per_s))
        return made[-1].start() if start else made[-1]

    yield make
    for server in reversed(made):
        server.remove()


@pytest.fixture
def rng(request):
    """Random numbers of the test's own, from the run's seed."""
    return vectors.rng_for(request.node.name)


@pytest.fixture
def service(make_server):
    """A server with the shared GPU service, which is up, and a database "first"."""
    server = make_server("svc", PRELOADED)
    db = database.make_database(server, "first")
    with db.connect() as conn:
        wait_for(conn, state="up")
    return server


@pytest.fixture
def first(service):
    """That database."""
    return database.Db(service, "first")
