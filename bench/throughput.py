"""Requests per second and latency behind a real server: ``python -m bench.throughput``.

uvicorn (one worker) with the application bare, behind us, and behind peers, each driven in turn by wrk with 16
connections on the same cores. It asks for all routes in turn, as a router comes to later ones later; then for the last
one alone. The ratio to bare is that of each round. Needs wrk.
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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import httpx

from bench import OURS, peers
from bench.measure import Case, Result, finish, parser, take_turns
from bench.services import NARROWING, path_of

ROUNDS, CONNECTIONS, SECONDS = 5, 16, 4
SCRIPT = """
local asked, made = 0, {}
init = function() for path in io.lines(os.getenv("BENCH_PATHS")) do made[#made + 1] = wrk.format("GET", path) end end
request = function() asked = asked % #made + 1; return made[asked] end
"""
"""For wrk: one path of the file after the other, around and around."""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Server:
    """One uvicorn, stopped by its process id."""

    def __init__(self, variant: str, routes: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        given = {"BENCH_VARIANT": variant, "BENCH_ROUTES": str(routes), "BENCH_FOLDER": str(folder)}
        command = [sys.executable, "-m", "uvicorn", "bench.services:create", "--factory", "--port", str(port)]
        self.process = subprocess.Popen([*command, "--no-access-log", "--log-level", "error"], env=os.environ | given)
        for _ in range(600):
            try:
                if httpx.get(self.url + path_of(0, routes)).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        self.stop()
        raise SystemExit(f"the server behind {variant!r} does not answer")

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def paths(folder: Path, routes: int, asked: Sequence[int]) -> Mapping[str, str]:
    """What tells wrk to ask for these routes, in turn."""
    (folder / "script.lua").write_text(SCRIPT)
    listed = folder / f"paths-{routes}-{len(asked)}"
    listed.write_text("".join(f"{path_of(number, routes)}\n" for number in asked))
    return {"BENCH_PATHS": str(listed)}


def drive(server: Server, folder: Path, given: Mapping[str, str], seconds: int) -> Mapping[str, float]:
    """Requests per second, and percentiles in milliseconds."""
    script = str(folder / "script.lua")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, "--latency", server.url]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | given).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(told)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert rate is not None
    late = {
        share: float(value) * _UNITS[unit] for share, value, unit in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", told)
    }
    return {"requests": float(rate[1]), "p50": late["50"], "p99": late["99"]}


def measure(folder: Path, routes: int, rounds: int, seconds: int) -> list[Case]:
    """Three cases for this many routes, all of them asked; and three more for the last of them, without peers."""
    variants = ["bare", *NARROWING, *(peers.PEERS if routes == 60 else [])]
    servers: dict[str, Server] = {}
    every, last = paths(folder, routes, range(routes)), paths(folder, routes, [routes - 1])
    try:
        for number, variant in enumerate(variants):
            servers[variant] = Server(variant, routes, folder / f"{routes}-{number}")
            drive(servers[variant], folder, every, 1)
        works = {name: partial(drive, server, folder, every, seconds) for name, server in servers.items()}
        found = take_turns(works, rounds, warm=False)
        works = {name: partial(drive, servers[name], folder, last, seconds) for name in ("bare", OURS)}
        of_last = take_turns(works, rounds, warm=False)
    finally:
        for server in servers.values():
            server.stop()
    return _cases(f"uvicorn, {routes} routes", found) + _cases(f"uvicorn, the last of {routes} routes", of_last)


def _cases(name: str, found: Mapping[str, Mapping[str, list[float]]]) -> list[Case]:
    name = f"{name}, {CONNECTIONS} connections"
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
