"""Real servers as processes of their own, on free ports; ended by their process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.kit import Log, make_log, steady_port
from tests.servers.service import POLICY

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds until a test that waits for something gives up; never part of a claim
T = TypeVar("T")

UVICORN = ["uvicorn", "tests.servers.service:app", "--no-access-log"]
COMMANDS: dict[str, list[str]] = {
    "uvicorn asyncio h11": [*UVICORN, "--loop", "asyncio", "--http", "h11"],
    "uvicorn uvloop httptools": [*UVICORN, "--loop", "uvloop", "--http", "httptools"],
    "uvicorn asyncio httptools": [*UVICORN, "--loop", "asyncio", "--http", "httptools"],
    "uvicorn uvloop h11": [*UVICORN, "--loop", "uvloop", "--http", "h11", "--ws", "wsproto"],
    "granian": ["granian", "--interface", "asgi", "tests.servers.service:app"],
}


def until(condition: Callable[[], T], what: str) -> T:
    """Waits until a condition is true; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)
    return value


class Server:
    """A running server, its log, and how to end it."""

    def __init__(self, name: str, folder: Path, *more: str, ready: bool = True, **environment: str) -> None:
        self.name = name
        folder.mkdir(exist_ok=True)
        self.log: Log = make_log(folder)
        (folder / "policy.yaml").write_text(POLICY)
        self.port = steady_port()
        self.output = folder / "output"
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", *COMMANDS[name], "--host", "127.0.0.1", "--port", str(self.port), *more]
        settings = {"AUDIT_POLICY": str(folder / "policy.yaml"), "AUDIT_LOG": str(self.log.path), "AUDIT_SERVICE": name}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | settings | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if ready:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        until(self._answers, f"{self.name}: an answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> str:
        """Ends the server as an init system would; what it printed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)  # its own group: nobody else is in it
                self.process.wait()
        return self.output.read_text()

    def record(self, action_id: str | None) -> dict[str, Any]:
        """The record with this ID, once it is there."""
        assert action_id

        def found() -> dict[str, Any] | None:
            return next((one for one in self.log.records() if one["action_id"] == action_id), None)

        return until(found, f"the record {action_id}") or {}

    def marked(self, mark: str) -> dict[str, Any]:
        """The only record of a request with this query, once it is there."""
        found = until(lambda: [one for one in self.log.outcomes() if one["request"]["query"] == mark], f"record {mark}")
        assert len(found) == 1
        return found[0]

    def raw(self, data: bytes) -> socket.socket:
        """A socket on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(data)
        return connection
