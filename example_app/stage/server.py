"""The billing service under uvicorn, with two workers, for as long as the demo needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from .errors import Surprise

ROOT = Path(__file__).parents[2]
WORKERS = 2
_START_S, _STOP_S, _END_S = 30, 15, 3  # at most; usually one or two


class Server:
    """One uvicorn with its workers, in a process group of its own so that none of them can be left behind."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, output: Path) -> None:
        self._process = process
        self._output = output
        self.url = url

    @property
    def pid(self) -> int:
        """The process that the workers belong to."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Returns once it answers."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise Surprise(f"the server ended by itself, exit code {self._process.returncode}")
            if "startup failed" in self.said():  # uvicorn would start its workers again, for ever
                raise Surprise("the service does not start")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise Surprise(f"the server did not answer within {_START_S} seconds")

    def stop(self) -> None:
        """Asks uvicorn to end, as a deployment would: open requests finish, and the log gets its last records."""
        self._process.terminate()
        if not self._gone_within(_STOP_S):
            raise Surprise(f"the server did not stop within {_STOP_S} seconds")
        if self._process.returncode not in (0, -signal.SIGTERM):
            raise Surprise(f"the server ended with exit code {self._process.returncode}")

    def end(self) -> None:
        """Whatever happened: nothing of it runs after this."""
        if self._alive():
            self._process.terminate()
            if not self._gone_within(_END_S):
                os.killpg(self._process.pid, signal.SIGKILL)
                self._gone_within(_STOP_S)

    def _gone_within(self, seconds: float) -> bool:
        """Waits for the whole group: multiprocessing's own helper ends a moment after uvicorn."""
        until = time.monotonic() + seconds
        while (alive := self._alive()) and time.monotonic() < until:
            time.sleep(0.02)
        return not alive

    def _alive(self) -> bool:
        """Does any process of the group still run? One that has ended and waits to be reaped does not."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return any(group == self._process.pid and state != "Z" for state, group in _processes())

    def said(self) -> str:
        """The end of what it printed."""
        return "\n".join(self._output.read_text(errors="replace").splitlines()[-40:])


@contextlib.contextmanager
def serve(output: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """Runs the service; ``output`` takes what it prints, ``settings`` is added to its environment."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # --no-proxy-headers: the address is the middleware's business, which knows which proxies to believe.
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS), "--no-proxy-headers"]
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603  # our own arguments
            [sys.executable, "-m", "uvicorn", "example_app.app:app", *options],
            cwd=ROOT,
            env=environment({**settings, "BILLING_PAYMENTS_URL": url}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, url, output)
    try:
        yield server
    finally:
        server.end()


def _processes() -> Iterator[tuple[str, int]]:
    """State and process group of every process (proc(5): what follows the name in parentheses)."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            state, _, group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            yield state, int(group)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours with these settings, and without those of another service that this shell may be set up for."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AUDIT_")} | dict(settings)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
