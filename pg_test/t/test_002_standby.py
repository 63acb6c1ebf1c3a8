"""A streaming standby answers like its primary after each of ten delete / vacuum / insert cycles."""

import pytest

from lib import vectors
from lib.db import BY_INDEX, Db, assert_by_index, check_index, index_status, knn, make_database, make_index, make_table, put

DIM = 32


@pytest.mark.every_major
def test_standby_equals_primary(make_server, rng):
    primary = make_server("primary", {"wal_consistency_checking": "generic"})
    db = make_database(primary, "wal")
    with db.connect() as conn:
        make_table(conn, vectors.clustered(rng, 4000, DIM))
        make_index(conn, lists=24)
    standby = make_server("standby", source=primary)
    replica = Db(standby, "wal")
    queries = vectors.clustered(rng, 12, DIM)
    next_id = 4000
    for cycle in range(10):
        with db.connect() as conn:
            conn.execute("DELETE FROM t WHERE id %% 10 = %s", (cycle,))
            conn.execute("VACUUM t")
            rows = vectors.clustered(rng, 500, DIM)
            vectors.copy_rows(conn, "t", range(next_id, next_id + 500), rows)
            next_id += 500
            if cycle == 6:
                conn.execute("REINDEX INDEX t_v_idx")
        with replica.connect() as conn:
            # While it is being replayed.
            check_index(conn, complete=False)
        primary.wait_for(standby)
        compare(db, replica, queries, cycle)


def compare(db, replica, queries, cycle):
    """The same rows in the same order from both, at default and at exact settings, and the same figures; both are sound."""
    with db.connect(**BY_INDEX) as a, replica.connect(**BY_INDEX) as b:
        assert check_index(a) == check_index(b)
        assert_by_index(b, "l2", queries[0], 20)
        lists = index_status(a)["lists"]
        for probes in (0, 3, lists):
            put(a, omen__probes=probes)
            put(b, omen__probes=probes)
            for query in queries:
                assert knn(a, "l2", query, 20) == knn(b, "l2", query, 20), f"cycle {cycle}, probes {probes}"
        whole = knn(a, "l2", queries[0], None)
        assert whole == knn(b, "l2", queries[0], None)
        assert sorted(i for i, _ in whole) == sorted(i for (i,) in a.execute("SELECT id FROM t"))
        for column in ("rows", "lists", "dimension", "metric"):
            assert index_status(a)[column] == index_status(b)[column]
