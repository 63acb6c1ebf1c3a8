"""Many clients search through the shared GPU service while rows come and go: a history in which every answer is checked."""

from lib.churn import Churn, fill
from lib.db import CPU
from lib.service import GPU, stat

AUTO = {"omen__engine": "auto"}


def test_checked_history(first):
    """The tier is loaded anew and goes out of date all the time; most answers are the service's."""
    fill(first, 4000)
    churn = Churn(first, 12, [GPU] * 5 + [AUTO] * 2 + [CPU], reloads=True).run()
    churn.check_end()
    print(churn.counts)
    assert not churn.problems, "\n".join(churn.problems)
    assert all(churn.counts.values()), churn.counts
    # Some find the tier on its way.
    assert churn.counts["by gpu"] > churn.counts["wanted by gpu"] / 2 and churn.counts["reloads"] > 5, churn.counts
    with first.connect() as conn:
        row = stat(conn)
        assert row["searches"] >= churn.counts["by gpu"] and row["loads"] >= churn.counts["reloads"], row
        assert row["failed_batches"] == row["timeouts"] == row["queue_slots_used"] == 0 and row["starts"] == 1, row
