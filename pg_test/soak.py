"""Tests for as long as wanted, on a server of their own; the last line counts as that of other tests does.

`soak.py SECONDS [--mode service]`: many clients search through the shared GPU service, some insert, one deletes, VACUUM runs; every answer is checked.
`--mode sessions`: the same with a GPU context of each session's own. `--mode faults`: with faults of the service, one after the other.
`--mode storm`: sessions that are cancelled, ended, cut off and killed, for `--rounds` instead of seconds.
`--mode crash`: a server that is killed at random points while sessions do everything to it, and its standby.
`--mode damage`: damaged files of indexes. `--mode crowd`: many sessions that write to one list, none of which may wait for long.
"""

import argparse
import random
import sys
import time

from lib import figures, vectors
from lib.churn import Churn, fill
from lib.crashes import CONF, Crashes, check_standby, make_tables
from lib.crowd import Crowd
from lib.damaged import Damaged
from lib.db import CPU, GPU, REAL_GPU, Db, make_database
from lib.faults import FAULTS, Faults
from lib.server import Server
from lib.service import GPU as SERVICE
from lib.service import PRELOADED, stat, wait_for
from lib.storm import Storm, memory_of, through_storms

AUTO = {"omen__engine": "auto"}


def searchers(args) -> list[dict]:
    """Settings of the searchers: an eighth use the CPU, an eighth what is faster, the others the GPU."""
    gpu = GPU if args.mode == "sessions" else SERVICE | {"omen__gpu_timeout": "2s" if args.mode == "faults" else "20s"}
    return [CPU if number % 8 == 6 else AUTO if number % 8 == 7 else gpu for number in range(args.searchers)]


def churn(db: Db, args) -> Churn:
    """Runs it; what was wrong is in its `problems`."""
    fill(db, 20_000)
    seconds = args.seconds if args.mode != "faults" else 1e9
    running = Churn(db, seconds, searchers(args), args.inserters, reloads=args.mode == "service").start()
    if args.mode == "faults":
        ride_out(running, args.seconds)
    with db.connect() as conn:
        before = args.mode != "sessions" and memory_of(stat(conn)["pid"])
        running.wait().check_end()
        print("index", *conn.execute("SELECT pg_size_pretty(pg_relation_size('t_v_idx')), 'rows', count(*) FROM t").fetchone())
        if args.mode != "sessions":
            row = wait_for(conn, state="up", queued=0, queue_slots_used=0)
            print(row, f"worker {before >> 20} MB -> {memory_of(row['pid']) >> 20} MB")
        if args.mode == "service" and (row["starts"] > 1 or running.counts["by gpu"] < running.counts["wanted by gpu"] / 2):
            running.problems.append("the service seldom answered")
    print(running.counts)
    return running


def ride_out(running: Churn, seconds: float):
    """All faults in random orders, until the time is over."""
    faults, end, order = Faults(running), time.monotonic() + seconds, random.Random(vectors.SEED)
    n = 0
    try:
        while time.monotonic() < end:
            for fault in order.sample(list(FAULTS), len(FAULTS)):
                by_hand = order.random() < 0.5
                took = faults.ride_out(fault, order.random(), by_hand)
                n += 1
                print(f"{n} {fault}: the GPU answers again{' by itself' * (not by_hand)} after {took:.1f} s, {running.counts['searches']} searches so far", flush=True)
    except AssertionError as error:
        running.problems.append(str(error))
    finally:
        running.stop()


def crash(seconds: float):
    """Kills for so many seconds; fails if something was lost."""
    servers = [Server("soak", CONF, checksums=True).start()]
    try:
        db = make_database(servers[0], "soak")
        make_tables(db, workers=6)
        servers.append(Server("soak_standby", source=servers[0]).start())
        crashes, end = Crashes(db, servers[1], workers=6), time.monotonic() + seconds
        while time.monotonic() < end:
            crashes.round(3.0)
            print(crashes.figures, flush=True)
        print(crashes.steps)
        check_standby(servers[1])
        for server in servers:
            server.check_checksums()
    finally:
        for server in reversed(servers):
            server.remove()


def damage(seconds: float):
    """Damages files of indexes for so many seconds."""
    damaged = Damaged(vectors.rng_for("damaged"))
    try:
        damaged.rounds(vectors.rng_for("soak"), seconds, GPU, {})
    finally:
        damaged.server.remove()


def crowd(seconds: float):
    """Everybody at once, for so many seconds, with the shared service."""
    server = Server("soak", PRELOADED).start()
    try:
        db = make_database(server, "soak")
        with db.connect() as conn:
            wait_for(conn, state="up")
        Crowd(db, seconds, [CPU, SERVICE, SERVICE]).run()
    finally:
        server.remove()


def end(problems: list[str]) -> int:
    """Prints what there is to say at the end; 1 if something was wrong."""
    print("\n".join(problems) or "no problem found")
    print(figures.line())
    print(f"{int(not problems)} passed, {int(bool(problems))} failed, 0 skipped")
    return int(bool(problems))


# Modes whose functions raise what is wrong.
RAISING = {"crash": crash, "damage": damage, "crowd": crowd}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--mode", choices=["service", "sessions", "faults", "storm", *RAISING], default="service")
    parser.add_argument("--searchers", type=int, default=64)
    parser.add_argument("--inserters", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10_000)
    args = parser.parse_args()
    print(f"OMEN_TEST_SEED={vectors.SEED} {args}", flush=True)
    if args.mode in RAISING:
        try:
            RAISING[args.mode](args.seconds)
        except Exception as error:  # noqa: BLE001  # what went wrong is what a soak is for
            return end([f"{type(error).__name__}: {error}"])
        return end([])
    if args.mode == "faults" and REAL_GPU:
        print("0 passed, 0 failed, 1 skipped: faults are injected in test builds alone")
        return 0
    preloaded = {} if args.mode == "sessions" else PRELOADED
    server = Server("soak", preloaded | {"max_connections": args.searchers + args.inserters + 40}).start()
    try:
        db = make_database(server, "soak")
        if preloaded:
            with db.connect() as conn:
                wait_for(conn, state="up")
        if args.mode == "storm":
            test = Storm(db, clients=8)
            try:
                print(through_storms(test, args.rounds, crashes=args.rounds // 250))
            except AssertionError as error:
                test.problems.append(repr(error))
            print(test.counts)
        else:
            test = churn(db, args)
        return end(test.problems)
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
