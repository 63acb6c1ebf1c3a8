"""Runs pg_regress over sql/ and expected/ against a private server; its output and exit code are pg_regress's."""

import shutil
import subprocess
import sys
from pathlib import Path

from lib.server import BIN, PORT, RUN_DIR, Server, as_user, run

HERE = Path(__file__).parent


def main() -> int:
    pgxs = Path(run([BIN / "pg_config", "--pgxs"]).stdout.strip())
    runner = pgxs.parent.parent / "test" / "regress" / "pg_regress"
    tests = sys.argv[1:] or sorted(p.stem for p in (HERE / "sql").glob("*.sql"))
    if not tests:
        print("no tests in", HERE / "sql")
        return 1
    server = Server("regress").start()
    # The server's user may not be able to read the repository: it gets a copy.
    work = server.dir / "work"
    for part in ("sql", "expected"):
        shutil.copytree(HERE / part, work / part)
    for path in [work, *work.rglob("*")]:
        shutil.chown(path, server.data.owner())
    try:
        code = subprocess.run(as_user([
            runner, f"--inputdir={work}", f"--outputdir={work}", f"--bindir={BIN}", f"--host={server.dir}", f"--port={PORT}",
            "--user=postgres", "--dbname=regress", "--load-extension=pg_omen", *tests]), cwd="/").returncode
        if code and (work / "regression.diffs").exists():
            print((work / "regression.diffs").read_text(errors="replace"))
        keep = RUN_DIR / "regress_results"
        shutil.rmtree(keep, ignore_errors=True)
        if (work / "results").exists():
            shutil.copytree(work / "results", keep)
        return code
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
