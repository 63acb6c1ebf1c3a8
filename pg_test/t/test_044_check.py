"""omen_check(): sound indexes of every kind are told sound, whatever they have been through; each kind of damage is told as what it is."""

import numpy as np
import psycopg
import pytest

from lib import pages, vectors
from lib.db import CPU, GPU, Db, assert_fails, check_index, findings, make_database, make_index, make_table, put
from lib.server import BIN, run
from lib.service import wait_until

METRICS = ("l2", "ip", "cosine")
CHECK = "SELECT * FROM omen_check('t_v_idx', true)"


def wear(conn, rng, dim: int, first: int = 100_000):
    """Deletes, inserts, updates, HOT updates and VACUUM, more than once."""
    for turn in range(3):
        conn.execute("DELETE FROM t WHERE id %% 7 = %s", (turn,))
        rows = vectors.clustered(rng, 150, dim) * 2
        vectors.copy_rows(conn, "t", np.arange(150) + first + 1000 * turn, rows)
        conn.execute("UPDATE t SET v = v WHERE id %% 11 = %s", (turn,))
        conn.execute("UPDATE t SET id = id WHERE id %% 5 = %s", (turn,))
        if turn < 2:
            conn.execute("VACUUM t")


@pytest.mark.every_major
@pytest.mark.parametrize("dim", (3, 64, 600, 4100))
def test_sound_in_all_metrics(db, rng, dim):
    """With NULLs, zero vectors, equal vectors; a partial index and one of an expression beside them."""
    n = 2000 if dim < 1000 else 120
    rows = vectors.clustered(rng, n, dim)
    rows[::13] = 0
    rows[1::13] = rows[1]
    with db.connect() as conn:
        make_table(conn, rows, options="WITH (fillfactor = 70)")
        conn.execute("UPDATE t SET v = NULL WHERE id % 17 = 3")
        for metric in METRICS:
            make_index(conn, metric, name=f"t_{metric}", lists=9)
        conn.execute(f"CREATE INDEX t_part ON t USING omen (v vector_l2_ops) WHERE id % 2 = 0; "
                     f"CREATE INDEX t_expr ON t USING omen (((v + v)::vector({dim})) vector_cosine_ops) WITH (lists = 5)")
        names = [f"t_{m}" for m in METRICS] + ["t_part", "t_expr"]
        wear(conn, rng, dim)
        for vacuum in (False, True):
            if vacuum:
                conn.execute("VACUUM t")
            wanted = {name: where for name, where in zip(names, ("v IS NOT NULL", "v IS NOT NULL", "vector_norm(v) > 0", "v IS NOT NULL AND id % 2 = 0",
                                                                 "vector_norm(v) > 0"))}
            for name in names:
                row = check_index(conn, name)
                assert row["rows_checked"] == conn.execute(f"SELECT count(*) FROM t WHERE {wanted[name]}").fetchone()[0], (name, row)
                assert row["entries"] >= row["rows_checked"] and row["leaked_pages"] == 0, (name, row)
                assert row["pages"] * pages.PAGE == conn.execute("SELECT pg_relation_size(%s::regclass)", (name,)).fetchone()[0]
                if vacuum:
                    assert row["entries"] == row["rows_checked"], (name, row)
                without = check_index(conn, name, heap_all_indexed=False)
                assert without == row | {"rows_checked": None}
                assert conn.execute("SELECT * FROM omen_check_findings(%s::regclass, true)", (name,)).fetchall() == []
        every = "SELECT k.* FROM pg_class c JOIN pg_am a ON a.oid = c.relam, omen_check(c.oid) k WHERE a.amname = 'omen' AND c.relkind = 'i'"
        assert len(conn.execute(every).fetchall()) == len(names)


@pytest.mark.parametrize("engine", ("cpu", "gpu"))
@pytest.mark.parametrize("metric", METRICS)
def test_no_false_findings_of_lists_and_radii(db, rng, metric, engine):
    """Rows far from the origin, of very different lengths, of few different values, at the ends of the range: assigned by either engine."""
    dim = 48
    kinds = (vectors.clustered(rng, 4000, dim) + np.float32(1000), vectors.uniform(rng, 3000, dim) * 10 ** rng.uniform(-6, 6, (3000, 1)),
             rng.integers(0, 2, (3000, dim)), vectors.uniform(rng, 3000, dim) * 1e30)
    with db.connect(**(GPU if engine == "gpu" else CPU)) as conn:
        for rows in kinds:
            conn.execute("DROP TABLE IF EXISTS t")
            rows = np.asarray(rows, np.float32)
            make_table(conn, rows[1000:])
            make_index(conn, metric, lists=40)
            vectors.copy_rows(conn, "t", np.arange(1000) + 100_000, rows[:1000])
            check_index(conn)


def test_more_rows_than_memory_has_room_for(db, rng):
    with db.connect(maintenance_work_mem="1MB") as conn:
        make_table(conn, vectors.clustered(rng, 100_000, 3))
        make_index(conn, lists=20)
        assert check_index(conn)["rows_checked"] == 100_000
        assert conn.execute("SELECT count(*) FROM pg_ls_tmpdir()").fetchone()[0] == 0


def test_kinds_of_tables(conn, db, rng):
    rows = vectors.clustered(rng, 800, 8)
    for kind in ("TEMP", "UNLOGGED"):
        make_table(conn, rows, kind=kind)
        make_index(conn)
        wear(conn, rng, 8)
        check_index(conn)
        if kind == "TEMP":
            with db.connect() as other:
                name = other.execute("SELECT oid::regclass::text FROM pg_class WHERE relname = 't_v_idx'").fetchone()[0]
                assert_fails(other, "0A000", "", "SELECT * FROM omen_check(%s::regclass)", (name,))
        conn.execute("DROP TABLE t")
    conn.execute("CREATE TABLE t (id int, v vector(8)) PARTITION BY RANGE (id); CREATE TABLE t_a PARTITION OF t DEFAULT")
    vectors.copy_rows(conn, "t", np.arange(800), rows)
    make_index(conn)
    check_index(conn, "t_a_v_idx")
    assert_fails(conn, "42809", "Ask for the indexes of its partitions.", CHECK)
    conn.execute("CREATE INDEX by_id ON t_a (id)")
    for name in ("t_a", "by_id", "pg_class_oid_index"):
        assert_fails(conn, "42809", "USING omen" if name != "t_a" else "", "SELECT * FROM omen_check(%s::regclass)", (name,))
    assert_fails(conn, "42P01", "", "SELECT * FROM omen_check('nothing')")
    assert conn.execute("SELECT * FROM omen_check(NULL)").fetchall() == []
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_a_v_idx'::regclass")
    assert_fails(conn, "55000", "REINDEX", "SELECT * FROM omen_check('t_a_v_idx')")


def test_in_transactions(conn, db, rng):
    """One's own uncommitted rows count, those that came after a snapshot too; errors inside a block of PL/pgSQL leave nothing behind."""
    make_table(conn, vectors.clustered(rng, 500, 8))
    make_index(conn)
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT count(*) FROM t")
        with db.connect() as other:
            vectors.copy_rows(other, "t", np.arange(50) + 500, vectors.clustered(rng, 50, 8))
        assert check_index(conn)["rows_checked"] == 550
    with conn.transaction():
        vectors.copy_rows(conn, "t", np.arange(50) + 600, vectors.clustered(rng, 50, 8))
        conn.execute("DELETE FROM t WHERE id < 10")
        assert check_index(conn)["rows_checked"] == 590
    conn.execute("DO $$ BEGIN BEGIN PERFORM omen_check('pg_class_oid_index'); EXCEPTION WHEN wrong_object_type THEN NULL; END; "
                 "PERFORM omen_check('t_v_idx', true); END $$")


def test_locks(conn, db, rng):
    """Writers and the check wait for each other, searches and the check do not; no lock is left afterwards."""
    make_table(conn, vectors.clustered(rng, 500, 8))
    make_index(conn)
    put(conn, lock_timeout="100ms")
    with db.connect() as other:
        with other.transaction():
            other.execute("SELECT id FROM t ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 1")
            check_index(conn)
        with other.transaction():
            other.execute("INSERT INTO t VALUES (-1, '[1,1,1,1,1,1,1,1]')")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                check_index(conn)
        with conn.transaction():
            check_index(conn)
            other.execute("INSERT INTO t VALUES (-2, '[1,1,1,1,1,1,1,1]')")
        assert check_index(conn)["rows_checked"] == 502


def test_cancel(db, rng):
    with db.connect() as conn:
        make_table(conn, vectors.uniform(rng, 20_000, 96))
        make_index(conn, lists=20)
        check_index(conn)
        for heap_all_indexed in (False, True):
            put(conn, statement_timeout="20ms")
            with pytest.raises(psycopg.errors.QueryCanceled):
                check_index(conn, heap_all_indexed=heap_all_indexed)
            put(conn, statement_timeout=0)
            assert conn.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'ShareLock'").fetchone()[0] == 0
        check_index(conn)


def test_privileges(conn, rng):
    """Superusers, and who was granted EXECUTE, which says all: SELECT on the table is not asked for. Expressions run as the table's owner."""
    make_table(conn, vectors.clustered(rng, 300, 8))
    make_index(conn)
    conn.execute("DROP ROLE IF EXISTS omen_checker; CREATE ROLE omen_checker; DROP ROLE IF EXISTS omen_owner; CREATE ROLE omen_owner")
    try:
        conn.execute("SET ROLE omen_checker")
        for call in ("omen_check('t_v_idx')", "omen_check_findings('t_v_idx', true)"):
            assert_fails(conn, "42501", "", f"SELECT * FROM {call}")
        conn.execute("RESET ROLE; GRANT EXECUTE ON FUNCTION omen_check(regclass, boolean) TO omen_checker; SET ROLE omen_checker")
        assert check_index(conn)["rows_checked"] == 300
        assert_fails(conn, "42501", "", "SELECT * FROM omen_check_findings('t_v_idx')")
        conn.execute("RESET ROLE")
        conn.execute("CREATE FUNCTION of_owner(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS "
                     "$$ BEGIN IF current_user <> 'omen_owner' THEN RAISE 'run by %', current_user; END IF; RETURN v; END $$")
        conn.execute("ALTER TABLE t OWNER TO omen_owner; CREATE INDEX e ON t USING omen ((of_owner(v)::vector(8)) vector_l2_ops)")
        assert check_index(conn, "e")["rows_checked"] == 300
        assert conn.execute("SELECT current_user").fetchone()[0] == "postgres"
    finally:
        conn.execute("RESET ROLE; DROP OWNED BY omen_checker, omen_owner CASCADE; DROP ROLE omen_checker, omen_owner")


def test_functions_that_changed_their_mind(conn, rng):
    """An index of an expression, or of a predicate, that gives other values than when rows were inserted does not fit its table."""
    make_table(conn, vectors.clustered(rng, 300, 8))
    conn.execute("CREATE FUNCTION f(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN v; END'; "
                 "CREATE FUNCTION p(id int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN id < 100; END'; "
                 "CREATE INDEX e ON t USING omen ((f(v)::vector(8)) vector_l2_ops); CREATE INDEX p ON t USING omen (v vector_l2_ops) WHERE p(id)")
    check_index(conn, "e")
    check_index(conn, "p")
    conn.execute("CREATE OR REPLACE FUNCTION f(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN v + v; END'; "
                 "CREATE OR REPLACE FUNCTION p(id int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN id < 103; END'")
    found = findings(conn, "e", True)
    assert len(found) == 100 and all("is not that of the row's vector" in what for _, _, what in found), found[:3]
    assert conn.execute("SELECT what FROM omen_check_findings('e', true) WHERE severity = 'note'").fetchall() == [("200 more findings",)]
    assert [(of_list, block) for of_list, block, what in findings(conn, "p", True) if "lacks an entry of heap row (" in what] == [(None, None)] * 3
    with pytest.raises(psycopg.errors.IndexCorrupted, match='index "p" is damaged: lacks an entry') as error:
        check_index(conn, "p")
    assert "REINDEX" in error.value.diag.message_hint and error.value.diag.message_detail.startswith("3 findings. Next:\nlacks an entry")
    check_index(conn, "e", heap_all_indexed=False)


DIM, LISTS = 64, 8


def first_list(file: pages.File) -> int:
    """A list with entries in both parts."""
    return next(n for n in range(LISTS) if file.blocks(pages.CODE, n) and file.blocks(pages.APPEND, n))


def in_code(at: int, form: str, value):
    """Changes the first group of a list, on its first code page."""
    def damage(file):
        block = file.blocks(pages.CODE, first_list(file))[0]
        file.put(block, pages.CONTENT + at, form, value(file.get(block, pages.CONTENT + at, form)))
    return damage


def in_entry(field: int, n: int):
    return lambda file: file.add_to_entry(first_list(file), field, n)


def in_page(kind: int, at: int, form: str, value):
    def damage(file):
        block = file.blocks(kind, first_list(file))[0]
        file.put(block, at, form, value(file.get(block, at, form)))
    return damage


def swap(file):
    a, b = file.blocks(pages.VECTOR, first_list(file))[0], file.blocks(pages.VECTOR, first_list(file) + 1)[0]
    pair = file.page(a), file.page(b)
    file.put_page(a, pair[1])
    file.put_page(b, pair[0])


def cut(file):
    del file.bytes[-pages.PAGE:]


def zero(file):
    file.put_page(file.blocks(pages.VECTOR, first_list(file))[0], bytes(pages.PAGE))


def lose(file):
    """The first entry of a list is gone, with all that goes with a deletion."""
    block = file.blocks(pages.CODE, first_list(file))[0]
    live = file.get(block, pages.CONTENT + pages.LIVE, "<I")
    file.put(block, pages.CONTENT + pages.LIVE, "<I", live & (live - 1))
    in_entry(pages.FROZEN_DEAD, 1)(file)
    in_entry(pages.DELETE_GEN, 1)(file)


# What is done, and what is said of it.
DAMAGE = {
    "magic": (lambda file: file.put(0, 64, "<I", 7), "magic is"),
    "version": (lambda file: file.put(0, 68, "<I", 9), "format version 9"),
    "metric": (lambda file: file.put(0, 72, "<I", 3), "metric is cosine, that of the operator class l2"),
    "dead entries": (in_entry(pages.FROZEN_DEAD, 1), "live entries, but"),
    "layout": (in_entry(pages.LAYOUT_GEN, 1), "with stamp"),
    "radius": (in_entry(pages.RADIUS, 1 << 20), "radius"),
    "code": (in_code(pages.CODES + 5, "<B", lambda x: x ^ 4), "the codes of group 0"),
    "live bit": (in_code(pages.LIVE, "<I", lambda x: x ^ (x & -x)), "live entries, but"),
    "error radius": (in_code(pages.ERR, "<f", lambda x: -1.0), "an error radius of -1"),
    "heap block": (in_code(pages.TID_BLOCK, "<I", lambda x: 10**6), "for which the table has no place"),
    "line pointer": (in_code(pages.TID_OFFSET, "<H", lambda x: 0), "for which the table has no place"),
    "number": (in_page(pages.VECTOR, pages.CONTENT, "<H", lambda x: 0x7E00), "not finite"),
    "owner": (in_page(pages.VECTOR, pages.TAIL, "<I", lambda x: x + 1), "not page 0 of kind Vector"),
    "kind": (in_page(pages.CODE, 8188, "<H", lambda x: 99), "not page 0 of kind Code"),
    "records": (in_page(pages.APPEND, pages.TAIL + 16, "<I", lambda x: x + 1), "records in"),
    "end of content": (in_page(pages.VECTOR, 12, "<H", lambda x: x - 2), "bytes of content"),
    "page header": (in_page(pages.VECTOR, 16, "<H", lambda x: 65535), "invalid page in block"),
    "swapped pages": (swap, "not page 0 of kind Vector"),
    "cut": (cut, "pages"),
    "zeroes": (zero, "not page 0 of kind Vector"),
    "lost": (lose, "lacks an entry of heap row"),
}


@pytest.mark.every_major
def test_damage(make_server, rng):
    """An index for each kind of damage, done while the server is stopped. All are told with the SQLSTATE of a damaged index."""
    server = make_server("damage", checksums=False)
    db = make_database(server, "damage")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 1500, DIM))
        for i in range(len(DAMAGE)):
            make_index(conn, name=f"i_{i}", lists=LISTS)
        vectors.copy_rows(conn, "t", np.arange(120) + 5000, vectors.clustered(rng, 120, DIM))
        for i in range(len(DAMAGE)):
            check_index(conn, f"i_{i}")
        files = [server.data / conn.execute("SELECT pg_relation_filepath(%s)", (f"i_{i}",)).fetchone()[0] for i in range(len(DAMAGE))]
    server.stop()
    for path, (damage, _) in zip(files, DAMAGE.values()):
        file = pages.File(path)
        damage(file)
        file.save()
    server.start()
    with db.connect() as conn:
        for i, (kind, (_, message)) in enumerate(DAMAGE.items()):
            found = findings(conn, f"i_{i}", True)
            assert any(message in what for _, _, what in found), (kind, found)
            assert kind in ("version", "lost") or any(block is not None or of_list is not None for of_list, block, _ in found), (kind, found)
            with pytest.raises(psycopg.errors.IndexCorrupted, match=f'index "i_{i}" is damaged') as error:
                check_index(conn, f"i_{i}")
            assert error.value.diag.message_hint.startswith("REINDEX the index."), kind
            # Where nothing but the table tells, the index alone is sound.
            if kind == "lost":
                assert len(found) == 1
                check_index(conn, f"i_{i}", heap_all_indexed=False)
            conn.execute(f"REINDEX INDEX i_{i}")
            check_index(conn, f"i_{i}")
    assert "PANIC" not in server.log_text() and "terminated by signal" not in server.log_text()


def test_any_byte_with_checksums(make_server, rng):
    """With checksums of pages a flipped bit anywhere is told, with its page; other pages are checked all the same."""
    server = make_server("sums", checksums=True)
    db = make_database(server, "sums")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 1500, DIM))
        make_index(conn, lists=LISTS)
        check_index(conn)
        path = server.data / conn.execute("SELECT pg_relation_filepath('t_v_idx')").fetchone()[0]
    server.stop()
    whole = path.read_bytes()
    for _ in range(5):
        file = pages.File(path)
        file.bytes[:] = whole
        blocks = sorted(int(b) for b in rng.choice(np.arange(1, file.n_pages), 3, replace=False))
        for block in blocks:
            file.bytes[block * pages.PAGE + int(rng.integers(24, pages.PAGE))] ^= 1 << int(rng.integers(8))
        file.save()
        server.start()
        with db.connect() as conn:
            found = findings(conn, heap_all_indexed=True)
            told = sorted({block for _, block, what in found if "invalid page in block" in what})
            assert told == blocks, (told, blocks, found)
            with pytest.raises(psycopg.errors.IndexCorrupted):
                check_index(conn)
            # The session and its transactions go on.
            assert conn.execute("SELECT count(*) FROM t").fetchone()[0] == 1500
        server.stop()
    path.write_bytes(whole)
    server.start()
    with db.connect() as conn:
        check_index(conn)


def test_an_index_older_than_its_table(make_server, rng):
    """The index's file from before a VACUUM: its entries are of line pointers that VACUUM has freed, or that are other rows' by now."""
    server = make_server("stale")
    db = make_database(server, "stale")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 1500, DIM))
        make_index(conn, lists=LISTS)
        conn.execute("CHECKPOINT")
        path = server.data / conn.execute("SELECT pg_relation_filepath('t_v_idx')").fetchone()[0]
        before = path.read_bytes()
        conn.execute("DELETE FROM t WHERE id % 10 = 0")
        conn.execute("VACUUM t")
        vectors.copy_rows(conn, "t", np.arange(40) + 5000, vectors.clustered(rng, 40, DIM))
        check_index(conn)
    server.stop()
    path.write_bytes(before)
    server.start()
    with db.connect() as conn:
        check_index(conn, heap_all_indexed=False)
        found = [what for _, _, what in findings(conn, heap_all_indexed=True)]
        assert sum("is not that of the row's vector" in what for what in found) == 40, found[:5]
        assert any("whose line pointer is unused" in what for what in found), found[:5]
        conn.execute("REINDEX INDEX t_v_idx")
        check_index(conn)


def test_a_standby(make_server, rng):
    """It is checked while it replays, by its pages alone and with its table; what held still is complete."""
    primary = make_server("primary")
    db = make_database(primary, "wal")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 2000, DIM))
        make_index(conn, lists=LISTS)
        standby = make_server("standby", source=primary)
        replica = Db(standby, "wal")
        with replica.connect() as other:
            n_complete = 0
            for turn in range(6):
                vectors.copy_rows(conn, "t", np.arange(400) + 10_000 * (turn + 1), vectors.clustered(rng, 400, DIM))
                conn.execute("DELETE FROM t WHERE id %% 6 = %s", (turn,))
                conn.execute("VACUUM t")
                n_complete += check_index(other, complete=False)["complete"]
            primary.wait_for(standby)
            row = check_index(other)
            assert row["rows_checked"] == conn.execute("SELECT count(*) FROM t").fetchone()[0]
            assert row == check_index(conn), n_complete
            other.execute("SET default_transaction_isolation = 'repeatable read'")
            check_index(other)
    with replica.connect() as other:
        assert other.execute("SELECT pg_is_in_recovery()").fetchone()[0]
        run([BIN / "pg_ctl", "-D", standby.data, "promote", "-w"])
        wait_until(lambda: not other.execute("SELECT pg_is_in_recovery()").fetchone()[0], "the standby is not promoted")
        vectors.copy_rows(other, "t", np.arange(400) + 10**6, vectors.clustered(rng, 400, DIM))
        check_index(other)
