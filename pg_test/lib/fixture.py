"""Indexes kept as files: made once by some version of the extension, planted under tables with the same rows at the same places.

A fixture is a folder of three files a name: NAME.index.xz, the pages of the index (LSNs set to zero: another server's mean nothing); NAME.rows.xz,
lines of "id, tab, vector" in the order of the table's pages, as COPY takes them; and `about.json`, what each is and which rows are dead.
"""

import json
import lzma
import os
from pathlib import Path

import numpy as np

PAGE = 8192


def without_lsn(pages: bytes) -> bytes:
    """The pages as if they had never been logged."""
    image = np.frombuffer(pages, np.uint8).reshape(-1, PAGE).copy()
    image[:, :8] = 0
    return image.tobytes()


class Fixtures:
    """The fixtures of one format version."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.about = json.loads((folder / "about.json").read_text())

    def names(self) -> list[str]:
        return sorted(self.about)

    def pages(self, name: str) -> bytes:
        return lzma.decompress((self.folder / f"{name}.index.xz").read_bytes())

    def rows(self, name: str) -> bytes:
        return lzma.decompress((self.folder / f"{name}.rows.xz").read_bytes())

    def make_table(self, conn, name: str):
        """The table with all rows, dead ones last deleted, and an index as the fixture's was defined, which has other pages yet."""
        about = self.about[name]
        conn.execute(f"CREATE TABLE {name} (id integer, v vector({about['dim']}))")
        with conn.cursor().copy(f"COPY {name} FROM STDIN") as copy:
            copy.write(self.rows(name))
        conn.execute(f"CREATE INDEX {name}_idx ON {name} USING omen (v vector_{about['metric']}_ops) WITH (lists = {about['lists']})")
        conn.execute(f"DELETE FROM {name} WHERE id = ANY(%s)", (about["dead"],))
        first, last = conn.execute(f"SELECT min(ctid)::text, max(ctid)::text FROM {name}").fetchone()
        assert [first, last] == about["ctids"], f"the rows of {name} lie elsewhere: {first} to {last}"

    def plant(self, server, files: dict[str, str], change=lambda pages: pages):
        """Puts the pages of fixtures in place of those of indexes (name: path of the file), of a server that is stopped."""
        for name, path in files.items():
            file = server.data / path
            user = file.stat()
            file.write_bytes(change(self.pages(name)))
            os.chown(file, user.st_uid, user.st_gid)
