"""How long it takes until a process has answered its first request: ``python -m bench.startup``.

Each side is a new process: interpreter, imports, the application with 60 or 600 routes, and one request; behind us also
the policy, the check of routes against it, and the log, empty or with records in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench import OURS, peers
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS = 7


def start(command: list[str]) -> Mapping[str, float]:
    """Milliseconds until the process says that it has answered; its end is not counted."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        took = (time.perf_counter() - started) * 1e3
        if told.strip() not in ("answered", "imported"):
            raise SystemExit(f"{command}: {told!r}")
    return {"time": took}


def imports(module: str) -> Mapping[str, float]:
    """A process that imports this and no more."""
    return start([sys.executable, "-c", f"import {module}; print('imported', flush=True)"])


def main() -> None:
    """Measures and writes ``startup``."""
    given = parser(__doc__, rounds=ROUNDS).parse_args()
    if given.quick:
        given.rounds = 2
    bare = {name: partial(imports, name) for name in ("sys", "starlette.applications", "fastapi", "audit_middleware")}
    cases = [Case("import in a new process", "ms", "sys", take_turns(bare, given.rounds)["time"], unranked=tuple(bare))]
    for routes in (60, 600):
        with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
            works: dict[str, Work] = {}
            for number, name in enumerate(("bare", OURS, *(peers.PEERS if routes == 60 else ()))):
                place = str(Path(folder) / str(number))
                works[name] = partial(start, [sys.executable, "-m", "bench.inside", "start", name, place, str(routes)])
            found = take_turns(works, given.rounds)["time"]
        cases.append(Case(f"first answer, {routes} routes", "ms", "bare", found, unranked=("bare",)))
    finish(Result("startup", "Start of a process", cases, absent=peers.ABSENT), given)


if __name__ == "__main__":
    main()
