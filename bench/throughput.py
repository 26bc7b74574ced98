"""Requests per second and latency behind a real server: ``python -m bench.throughput``.

uvicorn (one worker) with the application bare, behind us, and behind peers, each driven in turn by wrk with 16
connections on the same cores; the ratio to bare is that of each round. Needs wrk.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import httpx

from bench import OURS, peers
from bench.measure import Case, Result, finish, parser, take_turns
from bench.services import ROUTERS, WHOLE

ROUNDS, CONNECTIONS, SECONDS = 5, 16, 4
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Server:
    """One uvicorn, stopped by its process id."""

    def __init__(self, variant: str, routes: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/r{ROUTERS - 1}/items{routes // ROUTERS - 1}/1"
        given = {"BENCH_VARIANT": variant, "BENCH_ROUTES": str(routes), "BENCH_FOLDER": str(folder)}
        command = [sys.executable, "-m", "uvicorn", "bench.services:create", "--factory", "--port", str(port)]
        self.process = subprocess.Popen([*command, "--no-access-log", "--log-level", "error"], env=os.environ | given)
        for _ in range(600):
            try:
                if httpx.get(self.url).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        self.stop()
        raise SystemExit(f"the server behind {variant!r} does not answer")

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def drive(server: Server, seconds: int) -> Mapping[str, float]:
    """Requests per second, and percentiles in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", server.url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(told)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None
    late = {
        share: float(value) * _UNITS[unit] for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", told)
    }
    return {"requests": float(rate[1]), "p50": late["50"], "p99": late["99"]}


def measure(folder: Path, routes: int, rounds: int, seconds: int) -> list[Case]:
    """Three cases for this many routes."""
    variants = ["bare", OURS, WHOLE, *(peers.PEERS if routes == 60 else [])]
    servers: dict[str, Server] = {}
    try:
        for number, variant in enumerate(variants):
            servers[variant] = Server(variant, routes, folder / f"{routes}-{number}")
            drive(servers[variant], 1)
        works = {variant: partial(drive, server, seconds) for variant, server in servers.items()}
        found = take_turns(works, rounds, warm=False)
    finally:
        for server in servers.values():
            server.stop()
    name = f"uvicorn, {routes} routes, {CONNECTIONS} connections"
    return [
        Case(f"{name}: throughput", "requests/s", "bare", found["requests"], "more", ("bare",)),
        Case(f"{name}: median latency", "ms", "bare", found["p50"], unranked=("bare",)),
        Case(f"{name}: p99 latency", "ms", "bare", found["p99"], unranked=("bare",)),
    ]


def main() -> None:
    """Measures and writes ``throughput``."""
    made = parser(__doc__, rounds=ROUNDS)
    made.add_argument("--seconds", type=int, default=SECONDS, help="how long each server is driven in a round")
    given = made.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian package wrk)")
    if given.quick:
        given.rounds, given.seconds = 1, 1
    with tempfile.TemporaryDirectory(prefix="audit-bench-") as folder:
        cases = [case for routes in (60, 600) for case in measure(Path(folder), routes, given.rounds, given.seconds)]
    options = {"connections": CONNECTIONS, "seconds": given.seconds}
    finish(Result("throughput", "Throughput and latency behind uvicorn", cases, options, peers.ABSENT), given)


if __name__ == "__main__":
    main()
