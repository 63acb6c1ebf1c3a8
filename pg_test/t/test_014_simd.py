"""OMEN_SIMD forces an instruction set, and the answers do not depend on it, to the last bit."""

import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, knn, last_scan, make_database, make_index, make_table, put

# One table each for the kinds of codes: none, four bits, one bit.
DIMS = (20, 100, 700)
METRICS = ("l2", "ip", "cosine")


def answers(db, queries):
    """Rows and distances of searches of many kinds; the distances are the operator's own, in full."""
    found = []
    with db.connect(**BY_INDEX, **CPU) as conn:
        for dim, metric in ((d, m) for d in DIMS for m in METRICS):
            table = f"{metric}_{dim}"
            for probes, k in ((0, 10), (3, 30), (0, 200), (1000, 10)):
                put(conn, omen__probes=probes)
                for query in queries[dim]:
                    found.append(knn(conn, metric, query, k, table=table))
                    assert last_scan(conn)["engine"] == "cpu"
    return found


def test_all_variants_agree(make_server, rng):
    server = make_server("simd")
    db = make_database(server, "simd")
    queries = {}
    with db.connect() as conn:
        available = conn.execute("SELECT available FROM omen_cpu_status()").fetchone()[0].split(", ")
        for dim in DIMS:
            drawn = vectors.clustered(rng, 1510 if dim > 500 else 3010, dim)
            queries[dim] = drawn[:10]
            for metric in METRICS:
                table = f"{metric}_{dim}"
                make_table(conn, drawn[10:], name=table)
                make_index(conn, metric, table=table, name=f"{table}_idx")
                # Appended entries too, which have no codes.
                vectors.copy_rows(conn, table, range(9000, 9100), vectors.clustered(rng, 100, dim))
    assert "scalar" in available
    if len(available) == 1:
        pytest.skip("this machine has the scalar variant only")
    found = {}
    for name in available:
        server.stop()
        server.start(OMEN_SIMD=name)
        assert server.sql("SELECT simd, note FROM omen_cpu_status()", dbname="simd") == [(name, None)]
        found[name] = answers(db, queries)
    for name in available:
        assert found[name] == found["scalar"], name


def test_unknown_name_is_no_reason_to_stop(make_server):
    server = make_server("unknown")
    server.stop()
    server.start(OMEN_SIMD="mmx")
    make_database(server, "unknown")
    simd, note = server.sql("SELECT simd, note FROM omen_cpu_status()", dbname="unknown")[0]
    assert simd != "mmx" and "OMEN_SIMD=mmx" in note and simd in note
