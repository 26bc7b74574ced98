"""Two services on two ports, as on two hosts, and one log: under load, while services and the server are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit_middleware.evidence.keys import create_log
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import verify
from audit_middleware.stores.opening import Store, open_log, place_of
from tests.postgres.conftest import Database
from tests.postgres.server import PASSWORD, PostgresServer
from tests.servers.running import PATIENCE, ROOT, until
from tests.servers.service import POLICY

ORIGIN = "audit.example.com/two"
READER = {"x-user": "ann:reader"}
SEALED = POLICY.replace("doc.read: {allow: [reader]}", "doc.read: {allow: [reader], guarantee: sealed}")
Promise = tuple[str, str]  # an Audit-ID and the path that it is of


class Host:
    """One service with a folder of its own, as on a host of its own."""

    def __init__(self, name: str, folder: Path, url: str, key: Path) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        (self.folder / "policy.yaml").write_text(SEALED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AUDIT_POLICY": str(self.folder / "policy.yaml"), "AUDIT_LOG": url, "AUDIT_SERVICE": name,
            "AUDIT_STATE": str(self.folder / "state"), "AUDIT_KEY": str(key),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def start(self) -> Host:
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "tests.servers.service:app", "--no-access-log",
                 "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=ROOT, env=os.environ | self.environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait(self) -> Host:
        until(self.answers, "an answer")
        return self

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


class Clients:
    """Threads that ask one service and keep what they were promised: the Audit-ID of each 200."""

    def __init__(self, host: Host, count: int) -> None:
        self.promised: list[Promise] = []
        self.refused: Counter[int] = Counter()
        self._host, self._stop = host, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            try:
                with httpx.Client(base_url=self._host.url, headers=READER, timeout=PATIENCE) as client:
                    while not self._stop.is_set():
                        asked += 1
                        path = f"/docs/c{number}-{asked}"
                        answer = client.get(path)
                        if answer.status_code == 200:
                            self.promised.append((answer.headers["audit-id"], path))
                        else:
                            self.refused[answer.status_code] += 1
                            time.sleep(0.02)
            except httpx.TransportError:  # killed, or not up yet
                time.sleep(0.05)

    def end(self) -> list[Promise]:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        return self.promised


@contextmanager
def two_hosts(server: PostgresServer, folder: Path) -> Iterator[tuple[list[Host], str]]:
    """A log that `init` made, a role that may write and read it, and two services that do."""
    database = Database(server.url())
    key = folder / "signing.key"
    create_log(place_of(server.url(), folder / "admin"), ORIGIN, key)
    url = database.role("service", "audit_writer", "audit_reader") + f"?origin={ORIGIN}"
    hosts = [Host(name, folder, url, key) for name in ("one", "two")]
    try:
        for host in hosts:
            host.start()
        for host in hosts:
            host.wait()
        yield hosts, url
    finally:
        for host in hosts:
            host.stop()


def assert_kept(store: Store, promised: list[Promise]) -> list[dict[str, Any]]:
    """Every promise is in the log as it was given, and the log is one history that its key signed."""
    records = [decode(entry) for frame in store.frames() for entry in frame.entries]
    found = {one["action_id"]: one for one in records if one["kind"] == "outcome"}
    for action_id, path in promised:
        record = found[action_id]
        assert record["request"]["path"] == path
        assert (record["user_id"], record["outcome"], record["response"]["status"]) == ("ann", "success", 200)
    report = verify(store.raw_frames(), ORIGIN, [parse_vkey(one) for one in store.vkeys])
    # Requests that were refused or killed leave holes in a process's own count (check 7); nothing else may be found.
    assert {one.check for one in report.findings if one.level == "error"} <= {7}, report.findings
    assert report.size == len(records)
    return records


def more(clients: list[Clients], count: int) -> None:
    """Waits until each of them was promised so many more."""
    before = [len(one.promised) for one in clients]
    until(
        lambda: all(len(one.promised) >= had + count for one, had in zip(clients, before, strict=True)),
        f"{count} promises, after {before}",
    )


@pytest.mark.parametrize("first", ["service", "server"])
def test_a_killed_service_and_a_killed_server(own_server: PostgresServer, tmp_path: Path, first: str) -> None:
    with two_hosts(own_server, tmp_path) as (hosts, url):
        clients = [Clients(host, 4) for host in hosts]
        try:
            more(clients, 120)
            for what in (first, "server" if first == "service" else "service"):
                if what == "service":
                    hosts[0].kill()
                    more(clients[1:], 120)  # the other one goes on
                    hosts[0].start().wait()
                else:
                    own_server.kill()
                    time.sleep(0.3)
                    own_server.start()
                more(clients, 120)
        finally:
            promised = [one for each in clients for one in each.end()]
        for host in hosts:
            host.stop()
            assert PASSWORD not in host.output
        assert len(promised) >= 720
        with closing(open_log(place_of(url, tmp_path / "admin"))) as store:
            records = assert_kept(store, promised)
        assert {one["service"]["name"] for one in records} >= {"one", "two"}
        started = [one for one in records if one["action"] == "audit.started"]
        assert len(started) == 3
        assert PASSWORD not in str(records)
        shown = started[0]["extra"]["configuration"]["settings"]["log"]
        assert shown == f"postgresql://127.0.0.1:{own_server.port}/postgres?origin={ORIGIN}"
        policies = [one for one in records if one["action"] == "audit.policy_archived"]
        assert 1 <= len(policies) <= 2, "a start on any host finds the policy; two at the same moment may both write it"


@pytest.mark.slow
def test_thirty_thousand_promises(own_server: PostgresServer, tmp_path: Path) -> None:
    with two_hosts(own_server, tmp_path) as (hosts, url):
        clients = [Clients(host, 8) for host in hosts]
        try:
            round_ = 0
            while sum(len(one.promised) for one in clients) < 30_000:
                more(clients, 700)
                round_ += 1
                if round_ % 4 == 1:
                    hosts[round_ // 4 % 2].kill()
                    hosts[round_ // 4 % 2].start().wait()
                elif round_ % 4 == 3:
                    own_server.kill()
                    own_server.start()
        finally:
            promised = [one for each in clients for one in each.end()]
        for host in hosts:
            host.stop()
        with closing(open_log(place_of(url, tmp_path / "admin"))) as store:
            assert_kept(store, promised)


def test_a_service_without_a_state_folder_says_what_is_missing(own_server: PostgresServer, tmp_path: Path) -> None:
    key = tmp_path / "signing.key"
    create_log(place_of(own_server.url(), tmp_path / "admin"), ORIGIN, key)
    host = Host("one", tmp_path, own_server.url(), key)
    del host.environment["AUDIT_STATE"]
    host.start()
    assert host.process is not None
    assert host.process.wait(PATIENCE) != 0
    assert "AUDIT_STATE" in host.output
    assert PASSWORD not in host.output
