"""A build warns where the recall asked for costs a search of many lists, and only there."""

import re

import pytest

from lib import vectors
from lib.db import index_status, make_index, make_table, put


@pytest.fixture
def warned(conn):
    """Warnings from now on: lists searched, lists, recall, percents of a tenth and of half of the lists."""
    warned = []

    def note(diagnostic):
        if diagnostic.severity == "WARNING":
            told = re.fullmatch(r'omen index "t_v_idx" must search (\d+) of (\d+) lists for a recall of ([\d.]+)', diagnostic.message_primary)
            shares = re.fullmatch(r"Of the ten nearest rows a tenth of the lists holds (\d+) %, half of them (\d+) %\.", diagnostic.message_detail)
            assert diagnostic.sqlstate == "01000" and "Lower omen.recall" in diagnostic.message_hint
            warned.append(tuple(float(n) for n in told.groups() + shares.groups()))
    conn.add_notice_handler(note)
    return warned


def test_vectors_without_structure(conn, warned, rng):
    make_table(conn, vectors.uniform(rng, 12_000, 300))
    make_index(conn)
    (probes, lists, recall, tenth, half), = warned
    assert probes == index_status(conn)["default_probes"] > lists / 3
    assert lists == index_status(conn)["lists"] and recall == 0.95 and tenth < half < 100
    # Who asks for less is not warned, nor who asks for all.
    for recall in (0.3, 1):
        put(conn, omen__recall=recall)
        conn.execute("REINDEX INDEX t_v_idx")
    assert len(warned) == 1
    # A small table is searched fast, whatever it takes.
    put(conn, omen__recall=0.95)
    conn.execute("DELETE FROM t WHERE id >= 5000")
    conn.execute("REINDEX INDEX t_v_idx")
    assert len(warned) == 1


@pytest.mark.parametrize("dim", (16, 300))
def test_ordinary_vectors(conn, warned, rng, dim):
    make_table(conn, vectors.clustered(rng, 12_000, dim))
    make_index(conn)
    status = index_status(conn)
    assert not warned and status["default_probes"] < status["lists"] / 4
