"""What applications set and say for pgvector's indexes, and the list of indexes to build beside them."""

import numpy as np
import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, GPU, check_index, index_status, last_scan, make_index, make_table, put
from lib.pgvector import make_pgvector_database

pytestmark = [pytest.mark.every_major, pytest.mark.pgvector]

DIM = 16


def probes(conn, query, **settings) -> int:
    """Lists that a search visits with these settings. Planned anew, as what earlier searches pulled counts where a plan is kept."""
    put(conn, **settings)
    conn.execute("SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 10", (vectors.text(query),), prepare=False).fetchall()
    return last_scan(conn)["probes"]


def visited(conn, rng) -> dict[str, float]:
    """Mean number of lists by the settings tried; each session's settings are set back."""
    def mean(**settings):
        mean = np.mean([probes(conn, query, **settings) for query in queries])
        for name in settings:
            conn.execute(f"RESET {name.replace('__', '.')}")
        return mean
    queries = vectors.clustered(rng, 20, DIM)
    return {
        "default": mean(omen__probes=0),
        "ef 40": mean(hnsw__ef_search=40),
        "ef 400": mean(hnsw__ef_search=400),
        "recall 0.995": mean(omen__recall=0.995),
        "ef 8": mean(hnsw__ef_search=8),
        "recall 0.75": mean(omen__recall=0.75),
        "ef 400, ours too": mean(hnsw__ef_search=400, omen__recall=0.75),
        "ef 400, our probes": mean(hnsw__ef_search=400, omen__probes=3),
        "ivfflat 2": mean(ivfflat__probes=2),
        "ivfflat 9": mean(ivfflat__probes=9),
        "ivfflat 9, our probes": mean(ivfflat__probes=9, omen__probes=3),
        "nonsense": mean(hnsw__ef_search=40, ivfflat__probes=1),
    }


def check_visited(seen: dict[str, float], lists: int, rows: int):
    assert seen["ef 40"] == seen["default"] == seen["nonsense"]
    assert seen["ef 400"] == seen["recall 0.995"] > seen["default"]
    assert seen["ef 8"] == seen["recall 0.75"] == seen["ef 400, ours too"] < seen["default"]
    assert seen["ef 400, our probes"] == seen["ivfflat 9, our probes"] == 3
    # The same share of the table: pgvector advises a list for each thousand rows.
    assert seen["ivfflat 2"] == np.ceil(2 / (rows / 1000) * lists) and seen["ivfflat 9"] == np.ceil(9 / (rows / 1000) * lists)


def test_settings_of_pgvector(conn, rng):
    """Without pgvector's library they are text that nobody has checked."""
    rows = vectors.clustered(rng, 20000, DIM, n_clusters=400, spread=1.0)
    make_table(conn, rows)
    make_index(conn, "l2", lists=200)
    put(conn, **CPU)
    seen = visited(conn, rng)
    check_visited(seen, 200, 20000)
    for nonsense in ("", "many", "-1", "0", "100000", "400x", "4e2"):
        assert probes(conn, rows[0], hnsw__ef_search=nonsense, ivfflat__probes=nonsense) == probes(conn, rows[0], hnsw__ef_search=40, ivfflat__probes=1), nonsense
    conn.execute("RESET hnsw.ef_search")
    # As LangChain and others do it; and the planner looks, too.
    with conn.transaction():
        conn.execute("SET LOCAL hnsw.ef_search = 400")
        assert probes(conn, rows[0]) >= probes(conn, rows[0], omen__recall=0.99)
        conn.execute("RESET omen.recall")
        conn.execute("EXPLAIN SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 10", (vectors.text(rows[0]),))


def test_iterative_scan_of_pgvector(conn, rng):
    """Late rows come by relaxed_order alone."""
    make_table(conn, vectors.clustered(rng, 3000, DIM))
    make_index(conn, "l2", lists=60)
    put(conn, **CPU, omen__probes=1)
    query = vectors.text(vectors.clustered(rng, 1, DIM)[0])
    def count(**settings):
        put(conn, **settings)
        return len(conn.execute("SELECT id FROM t ORDER BY v <-> %s::vector", (query,)).fetchall())
    strict = count()
    assert count(hnsw__iterative_scan="relaxed_order") == 3000 >= strict
    assert count(hnsw__iterative_scan="off", ivfflat__iterative_scan="relaxed_order") == 3000
    assert count(omen__iterative_scan="off") < 3000
    assert count(omen__iterative_scan="strict_order", hnsw__iterative_scan="strict_order") == strict


def test_options_of_hnsw(conn, rng):
    """In WITH they have pgvector's ranges, and no effect."""
    make_table(conn, vectors.clustered(rng, 500, DIM))
    conn.execute("CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (m = 24, ef_construction = 200, lists = 12)")
    assert index_status(conn)["lists"] == 12
    for wrong in ("m = 1", "m = 101", "ef_construction = 3", "ef_construction = 1001"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            conn.execute(f"CREATE INDEX ON t USING omen (v vector_l2_ops) WITH ({wrong})")


def migrations(conn, table: str | None = None) -> list[tuple]:
    return conn.execute("SELECT index::text, access_method, sibling::text, statement, seconds, memory_bytes, note FROM omen_migrate(%s::regclass)", (table,)).fetchall()


def test_migrate_without_pgvector(conn):
    assert migrations(conn) == []


def test_migrate(shared_server, rng):
    """Each statement runs as it is, and its index is then known as the sibling."""
    db = make_pgvector_database(shared_server, "migrates", "ext")
    with db.connect(search_path="public, ext") as conn:
        conn.execute("CREATE SCHEMA \"Odd one\"")
        conn.execute(f'CREATE TABLE "Odd one"."My items" (id integer, "Vec" vector({DIM}), h halfvec({DIM}))')
        conn.execute(f"CREATE TABLE parts (id integer, v vector({DIM})) PARTITION BY RANGE (id)")
        conn.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500)")
        conn.execute("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (1000)")
        rows = vectors.clustered(rng, 1000, DIM)
        vectors.copy_rows(conn, "parts", np.arange(1000), rows)
        conn.execute('INSERT INTO "Odd one"."My items" SELECT id, v, v::halfvec FROM parts')
        conn.execute("ANALYZE")
        conn.execute("CREATE INDEX parts_v ON parts USING hnsw (v vector_l2_ops)")
        conn.execute('CREATE INDEX whole ON "Odd one"."My items" USING hnsw ("Vec" vector_cosine_ops)')
        conn.execute('CREATE INDEX "Some" ON "Odd one"."My items" USING ivfflat ("Vec" vector_ip_ops) WITH (lists = 5) WHERE id < 500 AND id <> 3')
        conn.execute(f'CREATE INDEX expr ON "Odd one"."My items" USING hnsw ((subvector("Vec", 1, 8)::vector(8)) vector_l2_ops)')
        found = migrations(conn)
        assert len(found) == 6 and [row[0] for row in found][-1] == "parts_v", found
        by_index = {row[0].split(".")[-1].strip('"'): row for row in found}
        assert all(row[2] is None for row in found)
        for name in ("whole", "parts_1_v_idx", "parts_2_v_idx"):
            assert by_index[name][4] > 0 and by_index[name][5] > 0 and by_index[name][6] is None, by_index[name]
        for name, note in (("Some", "some of the rows"), ("expr", "an expression"), ("parts_v", "partitioned")):
            assert by_index[name][4] is None and note in by_index[name][6], by_index[name]
        assert [row[1] for row in found].count("ivfflat") == 1
        for row in found:
            assert ("CONCURRENTLY" in row[3]) == (row[0] != "parts_v"), row
            conn.execute(row[3])
        assert all(row[2] is not None for row in migrations(conn)), migrations(conn)
        assert {row[0] for row in migrations(conn, "parts")} == {"parts_v", "parts_1_v_idx", "parts_2_v_idx"}
        assert {row[0] for row in migrations(conn, "parts_1")} == {"parts_1_v_idx"}
        put(conn, **BY_INDEX)
        conn.execute("CREATE ROLE migrates_nobody")
        try:
            conn.execute("GRANT USAGE ON SCHEMA \"Odd one\", ext TO migrates_nobody")
            conn.execute("SET ROLE migrates_nobody")
            assert all(row[4] is None for row in migrations(conn))
            conn.execute("RESET ROLE")
        finally:
            conn.execute("RESET ROLE")
            conn.execute("DROP OWNED BY migrates_nobody")
            conn.execute("DROP ROLE migrates_nobody")


COMPARED = ("index", "method", "queries", "rows", "recall", "same_rows", "mean_ms", "median_ms", "p95_ms", "max_ms")


def compare(conn, index: str, queries, k: int = 10, exact: bool = True, element: str = "vector") -> list[dict]:
    texts = [vectors.text(query) for query in queries]
    found = conn.execute(f"SELECT * FROM omen_shadow_compare(%s::regclass, %s::text[]::{element}[], %s, %s)", (index, texts, k, exact)).fetchall()
    return [dict(zip(COMPARED, row, strict=True)) for row in found]


def check_times(row: dict):
    assert 0 < row["median_ms"] <= row["p95_ms"] <= row["max_ms"] and row["mean_ms"] <= row["max_ms"], row


def test_compare_alone(conn, rng):
    """Recall is counted by distances against a sort of the table, of rows that a filter of the index leaves."""
    make_table(conn, vectors.clustered(rng, 3000, DIM))
    conn.execute("INSERT INTO t SELECT id, v FROM t WHERE id < 300")  # ties
    conn.execute("CREATE INDEX t_v_idx ON t USING omen (v vector_l2_ops) WITH (lists = 40) WHERE id % 3 <> 0")
    queries = vectors.clustered(rng, 15, DIM)
    for wanted, n_probes in ((1.0, 65536), (None, 1)):
        put(conn, **CPU, omen__probes=n_probes)
        ours, truth = compare(conn, "t_v_idx", queries)
        assert (ours["index"], ours["method"], truth["index"], truth["method"]) == ("t_v_idx", "omen", None, None)
        assert ours["queries"] == truth["queries"] == 15 and truth["rows"] == ours["rows"] == 150
        assert truth["recall"] == 1 and (ours["recall"] == wanted if wanted else 0 < ours["recall"] < 1), ours
        assert ours["same_rows"] == 1 and 0 < truth["same_rows"] <= 1
        check_times(ours)
        check_times(truth)
        wanted_hits = 0
        for query in queries:
            text = vectors.text(query)
            sql = "SELECT v <-> %s::vector AS d FROM t WHERE id % 3 <> 0 ORDER BY 1 LIMIT 10"
            put(conn, enable_indexscan="on")
            by_index = [d for (d,) in conn.execute(sql.replace("%s", f"'{text}'")).fetchall()]
            put(conn, enable_indexscan="off", enable_seqscan="on", enable_sort="on")
            by_sort = [d for (d,) in conn.execute(sql.replace("%s", f"'{text}'")).fetchall()]
            put(conn, **BY_INDEX)
            wanted_hits += sum(d <= by_sort[-1] for d in by_index)
        assert ours["recall"] == wanted_hits / 150
    (alone,) = compare(conn, "t_v_idx", queries, exact=False)
    assert alone["recall"] is None and alone["same_rows"] == 1
    assert [row["queries"] for row in compare(conn, "t_v_idx", [])] == [0, 0]
    # The settings are the session's again, and so are the plans.
    assert conn.execute("SHOW enable_seqscan").fetchone() == ("off",) and conn.execute("SHOW max_parallel_workers_per_gather").fetchone() != ("0",)
    conn.execute("CREATE INDEX t_id ON t (id)")
    put(conn, enable_bitmapscan="off")
    assert "t_id" in "\n".join(line for (line,) in conn.execute("EXPLAIN SELECT id FROM t WHERE id = 5").fetchall())


def test_compare_refuses(conn, rng):
    make_table(conn, vectors.clustered(rng, 300, DIM))
    make_index(conn, "l2", lists=4)
    conn.execute("CREATE INDEX t_id ON t (id)")
    query = vectors.clustered(rng, 1, DIM)
    for index, what, sqlstate in (("t_id", {}, "42809"), ("t", {}, "42809"), ("t_v_idx", {"k": 0}, "22023"), ("t_v_idx", {"element": "real"}, None)):
        with pytest.raises(psycopg.Error) as error:
            compare(conn, index, query, **what)
        assert sqlstate is None or error.value.sqlstate == sqlstate, error.value
    with pytest.raises(psycopg.errors.DatatypeMismatch):
        conn.execute("SELECT * FROM omen_shadow_compare('t_v_idx', ARRAY[1.0::real])")
    with pytest.raises(psycopg.errors.DataException, match="dimensions"):
        compare(conn, "t_v_idx", [[1, 2, 3]])
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        conn.execute("SELECT * FROM omen_shadow_compare('t_v_idx', ARRAY[NULL::vector])")
    # After an error plans are as ever.
    assert "t_v_idx" in "\n".join(line for (line,) in conn.execute("EXPLAIN SELECT id FROM t ORDER BY v <-> %s::vector LIMIT 3", (vectors.text(query[0]),)).fetchall())


def test_compare_with_pgvector(shared_server, rng):
    """All indexes that can answer take part, each alone before the planner."""
    db = make_pgvector_database(shared_server, "compares", "ext")
    with db.connect(search_path="public, ext") as conn:
        make_table(conn, vectors.clustered(rng, 5000, DIM))
        conn.execute("CREATE INDEX t_hnsw ON t USING hnsw (v vector_l2_ops)")
        conn.execute("CREATE INDEX t_cosine ON t USING hnsw (v vector_cosine_ops)")
        conn.execute("CREATE INDEX t_ivfflat ON t USING ivfflat (v vector_l2_ops) WITH (lists = 50)")
        conn.execute("CREATE INDEX t_part ON t USING hnsw (v vector_l2_ops) WHERE id > 5")
        make_index(conn, "l2", lists=60)
        put(conn, **CPU, omen__probes=65536)
        conn.execute("SET search_path = public")
        queries = vectors.clustered(rng, 20, DIM)
        conn.execute("SET search_path = public, ext")
        for index in ("t_v_idx", "t_hnsw"):
            rows = compare(conn, index, queries)
            assert rows[0]["index"] == index and rows[-1]["index"] is None
            by_method = {row["method"]: row for row in rows}
            assert [row["method"] for row in rows].count("hnsw") == 1 and set(by_method) == {"omen", "hnsw", "ivfflat", None}, rows
            assert by_method["omen"]["recall"] == 1
            assert 0.05 < by_method["ivfflat"]["recall"] < 0.95 and by_method["hnsw"]["recall"] > 0.8, rows
            assert all(row["rows"] == 200 for row in rows if row["method"] != "ivfflat"), rows
            for row in rows:
                check_times(row)
        print("\n".join(str(row) for row in rows))


def test_compare_of_anothers_index(conn, rng):
    """What an index's owner has put into it does not run with the rights of whoever compares; JIT does not count."""
    make_table(conn, vectors.clustered(rng, 300, DIM))
    make_index(conn, "l2", lists=4)
    conn.execute("CREATE ROLE compares_owner")
    try:
        conn.execute("CREATE FUNCTION spies(vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$")
        conn.execute(f"CREATE INDEX t_spies ON t USING omen ((spies(v)::vector({DIM})) vector_l2_ops)")
        query = vectors.clustered(rng, 1, DIM)
        assert len(compare(conn, "t_spies", query)) == 2
        conn.execute("GRANT CREATE ON SCHEMA public TO compares_owner")
        conn.execute("ALTER TABLE t OWNER TO compares_owner")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as error:
            compare(conn, "t_spies", query)
        assert "SET ROLE" in error.value.diag.message_hint
        put(conn, jit="on", jit_above_cost=0)
        assert len(compare(conn, "t_v_idx", query)) == 2
        assert conn.execute("SHOW jit").fetchone() == ("on",)
        conn.execute("SET ROLE compares_owner")
        assert len(compare(conn, "t_spies", query)) == 2
        conn.execute("RESET ROLE")
    finally:
        conn.execute("RESET ROLE")
        conn.execute("REASSIGN OWNED BY compares_owner TO CURRENT_USER")
        conn.execute("DROP OWNED BY compares_owner")
        conn.execute("DROP ROLE compares_owner")


def test_names_in_the_way_of_migrate(db):
    """Functions with better fitting arguments in the schema that the extension goes to are not called."""
    with db.connect() as conn:
        conn.execute("DROP EXTENSION pg_omen")
        conn.execute("CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$")
        conn.execute("CREATE FUNCTION public.pg_relation_size(oid) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$")
        conn.execute("CREATE EXTENSION pg_omen")
        named = conn.execute("SELECT p.oid::regprocedure::text FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid AND d.refclassid = 'pg_proc'::regclass "
                             "WHERE d.classid = 'pg_proc'::regclass AND d.objid = 'omen_migrate'::regproc").fetchall()
        assert [name for (name,) in named if "omen" not in name] == [], named
        assert conn.execute("SELECT count(*) FROM omen_migrate()").fetchone() == (0,)


# Of each column the metrics of its operator classes; those that ivfflat has none for.
CLASSES = {"v": ("vector", ("l2", "ip", "cosine", "l1")), "h": ("halfvec", ("l2", "ip", "cosine", "l1")),
           "b": ("bit", ("hamming", "jaccard")), "s": ("sparsevec", ("l2", "ip", "cosine", "l1"))}
NOT_IVFFLAT = {"vector_l1", "halfvec_l1", "bit_jaccard", "sparsevec_l2", "sparsevec_ip", "sparsevec_cosine", "sparsevec_l1"}


def test_every_index_has_a_sibling(shared_server, rng):
    """For each operator class of hnsw and ivfflat there is one here, whose index finds exactly the rows that a sort does, by both engines; the table's file stays."""
    db = make_pgvector_database(shared_server, "siblings", "ext")
    n = 1200
    with db.connect(search_path="public, ext") as conn:
        conn.execute(f"CREATE TABLE staging (id integer, v vector({DIM}))")
        vectors.copy_rows(conn, "staging", np.arange(n), vectors.clustered(rng, n, DIM))
        conn.execute(f"CREATE TABLE t (id integer PRIMARY KEY, v vector({DIM}), h halfvec({DIM}), b bit({DIM}), s sparsevec({DIM}))")
        conn.execute(f"INSERT INTO t SELECT id, v, v::halfvec, binary_quantize(v)::bit({DIM}), (v * v - v)::sparsevec FROM staging")
        conn.execute("INSERT INTO t VALUES (-1)")
        conn.execute("ANALYZE t")
        wanted = set()
        for column, (kind, metrics) in CLASSES.items():
            for metric in metrics:
                for method in ("hnsw", "ivfflat"):
                    if method == "ivfflat" and f"{kind}_{metric}" in NOT_IVFFLAT:
                        continue
                    name = f"{column}_{metric}_{method}"
                    conn.execute(f"CREATE INDEX {name} ON t USING {method} ({column} {kind}_{metric}_ops)")
                    wanted.add(name)
        file = conn.execute("SELECT pg_relation_filenode('t')").fetchone()
        found = migrations(conn)
        assert {row[0] for row in found} == wanted and [row[6] for row in found if row[6]] == [], found
        assert all(row[4] > 0 for row in found)
        built = set()
        for index, method, _, statement, *_ in found:
            if method == "hnsw":
                conn.execute(statement)
                built.add(f"{index}_omen")
        assert all(row[2] in built for row in migrations(conn))
        assert conn.execute("SELECT pg_relation_filenode('t')").fetchone() == file
        for settings in (CPU, GPU):
            put(conn, **settings, omen__probes=65536)
            for name in sorted(built):
                rows = conn.execute("SELECT compared::text, access_method, rows, recall FROM omen_shadow_compare(%s::regclass, "
                                    f"ARRAY(SELECT {name[0]} FROM t WHERE mod(id, 97) = 5), 8)", (name,)).fetchall()
                queries = len(range(5, n, 97))
                assert rows[0] == (name, "omen", 8 * queries, 1.0), rows
                assert [row[1] for row in rows[1:]].count("hnsw") == 1 and rows[-1][1] is None, rows
        for name in sorted(built):
            check_index(conn, name)
