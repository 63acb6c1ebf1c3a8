"""Pages of an index as they lie in its file, and what can be done to them behind the server's back (format: crates/ivf/src/layout/README.md)."""

import struct
from pathlib import Path

PAGE = 8192
CONTENT, TAIL = 64, 8128
NO_LIST, ROOT = 2**32 - 1, 2**32 - 2
META, DIRECTORY, CODE, VECTOR, APPEND, OVERFLOW, MAP, FREE = range(1, 9)
# Offsets in a directory entry.
LAYOUT_GEN, DELETE_GEN, FROZEN_COUNT, FROZEN_DEAD, RADIUS = 0, 4, 8, 12, 48
# Offsets in a group.
ERR, TID_BLOCK, TID_OFFSET, LIVE, CODES = 3 * 128, 4 * 128, 5 * 128, 5 * 128 + 64, 6 * 128


class File:
    """The file of an index whose server is stopped."""

    def __init__(self, path: Path):
        self.path = path
        self.bytes = bytearray(path.read_bytes())

    def save(self):
        with open(self.path, "r+b") as f:
            f.write(self.bytes)
            f.truncate(len(self.bytes))

    @property
    def n_pages(self) -> int:
        return len(self.bytes) // PAGE

    def tail(self, block: int) -> dict:
        fields = struct.unpack_from("<5I", self.bytes, block * PAGE + TAIL)
        kind = self.get(block, 8188, "<H")
        return dict(zip(("list", "stamp", "next", "seq", "n_records"), fields)) | {"kind": kind}

    def blocks(self, kind: int, of_list: int | None = None) -> list[int]:
        """Blocks of a kind, of one list in the order of their stream."""
        tails = [(self.tail(block), block) for block in range(self.n_pages)]
        found = [(tail["seq"], block) for tail, block in tails if tail["kind"] == kind and of_list in (None, tail["list"])]
        return [block for _, block in sorted(found)]

    def get(self, block: int, at: int, form: str):
        return struct.unpack_from(form, self.bytes, block * PAGE + at)[0]

    def put(self, block: int, at: int, form: str, value):
        struct.pack_into(form, self.bytes, block * PAGE + at, value)

    def page(self, block: int) -> bytes:
        return bytes(self.bytes[block * PAGE:(block + 1) * PAGE])

    def put_page(self, block: int, page: bytes):
        self.bytes[block * PAGE:(block + 1) * PAGE] = page

    def entry(self, of_list: int) -> tuple[int, int]:
        """Block and offset of a list's directory entry."""
        return self.blocks(DIRECTORY)[of_list // 126], CONTENT + of_list % 126 * 64

    def add_to_entry(self, of_list: int, field: int, n: int):
        """Adds to a number of a list's directory entry."""
        block, at = self.entry(of_list)
        self.put(block, at + field, "<I", self.get(block, at + field, "<I") + n)
