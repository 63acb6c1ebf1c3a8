"""The classes whose distances have kernels of their own, on a device: the rows are the CPU's and a sort's, through all that makes a hot tier stale."""

import time

import numpy as np
import pytest

from lib import classes, vectors
from lib.db import BY_INDEX, BY_SORT, CPU, GPU, assert_same, check_index, last_scan, put
from lib.service import load, stat

# The longest strings have sketches for coarse vectors.
CLASSES = [("vector", "l1", 48), ("halfvec", "l1", 100), ("bit", "hamming", 200), ("bit", "jaccard", 256), ("bit", "hamming", 3000)]
LISTS = 12
K = 20


def values(rng, kind: str, n: int, dim: int) -> list[str]:
    if kind == "bit":
        return classes.bit_strings(rng, n, dim)
    rows = vectors.clustered(rng, n, dim) * rng.lognormal(0, 0.3, (n, 1)).astype(np.float32)
    return [vectors.text(row) for row in rows]


def far_from(rng, query: str, n: int) -> list[str]:
    """Values as far away from a query as most are not: in no list that is near to it."""
    if query[0] != "[":
        flipped = query.translate(str.maketrans("01", "10"))
        at = rng.integers(len(query), size=n)
        return [flipped[:i] + query[i] + flipped[i + 1:] for i in at]
    row = np.array([float(x) for x in query[1:-1].split(",")])
    return [vectors.text((row - 300 + rng.random(len(row))).astype(np.float32)) for _ in range(n)]


def type_of(kind: str, dim: int) -> str:
    return f"bit({dim})" if kind == "bit" else kind


class World:
    """A table, its index, and sessions that search by a device, by the CPU, and by sorting."""

    def __init__(self, gpu, cpu, oracle, rng, kind: str, metric: str, dim: int):
        self.gpu, self.cpu, self.oracle, self.rng = gpu, cpu, oracle, rng
        self.kind, self.metric, self.type = kind, metric, type_of(kind, dim)
        rows = values(rng, kind, 2504, dim)
        self.queries = [*rows[2500:], rows[3]]
        classes.make(cpu, kind, dim, rows[:2500])
        classes.index(cpu, kind, metric, LISTS)

    def nearest(self, conn, query: str, k: int | None):
        return classes.nearest(conn, self.type, self.metric, query, k)

    def check(self, query: str):
        """As many lists give the same rows on either engine, and all of them a sort's."""
        for conn in (self.gpu, self.cpu):
            put(conn, omen__iterative_scan="off")
        for probes in (4, 1):
            for conn in (self.gpu, self.cpu):
                put(conn, omen__probes=probes)
            assert_same(self.nearest(self.gpu, query, None), self.nearest(self.cpu, query, None))
        for conn in (self.gpu, self.cpu):
            put(conn, omen__iterative_scan="strict_order", omen__probes=LISTS)
        for k in (1, K, None):
            assert_same(self.nearest(self.gpu, query, k), self.nearest(self.oracle, query, k), complete_ties=k is None)
        where = "tag %% 10 = 3"
        classes.compare(self.gpu, self.oracle, self.type, self.metric, [query], K, where=where)

    def use_tier(self, query: str):
        """Searches until the tier answers: one that is out of date is not loaded again at once."""
        for _ in range(200):
            self.nearest(self.gpu, query, K)
            if last_scan(self.gpu)["engine"] == "gpu":
                return
            time.sleep(0.02)
        raise AssertionError(f"the hot tier is not used: {last_scan(self.gpu)}")

    def refill(self, query: str, first_id: int, others: list[str]) -> int:
        """Rows near to the query and others go, and their places are taken by `others`. Returns how many were."""
        near = [i for i, _ in self.nearest(self.oracle, query, 60)]
        self.cpu.execute("CREATE TEMP TABLE gone AS SELECT ctid AS slot FROM t WHERE id = ANY(%s) OR id %% 10 = %s", (near, first_id % 7))
        self.cpu.execute("DELETE FROM t USING gone WHERE t.ctid = slot")
        self.cpu.execute("VACUUM t")
        classes.add(self.cpu, others, first_id)
        n = self.cpu.execute("SELECT count(*) FROM t JOIN gone ON t.ctid = slot WHERE id >= %s", (first_id,)).fetchone()[0]
        self.cpu.execute("DROP TABLE gone")
        return n

    def scenario(self, renew=lambda: None):
        for step, query in enumerate(self.queries):
            renew()
            self.use_tier(query)
            self.check(query)
            others = far_from(self.rng, query, 150) if step % 2 == 0 else [query] * 50 + far_from(self.rng, query, 100)
            reused = self.refill(query, 10_000 * (step + 1), others)
            assert reused > 30, f"only {reused} places were taken again: the test would prove nothing"
            self.check(query)
            # What was inserted after loading is found beside what the device has.
            classes.add(self.cpu, [query], 10_000 * (step + 1) + 9999)
            assert self.nearest(self.gpu, query, 1)[0][1] == 0
            self.check(self.queries[step - 1])
        renew()
        self.use_tier(self.queries[0])
        check_index(self.cpu)


@pytest.mark.parametrize("kind, metric, dim", CLASSES)
def test_a_tier_of_the_session(db, rng, kind, metric, dim):
    with db.connect(**BY_INDEX, **GPU) as gpu, db.connect(**BY_INDEX, **CPU) as cpu, db.connect(**BY_SORT) as oracle:
        World(gpu, cpu, oracle, rng, kind, metric, dim).scenario()


@pytest.mark.parametrize("kind, metric, dim", CLASSES)
def test_the_service(first, rng, kind, metric, dim):
    with (first.connect(**BY_INDEX, omen__engine="gpu") as gpu, first.connect(**BY_INDEX, **CPU) as cpu,
          first.connect(**BY_SORT) as oracle):
        world = World(gpu, cpu, oracle, rng, kind, metric, dim)
        world.scenario(lambda: load(gpu))
        row = stat(gpu)
        assert row["hot_tiers"] == 1 and row["failed_batches"] == 0 and row["searches"] > 0, row
        # The session has nothing of its own on the device.
        assert gpu.execute("SELECT sum(hot_tiers) FROM omen_gpu_status()").fetchone()[0] == 0


@pytest.mark.parametrize("kind, metric, dim", CLASSES[:2])
def test_many_queries_at_once(db, rng, kind, metric, dim):
    """omen_search() takes vectors: by the device it finds what it finds by the CPU."""
    with db.connect(**BY_INDEX, **GPU, omen__probes=LISTS) as gpu, db.connect(**BY_INDEX, **CPU, omen__probes=LISTS) as cpu:
        rows = values(rng, kind, 2040, dim)
        classes.make(cpu, kind, dim, rows[:2000])
        classes.index(cpu, kind, metric, LISTS)
        sql = """SELECT query_no, t.id, distance FROM omen_search('t_v_idx', %s::vector[], 7) s JOIN t ON t.ctid = s.ctid
                 ORDER BY query_no, distance, t.id"""
        found, wanted = (conn.execute(sql, (rows[2000:],)).fetchall() for conn in (gpu, cpu))
        assert len(found) == 280 and last_scan(gpu)["engine"] == "gpu"
        assert [(q, i) for q, i, _ in found] == [(q, i) for q, i, _ in wanted]
        assert np.allclose([d for *_, d in found], [d for *_, d in wanted], rtol=1e-5)
