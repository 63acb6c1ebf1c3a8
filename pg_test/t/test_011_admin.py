"""The admin functions: their columns, and that their figures are true."""

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, GPU, index_status, knn, last_scan, make_index, make_table, put


def columns(conn, call: str) -> set[str]:
    return {c.name for c in conn.execute(f"SELECT * FROM {call} LIMIT 0").description}


@pytest.fixture
def table(conn, rng):
    make_table(conn, vectors.clustered(rng, 3000, 40))
    make_index(conn, "cosine", lists=20)
    return conn


@pytest.mark.every_major
def test_columns(table):
    assert columns(table, "omen_index_status('t_v_idx')") >= {"rows", "lists", "dimension", "metric", "format_version"}
    assert columns(table, "omen_last_scan()") >= {"engine", "probes", "candidates", "reranked", "fallback_reason"}
    assert columns(table, "omen_cpu_status()") == {"simd", "available", "threads", "note"}
    assert columns(table, "omen_gpu_status()") >= {"name", "compute_capability", "driver_version", "state", "reason"}


def test_index_status_is_true(table, rng):
    status = index_status(table)
    assert (status["rows"], status["lists"], status["dimension"], status["metric"], status["format_version"]) == (3000, 20, 40, "cosine", 1)
    size = table.execute("SELECT pg_relation_size('t_v_idx')").fetchone()[0]
    assert size in status.values(), status
    assert (status["rows_at_build"], status["drift"], status["codes"]) == (3000, 0, "4 bits")
    assert 100 <= status["calibration_queries"] <= 3000
    age = table.execute("SELECT extract(epoch FROM now() - built_at) FROM omen_index_status('t_v_idx')").fetchone()[0]
    assert -1 < age < 600, age
    table.execute("DELETE FROM t WHERE id < 1000")
    table.execute("VACUUM t")
    vectors.copy_rows(table, "t", range(3000, 3300), vectors.clustered(rng, 300, 40))
    status = index_status(table)
    assert (status["rows"], status["rows_at_build"]) == (2300, 3000) and abs(status["drift"] + 700 / 3000) < 1e-9
    table.execute("REINDEX INDEX t_v_idx")
    status = index_status(table)
    assert (status["rows"], status["rows_at_build"], status["drift"]) == (2300, 2300, 0)


def test_cpu_status_is_true(table):
    simd, available, threads, note = table.execute("SELECT * FROM omen_cpu_status()").fetchone()
    assert simd in available.split(", ") and available.startswith("scalar") and threads >= 1 and note is None


def test_last_scan_is_true(table, rng):
    query = vectors.clustered(rng, 1, 40)[0]
    put(table, omen__probes=7, **CPU)
    knn(table, "cosine", query, 10)
    scan = last_scan(table)
    assert scan["engine"] == "cpu" and scan["probes"] == 7 and scan["fallback_reason"] is None
    assert 10 <= scan["candidates"] <= 3000
    put(table, omen__probes=20, **GPU)
    knn(table, "cosine", query, 10)
    assert last_scan(table)["engine"] == "gpu" and last_scan(table)["probes"] == 20


def test_not_an_index(table):
    for name in ("t", "pg_class", "pg_class_oid_index"):
        with pytest.raises(psycopg.errors.WrongObjectType):
            table.execute("SELECT * FROM omen_index_status(%s::regclass)", (name,))


def test_another_role(table, db):
    """Status is for everyone who may look at the table; no function changes anything."""
    table.execute("DROP ROLE IF EXISTS omen_reader")
    table.execute("CREATE ROLE omen_reader")
    try:
        table.execute("GRANT SELECT ON t TO omen_reader")
        table.execute("SET ROLE omen_reader")
        assert len(knn(table, "cosine", [1.0] * 40, 5)) == 5
        assert last_scan(table)["engine"] in ("cpu", "gpu")
        table.execute("SELECT * FROM omen_gpu_status()")
    finally:
        table.execute("RESET ROLE; REVOKE ALL ON t FROM omen_reader; DROP ROLE omen_reader")


def test_build_progress_names_phases(db, rng):
    """pg_stat_progress_create_index knows the access method's phases."""
    with db.connect(**BY_INDEX) as conn:
        phases = {r[0] for r in conn.execute(
            "SELECT pg_indexam_progress_phasename((SELECT oid FROM pg_am WHERE amname = 'omen'), n) FROM generate_series(1, 10) n") if r[0]}
        assert len(phases) >= 3, phases
