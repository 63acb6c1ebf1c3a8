"""Damage to the files of indexes while the server is down, and what may come of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg

PAGE = 8192
KINDS = {1: "meta", 2: "directory", 3: "code", 4: "vector", 5: "append", 6: "overflow", 7: "map", 8: "free"}
# What the executor says when bounds of distances are wrong, which are numbers like any others: its own check, with its own code.
WRONG_ORDER = "index returned tuples in wrong order"
# What a log must not tell of.
CRASHES = re.compile(r"PANIC|panicked|terminated by signal|was terminated|TRAP:|stack backtrace")


def kinds(pages: bytes) -> dict[str, list[int]]:
    """Blocks of an index's file by the kind that each page says it is."""
    found = {}
    for block in range(len(pages) // PAGE):
        kind = int.from_bytes(pages[(block + 1) * PAGE - 4:(block + 1) * PAGE - 2], "little")
        found.setdefault(KINDS.get(kind, "none"), []).append(block)
    return found


def _place(rng) -> int:
    """A byte of a page behind the part of its header that Postgres checks, more often where structure is."""
    start, end = ((PAGE - 64, PAGE), (64, 296), (64, 1024), (24, PAGE))[rng.integers(4)]
    return int(rng.integers(start, end))


def _number(rng, n_blocks: int) -> bytes:
    """Four bytes: what could be a block, a count or a length."""
    some = [0, 1, n_blocks - 1, n_blocks, 1 << 17, 3482793140, 2**31 - 1, 2**32 - 2, 2**32 - 1, int(rng.integers(n_blocks)), int(rng.integers(2**32))]
    return some[rng.integers(len(some))].to_bytes(4, "little")


def _bytes(pages, block, rng):
    for _ in range(int(rng.integers(1, 9))):
        pages[block * PAGE + _place(rng)] = int(rng.integers(256))


def _bits(pages, block, rng):
    for _ in range(int(rng.integers(1, 4))):
        pages[block * PAGE + _place(rng)] ^= 1 << int(rng.integers(8))


def _numbers(pages, block, rng):
    for _ in range(int(rng.integers(1, 5))):
        at = block * PAGE + (_place(rng) & ~3)
        pages[at:at + 4] = _number(rng, len(pages) // PAGE)


def _zeroed(pages, block, rng):
    pages[block * PAGE:(block + 1) * PAGE] = bytes(PAGE)


def _half(pages, block, rng):
    """Half of a page that was not written, as a torn page is."""
    start = block * PAGE + int(rng.integers(1, PAGE // 512)) * 512
    pages[start:(block + 1) * PAGE] = bytes([int(rng.choice([0, 255]))]) * ((block + 1) * PAGE - start)


def _swapped(pages, block, rng):
    other = int(rng.integers(len(pages) // PAGE))
    a, b = slice(block * PAGE, (block + 1) * PAGE), slice(other * PAGE, (other + 1) * PAGE)
    pages[a], pages[b] = pages[b], pages[a]


def _copied(pages, block, rng):
    other = int(rng.integers(len(pages) // PAGE))
    pages[block * PAGE:(block + 1) * PAGE] = pages[other * PAGE:(other + 1) * PAGE]


def _header(pages, block, rng):
    """pd_lower, pd_upper and pd_special in an order that Postgres lets pass, or not."""
    limits = np.sort(rng.integers(0, PAGE + 1, 3)).astype("<u2")
    limits[2] = 8128 if rng.random() < 0.7 else limits[2]
    pages[block * PAGE + 12:block * PAGE + 18] = limits.tobytes()


def _lower(pages, block, rng):
    """A hole that begins or ends elsewhere: what is logged of the page is lost, or is more than there is."""
    limits = np.array([int(rng.integers(24, 128)), int(rng.integers(128, 8128)), 8128], "<u2")
    pages[block * PAGE + 12:block * PAGE + 18] = limits.tobytes()


def _truncated(pages, block, rng):
    cut = block * PAGE + (int(rng.integers(PAGE)) if rng.random() < 0.3 else 0)
    del pages[cut:]


def _version(pages, block, rng):
    pages[68:72] = _number(rng, len(pages) // PAGE)


def _magic(pages, block, rng):
    pages[64:68] = rng.bytes(4)


DAMAGES = {f.__name__[1:]: f for f in (_bytes, _bits, _numbers, _zeroed, _half, _swapped, _copied, _header, _lower, _truncated, _version, _magic)}


def damage(file: Path, rng) -> tuple[str, str]:
    """Damages the file of an index; the damage, and the kind of page that has it. The kind is drawn first: those that are few matter most."""
    pages = bytearray(file.read_bytes())
    by_kind = kinds(pages)
    kind = str(rng.choice(sorted(by_kind)))
    block = int(rng.choice(by_kind[kind]))
    name = str(rng.choice(sorted(DAMAGES)))
    DAMAGES[name](pages, block, rng)
    file.write_bytes(pages)
    return name, "meta" if name in ("version", "magic") else kind


@dataclass
class Tally:
    """What statements on damaged indexes came to."""

    answers: int = 0
    refusals: int = 0
    wrong_order: int = 0
    others: list[str] = field(default_factory=list)

    def run(self, conn, what: str, statement: str, params=()):
        """Runs a statement: it gives an answer, or says that the index is damaged and what to do about it."""
        try:
            cur = conn.execute(statement, params or None)
            if cur.description:
                cur.fetchall()
            self.answers += 1
        except psycopg.Error as error:
            diag = error.diag
            said = f"{what}: {error.sqlstate} {error} hint {diag.message_hint} at {diag.source_file}:{diag.source_line}"
            ours = error.sqlstate == "XX002" and "REINDEX" in (diag.message_hint or "")
            # Postgres's own, of a page that is none.
            if ours or error.sqlstate == "XX001":
                self.refusals += 1
            elif WRONG_ORDER in str(error):
                self.wrong_order += 1
            else:
                self.others.append(said)
