"""The view omen_stat_index: what the searches of all sessions did by each index, and what the shared GPU service has of it."""

import threading

import pytest
from psycopg.rows import dict_row

from lib import vectors
from lib.db import BY_INDEX, CPU, REAL_GPU, assert_fails, knn, last_scan, make_database, make_index, make_table, put
from lib.server import major
from lib.service import GPU, WAIT, inject, loaders, stat, wait_for, wait_until

DIM, LISTS = 48, 24
COUNTS = ("scans", "gpu_scans", "cpu_scans", "mixed_scans", "fallbacks", "search_calls", "rows_returned", "candidates", "loads", "refreshes")


def figures(conn, index: str = "t_v_idx") -> dict:
    """The row of an index."""
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute("SELECT * FROM omen_stat_index WHERE indexrelid = %s::regclass", (index,)).fetchone()


def wait_figures(conn, index: str = "t_v_idx", **values) -> dict:
    """Waits until the worker has published these values, which it does now and then."""
    def there():
        row = figures(conn, index)
        return row if all(row[name] == value for name, value in values.items()) else None
    return wait_until(there, f"{values}, not {figures(conn, index)}", WAIT)


@pytest.mark.every_major
def test_searches_of_all_sessions_by_engine(first, rng):
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as gpu, first.connect(**BY_INDEX, **CPU, omen__probes=3) as cpu:
        make_table(gpu, rows)
        make_index(gpu, lists=LISTS)
        row = figures(cpu)
        assert (row["schemaname"], row["relname"], row["indexrelname"]) == ("public", "t", "t_v_idx")
        assert row["relid"] == cpu.execute("SELECT 't'::regclass::oid").fetchone()[0]
        assert [row[name] for name in COUNTS] == [0] * len(COUNTS)
        assert row["last_scan"] is None and row["last_load"] is None and row["hot"] is False
        # Where bounds do not settle the order, the executor takes some rows more than LIMIT says.
        sums = {"rows_returned": 0, "candidates": 0}
        for conn, n, engine in ((gpu, 7, "gpu"), (cpu, 5, "cpu")):
            for i in range(n):
                knn(conn, "l2", rows[i], 10)
                scan = last_scan(conn)
                assert scan["engine"] == engine
                sums = {name: sums[name] + scan[name] for name in sums}
        row = figures(gpu)
        assert (row["scans"], row["gpu_scans"], row["cpu_scans"], row["mixed_scans"]) == (12, 7, 5, 0), row
        assert {name: row[name] for name in sums} == sums and row["fallbacks"] == row["search_calls"] == 0
        assert row["loads"] == 1 and row["refreshes"] == 0
        recent = "SELECT %s BETWEEN now() - interval '10 minutes' AND clock_timestamp()"
        for column in ("last_scan", "last_load"):
            assert gpu.execute(recent, (row[column],)).fetchone()[0], row
        # A scan that adds lists.
        put(gpu, omen__probes=2, omen__iterative_scan="relaxed_order")
        with gpu.transaction():
            # Of a cursor a tenth of the rows is expected to be fetched.
            gpu.execute("DECLARE c CURSOR FOR SELECT id FROM t ORDER BY v <-> '%s'" % vectors.text(rows[0]))
            assert len(gpu.execute("FETCH ALL FROM c").fetchall()) == 3000
        row = figures(cpu)
        assert (row["gpu_scans"], row["mixed_scans"], row["fallbacks"]) == (8, 0, 0) and last_scan(gpu)["rounds"] > 1, (row, last_scan(gpu))
        # NULL: all rows, from pages.
        gpu.execute("SELECT id FROM t ORDER BY v <-> (SELECT NULL::vector) LIMIT 5")
        assert figures(cpu)["cpu_scans"] == 6
        # An index that is scanned for each row of another table.
        gpu.execute("SELECT o.id, i.id FROM (SELECT * FROM t WHERE id < 6) o, LATERAL (SELECT id FROM t ORDER BY v <-> o.v LIMIT 2) i")
        row = figures(cpu)
        assert row["scans"] == 12 + 2 + 6 and row["rows_returned"] >= sums["rows_returned"] + 3000 + 5 + 12, row


def test_calls_for_many_queries(first, rng):
    rows = vectors.clustered(rng, 2000, DIM)
    call = "SELECT count(*) FROM omen_search('t_v_idx', %s::vector[], 5)"
    queries = [vectors.text(row) for row in rows[:40]]
    with first.connect(**BY_INDEX, **CPU) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        put(conn, omen__probes=LISTS)
        assert conn.execute(call, (queries,)).fetchone()[0] == 200
        assert conn.execute(call, (queries[:3],)).fetchone()[0] == 15
        assert conn.execute(call, ([],)).fetchone()[0] == 0
        row = figures(conn)
        assert (row["cpu_scans"], row["scans"], row["search_calls"], row["rows_returned"]) == (43, 43, 3, 215), row
        put(conn, **GPU, **({} if REAL_GPU else {"omen__simulate_gpu": "on"}))
        conn.execute(call, (queries,))
        assert last_scan(conn)["engine"] == "gpu"
        row = figures(conn)
        assert (row["gpu_scans"], row["scans"], row["search_calls"]) == (40, 83, 4), row


def test_searches_that_fell_back(service, first, rng):
    service.stop()
    service.configure({"omen.gpu_memory_limit": "1MB"})
    service.start()
    rows = vectors.clustered(rng, 1000, DIM)
    with first.connect(**BY_INDEX, **GPU) as conn:
        wait_for(conn, state="up")
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 10)
        assert "memory" in last_scan(conn)["fallback_reason"]
        row = figures(conn)
        assert (row["fallbacks"], row["cpu_scans"], row["gpu_scans"]) == (1, 1, 0), row
        assert row["hot"] is False and row["loads"] == 0


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
def test_a_scan_of_both_engines(first, rng):
    """The device fails in the middle of a scan: the CPU goes on, and the scan is neither's alone."""
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=2, omen__iterative_scan="relaxed_order") as conn, first.connect(**BY_INDEX, **GPU) as other:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 10)
        with conn.transaction():
            conn.execute("DECLARE c CURSOR FOR SELECT id FROM t ORDER BY v <-> '%s'" % vectors.text(rows[0]))
            assert len(conn.execute("FETCH 3 FROM c").fetchall()) == 3
            inject(other, "fail_launch")
            wait_until(lambda: knn(other, "l2", rows[0], 10) and last_scan(other)["engine"] == "cpu", "the device works on")
            assert len(conn.execute("FETCH ALL FROM c").fetchall()) == 2997
        inject(other, "none")
        row = figures(other)
        assert row["mixed_scans"] == 1 and row["gpu_scans"] >= 1 and row["fallbacks"] >= 2, row


def test_what_the_service_has(first, rng):
    rows = vectors.clustered(rng, 3000, DIM)
    with first.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 10)
        row = wait_figures(conn, hot=True, hot_bytes=stat(conn)["hot_bytes"])
        assert row["hot_lists"] == LISTS and row["stale_lists"] == 0 and row["loads"] == 1
        # Entries of a list die; it is written again, in test builds not before that has been seen.
        if not REAL_GPU:
            inject(conn, "slow_load")
        near = [i for i, _ in knn(conn, "l2", rows[0], 30)]
        conn.execute("DELETE FROM t WHERE id = ANY(%s)", (near,))
        conn.execute("VACUUM t")
        knn(conn, "l2", rows[0], 10)
        if not REAL_GPU:
            stale = wait_until(lambda: figures(conn)["stale_lists"], "no list is out of date")
            assert 0 < stale <= LISTS and figures(conn)["hot_lists"] == LISTS
            inject(conn, "none")
        row = wait_figures(conn, stale_lists=0, loads=1, hot_lists=LISTS)
        wait_until(lambda: figures(conn)["refreshes"] > 0 and not loaders(conn), "no list is written again")
        assert conn.execute("SELECT omen_load('t_v_idx')").fetchone()[0] > 0
        row = wait_figures(conn, loads=2, stale_lists=0)
        assert row["hot"] and row["last_load"] >= row["last_scan"]
        conn.execute("SELECT omen_evict('t_v_idx')")
        row = wait_figures(conn, hot=False, hot_bytes=0, hot_lists=0, stale_lists=0)
        assert row["loads"] == 2


def test_a_worker_that_ends_has_nothing(first, rng):
    rows = vectors.clustered(rng, 1000, DIM)
    with first.connect(**BY_INDEX, **GPU) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        put(conn, omen__gpu_context="shared")
        knn(conn, "l2", rows[0], 10)
        scans = figures(conn)["scans"]
        assert figures(conn)["hot"]
        conn.execute("ALTER SYSTEM SET omen.gpu_autoload = off")
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("SELECT pg_terminate_backend(%s)", (stat(conn)["pid"],))
        row = wait_figures(conn, hot=False, hot_bytes=0)
        assert row["scans"] == scans and row["loads"] == 1


def test_many_sessions_lose_nothing(service, first, rng):
    """Sums are exact, and those of another database are its own."""
    second = make_database(service, "second")
    rows = vectors.clustered(rng, 1000, DIM)
    n_sessions, n_queries, returned, problems = 8, 50, {first: [], second: []}, []
    for db in (first, second):
        with db.connect() as conn:
            make_table(conn, rows)
            make_index(conn, lists=LISTS)

    def session(number: int):
        try:
            db = first if number % 2 else second
            with db.connect(**BY_INDEX, **CPU) as conn:
                for i in range(n_queries):
                    knn(conn, "l2", rows[i], 3)
                    returned[db].append(last_scan(conn)["rows_returned"])
        except BaseException as error:
            problems.append(error)
    threads = [threading.Thread(target=session, args=(number,)) for number in range(n_sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    for db in (first, second):
        with db.connect() as conn:
            row = figures(conn)
            assert (row["cpu_scans"], row["rows_returned"]) == (n_sessions // 2 * n_queries, sum(returned[db])), row
            assert conn.execute("SELECT count(*) FROM omen_stat_index").fetchone()[0] == 1


def test_indexes_come_and_go(first, rng):
    rows = vectors.clustered(rng, 500, DIM)

    def names(conn):
        return [name for (name,) in conn.execute("SELECT indexrelname FROM omen_stat_index ORDER BY 1").fetchall()]
    with first.connect(**BY_INDEX, **CPU) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        conn.execute("CREATE INDEX t_id_idx ON t (id)")
        conn.execute("CREATE TABLE p (id integer, v vector(3)) PARTITION BY RANGE (id)")
        conn.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
        conn.execute("CREATE INDEX p_v_idx ON p USING omen (v vector_l2_ops)")
        assert names(conn) == ["p1_v_idx", "t_v_idx"], "each that has pages, of this method alone"
        knn(conn, "l2", rows[0], 3)
        conn.execute("REINDEX INDEX t_v_idx")
        knn(conn, "l2", rows[0], 3)
        assert figures(conn)["scans"] == 2, "it is the same index"
        conn.execute("ALTER INDEX t_v_idx RENAME TO other")
        assert figures(conn, "other")["scans"] == 2
        conn.execute("DROP INDEX other")
        assert names(conn) == ["p1_v_idx"]
        make_index(conn, lists=LISTS)
        assert figures(conn)["scans"] == 0


def test_reset_and_rights(first, rng):
    rows = vectors.clustered(rng, 1000, DIM)
    with first.connect(**BY_INDEX, **GPU) as conn:
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        put(conn, omen__probes=LISTS)
        knn(conn, "l2", rows[0], 10)
        wait_figures(conn, hot=True)
        conn.execute("CREATE ROLE plain")
        conn.execute("SET ROLE plain")
        # As pg_stat_user_indexes: also of tables that one may not read.
        assert figures(conn)["gpu_scans"] == 1
        assert_fails(conn, "42501", "", "SELECT id FROM t LIMIT 1")
        assert_fails(conn, "42501", "", "SELECT omen_stat_reset()")
        conn.execute("RESET ROLE")
        conn.execute("SELECT omen_stat_reset()")
        row = figures(conn)
        assert [row[name] for name in COUNTS] == [0] * len(COUNTS)
        assert row["last_scan"] is None and row["last_load"] is None
        assert row["hot"] and row["hot_lists"] == LISTS, "what there is stays"
        knn(conn, "l2", rows[0], 10)
        assert figures(conn)["gpu_scans"] == 1


def test_more_indexes_than_have_figures(first):
    """The table has room for 1,024: of more, those searched longest ago begin anew, and the others go on."""
    n = 1040
    with first.connect(**BY_INDEX, **CPU) as conn:
        conn.execute("SET client_min_messages = error")
        conn.execute("CREATE TABLE s (id integer, v vector(1))")
        for i in range(n):
            # Each is used by a query of its own.
            conn.execute(f"CREATE INDEX s_{i} ON s USING omen (v vector_l2_ops) WHERE id = {i}")
        conn.execute("INSERT INTO s VALUES (1, '[1]')")
        for i in range(n):
            conn.execute("SELECT * FROM omen_search(%s::regclass, ARRAY['[1]'::vector], 1)", (f"s_{i}",))
        counts = dict(conn.execute("SELECT indexrelname, scans FROM omen_stat_index").fetchall())
        assert sum(counts.values()) == 1024
        assert [counts[f"s_{i}"] for i in range(n)] == [0] * 16 + [1] * 1024


@pytest.mark.every_major
def test_the_idle_service_waits_by_name(first):
    """In pg_stat_activity; extensions have names of their own since PostgreSQL 17."""
    name = "OmenGpuServiceMain" if major() >= 17 else "Extension"
    with first.connect() as conn:
        event = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'pg_omen GPU service'"
        wait_until(lambda: conn.execute(event).fetchone() == ("Extension", name), f"not {name}")


def test_not_preloaded(db, rng):
    """There is a row, and nothing is known."""
    with db.connect(**BY_INDEX, **CPU) as conn:
        rows = vectors.clustered(rng, 500, DIM)
        make_table(conn, rows)
        make_index(conn, lists=LISTS)
        knn(conn, "l2", rows[0], 3)
        row = figures(conn)
        assert row["indexrelname"] == "t_v_idx"
        assert all(row[name] is None for name in COUNTS + ("hot", "hot_bytes", "last_scan"))
        conn.execute("SELECT omen_stat_reset()")
