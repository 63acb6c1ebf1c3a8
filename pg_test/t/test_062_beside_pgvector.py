"""In a database with pgvector its types are indexed, wherever it is installed; nothing of it changes."""

import re
import subprocess
from pathlib import Path

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_by_index, assert_same, check_index, empty_database, knn, plan, put
from lib.pgvector import install, make_pgvector_database, quoted
from lib.server import BIN, as_user, environment

pytestmark = [pytest.mark.every_major, pytest.mark.pgvector]

SCHEMAS = ["public", "ext", 'Odd "schema', "x.vector"]
DIM = 24

# Objects of the extension, by what they are.
MEMBERS = """SELECT classid::regclass::text, count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pg_omen' GROUP BY 1"""
# Files and contents of tables: what a rewrite would change.
HEAPS = "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relname IN ('t', 'u') ORDER BY 1"


@pytest.fixture(autouse=True)
def pgvector():
    return install()


def fill(conn, rng, n: int = 3000):
    """Table t as an application of pgvector has it: a column of each type, hnsw and ivfflat indexes."""
    rows = vectors.clustered(rng, n, DIM)
    conn.execute(f"CREATE TABLE t (id integer PRIMARY KEY, v vector({DIM}), h halfvec({DIM}), b bit({DIM}), s sparsevec({DIM}))")
    conn.execute("CREATE TABLE staging (id integer, v vector)")
    vectors.copy_rows(conn, "staging", np.arange(n), rows)
    conn.execute("INSERT INTO t SELECT id, v, v::halfvec, binary_quantize(v)::bit(24), v::sparsevec FROM staging")
    conn.execute("DROP TABLE staging")
    conn.execute("ANALYZE t")
    conn.execute("CREATE INDEX t_hnsw ON t USING hnsw (v vector_l2_ops) WITH (m = 8, ef_construction = 32)")
    conn.execute("CREATE INDEX t_ivfflat ON t USING ivfflat (v vector_cosine_ops) WITH (lists = 10)")
    return rows


def check_searches(conn, metric: str, rng, how_often: int = 5):
    """The omen index is chosen, and answers as a sort of the table does, on both engines."""
    for engine in (CPU, GPU):
        for query in vectors.clustered(rng, how_often, DIM):
            put(conn, **BY_INDEX, enable_indexscan="on", omen__probes=65536, **engine)
            assert_by_index(conn, metric, query, 10)
            found = knn(conn, metric, query, 10)
            put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
            assert_same(found, knn(conn, metric, query, 10), complete_ties=False)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_pgvector_in_any_schema(shared_server, schema, rng):
    db = make_pgvector_database(shared_server, "beside", schema, ours=False)
    with db.connect(search_path=f"public, {quoted(schema)}") as conn:
        fill(conn, rng)
        heaps = conn.execute(HEAPS).fetchall()
        # The creator's path does not name pgvector's schema.
        conn.execute("SET search_path = public")
        conn.execute("CREATE EXTENSION pg_omen")
        members = dict(conn.execute(MEMBERS).fetchall())
        assert "pg_type" not in members or set(types_of(conn)) <= {"omen_stat_gpu", "omen_stat_index", "omen_stat_gpu_fallbacks"}, types_of(conn)
        assert "pg_operator" not in members and "pg_cast" not in members and members["pg_opclass"] >= 3, members
        # Drivers look the types up by name.
        assert conn.execute("SELECT typname, count(*) FROM pg_type WHERE typname IN ('vector', 'halfvec', 'sparsevec') GROUP BY 1 ORDER BY 1").fetchall() == [
            ("halfvec", 1), ("sparsevec", 1), ("vector", 1)]
        # Operator classes are ours by the access method, with and without pgvector's schema on the path.
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops) WITH (lists = 20)")
        conn.execute(f"SET search_path = public, {quoted(schema)}")
        conn.execute("CREATE INDEX t_omen_cosine ON t USING omen (v vector_cosine_ops) WITH (lists = 20)")
        assert conn.execute(HEAPS).fetchall() == heaps
        conn.execute("DROP INDEX t_hnsw")
        check_searches(conn, "l2", rng)
        conn.execute("INSERT INTO t SELECT id + 100000, v, h, b, s FROM t WHERE id < 50")
        conn.execute("DELETE FROM t WHERE id % 7 = 0")
        conn.execute("VACUUM t")
        check_searches(conn, "l2", rng)
        check_index(conn, "t_omen")
        query = vectors.text(vectors.clustered(rng, 1, DIM)[0])
        put(conn, **CPU, omen__probes=0)
        (n,) = conn.execute("SELECT count(*) FROM omen_search('t_omen', ARRAY[%s::vector, %s::vector], 10)", (query, query)).fetchone()
        assert n == 20
        assert conn.execute("SELECT seconds > 0 FROM omen_estimate_build('t', 'v')").fetchone() == (True,)


def types_of(conn) -> list[str]:
    """Types that the extension brought, views' row types and arrays among them."""
    return [name.lstrip("_") for (name,) in conn.execute(
        "SELECT t.typname FROM pg_type t JOIN pg_depend d ON d.objid = t.oid AND d.classid = 'pg_type'::regclass AND d.deptype = 'e' "
        "JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_omen'")]


def test_pgvector_moves(shared_server, rng):
    """ALTER EXTENSION vector SET SCHEMA, before and behind open sessions."""
    db = make_pgvector_database(shared_server, "moved")
    with db.connect() as conn, db.connect() as other:
        fill(conn, rng)
        conn.execute("DROP INDEX t_hnsw")
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops) WITH (lists = 20)")
        check_searches(other, "l2", rng, 2)
        conn.execute("CREATE SCHEMA elsewhere")
        conn.execute("ALTER EXTENSION vector SET SCHEMA elsewhere")
        for session in (conn, other):
            session.execute("SET search_path = public, elsewhere")
            check_searches(session, "l2", rng, 2)
        conn.execute("INSERT INTO t SELECT id + 100000, v FROM t WHERE id < 50")
        conn.execute("SET search_path = public")
        conn.execute("REINDEX INDEX t_omen")
        conn.execute("CREATE INDEX ON t USING omen (v vector_ip_ops)")
        check_index(conn, "t_omen")
        conn.execute("ALTER EXTENSION pg_omen SET SCHEMA elsewhere")
        conn.execute("SET search_path = public, elsewhere")
        check_searches(conn, "l2", rng, 2)
        assert conn.execute("SELECT count(*) FROM omen_migrate()").fetchone() == (1,)


def test_who_goes_first(shared_server, rng):
    """pgvector cannot go from under our indexes unnoticed; we go and leave pgvector's columns and indexes as they were."""
    db = make_pgvector_database(shared_server, "goes", "ext")
    with db.connect(search_path="public, ext") as conn:
        fill(conn, rng)
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops)")
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as error:
            conn.execute("DROP EXTENSION vector")
        assert "pg_omen" in error.value.diag.message_detail
        before = conn.execute("SELECT id, v::text, h::text, b, s::text FROM t ORDER BY id").fetchall()
        heaps = conn.execute(HEAPS).fetchall()
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            conn.execute("DROP EXTENSION pg_omen")
        conn.execute("DROP EXTENSION pg_omen CASCADE")
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname = 't_omen'").fetchone() == (0,)
        assert conn.execute("SELECT id, v::text, h::text, b, s::text FROM t ORDER BY id").fetchall() == before
        assert conn.execute(HEAPS).fetchall() == heaps
        put(conn, **BY_INDEX)
        query = vectors.text(vectors.clustered(rng, 1, DIM)[0])
        assert "t_hnsw" in plan(conn, "SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 5", (query,))
        assert len(conn.execute("SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 5", (query,)).fetchall()) == 5
        # And back again.
        conn.execute("CREATE EXTENSION pg_omen")
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops)")
        conn.execute("DROP EXTENSION vector CASCADE")
        assert conn.execute("SELECT extname FROM pg_extension WHERE extname IN ('vector', 'pg_omen')").fetchall() == []


def dump_and_restore(server, source: str, target: str, custom: bool):
    """pg_dump of one database into another, whose tables, indexes and extensions are then the same."""
    dump = ["-h", server.dir, "-U", "postgres"]
    made = subprocess.run(as_user([BIN / "pg_dump", *dump, "-d", source, *(["-Fc"] if custom else [])]), capture_output=True, env=environment(), cwd="/", check=True)
    restore = [BIN / "pg_restore", *dump, "-d", target, "--exit-on-error"] if custom else [BIN / "psql", *dump, "-d", target, "-q", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(as_user(restore), input=made.stdout, capture_output=True, env=environment(), cwd="/", check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("custom", [False, True])
def test_dump_and_restore(shared_server, rng, custom):
    """A dump names pgvector before us, although its name comes later in the alphabet; each side restores the other's."""
    source = make_pgvector_database(shared_server, "dumped", "ext")
    with source.connect(search_path="public, ext") as conn:
        fill(conn, rng, 1000)
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops) WITH (lists = 10)")
        conn.execute("CREATE INDEX t_part ON t USING omen ((v::halfvec(24)::vector(24)) vector_cosine_ops) WHERE id > 10")
        wanted = conn.execute("SELECT id, v::text, h::text, b, s::text FROM t ORDER BY id").fetchall()
    restored = empty_database(shared_server, "restored")
    dump_and_restore(shared_server, "dumped", "restored", custom)
    with restored.connect(search_path="public, ext") as conn:
        assert conn.execute("SELECT id, v::text, h::text, b, s::text FROM t ORDER BY id").fetchall() == wanted
        assert {i for (i,) in conn.execute("SELECT indexname FROM pg_indexes WHERE tablename = 't'")} == {"t_pkey", "t_hnsw", "t_ivfflat", "t_omen", "t_part"}
        conn.execute("DROP INDEX t_hnsw")
        conn.execute("ANALYZE t")
        check_searches(conn, "l2", rng, 2)


def test_dump_without_pgvector(shared_server, db, rng):
    """A database with our own types goes to a server that has pgvector, and stays without it."""
    with db.connect() as conn:
        rows = vectors.clustered(rng, 500, DIM)
        conn.execute(f"CREATE TABLE t (id integer, v vector({DIM}))")
        vectors.copy_rows(conn, "t", np.arange(500), rows)
        conn.execute("CREATE INDEX t_omen ON t USING omen (v vector_l2_ops)")
        wanted = conn.execute("SELECT id, v::text FROM t ORDER BY id").fetchall()
    restored = empty_database(shared_server, "restored")
    dump_and_restore(shared_server, db.name, "restored", True)
    with restored.connect() as conn:
        assert conn.execute("SELECT id, v::text FROM t ORDER BY id").fetchall() == wanted
        assert conn.execute("SELECT extname FROM pg_extension WHERE extname = 'vector'").fetchall() == []
        conn.execute("ANALYZE t")
        check_searches(conn, "l2", rng, 2)
        # And pgvector says what is in its way.
        with pytest.raises(psycopg.errors.DuplicateObject, match="vector"):
            conn.execute("CREATE EXTENSION vector")


def test_an_operator_in_the_way(shared_server):
    """What hides an operator of pgvector in the schema that we go to is not taken for it."""
    db = make_pgvector_database(shared_server, "hidden", "ext", ours=False)
    with db.connect(search_path="public, ext") as conn:
        conn.execute("CREATE FUNCTION mine(ext.vector, ext.vector) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 1.0::float8'")
        conn.execute("CREATE OPERATOR public.<-> (LEFTARG = ext.vector, RIGHTARG = ext.vector, PROCEDURE = mine)")
        with pytest.raises(psycopg.errors.DuplicateObject, match="hides pgvector's"):
            conn.execute("CREATE EXTENSION pg_omen SCHEMA public")
        conn.execute("CREATE SCHEMA own")
        conn.execute("CREATE EXTENSION pg_omen SCHEMA own")


def test_every_class_and_setting_has_its_line(shared_server):
    """docs/coming-from-pgvector.md names each access method, operator class, support function and setting of pgvector, and leaves no cell empty.

    The other objects are in docs/pgvector-objects.md: test_055.
    """
    db = make_pgvector_database(shared_server, "named", ours=False)
    page = (Path(__file__).parent.parent.parent / "docs" / "coming-from-pgvector.md").read_text().split("## One by one")[1]
    words = {word for part in re.findall(r"`([^`]+)`", page) for word in part.split()}
    members = """SELECT {name} FROM {catalog} o JOIN pg_depend d ON d.objid = o.oid AND d.classid = '{catalog}'::regclass AND d.deptype = 'e'
        JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector' WHERE {name} ~ '{those}'"""
    with db.connect() as conn:
        conn.execute("LOAD 'vector'")
        named = [name for catalog, column, those in (("pg_am", "amname", ""), ("pg_opclass", "opcname", ""), ("pg_proc", "proname", "handler$|_support$"))
                 for (name,) in conn.execute(members.format(catalog=catalog, name=column, those=those))]
        settings = [name for (name,) in conn.execute("SELECT name FROM pg_settings WHERE name ~ '^(hnsw|ivfflat)[.]'")]
    assert len(set(named)) > 20 and len(settings) >= 2
    assert not {name for name in [*named, *settings] if name not in words}
    rows = [line for line in page.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]
    assert len(rows) > 20 and not [row for row in rows if "" in [cell.strip() for cell in row.strip("|").split("|")]]
