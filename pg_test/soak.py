"""`soak.py SECONDS`: the churn test for as long as wanted, on a server of its own."""

import sys

from lib import vectors
from lib.churn import DIM, Churn
from lib.db import GPU, make_database, make_index, make_table
from lib.server import Server


def main(seconds: float) -> int:
    print(f"OMEN_TEST_SEED={vectors.SEED}", flush=True)
    server = Server("soak").start()
    try:
        db = make_database(server, "soak")
        with db.connect() as conn:
            make_table(conn, vectors.clustered(vectors.rng_for("soak"), 20_000, DIM))
            make_index(conn)
        churn = Churn(db, seconds, GPU).run()
        churn.check_end()
        with db.connect() as conn:
            size = conn.execute("SELECT pg_size_pretty(pg_relation_size('t_v_idx')), (SELECT count(*) FROM t)").fetchone()
        print(churn.counts, "index", size[0], "rows", size[1])
        print("\n".join(churn.problems) or "no problem found")
        print(f"{int(not churn.problems)} passed, {int(bool(churn.problems))} failed, 0 skipped")
        return bool(churn.problems)
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
