"""With default settings a search returns all rows it should, in order: filtered, LIMIT 500, no LIMIT at all."""

import numpy as np
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, GPU, assert_by_index, knn, last_scan, make_index, make_table
from lib.exact import recall

ROWS = 20_000


@pytest.mark.parametrize("metric", ("l2", "ip", "cosine"))
@pytest.mark.parametrize("engine", ("cpu", "gpu"))
def test_all_rows_in_order(db, rng, metric, engine):
    drawn = vectors.clustered(rng, ROWS + 4, 48, n_clusters=300, spread=0.8)
    queries, rows = drawn[:4], drawn[4:]
    with db.connect(**BY_INDEX, **(CPU if engine == "cpu" else GPU)) as conn:
        make_table(conn, rows)
        make_index(conn, metric)
        assert_by_index(conn, metric, queries[0], None, where="mod(id, 10) = 3")
        for query in queries:
            for where, k, want in (("mod(id, 10) = 3", None, 2000), ("mod(id, 10) = 3", 500, 500), ("true", 500, 500),
                                   ("true", None, ROWS), ("mod(id, 1000) = 7", 10, 10), ("id < 0", None, 0)):
                found = knn(conn, metric, query, k, where=where)
                distances = [d for _, d in found]
                assert len(found) == want == len({i for i, _ in found}), (where, k, last_scan(conn))
                assert distances == sorted(distances), (where, k)
        # The farther rows of a long answer are as good as the nearest ones.
        found = [knn(conn, metric, query, 500) for query in queries]
        share = np.mean([recall(metric, rows, q, [i for i, _ in f], 500) for q, f in zip(queries, found)])
        assert share >= 0.98, share
