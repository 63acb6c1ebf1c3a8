"""Vectors for the server tests: drawn from a printed seed, loaded by binary COPY."""

import os
import zlib

import numpy as np

SEED = int(os.environ.get("OMEN_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)
os.environ["OMEN_TEST_SEED"] = str(SEED)  # for processes that run tests beside this one


def rng_for(name: str) -> np.random.Generator:
    """A generator of its own for each test, drawn from the run's seed."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


def uniform(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """`n` vectors without structure, [n, dim] float32: the hardest case for a filter, fine for exactness."""
    return rng.standard_normal((n, dim)).astype(np.float32)


def clustered(rng: np.random.Generator, n: int, dim: int, n_clusters: int = 60, spread: float = 0.6) -> np.ndarray:
    """`n` vectors around centres that themselves lie in a space of few dimensions, [n, dim] float32."""
    low = rng.standard_normal((n_clusters, max(4, dim // 8)))
    centres = low @ rng.standard_normal((low.shape[1], dim)) / np.sqrt(low.shape[1])
    return (centres[rng.integers(n_clusters, size=n)] + spread * rng.standard_normal((n, dim))).astype(np.float32)


def text(vector) -> str:
    """The literal of a vector; nine digits bring every float32 back."""
    return "[" + ",".join(f"{float(x):.9g}" for x in vector) + "]"


def copy_rows(conn, table: str, ids, vectors: np.ndarray, columns: str = "id, v"):
    """Loads (integer id, vector) rows through COPY BINARY; `vectors` is [n, dim] float32."""
    n, dim = vectors.shape
    row = np.dtype([("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i4"), ("vector_bytes", ">i4"),
                    ("dim", ">i2"), ("unused", ">i2"), ("vector", ">f4", (dim,))])
    rows = np.zeros(n, row)
    rows["fields"], rows["id_bytes"], rows["id"] = 2, 4, ids
    rows["vector_bytes"], rows["dim"], rows["vector"] = 4 + 4 * dim, dim, vectors
    with conn.cursor().copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for start in range(0, n, 4096):
            copy.write(rows[start:start + 4096].tobytes())
        copy.write(b"\xff\xff")
