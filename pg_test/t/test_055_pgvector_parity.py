"""Are types, functions, operators, casts and aggregates those of pgvector 0.8.6: the same declarations, the same answers, the same errors?

Each test asks pgvector itself, in a database beside ours on one server.
"""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from lib import members, pgvector, random_values
from lib.db import empty_database
from lib.figures import figure
from lib.server import BIN, PORT, as_user, environment, major

pytestmark = pytest.mark.every_major

SQL = sorted(p.name for kind in ("vector", "halfvec", "sparsevec", "bit") for p in (Path(__file__).parent.parent / "sql").glob(f"{kind}_*.sql"))

# Runs a query; its answer as text, or the error's SQLSTATE, message, detail and hint.
TRY = """CREATE FUNCTION try(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text; state text; message text; detail text; hint text;
BEGIN
  EXECUTE query INTO answer;
  RETURN coalesce(answer, 'NULL');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' / ', 'ERROR', state, message, nullif(detail, ''), nullif(hint, ''));
END $$"""


@pytest.fixture(scope="module")
def databases(shared_server):
    """Names of two databases: one with our extension, one with pgvector."""
    if major() != 18:
        pytest.skip(f"compared on PostgreSQL 18, for which PyPI has pgvector 0.8.6, not on {major()}")
    assert pgvector.install() == "0.8.6"
    names = {"pg_omen": "parity_ours", "vector": "parity_theirs"}
    for extension, name in names.items():
        empty_database(shared_server, name)
        shared_server.sql(f"CREATE EXTENSION {extension}", dbname=name)
        shared_server.sql(TRY, dbname=name)
    yield list(names.values())
    for name in names.values():
        shared_server.sql(f"DROP DATABASE {name}")


@pytest.fixture
def both(shared_server, databases):
    """A connection to each: ours, pgvector's."""
    ours, theirs = databases
    with shared_server.connect(ours) as a, shared_server.connect(theirs) as b:
        yield a, b


def answers(conn, queries: list[str]) -> list[str]:
    """What try() makes of each query."""
    return [row[0] for row in conn.execute("SELECT try(q) FROM unnest(%s::text[]) WITH ORDINALITY x (q, n) ORDER BY n", (queries,)).fetchall()]


def same(ours: str, theirs: str, tolerance: float) -> bool:
    """The same text, or, with a tolerance, numbers or lists of numbers that are as near."""
    if ours == theirs:
        return True
    if not tolerance or "ERROR" in (ours[:5], theirs[:5]):
        return False
    try:
        a, b = ([float(x) for x in text.strip("[]{}").split(",")] for text in (ours, theirs))
    except ValueError:
        return False
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b))


def assert_same(both, queries: list[str], tolerance: float = 0):
    """Each query has the same answer in both databases."""
    ours, theirs = (answers(conn, queries) for conn in both)
    wrong = [(q[:300], a[:300], b[:300]) for q, a, b in zip(queries, ours, theirs) if not same(a, b, tolerance)]
    assert not wrong, f"{len(wrong)} of {len(queries)}: (query, ours, pgvector's) {wrong[:8]}"
    figure("answers compared with pgvector's", len(queries))
    return ours


def psql(server, dbname: str, script: str) -> tuple[str, str]:
    """What psql writes for a script: output, errors."""
    command = as_user([BIN / "psql", "-X", "-a", "-q", "-h", server.dir, "-p", PORT, "-U", "postgres", "-d", dbname])
    done = subprocess.run(command, input=script, capture_output=True, text=True, env=environment(), cwd="/", timeout=300)
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", members.QUERIES)
def test_same_declarations(both, kind):
    ours, theirs = (members.members(conn, extension, kind) for conn, extension in zip(both, ("pg_omen", "vector")))
    assert len(theirs) >= 3, theirs
    assert ours == theirs, f"missing: {sorted(theirs - ours)}; too many: {sorted(ours - theirs)}"
    figure("declarations compared with pgvector's", len(theirs))


def test_document_names_every_object(both):
    """docs/pgvector-objects.md has a row, with a state, for each object of pgvector, and for nothing else."""
    rows = re.findall(r"^\| `(.+)` \| (.+) \|$", (Path(__file__).parents[2] / "docs" / "pgvector-objects.md").read_text(), re.MULTILINE)
    wanted = [name for names in members.named(both[1], "vector").values() for name in names]
    assert sorted(name.replace("\\|", "|") for name, _ in rows) == sorted(wanted)
    assert all(state.strip() for _, state in rows)


@pytest.mark.parametrize("name", SQL)
def test_regression_files_say_the_same(shared_server, databases, name):
    script = (Path(__file__).parent.parent / "sql" / name).read_text()
    ours, theirs = ([part.splitlines() for part in psql(shared_server, db, script)] for db in databases)
    for a, b in zip(ours, theirs):
        assert len(b) > 10 or a == b, "psql came to an end too early"
        assert a == b


def test_every_function_on_random_values(both, rng):
    """Values whose sums are exact: the same bits."""
    queries = [f"SELECT {name}({random_values.arguments(rng, types)})::text"
               for name, types in members.functions(both[1], "vector") for _ in range(60)]
    ours = assert_same(both, queries)
    failed = sum(a.startswith("ERROR") for a in ours)
    assert 0.02 < failed / len(ours) < 0.5, (failed, len(ours))


def test_every_operator_on_random_values(both, rng):
    queries = []
    for name, left, right, _ in members.operators(both[1], "vector"):
        for _ in range(60):
            a, b = random_values.of_one_size(rng, [left, right])
            queries.append(f"SELECT ({a} OPERATOR({name}) {b})::text")
    assert_same(both, queries)


def test_every_operator_on_values_of_any_kind(both, rng):
    """Sums are rounded in another order: nearly the same."""
    queries = []
    for name, left, right, result in members.operators(both[1], "vector"):
        if result == "double precision":
            for _ in range(60):
                a, b = random_values.of_one_size(rng, [left, right], any_number=True)
                queries.append(f"SELECT ({a} OPERATOR({name}) {b})::text")
    assert_same(both, queries, tolerance=1e-4)


def test_every_cast_on_random_values(both, rng):
    queries = []
    for source, target in members.casts(both[1], "vector"):
        for i in range(80):
            value = random_values.value(rng, source, size=int(rng.integers(1, 6)), any_number=i % 2 == 0)
            modifier = f"({rng.integers(1, 6)})" if i % 3 == 0 and "[]" not in target else ""
            queries.append(f"SELECT ({value})::{target}{modifier}::text")
    assert_same(both, queries)


def test_aggregates(both, rng):
    queries = []
    for kind in ("vector", "halfvec"):
        for _ in range(60):
            size = int(rng.integers(1, 70))
            rows = [random_values.value(rng, kind, size=size if rng.random() < 0.99 else size + 1) for _ in range(rng.integers(1, 20))]
            rows += ["NULL"] * int(rng.integers(0, 3))
            for aggregate in ("avg", "sum"):
                queries.append(f"SELECT {aggregate}(v)::text FROM (VALUES ({'), ('.join(rows)})) x (v)")
    assert_same(both, queries)


@pytest.mark.parametrize("kind", random_values.KINDS)
def test_text_input(both, rng, kind):
    """Literals of every sort, most of them spoilt: the same bytes, or the same error."""
    literals = [random_values.spoilt_literal(rng, kind) for _ in range(3000)]
    quoted = [sql.Literal(literal).as_string(both[0]) for literal in literals]
    modifiers = [f"({rng.integers(1, 4)})" if rng.random() < 0.1 else "" for _ in literals]
    # Input and output, byte by byte.
    queries = [f"SELECT concat_ws(' ', {kind}_send(v), v) FROM (SELECT {q}::{kind}{m} AS v) x" for q, m in zip(quoted, modifiers)]
    ours = assert_same(both, queries)
    accepted = sum(not a.startswith("ERROR") for a in ours)
    assert 0.1 < accepted / len(ours) < 0.9, accepted


def received(conn, kind: str, message: bytes) -> str:
    """What COPY in binary makes of one value's message: its text, or the error."""
    try:
        with conn.cursor() as cur:
            with cur.copy("COPY received FROM STDIN (FORMAT binary)") as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\1" + len(message).to_bytes(4, "big") + message + b"\xff\xff")
            return cur.execute(f"DELETE FROM received RETURNING concat_ws(' ', {kind}_send(v), v)").fetchone()[0]
    except psycopg.Error as error:
        return f"ERROR {error.sqlstate} {error.diag.message_primary} {error.diag.message_detail}"


@pytest.mark.parametrize("kind", random_values.KINDS)
def test_binary_input(both, rng, kind):
    """Messages of every sort, most of them spoilt: the same value, or the same error."""
    for conn in both:
        conn.execute(f"CREATE TEMP TABLE received (v {kind})")
    outcomes = []
    for _ in range(1500):
        message = random_values.spoilt_message(rng, kind)
        ours, theirs = (received(conn, kind, message) for conn in both)
        assert ours == theirs, message.hex()
        outcomes.append(ours.startswith("ERROR"))
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.9
    figure("answers compared with pgvector's", len(outcomes))


@pytest.mark.parametrize("kind", random_values.KINDS)
def test_files_go_from_one_to_the_other(both, rng, kind):
    """COPY, in text and binary, of the same rows: the same bytes; each reads the other's."""
    rows = [random_values.plain(rng, kind, size=int(rng.integers(1, 300)), any_number=True) for _ in range(300)]
    for conn in both:
        conn.execute(f"CREATE TEMP TABLE written (id serial, v {kind})")
        conn.execute(f"INSERT INTO written (v) SELECT v::{kind} FROM unnest(%s::text[]) WITH ORDINALITY x (v, n) ORDER BY n", (rows,))
    for form in ("text", "binary", "csv"):
        files = []
        for conn in both:
            with conn.cursor().copy(f"COPY (SELECT id, v FROM written ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
                files.append(b"".join(copy))
        assert files[0] == files[1], form
        for conn in both:
            conn.execute("CREATE TEMP TABLE read (LIKE written)")
            with conn.cursor().copy(f"COPY read FROM STDIN (FORMAT {form})") as copy:
                copy.write(files[0])
            wrong = conn.execute(f"SELECT count(*) FROM written w FULL JOIN read r USING (id) WHERE {kind}_send(w.v) IS DISTINCT FROM {kind}_send(r.v)").fetchone()[0]
            assert wrong == 0
            conn.execute("DROP TABLE read")
