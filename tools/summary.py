"""Adds up what all runners counted: `summary.py STEPS`, a file of lines kind TAB name TAB exit code TAB log.

Kinds: cargo (cargo test), pytest, regress (pg_regress), checks (lines "ok", "FAILED", "skipped"), command (counts as one).
A step that failed without a counted failure counts as one failure, and so does a test runner that ran no test.
What failed is named once more at the end, where it is read when all else of the output is lost. What tests count of their work, in lines
"figures: N of this, N of that", is added up and printed before that.
The last line printed is "N passed, N failed, N skipped"; exits non-zero when anything failed.
"""

import re
import sys
from collections import Counter
from pathlib import Path

# Of each step: failures named at the end, and characters of each.
MAX_NAMED, MAX_NAME = 10, 300


def cargo(log):
    """Counts of cargo test; a test that prints "skipped: reason" and returns counts as skipped."""
    total = [0, 0, 0]
    for found in re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", log, re.M):
        total = [a + int(b) for a, b in zip(total, found)]
    reasons = re.findall(r"^(?:test \S+ \.\.\. )?skipped: (.+)$", log, re.M)
    total[0] -= len(reasons)
    total[2] += len(reasons)
    reasons += re.findall(r"^test (\S+ \.\.\. ignored.*)$", log, re.M)
    return *total, reasons


def pytest(log):
    """Counts of pytest's last line; errors count as failures."""
    last = re.findall(r"^=*.*\b(?:passed|failed|skipped|errors?)\b.* in [\d.]+s.*$", log, re.M)
    def count(word):
        return sum(int(n) for n in re.findall(rf"(\d+) {word}s?\b", last[-1])) if last else 0
    return (count("passed"), count("failed") + count("error"), count("skipped"),
            re.findall(r"^SKIPPED (.+)$", log, re.M))


def regress(log):
    """Counts of pg_regress, in its old and its new (TAP) wording."""
    if found := re.search(r"All (\d+) tests passed", log):
        return int(found[1]), 0, 0, []
    if found := re.search(r"(\d+) of (\d+) tests failed", log):
        return int(found[2]) - int(found[1]), int(found[1]), 0, []
    return 0, 0, 0, []


def checks(log):
    """Counts of lines that begin with ok, FAILED or skipped."""
    def lines(word):
        return re.findall(rf"^{word} - (.+)$", log, re.M)
    return len(lines("ok")), len(lines("FAILED")), len(lines("skipped")), lines("skipped")


def figures(log):
    """What the tests of a step have counted."""
    found = Counter()
    for line in re.findall(r"^figures: (.+)$", log, re.M):
        for n, what in re.findall(r"(\d+) ([^,]+)", line):
            found[what] += int(n)
    return found


def names_of_failed(kind, log):
    """The lines of a step's log that name what failed, and why where the runner says it."""
    pattern = {
        "cargo": r"^test (\S+) \.\.\. FAILED$|^error: (.+)$",
        "pytest": r"^(?:FAILED|ERROR) (.+)$",
        "regress": r"^(test .+ \.\.\. FAILED.*|not ok .+)$",
        "checks": r"^FAILED - (.+)$",
        "command": r"^(error.*)$",
    }[kind]
    named = ["".join(found) if isinstance(found, tuple) else found for found in re.findall(pattern, log, re.M)]
    if kind == "cargo":
        # Tests that shall panic do so too: only of those named.
        panics = {test: f" at {place} {why}" for test, place, why in re.findall(r"^thread '([^']+)'.* panicked at (.+)\n(.*)$", log, re.M)}
        named = [name + panics.get(name, "") for name in named]
    return named


def main(path):
    total, failures, done = [0, 0, 0], [], Counter()
    print("\n== summary")
    for line in Path(path).read_text().splitlines():
        kind, name, code, log_path = line.split("\t")
        log = Path(log_path).read_text(errors="replace")
        if kind == "command":
            passed, failed, skipped, reasons = int(code == "0"), int(code != "0"), 0, []
        else:
            passed, failed, skipped, reasons = {"cargo": cargo, "pytest": pytest, "regress": regress, "checks": checks}[kind](log)
            if not failed and (code != "0" or passed + skipped == 0):
                failed = 1
        print(f"{name}: {passed} passed, {failed} failed, {skipped} skipped")
        done += figures(log)
        for reason in reasons:
            print(f"    skipped: {reason}")
        if failed:
            named = names_of_failed(kind, log)[:MAX_NAMED] or [f"see {log_path}"]
            failures += [f"{name}: {line[:MAX_NAME]}" for line in named]
        total = [a + b for a, b in zip(total, (passed, failed, skipped))]
    if done:
        print("figures: " + ", ".join(f"{n:,} {what}" for what, n in sorted(done.items())))
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return total[1] > 0 or total[0] == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
