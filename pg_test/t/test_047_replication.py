"""A standby searches like its primary while that writes and vacuums; it cancels searches as with other indexes; promoted, it goes on where the primary was."""

import threading
import time

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.checks import check_indexes
from lib.churn import DIM, PLACES, Churn, fill, rows_of
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, REAL_GPU, Db, assert_same, check_index, index_status, knn, last_scan, make_database, make_index, make_table, put
from lib.service import GPU as SERVICE
from lib.service import PRELOADED, load, loaders, stat, wait_for, wait_until

# Searches on the standby are cancelled at once when they are in the way; its primary does not know of them.
HASTY = {"max_standby_streaming_delay": "100ms", "hot_standby_feedback": "off"}
CONFLICT = "40001"
# All that a server with the shared service has.
ENGINES = (CPU, GPU | {"omen__gpu_context": "backend"}, SERVICE)


@pytest.fixture
def pair(make_server, request):
    """A primary with a table that is searched, and its standby with these settings: the database on each."""
    conf = getattr(request, "param", {})
    primary = make_server("primary", {"wal_consistency_checking": "generic"})
    db = make_database(primary, "churn")
    fill(db, 4000)
    standby = make_server("standby", conf, source=primary)
    replica = Db(standby, "churn")
    if "shared_preload_libraries" in conf:
        with replica.connect() as conn:
            wait_for(conn, state="up")
    return db, replica


def compare(db, replica, engine) -> int:
    """The same rows in the same order from both, by few lists and by all. Returns how many rows were compared."""
    db.server.wait_for(replica.server)
    n = 0
    with db.connect(**BY_INDEX, **CPU) as a, replica.connect(**BY_INDEX, **engine) as b:
        rng = vectors.rng_for("compare")
        for probes in (1, 4, index_status(a)["lists"]):
            put(a, omen__probes=probes)
            put(b, omen__probes=probes)
            for place in PLACES:
                query = rows_of(rng, 1, place)[0]
                for k in (10, 500):
                    found = knn(b, "l2", query, k)
                    if probes == 4:
                        # Which lists are the nearest is a matter of rounding where they are as good as equally far.
                        assert len(found) == k
                    else:
                        assert_same(found, knn(a, "l2", query, k), complete_ties=False)
                    n += len(found)
        n += check_indexes(b)
    return n


@pytest.mark.every_major
@pytest.mark.parametrize("pair,searchers", (({"hot_standby_feedback": "on"}, [CPU, CPU, GPU]), ({"max_standby_streaming_delay": "0", "max_standby_archive_delay": "0"}, [CPU, GPU, GPU]),
                                            (PRELOADED, [CPU, SERVICE, SERVICE])), ids=("feedback", "conflicts", "service"), indirect=["pair"])
def test_searches_while_the_primary_writes(pair, searchers):
    """Every answer is that of a sort in the same snapshot; at the end both have the same. By sessions' tiers and by that of the standby's service."""
    db, replica = pair
    is_service = searchers[-1] is SERVICE
    churn = Churn(db, 2.5, searchers, reader=replica, reloads=is_service).run()
    log = replica.server.log_text()
    assert "inconsistent page" not in log and "PANIC" not in log and "was terminated" not in log, log[-2000:]
    churn.check_end()
    n = compare(db, replica, searchers[-1])
    print(f"{churn.counts}, {n} rows compared at the end")
    assert not churn.problems, "\n".join(churn.problems)
    assert all(churn.counts.values()), churn.counts


@pytest.mark.every_major
@pytest.mark.parametrize("pair", (HASTY | PRELOADED,), ids=("",), indirect=True)
def test_conflicts(pair, rng):
    """What the standby has to replay ends searches that are in its way, with the usual state, and nobody else."""
    db, replica = pair
    query = vectors.text(rows_of(rng, 1, 0.0)[0])
    n = 0
    with db.connect() as writer, replica.connect(**BY_INDEX) as other:
        # What VACUUM removes, a lock that keeps searches away, a table that shrinks, and an index that goes.
        for number, statement in enumerate(("VACUUM t", "REINDEX INDEX t_v_idx", "TRUNCATE t", "DROP INDEX t_v_idx")):
            for of_engine, engine in enumerate(ENGINES):
                vectors.copy_rows(writer, "t", 10_000 * (1 + len(ENGINES) * number + of_engine) + np.arange(2000), rows_of(rng, 2000, 8.0))
                if not writer.execute("SELECT 1 FROM pg_class WHERE relname = 't_v_idx'").fetchall():
                    writer.execute("CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = 24)")
                db.server.wait_for(replica.server)
                if engine is SERVICE:
                    load(other)
                searcher = replica.connect(**BY_INDEX, **engine)
                knn(searcher, "l2", np.zeros(DIM), 10)
                searcher.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                searcher.execute(f"DECLARE c CURSOR FOR SELECT id FROM t ORDER BY v <-> '{query}'")
                assert len(searcher.execute("FETCH 10 FROM c").fetchall()) == 10
                writer.execute("DELETE FROM t WHERE id % 3 = 0")
                writer.execute(statement)
                db.server.wait_for(replica.server)
                with pytest.raises(psycopg.OperationalError) as error:
                    searcher.execute("FETCH ALL FROM c")
                assert error.value.sqlstate in (CONFLICT, None), (statement, error.value)
                # An idle transaction is told as its session ends, so the message comes before the connection is lost.
                assert "conflict with recovery" in str(error.value), (statement, error.value)
                searcher.close()
                n += 1
                assert other.execute("SELECT count(*) FROM t").fetchone()[0] == writer.execute("SELECT count(*) FROM t").fetchone()[0]
        writer.execute("CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = 24)")
    print(f"{n} searches cancelled, {compare(db, replica, CPU)} rows compared")
    log = replica.server.log_text()
    assert "PANIC" not in log and "was terminated" not in log, log[-2000:]


def pinned(conn, *names) -> list[int]:
    """How many pages of each relation somebody holds."""
    rows = conn.execute("SELECT c.relname, count(*) FROM pg_buffercache b JOIN pg_class c ON b.relfilenode = pg_relation_filenode(c.oid) "
                        "WHERE pinning_backends > 0 AND relforknumber = 0 GROUP BY 1").fetchall()
    return [dict(rows).get(name, 0) for name in names]


@pytest.mark.every_major
@pytest.mark.parametrize("pair", (HASTY | PRELOADED,), ids=("",), indirect=True)
def test_pages_held_by_a_search_that_pauses(pair, rng):
    """The page of the row handed out last, as with other indexes, and none of the index, in memory or just read. What is to be removed from that page
    cancels the search, whose snapshot would be in nobody's way."""
    db, replica = pair
    dim = 1000
    with db.connect() as writer:
        writer.execute("CREATE EXTENSION pg_buffercache")
        # So large that a search reads ahead.
        make_table(writer, vectors.clustered(rng, 3000, dim), name="wide")
        make_index(writer, lists=2, table="wide", name="wide_idx")
        writer.execute("DELETE FROM wide WHERE id % 3 = 0")
        db.server.wait_for(replica.server)
        query = vectors.text(rng.normal(size=dim))
        # Nothing of it is in memory then.
        replica.server.stop()
        replica.server.start()
        other = replica.connect()
        for engine in ENGINES:
            if engine is SERVICE:
                wait_for(other, state="up")
                load(other, "wide_idx")
            for n in (1, 30, 700):
                with replica.connect(**BY_INDEX, **engine, omen__probes=2) as searcher:
                    searcher.execute("BEGIN")
                    searcher.execute(f"DECLARE c CURSOR FOR SELECT id FROM wide ORDER BY v <-> '{query}'")
                    assert len(searcher.execute(f"FETCH {n} FROM c").fetchall()) == n
                    assert pinned(other, "wide_idx", "wide") == [0, 1]
                    searcher.execute("CLOSE c")
                    assert last_scan(searcher)["engine"] == engine["omen__engine"]
        searcher = replica.connect(**BY_INDEX)
        searcher.execute("BEGIN")
        searcher.execute(f"DECLARE c CURSOR FOR SELECT id FROM wide ORDER BY v <-> '{query}'")
        assert len(searcher.execute("FETCH 10 FROM c").fetchall()) == 10
        writer.execute("VACUUM (TRUNCATE off) wide")
        db.server.wait_for(replica.server)
        with pytest.raises(psycopg.OperationalError, match="conflict with recovery"):
            searcher.execute("FETCH ALL FROM c")
        searcher.close()
        conflicts = "SELECT confl_bufferpin, confl_snapshot + confl_lock + confl_tablespace + confl_deadlock FROM pg_stat_database_conflicts WHERE datname = 'churn'"
        wait_until(lambda: other.execute(conflicts).fetchall() == [(1, 0)], "the conflict is not of a page that is held")
        assert pinned(other, "wide_idx", "wide") == [0, 0]
        check_index(other, "wide_idx")
        other.close()


@pytest.mark.skipif(REAL_GPU, reason="faults are injected in test builds alone")
@pytest.mark.parametrize("pair", (HASTY | PRELOADED,), ids=("service",), indirect=True)
def test_a_load_in_the_way(pair):
    """Loads of the standby's service, by a loader and by a search, give way to what takes their index away."""
    db, replica = pair

    def fault(name):
        replica.server.configure({"omen.inject_fault": name})
        conn.execute("SELECT pg_reload_conf()")
        wait_until(lambda: conn.execute("SHOW omen.inject_fault").fetchone()[0] == name, "the setting is not read")

    def replace():
        began = time.monotonic()
        writer.execute("REINDEX INDEX t_v_idx")
        db.server.wait_for(replica.server, 20)
        return time.monotonic() - began

    with db.connect() as writer, replica.connect(**BY_INDEX, **SERVICE) as conn:
        load(conn)
        fault("slow_load")
        writer.execute("DELETE FROM t WHERE id % 10 = 1")
        writer.execute("VACUUM t")
        db.server.wait_for(replica.server)
        wait_until(lambda: knn(conn, "l2", np.zeros(DIM), 10) and loaders(conn), "no loader")
        took = [replace()]
        cancelled = []

        def search():
            with replica.connect(**BY_INDEX, **SERVICE) as searcher:
                try:
                    knn(searcher, "l2", np.zeros(DIM), 10)
                except psycopg.errors.SerializationFailure as error:
                    cancelled.append(error)

        thread = threading.Thread(target=search)
        thread.start()
        wait_until(lambda: conn.execute("SELECT count(*) FROM pg_stat_activity WHERE state = 'active'").fetchone()[0] > 1, "no search")
        time.sleep(0.3)
        took.append(replace())
        thread.join(30)
        assert not thread.is_alive() and len(cancelled) == 1
        fault("none")
        load(conn)
        knn(conn, "l2", np.zeros(DIM), 10)
        assert last_scan(conn)["engine"] == "gpu" and stat(conn)["starts"] == 1
        print(f"replayed after {took} s")
    assert compare(db, replica, SERVICE)


@pytest.mark.every_major
@pytest.mark.parametrize("pair", ({}, PRELOADED), ids=("sessions", "service"), indirect=True)
def test_promotion(pair, rng, make_server):
    """Sessions whose tier was loaded on the standby search on through its promotion, while slots are used again by far rows; it is crashed, too."""
    db, replica = pair
    engine = SERVICE if replica.server.sql("SHOW shared_preload_libraries")[0][0] else GPU
    churn = Churn(db, 30, [CPU]).start()
    with replica.connect(**BY_INDEX, **engine, omen__probes=24) as searcher:
        time.sleep(0.5)
        knn(searcher, "l2", np.zeros(DIM), 10)
        db.server.kill()
        for thread in churn.threads:
            thread.join(30)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            replica.connect().execute("INSERT INTO t SELECT 0, v FROM t LIMIT 1")
        replica.server.sql("SELECT pg_promote()")
        if engine is SERVICE:
            load(searcher)
        wait_until(lambda: knn(searcher, "l2", np.zeros(DIM), 10) and last_scan(searcher)["engine"] == "gpu", "the GPU does not answer")
        with replica.connect() as writer, replica.connect(**BY_SORT) as exact:
            n, sizes = check_indexes(writer), []
            for cycle in range(6):
                gone = writer.execute("DELETE FROM t WHERE mod(hashint4(id), 3) = 0 OR v <-> %s < 9", (vectors.text(np.full(DIM, 8 * (cycle % 2))),)).rowcount
                writer.execute("VACUUM t")
                vectors.copy_rows(writer, "t", 50_000_000 + 100_000 * cycle + np.arange(gone), rows_of(rng, gone, PLACES[(cycle + 1) % 2]))
                for k in (10, None):
                    for place in PLACES:
                        query = rows_of(rng, 1, place)[0]
                        assert_same(knn(searcher, "l2", query, k), knn(exact, "l2", query, k), complete_ties=k is None)
                writer.execute("VACUUM t")
                sizes.append(writer.execute("SELECT pg_relation_size('t_v_idx') / 8192").fetchone()[0])
            n += check_indexes(writer)
    replica.server.kill()
    replica.server.start()
    cascade = make_server("cascade", source=replica.server)
    n += compare(replica, Db(cascade, "churn"), CPU)
    print(f"{n} rows compared, pages after each cycle of the promoted server: {sizes}")
    assert max(sizes[4:]) <= 1.3 * max(sizes[1:4]), sizes
