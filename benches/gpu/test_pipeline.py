"""The benchmark's scripts at tiny sizes, without a GPU: `python -m pytest benches/gpu`. OMEN_TEST_SEED repeats a run."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import heap_file  # noqa: E402
import real  # noqa: E402
from folder import Folder  # noqa: E402

SEED = int(os.environ.get("OMEN_TEST_SEED") or np.random.SeedSequence().entropy % 2**31) % 2**31
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "target")
GPU_TRAIN = Path(os.environ.get("GPU_TRAIN") or TARGET / "debug/examples/gpu_train")
GPU_SEARCH = Path(os.environ.get("GPU_SEARCH") or TARGET / "debug/examples/gpu_search")


def make(folder: Path, *arguments) -> Folder:
    subprocess.run([sys.executable, HERE / "data.py", folder, *map(str, arguments)], check=True)
    return Folder(folder)


def check(data: Folder, rows: np.ndarray, queries: np.ndarray):
    """The folder holds these rows [n, dim], each once and in the list of the nearest centroid, and the true neighbours."""
    assert sorted(data.ids) == list(range(len(rows)))
    np.testing.assert_allclose(data.rows, rows[data.ids], atol=1e-3)
    np.testing.assert_array_equal(data.queries, queries)
    sizes = np.diff(data.offsets.astype(np.int64))
    assert data.offsets[0] == 0 and sizes.sum() == data.n and sizes.min() >= 1
    list_of = np.repeat(np.arange(data.lists), sizes)
    distance = np.linalg.norm(data.rows.astype(np.float64)[:, None] - data.centroids.astype(np.float64), axis=2)
    assert (distance[np.arange(data.n), list_of] <= distance.min(axis=1) + 1e-3).mean() > 0.9
    stored = np.empty(data.rows.shape)
    stored[data.ids] = data.rows
    exact = np.linalg.norm(stored[None] - data.queries.astype(np.float64)[:, None], axis=2)
    claimed = np.take_along_axis(exact, data.neighbors.astype(np.int64), axis=1)
    np.testing.assert_allclose(claimed, np.sort(exact, axis=1)[:, :data.k], rtol=0, atol=1e-9)


def test_real_vectors_become_a_folder(tmp_path):
    print(f"OMEN_TEST_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    base, queries = (rng.standard_normal((n, 20)).astype(np.float32) * 50 for n in (700, 30))
    real.write(tmp_path / "set.npz", True, base=base, queries=queries)
    rows, unpacked = real.unpack(tmp_path / "set.npz")
    unit = base / np.linalg.norm(base, axis=1, keepdims=True)
    assert np.abs(rows - unit).max() < 0.02, "a byte a coordinate is enough for two digits"
    check(make(tmp_path / "data", "--npz", tmp_path / "set.npz", "--k", 15, "--lists", 9, "--seed", SEED), rows, unpacked)


def test_pages_of_a_table_are_as_the_server_reads_them():
    """By PostgreSQL's page layout (bufpage.h, htup_details.h), field by field."""
    print(f"OMEN_TEST_SEED={SEED}")
    rng = np.random.default_rng(SEED)
    for dim in (1, 40, 768, 2000):
        n_bytes = 24 + 4 + 8 + 4 * dim
        per_page = (8192 - 24) // (-(-n_bytes // 8) * 8 + 4)
        n = int(rng.integers(1, 5 * per_page + 1))
        first, ids, values = int(rng.integers(0, 2**20)), rng.integers(0, 2**31, n), rng.standard_normal((n, dim)).astype(np.float32)
        data, found = heap_file.pages(first, ids, values).tobytes(), []
        assert len(data) == -(-n // per_page) * 8192
        for block, page in enumerate(data[at:at + 8192] for at in range(0, len(data), 8192)):
            lower, upper, special, size_version = struct.unpack_from("<4H", page, 12)
            assert special == 8192 and size_version == 8192 | 4 and lower <= upper and not any(page[:12])
            for number in range((lower - 24) // 4):
                (item,) = struct.unpack_from("<I", page, 24 + 4 * number)
                at, flags, length = item & 0x7FFF, item >> 15 & 3, item >> 17
                assert (flags, length) == (1, n_bytes) and at % 8 == 0 and upper <= at and at + length <= 8192
                xmin, xmax, _, high, low, offset, infomask2, infomask, header = struct.unpack_from("<3I5HB", page, at)
                assert (xmin, xmax, infomask2, infomask, header) == (2, 0, 2, 0x0B02, 24) and (high << 16 | low, offset) == (first + block, number + 1)
                row, varlena, found_dim, unused = struct.unpack_from("<iIhh", page, at + 24)
                assert (varlena, found_dim, unused) == (8 + 4 * dim << 2, dim, 0)
                found.append((row, np.frombuffer(page, "<f4", dim, at + 36)))
        assert [row for row, _ in found] == ids.tolist()
        np.testing.assert_array_equal(np.stack([v for _, v in found]), values)


def test_a_run_measures_everything_and_reports_it(tmp_path):
    if not GPU_SEARCH.exists():
        pytest.skip(f"no {GPU_SEARCH}: cargo build -p omen_gpu --features simulated --example gpu_search")
    environment = dict(os.environ, SIMULATED="1", SCALE="3000", PYTHON=sys.executable, GPU_SEARCH=str(GPU_SEARCH), WORK=str(tmp_path))
    done = subprocess.run([HERE / "run.sh", tmp_path / "out", "quick", "10m"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    out = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"measurements.jsonl", "results.json", "table.txt", "run.log"} <= out and len(out) <= 8
    assert not list(tmp_path.glob("omen-bench.*")), "the data are left behind"
    results = json.loads((tmp_path / "out/results.json").read_text())
    for part, n in zip(results["data_sets"], (3_000, 30_000)):
        assert part["data"][0]["n"] == part["load"][0]["rows"] == n
        assert all(line["recall"] > 0.999 for line in part["exact"]), part["exact"]
        for target in {line["target"] for line in part["point"]}:
            at_target = [line for line in part["point"] if line["target"] == target]
            assert at_target[0]["batch"] == 200 and at_target[0]["recall"] >= target
        assert [row["batch"] for row in part["roofline"]] == [line["batch"] for line in part["exact"]]
    table = (tmp_path / "out/table.txt").read_text()
    assert "3,000 x 40" in table and "30,000 x 40" in table and "CAGRA" not in table, "peers belong to other data"


def test_training_of_many_rows_is_measured(tmp_path):
    if not (GPU_SEARCH.exists() and GPU_TRAIN.exists()):
        pytest.skip(f"no {GPU_TRAIN}: cargo build -p omen_gpu --features simulated --example gpu_search --example gpu_train")
    environment = dict(os.environ, SIMULATED="1", SCALE="500", PYTHON=sys.executable, GPU_SEARCH=str(GPU_SEARCH), GPU_TRAIN=str(GPU_TRAIN), WORK=str(tmp_path),
                       TRAIN_ARGUMENTS="--cpu")
    done = subprocess.run([HERE / "run.sh", tmp_path / "out", "train10m"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out/measurements.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["part"] == "train"]
    assert [line["engine"] for line in found] == ["gpu", "gpu", "cpu"]
    assert all(line["rows"] == 5000 and line["failure"] is None and line["total_s"] > 0 for line in found)
    assert abs(found[1]["mean_l2sq"] / found[2]["mean_l2sq"] - 1) < 0.05
