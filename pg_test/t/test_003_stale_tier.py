"""Heap slots are reused while a hot tier is loaded: no search may take a row by what its slot used to hold.

A stale tier shows in these ways, and each is looked for: a search of few lists returns a row that is in none of them (its slot
once was), a row comes twice (by its old slot and by its own entry), a row is missing or at a wrong place, or the executor
finds that a lower bound was none ("wrong order"). The first is the sharpest: ignoring delete generations fails it at once.
"""

import time

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, Db, assert_same, index_status, knn, last_scan, make_database, make_index, make_table, put
from lib.service import PRELOADED, load, wait_for

DIM = 32
K = 20


def refill(conn, rng, query, step) -> int:
    """Deletes the rows nearest to `query` and many others, vacuums, and fills the slots with rows far away from it or
    right beside it. Returns how many slots were reused."""
    first_id = 100_000 * (step + 1)
    near = [i for i, _ in knn(conn, "l2", query, 60)]
    conn.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s) OR id %% 10 = %s", (near, step))
    conn.execute("DELETE FROM t WHERE id = ANY(%s) OR id %% 10 = %s", (near, step))
    conn.execute("VACUUM t")
    n = conn.execute("SELECT count(*) FROM gone").fetchone()[0]
    if step % 2 == 0:
        rows = query - 40 + vectors.uniform(rng, n, DIM)
    else:
        rows = query + 0.01 * vectors.uniform(rng, n, DIM)
    vectors.copy_rows(conn, "t", np.arange(first_id, first_id + n), rows.astype(np.float32))
    reused = conn.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = gone.slot WHERE id >= %s", (first_id,)).fetchone()[0]
    conn.execute("DROP TABLE gone")
    return reused


def check(searcher, query, oracle):
    """The searching session sees what the CPU finds in as many lists, and with all lists what a sort of the table gives."""
    lists = searcher.execute("SHOW omen.probes").fetchone()[0]
    put(searcher, omen__iterative_scan="off")
    # First, because a search may load the tier anew.
    for probes in (4, 1):
        put(searcher, omen__probes=probes, **GPU)
        by_tier = knn(searcher, "l2", query, None)
        put(searcher, **CPU)
        assert_same(by_tier, knn(searcher, "l2", query, None))
    put(searcher, omen__iterative_scan="strict_order", omen__probes=lists, **GPU)
    for k in (1, K, None):
        assert_same(knn(searcher, "l2", query, k), knn(oracle, "l2", query, k), complete_ties=k is None)


def load_tier(searcher, query):
    """Searches until the tier answers (an outdated one is not loaded again at once), and proves that it does."""
    for _ in range(200):
        knn(searcher, "l2", query, K)
        if last_scan(searcher)["engine"] == "gpu":
            return
        time.sleep(0.02)
    raise AssertionError(f"the hot tier is not used: {last_scan(searcher)}")


def scenario(writer_db, reader_db, rng, catch_up=lambda: None, renew=lambda searcher: None):
    """Several rounds of refilling on `writer_db` under a loaded tier, which `renew` loads anew, for one session of `reader_db`."""
    queries = vectors.clustered(rng, 8, DIM)
    with (writer_db.connect() as writer, reader_db.connect(**BY_INDEX, **GPU) as searcher,
          reader_db.connect(**BY_SORT) as oracle):
        put(searcher, omen__probes=index_status(searcher)["lists"])
        for step, query in enumerate(queries):
            renew(searcher)
            load_tier(searcher, query)
            reused = refill(writer, rng, query, step)
            assert reused > 50, f"only {reused} slots were reused: the test would prove nothing"
            catch_up()
            check(searcher, query, oracle)
            check(searcher, queries[step - 1], oracle)
        load_tier(searcher, queries[0])


def prepare(db, rng):
    """The table and its index."""
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 4000, DIM))
        make_index(conn, lists=16)


@pytest.mark.every_major
def test_no_stale_rows_in_a_loaded_session(db, rng):
    prepare(db, rng)
    scenario(db, db, rng)


def test_no_stale_rows_in_the_service(first, rng):
    """As above, with the tier of the shared service: by itself that is loaded anew twice a minute at most."""
    prepare(first, rng)
    scenario(first, first, rng, renew=lambda searcher: searcher.execute("SELECT omen_load('t_v_idx')"))


@pytest.mark.parametrize("conf", ({}, PRELOADED), ids=("session", "service"))
def test_no_stale_rows_on_a_standby(make_server, rng, conf):
    """By the tier of a session there, or of its service."""
    primary = make_server("primary")
    db = make_database(primary, "stale")
    prepare(db, rng)
    standby = make_server("standby", conf, source=primary)
    replica = Db(standby, "stale")
    if conf:
        with replica.connect() as conn:
            wait_for(conn, state="up")
    renew = (lambda searcher: load(searcher)) if conf else (lambda searcher: None)
    scenario(db, replica, rng, lambda: primary.wait_for(standby), renew)


def test_rebuilt_or_replaced_index_drops_the_tier(db, rng):
    """REINDEX, TRUNCATE and DROP + CREATE keep or change the index's names and files: none may serve old entries."""
    prepare(db, rng)
    query = vectors.clustered(rng, 1, DIM)[0]
    with db.connect() as writer, db.connect(**BY_INDEX, **GPU) as searcher, db.connect(**BY_SORT) as oracle:
        put(searcher, omen__probes=100)
        first_id = 10_000
        for change in ("REINDEX INDEX t_v_idx", "VACUUM FULL t", "TRUNCATE t", "DROP INDEX t_v_idx; CREATE INDEX t_v_idx "
                       "ON t USING omen (v vector_l2_ops) WITH (lists = 7)"):
            load_tier(searcher, query)
            writer.execute(change)
            if change == "TRUNCATE t":
                assert knn(searcher, "l2", query, K) == []
            vectors.copy_rows(writer, "t", np.arange(first_id, first_id + 3000), vectors.clustered(rng, 3000, DIM))
            first_id += 3000
            check(searcher, query, oracle)
            load_tier(searcher, query)
            check(searcher, query, oracle)


def test_rebuilt_in_the_same_file(db, rng):
    """A table made in the same transaction keeps its files when it is truncated, and a temporary one at commit: the tier of what was there must not serve."""
    query = vectors.clustered(rng, 1, DIM)[0]
    with db.connect(**BY_INDEX, **GPU, omen__probes=100) as conn:
        for kind, options in (("", ""), ("TEMP", "ON COMMIT DELETE ROWS")):
            conn.execute("BEGIN")
            make_table(conn, vectors.clustered(rng, 2000, DIM), kind=kind, options=options)
            make_index(conn, lists=8)
            for round in range(1, 4):
                load_tier(conn, query)
                if kind:
                    conn.execute("COMMIT; BEGIN")
                else:
                    conn.execute("TRUNCATE t")
                assert knn(conn, "l2", query, K) == []
                vectors.copy_rows(conn, "t", 10_000 * round + np.arange(1500), vectors.clustered(rng, 1500, DIM) - np.float32(round))
                check_by_sort(conn, query)
                load_tier(conn, query)
                conn.execute("SAVEPOINT a; TRUNCATE t")
                vectors.copy_rows(conn, "t", 500_000 + np.arange(1500), vectors.clustered(rng, 1500, DIM))
                check_by_sort(conn, query)
                load_tier(conn, query)
                conn.execute("ROLLBACK TO a")
                check_by_sort(conn, query)
            conn.execute("COMMIT; DROP TABLE t")


def check_by_sort(conn, query):
    """A search of all lists by the GPU, beside a sort in the same session."""
    found = [knn(conn, "l2", query, k) for k in (1, K, None)]
    put(conn, **BY_SORT, enable_seqscan="on", enable_sort="on")
    wanted = [knn(conn, "l2", query, k) for k in (1, K, None)]
    put(conn, **{name: "on" for name in BY_SORT}, **BY_INDEX)
    for f, w in zip(found, wanted):
        assert_same(f, w, complete_ties=f is found[-1])
