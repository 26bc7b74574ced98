"""Every measurement, one after the other, each in a process of its own, and then the pages.

``python -m bench [--quick] [--only added_time,throughput] [--minutes 72]``; ``--report`` only writes the pages from the
results that are there. A measurement that fails, or takes longer than its share of the time, stops nothing: why it is
missing stands in ``failures.json`` beside the results, and on the pages.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.measure import RESULTS, note_failure

MINUTES = 72.0
PLAN: Mapping[str, float] = {
    "decisions": 1, "added_time": 9, "throughput": 12, "appends": 9, "verify": 3, "busy": 2, "sealing": 1, "startup": 3,
    "steps": 3, "queries": 10, "memory": 6, "growth": 13,
}  # fmt: skip
"""In this order, and so many minutes at most. What may be cut off by the end of all the time comes last."""

SHARING = ("queries", "memory", "growth")
"""These use one large log, the next what the one before has made."""


def run(name: str, options: Sequence[str], seconds: float) -> str:
    """Runs one measurement, and whatever it starts, no longer than this; returns why it failed, or nothing."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{name}", *options], stderr=told, start_new_session=True
        )
        try:
            code = process.wait(max(1.0, seconds))
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            _end(process)
        told.seek(0)
        problems = told.read()
    sys.stderr.write(problems)
    if late:
        return f"stopped after {seconds / 60:.1f} minutes"
    lines = [line.strip() for line in problems.splitlines() if line.strip()]
    return (lines[-1][:300] if lines else f"exit code {code}") if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of it, servers and databases too: first with a chance to tidy up, as Ctrl-C gives."""
    for number in (signal.SIGINT, signal.SIGKILL) if process.poll() is None else (signal.SIGKILL,):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def measure(names: Sequence[str], results: Path, *, quick: bool, minutes: float) -> list[str]:
    """Runs these; returns which have failed."""
    failed = []
    end = time.monotonic() + minutes * 60
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    shared = Path(tempfile.mkdtemp(prefix="audit-bench-"))
    try:
        for name in names:
            options = [*(["--quick"] if quick else []), "--results", str(results)]
            options += ["--keep", str(shared)] if name in SHARING else []
            started = time.monotonic()
            left = end - started
            print(f"== {name}, {left / 60:.1f} minutes left", flush=True)
            problem = run(name, options, min(left, PLAN[name] * 60)) if left > 0 else "no time was left"
            note_failure(results / day, name, problem)
            print(f"== {name}: {problem or 'done'}, {time.monotonic() - started:.0f} s", flush=True)
            failed += [name] if problem else []
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    return failed


def main() -> None:
    """Runs them and writes the pages; exit 1 where one failed, after the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which, of {', '.join(PLAN)}; default: all")
    parser.add_argument("--only", default="", metavar="NAMES", help="the same, separated by commas")
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes: does it run at all? No pages")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all together (default {MINUTES:g})")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--report", action="store_true", help="measure nothing, only write the pages")
    given = parser.parse_args()
    asked = [*given.names, *filter(None, given.only.split(","))]
    if unknown := [name for name in asked if name not in PLAN]:
        parser.error(f"no measurement is called {', '.join(unknown)}; there are {', '.join(PLAN)}")
    failed: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # tidies up, as Ctrl-C does
    if not given.report:
        names = [name for name in PLAN if name in asked or not asked]
        failed = measure(names, given.results, quick=given.quick, minutes=given.minutes)
    if given.report or not given.quick:
        report.write(given.results)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
