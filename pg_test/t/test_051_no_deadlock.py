"""Many inserters, VACUUM, REINDEX CONCURRENTLY, folds and searches at once, with the shared service's tier brought up to date all the while: nobody waits
for long, and nobody for each other.

`make soak SECONDS=3600 SOAK="--mode crowd"` does the same for as long as wanted.
"""

import pytest

from lib.crowd import Crowd
from lib.db import CPU, GPU
from lib.service import GPU as SERVICE
from lib.service import stat

SECONDS = 10


@pytest.mark.every_major
@pytest.mark.parametrize("context", ("sessions", "service"))
def test_everybody_at_once(request, context):
    """Ten sessions insert into one list, three more do all else, and VACUUM and the tier's refreshes go on: no deadlock, no long wait, all rows."""
    db = request.getfixturevalue("db" if context == "sessions" else "first")
    crowd = Crowd(db, SECONDS, [CPU, GPU] if context == "sessions" else [CPU, SERVICE, SERVICE]).run()
    if context == "service":
        with db.connect() as conn:
            assert stat(conn)["starts"] == 1 and crowd.churn.counts["by gpu"] > 0
