"""How much memory: ``python -m bench.memory [--entries 1000000]``.

Each side is a process of its own: the application with 60 routes after 5,000 requests, bare, behind us and behind
peers (resident memory when all is written); and the verification of a log with one process, whose peak
must not grow with the log.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench import OURS, peers
from bench.logs import build_log
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS, REQUESTS, ENTRIES = 3, 5_000, 1_000_000
IDLE = "Python with the verifier loaded"


def apart(*arguments: str) -> Mapping[str, float]:
    """What `inside` tells of a process of its own."""
    told = subprocess.run(
        [sys.executable, "-m", "bench.inside", *arguments], capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise SystemExit(told.stderr)
    found: Mapping[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures and writes ``memory``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--entries", type=int, default=ENTRIES, help="records of the larger log that is verified")
    given = made.parse_args()
    requests = REQUESTS
    if given.quick:
        given.rounds, given.entries, requests = 1, 20_000, 1000
    names = ["bare", OURS, *peers.PEERS]
    served = take_turns(
        {name: partial(apart, "serve", name, str(requests)) for name in names}, given.rounds, warm=False
    )
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        verified: dict[str, Work] = {IDLE: partial(apart, "verify", "")}
        for count in (given.entries // 10, given.entries):
            build_log(Path(folder) / str(count), count).close()
            verified[f"{OURS}, {count:,} entries"] = partial(apart, "verify", str(Path(folder) / str(count)))
        peak = take_turns(verified, given.rounds, warm=False)["peak"]
    name = f"a service after {requests:,} requests"
    cases = [
        Case(f"{name}: resident", "MB", "bare", served["resident"], unranked=("bare",)),
        Case("verification: peak", "MB", IDLE, peak, unranked=(IDLE,)),
    ]
    options = {"requests": requests, "entries": given.entries}
    finish(Result("memory", "Memory", cases, options, peers.ABSENT), given)


if __name__ == "__main__":
    main()
