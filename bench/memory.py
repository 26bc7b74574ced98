"""How much memory: ``python -m bench.memory [--entries 5000000]``.

Each side is a process of its own: the application with 60 routes after 2,000 requests, bare, behind us and behind
peers (resident memory when all is written, and that without pages of files, which workers on one host share); and the
verification of a log with one process, whose peak must not grow with the log: once, as it takes long and hardly varies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from compileall import compile_dir
from functools import partial
from pathlib import Path

import audit_middleware
from audit_middleware.stores.journal import JournalStore
from bench import OURS, peers
from bench.logs import build_log, sharing, workplace
from bench.measure import Case, Result, Work, finish, parser, take_turns

ROUNDS, REQUESTS, ENTRIES = 3, 2_000, 5_000_000
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


def _size_of(path: Path, count: int) -> int:
    """The size of the log that is there; where none is, one with so many entries is made."""
    store = JournalStore.open(path, writable=False) if path.exists() else build_log(path, count, batch=256)
    size = store.head().size
    store.close()
    return size


def main() -> None:
    """Measures and writes ``memory``."""
    made = sharing(parser(__doc__, rounds=ROUNDS))
    compile_dir(Path(audit_middleware.__file__).parent, quiet=1)  # as pip does when it installs
    made.add_argument("--entries", type=int, default=ENTRIES, help="records of the larger log that is verified")
    given = made.parse_args()
    requests = REQUESTS
    if given.quick:
        given.rounds, given.entries, requests = 1, 20_000, 1000
    names = ["bare", OURS, *peers.PEERS]
    served = take_turns(
        {name: partial(apart, "serve", name, str(requests)) for name in names}, given.rounds, warm=False, timed=False
    )
    with workplace(given.keep, given.entries) as folder:
        verified: dict[str, Work] = {IDLE: partial(apart, "verify", "")}
        for count, path in ((given.entries // 10, folder / "log-small"), (given.entries, folder / "log")):
            size = _size_of(path, count)
            verified[f"{OURS}, {size:,} entries"] = partial(apart, "verify", str(path))
        peak = take_turns(verified, 1, warm=False, timed=False)["peak"]
    name = f"a service after {requests:,} requests"
    cases = [
        Case(f"{name}: resident", "MB", "bare", served["resident"], unranked=("bare",)),
        Case(f"{name}: its own", "MB", "bare", served["own"], unranked=("bare",)),
        Case("verification: peak", "MB", IDLE, peak, unranked=(IDLE,)),
    ]
    options = {"requests": requests, "entries": size}
    finish(Result("memory", "Memory", cases, options, peers.ABSENT), given)


if __name__ == "__main__":
    main()
