"""What the tests of a run did, added up by kind: `conftest.py` and `soak.py` print it at the end, tools/summary.py adds up what all runners print."""

import threading
from collections import Counter

_figures: Counter[str] = Counter()
_lock = threading.Lock()


def figure(what: str, n: int = 1):
    """Adds to a figure."""
    with _lock:
        _figures[what] += n


def of_this_process() -> dict[str, int]:
    """All figures."""
    return dict(_figures)


def line() -> str:
    """All figures, as tools/summary.py reads them; "" if there are none."""
    return "figures: " + ", ".join(f"{n} {what}" for what, n in sorted(_figures.items())) if _figures else ""
