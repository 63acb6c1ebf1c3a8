"""The systems that are compared: how each makes its index, and which of its settings trade recall against time.

A new one is a `System` in SYSTEMS; its row type must be called `vector` and have pgvector's binary format and operators.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, sqrt

import psycopg

OPERATOR = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}


@dataclass(frozen=True)
class Curve:
    """One setting swept, by an integer from `lowest` to `highest`, while others stay fixed; recall must not fall as it grows."""

    knob: str
    lowest: int
    highest: int
    fixed: dict = field(default_factory=dict)
    text: Callable[[int], str] = str  # the setting's value for an integer

    def settings(self, value: int) -> dict:
        return self.fixed | {self.knob: self.text(value)}

    def ladder(self) -> list[int]:
        """Doubling integers, the highest last."""
        values = [self.lowest]
        while values[-1] < self.highest:
            values.append(min(2 * values[-1], self.highest))
        return values


@dataclass(frozen=True)
class System:
    name: str
    database: str  # extensions that make a type `vector` of their own cannot be in the same one
    extensions: tuple[str, ...]  # in the order of CREATE EXTENSION; the last one's version is shown
    using: Callable[[str, int, int], str]  # (operator class, rows, cores) -> what follows USING in CREATE INDEX
    curves: Callable[[psycopg.Connection, int, int], list[Curve]]  # (connection, rows, k)
    preload: str = ""  # library that has to be in shared_preload_libraries
    by_target: Callable[[float], dict] | None = None  # recall aimed at -> settings with which the system chooses by itself
    last: str = ""  # query for one text about the session's last search

    @property
    def table(self) -> str:
        return f"bench_{self.name}"

    @property
    def index(self) -> str:
        return f"bench_{self.name}_idx"

    def missing(self, conn: psycopg.Connection) -> str:
        """Why the server cannot run it; empty when it can."""
        have = {row[0] for row in conn.execute("SELECT name FROM pg_available_extensions")}
        lacking = [name for name in self.extensions if name not in have]
        if lacking:
            return f"extension {', '.join(lacking)} is not installed on the server"
        loaded = conn.execute("SHOW shared_preload_libraries").fetchone()[0].replace('"', "").replace(".so", "")
        if self.preload and self.preload not in [name.strip() for name in loaded.split(",")]:
            return f"shared_preload_libraries lacks {self.preload}"
        return ""


def omen_using(ops: str, rows: int, cores: int) -> str:
    return f"omen (embedding {ops})"


def omen_curves(conn: psycopg.Connection, rows: int, k: int) -> list[Curve]:
    lists = conn.execute("SELECT lists FROM omen_index_status('bench_omen_idx')").fetchone()[0]
    # Aiming at a recall is not the same as a number of probes: fewer lists are read for easy queries. Here 1 - 1 / 2n, up to 0.999.
    return [Curve("omen.recall", 1, 500, {"omen.probes": "0"}, lambda n: f"{1 - 0.5 / n:.4g}"), Curve("omen.probes", 1, lists)]


def hnsw_using(ops: str, rows: int, cores: int) -> str:
    return f"hnsw (embedding {ops}) WITH (m = 16, ef_construction = 64)"


def hnsw_curves(conn: psycopg.Connection, rows: int, k: int) -> list[Curve]:
    # A search finds at most ef_search rows; 1000 is as far as the setting goes.
    return [Curve("hnsw.ef_search", k, 1000)]


def vchordrq_lists(rows: int) -> int:
    """Its reference: a single level should have no less than 4 sqrt(rows) lists."""
    return ceil(4 * sqrt(rows))


def vchordrq_using(ops: str, rows: int, cores: int) -> str:
    """Its guide: spherical centroids for angles; residuals for l2, and for cosine too."""
    residual, spherical = ops != "vector_ip_ops", ops != "vector_l2_ops"
    return f"""vchordrq (embedding {ops}) WITH (options = $$
residual_quantization = {str(residual).lower()}
[build.internal]
lists = [{vchordrq_lists(rows)}]
spherical_centroids = {str(spherical).lower()}
build_threads = {min(cores, 255)}
$$)"""


def vchordrq_curves(conn: psycopg.Connection, rows: int, k: int) -> list[Curve]:
    # Its default epsilon; with 1.4 and 1.0 no set measured reached a recall for less.
    return [Curve("vchordrq.probes", 1, vchordrq_lists(rows), {"vchordrq.epsilon": "1.9"})]


SYSTEMS = {system.name: system for system in (
    System("omen", "bench_omen", ("pg_omen",), omen_using, omen_curves,
           by_target=lambda target: {"omen.probes": "0", "omen.recall": str(target)},
           last="SELECT engine FROM omen_last_scan()"),
    System("hnsw", "bench_pgvector", ("vector",), hnsw_using, hnsw_curves),
    System("vchordrq", "bench_pgvector", ("vector", "vchord"), vchordrq_using, vchordrq_curves, preload="vchord"),
)}
