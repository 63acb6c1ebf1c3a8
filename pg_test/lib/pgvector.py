"""pgvector itself, in the private server of the major under test.

Environment: OMEN_PGVECTOR (folder with pgvector's files for that major, as `tools/setup.sh pgvector` makes it; else the usual place is looked at).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .db import Db, empty_database
from .server import BIN, Server, major

FILES = Path(os.environ.get("OMEN_PGVECTOR") or Path(os.environ["OMEN_RUN_DIR"]).parent.parent / "pg" / "pgvector" / str(major()))


def _config(what: str) -> Path:
    return Path(subprocess.run([BIN / "pg_config", what], capture_output=True, text=True, check=True).stdout.strip())


def _put(source: Path, folder: Path):
    """Copies a file, renamed into place: a server that has the old one mapped must not see it change. Other processes may do the same just now."""
    new = folder / f"{source.name}.{os.getpid()}"
    shutil.copy(source, new)
    new.rename(folder / source.name)


def install() -> str:
    """Makes `CREATE EXTENSION vector` possible and returns the version that it makes; skips the test where there is no pgvector for this major."""
    if not (FILES / ".version").exists():
        pytest.skip(f"PyPI has no pgvector for PostgreSQL {major()}, or tools/setup.sh pgvector {major()} was not run")
    _put(FILES / "vector.so", _config("--pkglibdir"))
    scripts = _config("--sharedir") / "extension"
    for script in (FILES / "extension").iterdir():
        _put(script, scripts)
    control = (FILES / "extension" / "vector.control").read_text()
    return next(line.split("'")[1] for line in control.splitlines() if line.startswith("default_version"))


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def make_pgvector_database(server: Server, name: str, schema: str = "public", ours: bool = True) -> Db:
    """Creates database `name` with pgvector in `schema`, and then, if wanted, our extension in public. Skips the test where there is no pgvector for this major."""
    install()
    db = empty_database(server, name)
    if schema != "public":
        server.sql(f"CREATE SCHEMA {quoted(schema)}", dbname=name)
    server.sql(f"CREATE EXTENSION vector SCHEMA {quoted(schema)}", dbname=name)
    if ours:
        server.sql("CREATE EXTENSION pg_omen", dbname=name)
    return db
