"""Requests per second and latency behind a real server: ``python -m bench.throughput [--routes 60] [--seconds 5]``.

uvicorn (one worker) with the application bare, guarded, and guarded without narrowing, each driven in turn by wrk with
16 connections on the same cores; interleaved rounds, medians, and the ratio to bare of each round. Needs wrk.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.apps import ROUTERS

ROUNDS, CONNECTIONS = 7, 16
VARIANTS = ("bare", "guarded", "not narrowed")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Server:
    """One uvicorn, stopped by its process id."""

    def __init__(self, variant: str, routes: int, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/r{ROUTERS - 1}/items{routes // ROUTERS - 1}/1"
        given = {"BENCH_VARIANT": variant, "BENCH_ROUTES": str(routes), "BENCH_FOLDER": str(folder)}
        command = [sys.executable, "-m", "uvicorn", "bench.apps:create", "--factory", "--port", str(port)]
        self.process = subprocess.Popen([*command, "--no-access-log", "--log-level", "error"], env=os.environ | given)
        for _ in range(600):
            try:
                if httpx.get(self.url).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise SystemExit(f"the {variant} server does not answer")

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def drive(url: str, seconds: int) -> tuple[float, float]:
    """Requests per second, and the 99th percentile in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in shown:
        raise SystemExit(shown)
    rate, late = re.search(r"Requests/sec:\s+([\d.]+)", shown), re.search(r"99%\s+([\d.]+)(us|ms|s)", shown)
    assert rate is not None
    assert late is not None
    return float(rate[1]), float(late[1]) * _UNITS[late[2]]


def main(routes: int, seconds: int) -> None:
    """Prints one line per variant."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed (Debian package wrk)")
    with tempfile.TemporaryDirectory() as folder:
        servers = [Server(variant, routes, Path(folder) / variant.replace(" ", "-")) for variant in VARIANTS]
        try:
            for server in servers:
                drive(server.url, 1)
            rounds = [[drive(server.url, seconds) for server in servers] for _ in range(ROUNDS)]
        finally:
            for server in servers:
                server.stop()
    print(f"uvicorn, {routes} routes in {ROUTERS} included routers, the last of them, {CONNECTIONS} connections")
    for column, variant in enumerate(VARIANTS):
        rates = [row[column][0] for row in rounds]
        ratio = statistics.median(row[column][0] / row[0][0] for row in rounds)
        late = statistics.median(row[column][1] for row in rounds)
        shown = f"{statistics.median(rates):7.0f} requests/s ({min(rates):.0f}-{max(rates):.0f})"
        print(f"{variant:13} {shown}  ratio {ratio:.2f}  p99 {late:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=60)
    parser.add_argument("--seconds", type=int, default=5)
    given = parser.parse_args()
    main(given.routes, given.seconds)
