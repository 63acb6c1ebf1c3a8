"""Newer code with what older code has left: ALTER EXTENSION UPDATE, indexes of an older format, pg_upgrade, dump and restore."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, Db, assert_by_index, assert_same, check_all, empty_database, index_status, knn, last_scan, make_database, make_index, make_table
from lib.figures import figure
from lib.fixture import Fixtures
from lib.server import BIN, PORT, as_user, environment, major, run

REPO = Path(__file__).parent.parent.parent
FORMATS = sorted((REPO / "pg_test" / "fixtures").glob("format_*"))
EXACT = {"omen__probes": 65536}

# What the extension consists of, and how each thing is defined.
MEMBERS = """
SELECT pg_describe_object(classid, objid, objsubid),
       CASE classid
         WHEN 'pg_proc'::regclass THEN (SELECT (p.prosrc, p.probin, p.provolatile, p.proparallel, p.proisstrict, p.procost, p.prorows, p.proacl,
           p.prosupport, p.prosecdef, p.proleakproof, p.proconfig, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid))::text FROM pg_proc p WHERE p.oid = objid)
         WHEN 'pg_class'::regclass THEN (SELECT (pg_get_viewdef(c.oid), c.relacl)::text FROM pg_class c WHERE c.oid = objid)
         WHEN 'pg_operator'::regclass THEN (SELECT (o.oprcode, o.oprcom::regoperator, o.oprnegate::regoperator, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash)::text
           FROM pg_operator o WHERE o.oid = objid)
         WHEN 'pg_opclass'::regclass THEN (SELECT (c.opcdefault, c.opckeytype)::text FROM pg_opclass c WHERE c.oid = objid)
         WHEN 'pg_opfamily'::regclass THEN (SELECT array_agg(x ORDER BY x)::text FROM (
           SELECT (amopstrategy, amopopr::regoperator, amopsortfamily > 0)::text x FROM pg_amop WHERE amopfamily = objid
           UNION ALL SELECT (amprocnum, amproc)::text FROM pg_amproc WHERE amprocfamily = objid) y)
         WHEN 'pg_cast'::regclass THEN (SELECT (c.castcontext, c.castfunc::regprocedure)::text FROM pg_cast c WHERE c.oid = objid)
         WHEN 'pg_type'::regclass THEN (SELECT (t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typstorage, t.typalign, t.typcategory)::text
           FROM pg_type t WHERE t.oid = objid)
       END,
       obj_description(objid, classid::regclass::name)
FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_omen')
"""


def installed() -> Path:
    """The folder of the extension's scripts in the server under test."""
    return Path(run([BIN / "pg_config", "--sharedir"]).stdout.strip()) / "extension"


def members(server, version: str | None, update: bool = False) -> set[tuple]:
    """What a new database has with the extension at `version`, or updated from there to the newest."""
    empty_database(server, "versions")
    with server.connect("versions") as conn:
        conn.execute("CREATE EXTENSION pg_omen" + (f" VERSION '{version}'" if version else ""))
        if update:
            conn.execute("ALTER EXTENSION pg_omen UPDATE")
            ours, newest = conn.execute("SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'pg_omen'").fetchone()
            assert ours == newest
        found = set(conn.execute(MEMBERS).fetchall())
    server.sql("DROP DATABASE versions")
    return found


def released() -> list[str]:
    """Versions that have an install script."""
    names = (path.stem.removeprefix("pg_omen--") for path in installed().glob("pg_omen--*.sql"))
    return sorted(name for name in names if "--" not in name)


@pytest.mark.every_major
def test_updates_from_every_version(shared_server):
    """Whoever updates has what whoever installs has."""
    available = {v for (v,) in shared_server.sql("SELECT version FROM pg_available_extension_versions WHERE name = 'pg_omen'")}
    versions = released()
    assert available == set(versions) and versions
    newest = members(shared_server, None)
    assert len(newest) > 80
    for version in versions:
        updated = members(shared_server, version, update=True)
        assert updated == newest, (version, sorted(updated ^ newest, key=str))
    print(f"updated from {', '.join(versions)}: {len(newest)} members each")


def test_a_wrong_update_is_noticed(shared_server):
    """The comparison sees a function that an update forgets, and one that it makes otherwise."""
    newest = released()[-1]
    script = (installed() / f"pg_omen--{newest}.sql").read_text()
    start = script.index("CREATE FUNCTION omen_cpu_status(")
    function = script[start:script.index(";", script.index("AS 'MODULE_PATHNAME'", start)) + 1]
    older = script.replace(function, "").replace("COMMENT ON FUNCTION omen_cpu_status()", "-- ")
    files = {"pg_omen--0.0.0.sql": older, f"pg_omen--0.0.0--{newest}.sql": ""}
    comments = [line for line in script.splitlines() if line.startswith("COMMENT ON FUNCTION omen_cpu_status()")]
    right = "\n".join([function, *comments])
    wanted = members(shared_server, None)
    try:
        for update, same in ((right, True), ("SELECT 1;", False), (right.replace("STABLE", "VOLATILE").replace("IMMUTABLE", "VOLATILE"), False)):
            files[f"pg_omen--0.0.0--{newest}.sql"] = update
            for name, text in files.items():
                (installed() / name).write_text(text)
            assert (members(shared_server, "0.0.0", update=True) == wanted) == same, update
    finally:
        for name in files:
            (installed() / name).unlink(missing_ok=True)


def answers(conn, table: str, metric: str, queries) -> list:
    return [knn(conn, metric, query, None, table=table) for query in queries]


def compare(db, table: str, metric: str, queries):
    """The index's answers, on the CPU and on the GPU, are those of a sort of the table, whose indexes are sound."""
    with db.connect(**BY_SORT) as conn:
        assert check_all(conn, table)
        wanted = answers(conn, table, metric, queries)
    for engine in (CPU, GPU):
        with db.connect(**BY_INDEX, **EXACT, **engine) as conn:
            assert_by_index(conn, metric, queries[0], None, table=table)
            for found, right in zip(answers(conn, table, metric, queries), wanted):
                assert_same(found, right)
                figure("rows compared", len(right))
            assert last_scan(conn)["engine"] == engine["omen__engine"]


@pytest.mark.every_major
@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: folder.name)
def test_indexes_of_older_formats(make_server, rng, folder):
    """Indexes made long ago answer, on the CPU and on the GPU, take rows, lose rows, and are folded."""
    fixtures = Fixtures(folder)
    server = make_server("old", checksums=False)
    db = make_database(server, "old")
    with db.connect() as conn:
        for name in fixtures.names():
            fixtures.make_table(conn, name)
        files = {name: conn.execute("SELECT pg_relation_filepath(%s::regclass)", (f"{name}_idx",)).fetchone()[0] for name in fixtures.names()}
    server.stop()
    # Indexes built before there were limits of distance end before them: the content of the metapage, 984 bytes, and zeroes.
    def before_limits(pages):
        return pages[:12] + (984).to_bytes(2, "little") + pages[14:984] + bytes(512) + pages[1496:]
    plain = {"plain": files.pop("plain")}
    fixtures.plant(server, files)
    fixtures.plant(server, plain, before_limits)
    server.start()
    version = int(folder.name.removeprefix("format_"))
    rows = 0
    for name in fixtures.names():
        about = fixtures.about[name]
        metric, dim = about["metric"], about["dim"]
        queries = [*(rng.integers(-24, 25, (3, dim)) / 4), np.ones(dim)]
        with db.connect(**BY_INDEX) as conn:
            (live,) = conn.execute(f"SELECT count(*) FROM {name}").fetchone()
            status = index_status(conn, f"{name}_idx")
            assert (status["format_version"], status["rows"], status["lists"], status["dimension"]) == (version, live, about["lists"], dim)
            assert len(knn(conn, metric, queries[0], 3, table=name)) == 3
        compare(db, name, metric, queries)
        with db.connect() as conn:
            conn.execute(f"INSERT INTO {name} SELECT id + 100000, v FROM {name} WHERE id % 2 = 0")
            conn.execute(f"DELETE FROM {name} WHERE id % 3 = 0")
        compare(db, name, metric, queries)
        with db.connect() as conn:
            conn.execute(f"VACUUM {name}")
            (live,) = conn.execute(f"SELECT count(*) FROM {name}").fetchone()
            assert index_status(conn, f"{name}_idx")["rows"] == live
        compare(db, name, metric, queries)
        rows += live
    print(f"{folder.name}: {len(fixtures.names())} indexes, {rows} rows")


def other_programs(wanted: int) -> Path | None:
    """The programs of another major that has this build (OMEN_PG_BINS, of tools/test.sh)."""
    known = dict(item.split("=", 1) for item in os.environ.get("OMEN_PG_BINS", "").split())
    return Path(known[str(wanted)]) if str(wanted) in known else None


OLD, NEW = 15, 18


@pytest.mark.every_major
def test_pg_upgrade(make_server, request, rng):
    """Indexes answer right after pg_upgrade, without REINDEX, and go on to live. Runs once, on the later of the two majors."""
    if major() not in (OLD, NEW) or not (old_bin := BIN if major() == OLD else other_programs(OLD)) or not (new_bin := BIN if major() == NEW else other_programs(NEW)):
        pytest.skip(f"pg_upgrade needs test builds for PostgreSQL {OLD} and {NEW}, and runs on the later of them: make test PG='{OLD} {NEW}'")
    old = make_server("from", programs=old_bin)
    db = make_database(old, "db")
    queries, tables = {}, {"l2": 24, "ip": 64, "cosine": 520}
    with db.connect() as conn:
        for metric, dim in tables.items():
            rows = vectors.clustered(rng, 1500, dim)
            make_table(conn, rows[:1000], name=f"t_{metric}")
            make_index(conn, metric, lists=9, table=f"t_{metric}", name=f"t_{metric}_idx")
            vectors.copy_rows(conn, f"t_{metric}", np.arange(1000, 1300), rows[1000:1300])
            conn.execute(f"DELETE FROM t_{metric} WHERE id % 4 = 1")
            conn.execute(f"VACUUM t_{metric}")
            vectors.copy_rows(conn, f"t_{metric}", np.arange(1300, 1500), rows[1300:])
            queries[metric] = rows[:4]
        before = {m: index_status(conn, f"t_{m}_idx") for m in tables}
        conn.execute("ALTER INDEX t_l2_idx SET (hot = on)")
    with db.connect(**BY_INDEX, **EXACT, **CPU) as conn:
        wanted = {m: answers(conn, f"t_{m}", m, queries[m]) for m in tables}
        # Since November 2026 minor releases note a version with each column, which older minor releases of newer majors take for an option that they
        # do not know. Where the two servers at hand are such a pair, nothing could be upgraded.
        conn.execute("UPDATE pg_attribute SET attoptions = NULL WHERE attoptions::text LIKE '{pg_attver=%}'")
    old.stop()
    new = make_server("to", programs=new_bin, checksums=False, start=False)
    done = subprocess.run(
        as_user([new_bin / "pg_upgrade", "-b", old_bin, "-B", new_bin, "-d", old.data, "-D", new.data, "-U", "postgres", "-s", new.dir, "-p", PORT, "-P", PORT + 1]),
        capture_output=True, text=True, env=environment(), cwd=new.dir)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:] + "\n".join(
        log.read_text(errors="replace")[-2000:] for log in new.data.glob("pg_upgrade_output.d/**/*.log"))
    new.start()
    db = Db(new, "db")
    for metric in tables:
        name = f"t_{metric}"
        for engine in (CPU, GPU):
            with db.connect(**BY_INDEX, **EXACT, **engine) as conn:
                assert_by_index(conn, metric, queries[metric][0], None, table=name)
                assert answers(conn, name, metric, queries[metric]) == wanted[metric]
                same = ("rows", "lists", "dimension", "metric", "format_version", "built_at", "rows_at_build", "calibration_queries")
                after = index_status(conn, f"{name}_idx")
                assert [after[c] for c in same] == [before[metric][c] for c in same]
                check_all(conn, name)
        with db.connect() as conn:
            conn.execute(f"INSERT INTO {name} SELECT id + 5000, v FROM {name}")
            conn.execute(f"DELETE FROM {name} WHERE id % 3 = 0")
        compare(db, name, metric, queries[metric])
        with db.connect() as conn:
            conn.execute(f"VACUUM {name}")
        compare(db, name, metric, queries[metric])
        with db.connect() as conn:
            conn.execute(f"REINDEX INDEX {name}_idx")
        compare(db, name, metric, queries[metric])
    assert new.sql("SELECT reloptions FROM pg_class WHERE relname = 't_l2_idx'", dbname="db") == [(["lists=9", "hot=on"],)]
    print(f"pg_upgrade {OLD} to {NEW}: {len(tables)} indexes")


@pytest.fixture
def dumped(db, shared_server, rng):
    """A database with indexes that have settings, and an empty one beside it."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 1200, 8))
        make_index(conn, "cosine", lists=11)
        conn.execute("ALTER INDEX t_v_idx SET (hot = on)")
        make_index(conn, "l2", lists=7, name="by_l2")
        conn.execute("CREATE INDEX part ON t USING omen (((v + v)::vector(8)) vector_ip_ops) WITH (lists = 3, hot = off) WHERE id < 600")
    empty_database(shared_server, "restored")
    yield db
    shared_server.sql("DROP DATABASE restored WITH (FORCE)")


def check_restored(dumped, server):
    """The same rows, indexes with the same settings, and their answers."""
    restored = Db(server, "restored")
    indexes = "SELECT indexdef, reloptions FROM pg_indexes JOIN pg_class ON relname = indexname WHERE tablename = 't' ORDER BY indexname"
    with dumped.connect() as before, restored.connect() as after:
        wanted = before.execute(indexes).fetchall()
        assert after.execute(indexes).fetchall() == wanted and len(wanted) == 3
        assert after.execute("SELECT id, v::text FROM t ORDER BY id").fetchall() == before.execute("SELECT id, v::text FROM t ORDER BY id").fetchall()
        assert [index_status(after, name)["lists"] for name in ("t_v_idx", "by_l2", "part")] == [11, 7, 3]
        assert after.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_omen'").fetchall() == before.execute(
            "SELECT extversion FROM pg_extension WHERE extname = 'pg_omen'").fetchall()
    for metric in ("cosine", "l2"):
        compare(restored, "t", metric, np.eye(8)[:3] + 1)


@pytest.mark.every_major
def test_custom_format_and_parallel_restore(dumped, shared_server):
    file = shared_server.dir / "dump"
    shared_server.program("pg_dump", "-F", "custom", "-f", file, dbname=dumped.name)
    shared_server.program("pg_restore", "-j", "2", "--exit-on-error", file, dbname="restored")
    check_restored(dumped, shared_server)


def test_directory_format_in_parallel(dumped, shared_server):
    folder = shared_server.dir / "dump.d"
    shared_server.program("pg_dump", "-F", "directory", "-j", "2", "-f", folder, dbname=dumped.name)
    shared_server.program("pg_restore", "-j", "2", "--exit-on-error", folder, dbname="restored")
    check_restored(dumped, shared_server)


@pytest.mark.every_major
def test_schema_then_data(dumped, shared_server):
    """Indexes are there, and empty, when the rows come."""
    for part in ("--schema-only", "--data-only"):
        dump = shared_server.program("pg_dump", part, dbname=dumped.name)
        shared_server.program("psql", "-q", "-v", "ON_ERROR_STOP=1", dbname="restored", input=dump)
    # Built without rows, an index has one list: what the settings say counts from REINDEX on.
    with Db(shared_server, "restored").connect(**BY_INDEX, **EXACT, **CPU) as conn:
        assert index_status(conn)["rows"] == 1200
        found = knn(conn, "cosine", np.ones(8), None)
        assert sorted(i for i, _ in found) == list(range(1200))
        conn.execute("REINDEX TABLE t")
    check_restored(dumped, shared_server)


@pytest.mark.every_major
def test_sections_apart(dumped, shared_server):
    """Rows first, indexes last, as large restores are done by hand."""
    file = shared_server.dir / "dump.sections"
    shared_server.program("pg_dump", "-F", "custom", "-f", file, dbname=dumped.name)
    for section in ("pre-data", "data", "post-data"):
        shared_server.program("pg_restore", f"--section={section}", "--exit-on-error", file, dbname="restored")
    check_restored(dumped, shared_server)
