"""Builds of indexes, watched from outside."""

import re
import threading

import psycopg


def n_files(conn) -> int:
    """Files of tables and indexes in the database; those of dropped ones are kept until the next checkpoint."""
    conn.execute("CHECKPOINT")
    folder = "'base/' || (SELECT oid FROM pg_database WHERE datname = current_database())"
    return conn.execute(f"SELECT count(*) FROM pg_ls_dir({folder}) f WHERE f ~ '^[0-9]+$'").fetchone()[0]


def build_aside(builder, sql: str):
    """Runs a build in a thread; the list it fills gets the error, or None."""
    outcome = []

    def build():
        try:
            builder.execute(sql)
            outcome.append(None)
        except psycopg.Error as error:
            outcome.append(error)
    thread = threading.Thread(target=build)
    thread.start()
    return thread, outcome


def workers_of_builds(conn) -> list[int]:
    """The numbers of parallel workers that builds of this session tell of from now on, at `debug1`."""
    found = []

    def note(diagnostic):
        if diagnostic.message_primary.startswith("omen index") and (told := re.search(r"Parallel workers: (\d+)", diagnostic.message_detail or "")):
            found.append(int(told[1]))
    conn.add_notice_handler(note)
    return found
