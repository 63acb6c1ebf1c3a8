"""Hot tiers by hand (omen_load, omen_evict), by index option (hot) and by device (omen.gpu_devices)."""

import re

import psycopg
import pytest

from lib import vectors
from lib.db import BY_INDEX, CPU, GPU, REAL_GPU, assert_fails, index_status, knn, last_scan, make_index, make_table, put
from psycopg.rows import dict_row

DIM = 32
AUTO = GPU | {"omen__engine": "auto"}


def gpu_status(conn) -> list[dict]:
    with conn.cursor(row_factory=dict_row) as cur:
        return cur.execute("SELECT * FROM omen_gpu_status()").fetchall()


def load(conn, index="t_v_idx") -> int:
    return conn.execute("SELECT omen_load(%s)", (index,)).fetchone()[0]


def evict(conn, index=None) -> int:
    return conn.execute("SELECT omen_evict(%s)", (index,)).fetchone()[0]


def tier_bytes(conn, index="t_v_idx") -> int:
    return index_status(conn, index)["hot_tier_bytes"]


@pytest.fixture
def rows(db, rng):
    """A table t and a larger one, big, each with an index."""
    rows = vectors.clustered(rng, 2000, DIM)
    with db.connect() as conn:
        make_table(conn, rows)
        make_index(conn, lists=8)
        make_table(conn, vectors.clustered(rng, 6000, 2 * DIM), name="big")
        make_index(conn, table="big", name="big_idx", lists=8)
    return rows


@pytest.mark.every_major
def test_load_and_evict(db, rows):
    with db.connect(**BY_INDEX, **AUTO) as conn:
        assert evict(conn) == 0
        n_bytes = load(conn)
        assert n_bytes >= 2000 * DIM * 2 and tier_bytes(conn) == n_bytes
        assert index_status(conn)["hot_tier_state"] == "loaded"
        # The first search of the session is on the GPU.
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3
        assert last_scan(conn)["engine"] == "gpu" and last_scan(conn)["load_us"] == 0, last_scan(conn)
        assert load(conn) >= n_bytes and load(conn, "big_idx") > n_bytes
        total = tier_bytes(conn) + tier_bytes(conn, "big_idx")
        assert sum(d["hot_tier_bytes"] for d in gpu_status(conn)) == total
        assert evict(conn, "t_v_idx") >= n_bytes and tier_bytes(conn) == 0 < tier_bytes(conn, "big_idx")
        assert evict(conn, "t_v_idx") == 0
        assert evict(conn) > 0 and sum(d["hot_tiers"] for d in gpu_status(conn)) == 0
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3


def test_load_again_after_changes(db, rows, rng):
    """A tier with lists out of date is loaded afresh, one that is current is left as it is."""
    with db.connect(**BY_INDEX, **AUTO) as conn:
        load(conn)
        conn.execute("DELETE FROM t WHERE id < 500")
        conn.execute("VACUUM t")
        assert "current" in index_status(conn)["hot_tier_state"]
        load(conn)
        assert index_status(conn)["hot_tier_state"] == "loaded"
        assert all(i >= 500 for i, _ in knn(conn, "l2", rows[3], 50))


def test_load_that_fails(db, rows):
    with db.connect(**AUTO) as conn:
        put(conn, omen__gpu_memory_limit="1MB")
        assert_fails(conn, "53200", "omen.gpu_memory_limit", "SELECT omen_load('big_idx')")
        put(conn, omen__gpu_memory_limit=0)
        # The failure does not keep the GPU from being used.
        assert load(conn, "big_idx") > 0
        put(conn, **CPU)
        assert_fails(conn, "55000", "omen.engine", "SELECT omen_load('t_v_idx')")
        put(conn, **AUTO)
        conn.execute("ALTER INDEX t_v_idx SET (hot = off)")
        assert_fails(conn, "55000", "hot = auto", "SELECT omen_load('t_v_idx')")
        for name in ("t", "pg_class_oid_index"):
            assert_fails(conn, "42809", "", f"SELECT omen_load('{name}')")
            assert_fails(conn, "42809", "", f"SELECT omen_evict('{name}')")


@pytest.mark.skipif(REAL_GPU, reason="this machine has a GPU")
def test_load_without_a_card(db, rows):
    with db.connect() as conn:
        assert_fails(conn, "55000", "omen_gpu_status", "SELECT omen_load('t_v_idx')")
        assert evict(conn) == 0


def test_load_needs_select(db, rows):
    with db.connect(**AUTO) as conn:
        conn.execute("DROP ROLE IF EXISTS omen_loader")
        conn.execute("CREATE ROLE omen_loader")
        try:
            conn.execute("SET ROLE omen_loader")
            for name in ("omen_load", "omen_evict"):
                assert_fails(conn, "42501", "SELECT", f"SELECT {name}('t_v_idx')")
            assert evict(conn) == 0
            conn.execute("RESET ROLE; GRANT SELECT ON t TO omen_loader; SET ROLE omen_loader")
            assert load(conn) > 0 and evict(conn, "t_v_idx") > 0
        finally:
            conn.execute("RESET ROLE; DROP OWNED BY omen_loader; DROP ROLE omen_loader")


def test_option_off_and_on(db, rows):
    with db.connect(**BY_INDEX, **GPU) as conn:
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "gpu"
        # Neither a rebuild nor a new session is needed.
        conn.execute("ALTER INDEX t_v_idx SET (hot = off)")
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3
        scan = last_scan(conn)
        assert scan["engine"] == "cpu" and scan["fallback_reason"] is None, scan
        assert tier_bytes(conn) == 0 and index_status(conn)["hot_tier_state"] == "off"
        conn.execute("SELECT * FROM omen_search('t_v_idx', ARRAY[%s::vector], 5)", (vectors.text(rows[3]),))
        assert last_scan(conn)["engine"] == "cpu"
        put(conn, **AUTO)
        conn.execute("ALTER INDEX t_v_idx SET (hot = on)")
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "gpu", last_scan(conn)
        conn.execute("ALTER INDEX t_v_idx RESET (hot)")
        evict(conn)
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "cpu"
        put(conn, **CPU)
        conn.execute("ALTER INDEX t_v_idx SET (hot = on)")
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "cpu"


def test_option_values(db, rows):
    with db.connect() as conn:
        conn.execute("CREATE INDEX made ON t USING omen (v) WITH (lists = 3, hot = 'on')")
        assert conn.execute("SELECT reloptions FROM pg_class WHERE relname = 'made'").fetchone()[0] == ["lists=3", "hot=on"]
        for bad in ("hot = maybe", "hot = 1", "hot = ''"):
            with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
                conn.execute(f"ALTER INDEX made SET ({bad})")
            assert "auto" in error.value.diag.message_detail


@pytest.mark.parametrize("kept, goes", ["ab", "ba"])
def test_eviction_spares_what_is_on(db, rng, kept, goes):
    """When memory runs short, tiers of `hot = on` go last, however long ago they were used."""
    with db.connect(**GPU) as conn:
        for name in "abc":
            make_table(conn, vectors.uniform(rng, 600, 512), name=name)
            make_index(conn, table=name, name=f"{name}_idx", lists=4)
        conn.execute(f"ALTER INDEX {kept}_idx SET (hot = on)")
        # Their builds have left tiers.
        evict(conn)
        put(conn, omen__gpu_memory_limit="1MB")
        with pytest.raises(psycopg.errors.OutOfMemory) as error:
            load(conn, "a_idx")
        needed = int(re.search(r"(\d+) bytes needed", str(error.value))[1])
        # What it takes without room to grow.
        put(conn, omen__gpu_memory_limit=f"{(needed >> 20) + 1}MB")
        n_bytes = load(conn, "a_idx")
        evict(conn)
        # Room for two, not for three.
        put(conn, omen__gpu_memory_limit=f"{(needed + n_bytes * 3 // 2) >> 20}MB")
        for name in (kept, goes, "c"):
            load(conn, f"{name}_idx")
        assert [tier_bytes(conn, f"{name}_idx") > 0 for name in (kept, goes, "c")] == [True, False, True]
        # Where all that is left is on, it goes all the same.
        conn.execute("ALTER INDEX c_idx SET (hot = on)")
        evict(conn)
        for name in (kept, "c", goes):
            load(conn, f"{name}_idx")
        assert [tier_bytes(conn, f"{name}_idx") > 0 for name in (kept, "c", goes)] == [False, True, True]


def test_devices(db, rows):
    """A device that is not listed is not used, and the reason says so; listing it again brings it back."""
    with db.connect(**BY_INDEX, **GPU) as conn:
        assert conn.execute("SHOW omen.gpu_devices").fetchone()[0] == "all"
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "gpu"
        mine = next(d["device"] for d in gpu_status(conn) if d["state"] == "in use")
        put(conn, omen__gpu_devices=99)
        assert knn(conn, "l2", rows[3], 5)[0][0] == 3
        scan = last_scan(conn)
        assert scan["engine"] == "cpu" and "omen.gpu_devices" in scan["fallback_reason"], scan
        assert all("omen.gpu_devices" in d["reason"] for d in gpu_status(conn)), gpu_status(conn)
        assert_fails(conn, "0A000", "omen_gpu_status", "SELECT omen_load('t_v_idx')")
        put(conn, omen__gpu_devices=f" 98 ,{mine}")
        knn(conn, "l2", rows[3], 5)
        assert last_scan(conn)["engine"] == "gpu"
        used = [d for d in gpu_status(conn) if d["state"] == "in use"]
        assert [d["device"] for d in used] == [mine]
        assert (used[0]["arch"] is not None) == REAL_GPU


@pytest.mark.parametrize("bad", ["", ",", "none", "-1", "+1", "0,", "0;1", "1,1", "0 1", "0x1", "4294967296", "all,0"])
def test_devices_bad_values(db, bad):
    with db.connect() as conn:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
            conn.execute("SELECT set_config('omen.gpu_devices', %s, false)", (bad,))
        diag = error.value.diag
        assert "omen.gpu_devices" in diag.message_primary and diag.message_detail and "'all'" in diag.message_hint
        assert conn.execute("SHOW omen.gpu_devices").fetchone()[0] == "all"


def test_devices_good_values(db):
    with db.connect() as conn:
        for good in (" All ", "3", "2, 0,11", "all"):
            put(conn, omen__gpu_devices=good)
            assert conn.execute("SHOW omen.gpu_devices").fetchone()[0] == good
            gpu_status(conn)
