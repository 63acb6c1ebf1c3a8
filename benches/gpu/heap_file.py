"""Writes the files of a table `(id int, embedding vector)` itself: ten million rows of 768 dimensions take COPY six minutes, mostly of waiting for the log.

The pages are as COPY with FREEZE would leave them (PostgreSQL 14 and later, `src/include/storage/bufpage.h`, `access/htup_details.h`): rows frozen, vectors in line.
The server has to run on this machine, with pages of 8 kB and without checksums (which initdb makes by default from 18 on); the table has to be empty, and not be used meanwhile.
"""

import os
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from folder import Folder

PAGE, PAGE_HEADER, TUPLE_HEADER, VECTOR_HEADER = 8192, 24, 24, 8
SEGMENT_PAGES = (1 << 30) // PAGE
PAGES_AT_ONCE = 2_048
# HEAP_HASVARWIDTH, HEAP_XMIN_FROZEN, HEAP_XMAX_INVALID; FrozenTransactionId; LP_NORMAL.
INFOMASK, FROZEN, NORMAL = 0x0002 | 0x0300 | 0x0800, 2, 1


def page_type(dim: int) -> np.dtype:
    """A page with as many rows as fit."""
    n_bytes = TUPLE_HEADER + 4 + VECTOR_HEADER + 4 * dim
    aligned = (n_bytes + 7) // 8 * 8
    per_page = (PAGE - PAGE_HEADER) // (aligned + 4)
    if not per_page:
        raise ValueError(f"a row of {dim} dimensions does not fit a page")
    row = np.dtype({"names": ["xmin", "block", "offset", "infomask2", "infomask", "header", "id", "varlena", "dim", "values"],
                    "formats": ["<u4", ("<u2", 2), "<u2", "<u2", "<u2", "u1", "<i4", "<u4", "<i2", ("<f4", dim)],
                    "offsets": [0, 12, 16, 18, 20, 22, 24, 28, 32, 36], "itemsize": aligned})
    return np.dtype({"names": ["lower", "upper", "special", "size_version", "items", "rows"], "formats": ["<u2", "<u2", "<u2", "<u2", ("<u4", per_page), (row, per_page)],
                     "offsets": [12, 14, 16, 18, PAGE_HEADER, PAGE - per_page * aligned], "itemsize": PAGE})


def pages(first: int, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Full pages, the last perhaps not, from page number `first` on, of these rows ([n], [n, dim])."""
    kind = page_type(values.shape[1])
    rows, upper = kind["rows"].base, kind.fields["rows"][1]
    per_page = kind["rows"].shape[0]
    made = np.zeros(-(-len(ids) // per_page), kind)
    flat = np.zeros(made.size * per_page, rows)
    flat["xmin"], flat["infomask2"], flat["infomask"], flat["header"] = FROZEN, 2, INFOMASK, TUPLE_HEADER
    block = first + np.arange(flat.size) // per_page
    flat["block"] = np.stack([block >> 16, block & 0xFFFF], axis=1)
    flat["offset"] = 1 + np.arange(flat.size) % per_page
    n_bytes = VECTOR_HEADER + 4 * values.shape[1]
    flat["varlena"], flat["dim"] = n_bytes << 2, values.shape[1]
    flat["id"][:len(ids)], flat["values"][:len(ids)] = ids, values
    n_rows = np.full(made.size, per_page)
    n_rows[-1] -= flat.size - len(ids)
    flat[len(ids):] = np.zeros((), rows)
    made["rows"] = flat.reshape(made.size, per_page)
    made["lower"], made["upper"], made["special"], made["size_version"] = PAGE_HEADER + 4 * n_rows, upper, PAGE, PAGE | 4
    number = np.arange(per_page)
    item = (upper + number * rows.itemsize) | NORMAL << 15 | (TUPLE_HEADER + 4 + n_bytes) << 17
    made["items"] = np.where(number < n_rows[:, None], item, 0)
    return made


def write_segment(task: tuple[str, str, int]):
    """The file of one segment of the table."""
    folder, file, segment = task
    data = Folder(folder)
    slot_of = data.slot_of()
    per_page = page_type(data.dim)["rows"].shape[0]
    path, owner = f"{file}.{segment}" if segment else file, os.stat(file)
    first = segment * SEGMENT_PAGES
    end = min(first + SEGMENT_PAGES, -(-data.n // per_page))
    with open(path, "wb") as out:
        os.fchmod(out.fileno(), 0o600)
        os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
        for page in range(first, end, PAGES_AT_ONCE):
            ids = np.arange(page * per_page, min(data.n, min(end, page + PAGES_AT_ONCE) * per_page))
            pages(page, ids, data.rows[slot_of[ids]]).tofile(out)


def fill(conn, table: str, data: Folder, processes: int):
    """All rows of the folder, in the data's order, and a look at some of them through the server."""
    (page, sums), = conn.execute("SELECT current_setting('block_size'), current_setting('data_checksums')").fetchall()
    if (page, sums) != (str(PAGE), "off"):
        raise SystemExit(f"pages of {page} bytes, checksums {sums}: not written by hand")
    conn.execute("CHECKPOINT")
    (folder, file), = conn.execute("SELECT current_setting('data_directory'), pg_relation_filepath(%s::regclass)", (table,)).fetchall()
    file, per_page = str(Path(folder, file)), page_type(data.dim)["rows"].shape[0]
    segments = -(-data.n // per_page // SEGMENT_PAGES) or 1
    with get_context("fork").Pool(processes) as pool:
        pool.map(write_segment, [(str(data.path), file, segment) for segment in range(segments)], chunksize=1)
    slot_of = data.slot_of()
    for number in [0, data.n - 1, *np.random.default_rng().integers(0, data.n, 100).tolist()]:
        at = f"({number // per_page},{1 + number % per_page})"
        found = conn.execute(f"SELECT id, embedding::real[] FROM {table} WHERE ctid = %s::tid", (at,)).fetchall()
        if len(found) != 1 or found[0][0] != number or not np.array_equal(np.asarray(found[0][1], np.float32), data.rows[slot_of[number]].astype(np.float32)):
            raise SystemExit(f"row {number} at {at} is not what was written")
