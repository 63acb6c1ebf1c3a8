"""What the Python clients have in common: random values, exact answers, and a run over the types.

Environment: libpq's PGHOST, PGPORT, PGUSER, PGDATABASE; OMEN_TEST_SEED. The database's settings make searches exact and by the index.
"""

import math
import os
import random
import sys
import traceback
import zlib
from dataclasses import dataclass

K = 10
ROWS = 200


@dataclass(frozen=True)
class Kind:
    """A type, and the operator class of the index that is made on it."""

    column: str
    opclass: str
    operator: str


KINDS = {
    "vector": Kind("vector(12)", "vector_l2_ops", "<->"),
    "halfvec": Kind("halfvec(12)", "halfvec_cosine_ops", "<=>"),
    "sparsevec": Kind("sparsevec(40)", "sparsevec_ip_ops", "<#>"),
    "bit": Kind("bit(24)", "bit_hamming_ops", "<~>"),
}
HOST, PORT, USER, DATABASE = (os.environ[name] for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"))


def draw(kind: str, rng: random.Random):
    """A value: a list of numbers that halves represent too, or a string of bits."""
    if kind == "bit":
        return "".join(rng.choice("01") for _ in range(24))
    if kind == "sparsevec":
        return [rng.randint(1, 40) / 8 if rng.random() < 0.2 else 0.0 for _ in range(39)] + [1.0]
    return [rng.randint(-40, 40) / 8 for _ in range(11)] + [0.125]


def distance(kind: str, a, b) -> float:
    """What the operator of the kind's index returns."""
    if kind == "vector":
        return math.dist(a, b)
    if kind == "bit":
        return float(sum(x != y for x, y in zip(a, b)))
    dot = sum(x * y for x, y in zip(a, b))
    return -dot if kind == "sparsevec" else 1 - dot / math.hypot(*a) / math.hypot(*b)


def index_sql(kind: str, table: str, column: str = "embedding") -> str:
    """The statement that makes the index."""
    return f"CREATE INDEX {table}_omen ON {table} USING omen ({column} {KINDS[kind].opclass})"


def check_stored(wanted: dict, stored: dict):
    """Fails unless the values by id came back as they were sent."""
    assert stored == wanted, next((i, wanted.get(i), stored.get(i)) for i in wanted | stored if wanted.get(i) != stored.get(i))


def check_answer(kind: str, values: dict, query, found: list):
    """Fails unless `found`, (id, distance) of each row, are the K nearest of `values`, in order."""
    exact = sorted(distance(kind, value, query) for value in values.values())[:K]
    assert len(found) == K == len({i for i, _ in found}), found
    for (i, returned), wanted in zip(found, exact):
        assert math.isclose(returned, wanted, rel_tol=1e-4, abs_tol=1e-4), (found, exact)
        assert math.isclose(distance(kind, values[i], query), wanted, rel_tol=1e-4, abs_tol=1e-4), (i, found, exact)


def check_plan(plan: str):
    """Fails unless the plan is an ordered scan of the omen index."""
    assert "_omen on " in plan and "Order By" in plan and "Sort" not in plan, plan


def main(check, kinds=tuple(KINDS)):
    """Runs `check(kind, values, query)` for each type, with values by id; ends the process with 1 if one of them fails."""
    failed = False
    for kind in kinds:
        rng = random.Random(int(os.environ["OMEN_TEST_SEED"]) ^ zlib.crc32(kind.encode()))
        try:
            check(kind, {i: draw(kind, rng) for i in range(ROWS)}, draw(kind, rng))
            print(f"{kind}: ok")
        except Exception:
            failed = True
            print(f"{kind}: FAILED\n{traceback.format_exc()}")
    sys.exit(failed)
