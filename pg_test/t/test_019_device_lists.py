"""Batches whose lists the device chooses: the rows that the CPU finds in as many lists, whatever the device has of old."""

import numpy as np
import pytest

from lib import vectors
from lib.batch import DIM, LISTS, assert_exact, assert_near, batch
from lib.db import CPU, GPU, ONE_ON_EVERY_MAJOR, index_status, last_scan, make_index, make_table, put
from lib.exact import OPERATORS


@pytest.fixture
def both(db):
    """A session for each engine; each searches its lists and no others."""
    with db.connect(**GPU, omen__iterative_scan="off") as gpu, db.connect(**CPU, omen__iterative_scan="off") as cpu:
        yield gpu, cpu


def n_current(conn) -> int:
    """Lists that are on the device as the index has them now."""
    state = index_status(conn)["hot_tier_state"]
    numbers = [int(word) for word in state.replace(",", " ").split() if word.isdigit()]
    assert numbers, state
    return numbers[0]


def assert_as_cpu(both, queries, k, probes, metric="l2", tolerance=5e-3, share=0.97):
    """Rows of both engines: near everywhere but where lists are as good as equally far, for at most one query in so many."""
    gpu, cpu = both
    found, wanted = batch(gpu, queries, k, probes), batch(cpu, queries, k, probes)
    scan = last_scan(gpu)
    assert scan["engine"] == "gpu" and scan["fallback_reason"] is None, scan
    n_near = 0
    for number in found:
        try:
            assert_near(found[number], wanted[number], tolerance)
            n_near += 1
        except AssertionError:
            if share == 1:
                raise
    assert n_near >= share * len(found), f"{metric}, {probes} lists: {n_near} of {len(found)} queries"


@pytest.mark.parametrize("dim", [DIM, 640])
@pytest.mark.parametrize("metric", ONE_ON_EVERY_MAJOR)
def test_same_lists(both, rng, metric, dim):
    """Without codes and with them."""
    gpu, cpu = both
    rows = vectors.clustered(rng, 2500, dim)
    make_table(cpu, rows)
    make_index(cpu, metric, lists=LISTS)
    queries = (rows[:64] + 0.3 * vectors.uniform(rng, 64, dim)).astype(np.float32)
    for probes in (1, 4, LISTS - 1):
        assert_as_cpu(both, queries, 10, probes, metric)
        assert last_scan(gpu)["probes"] == probes
    assert_as_cpu(both, queries, 10, LISTS, metric, share=1)
    assert_as_cpu(both, queries[:1], 10, 4, metric, share=0)
    put(cpu, omen__recall=0.8)
    put(gpu, omen__recall=0.8)
    assert_as_cpu(both, queries, 10, None, metric)


def test_many_queries(both, rng):
    """More than one thread prepares."""
    gpu, cpu = both
    rows = vectors.clustered(rng, 800, 320)
    make_table(cpu, rows)
    make_index(cpu, lists=8)
    ids = rng.integers(800, size=3000)
    found = batch(gpu, rows[ids], 1, 1)
    assert last_scan(gpu)["engine"] == "gpu", last_scan(gpu)
    assert np.mean([found[i + 1][0][0] == row for i, row in enumerate(ids)]) > 0.99


def test_lists_out_of_date(both, rng):
    """Some lists are rewritten, others have appended rows, at last every list is out of date."""
    gpu, cpu = both
    rows = vectors.clustered(rng, 3000, DIM)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    queries = (rows[:50] + 0.1 * vectors.uniform(rng, 50, DIM)).astype(np.float32)
    assert_as_cpu(both, queries, 10, 3)
    # Appended rows beside the queries.
    near = (queries + 0.01 * vectors.uniform(rng, 50, DIM)).astype(np.float32)
    vectors.copy_rows(cpu, "t", np.arange(10_000, 10_050), near)
    assert index_status(gpu)["hot_tier_state"] == "loaded"
    for probes in (3, LISTS):
        assert_as_cpu(both, queries, 10, probes)
        found = batch(gpu, queries, 1, probes)
        assert sum(found[i + 1][0][0] == 10_000 + i for i in range(50)) >= 49
    # Where rows die, lists are out of date.
    nearest = np.argsort(((rows - rows[0]) ** 2).sum(axis=1))[:60]
    cpu.execute("DELETE FROM t WHERE id = ANY(%s)", (nearest[::2].tolist(),))
    cpu.execute("VACUUM t")
    assert 0 < n_current(gpu) < LISTS
    for probes in (3, LISTS):
        found, wanted = batch(gpu, queries, 10, probes), batch(cpu, queries, 10, probes)
        assert sum([i for i, _ in found[n]] == [i for i, _ in wanted[n]] for n in found) >= 47, probes
    cpu.execute("DELETE FROM t WHERE id % 3 = 0")
    cpu.execute("VACUUM t")
    for _ in range(2):
        assert_exact(gpu, "l2", queries[:10], 10)


def test_more_than_the_device_takes(both, rng):
    """k beyond its kernels: the CPU chooses the lists, the device searches them."""
    gpu, cpu = both
    rows = vectors.clustered(rng, 6000, DIM)
    make_table(cpu, rows)
    make_index(cpu, lists=LISTS)
    for k, probes in ((1500, LISTS), (2500, LISTS), (2500, 15)):
        assert_as_cpu(both, rows[:8], k, probes, share=1 if probes == LISTS else 0.75)


@pytest.mark.parametrize("metric", OPERATORS)
def test_queries_for_the_cpu_alone(both, rng, metric):
    """Queries of which the keys say nothing are answered beside the others, which stay on the device."""
    gpu, cpu = both
    rows = vectors.clustered(rng, 1500, DIM)
    make_table(cpu, rows)
    make_index(cpu, metric, lists=LISTS)
    odd = np.full((1, DIM), {"l2": 1e25, "cosine": 0, "ip": 1e25}[metric], np.float32)
    queries = np.vstack([rows[:5], odd, rows[5:9], odd])
    found = batch(gpu, queries, 10, LISTS)
    scan = last_scan(gpu)
    # Where keys are that loose, another round follows, for those queries alone.
    assert (scan["engine"] == "gpu" or scan["rounds"] > 1) and scan["fallback_reason"] is None, scan
    wanted = batch(cpu, queries, 10, LISTS)
    for number in found:
        if number in (6, 11):
            assert [i for i, _ in found[number]] == [i for i, _ in wanted[number]]
        else:
            assert_near(found[number], wanted[number])


def test_part_of_the_lists_fits(both, rng):
    """Lists for which there is no room are searched on pages by the queries that chose them; those that batches choose get the room."""
    gpu, cpu = both
    # Of fewer dimensions than 512, which have no codes that would fit instead.
    rows = vectors.clustered(rng, 6000, 500)
    make_table(cpu, rows)
    make_index(cpu, lists=30)
    put(gpu, omen__gpu_memory_limit="20MB")
    # Neighbours of one row: few lists.
    far = np.argsort(((rows - rows[0]) ** 2).sum(axis=1))
    assert_as_cpu(both, rows[far[:40]], 10, 2)
    assert last_scan(gpu)["cpu_us"] == 0, "lists of the first batch are not on the device"
    assert 0 < n_current(gpu) < 30
    queries = rows[rng.integers(6000, size=60)]
    for probes in (3, 30):
        assert_as_cpu(both, queries, 10, probes)
