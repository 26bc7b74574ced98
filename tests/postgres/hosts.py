"""The example service on several ports, as on several hosts, with one log in PostgreSQL; who asks, and what is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from audit_middleware.evidence.erasures import told_of
from audit_middleware.evidence.keys import create_log
from audit_middleware.evidence.masters import set_up
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.ledger.verify import verify
from audit_middleware.privacy.keys import open_keys
from audit_middleware.privacy.masters import open_master
from audit_middleware.privacy.opening import Opener
from audit_middleware.stores.opening import Store, place_of
from tests.kit import steady_port
from tests.postgres.conftest import Database
from tests.postgres.server import PostgresServer
from tests.servers.running import PATIENCE, ROOT, until

ORIGIN = "billing.example/audit"
USER = "clerk-1"
READ = "customer.read: {allow: [viewer, auditor]"


class Promise(NamedTuple):
    """What a client was told: the Audit-ID of a 200, and what it had asked for."""

    action_id: str
    path: str
    query: str


def master_of(key: Path) -> str:
    """The master key over the persons' keys; it lies beside the log's signing key."""
    return f"file:{key.with_name('master.key')}"


class Host:
    """The example service with a folder of its own, as on a host of its own. ``data`` is what the hosts share."""

    application, health = "example_app.app:app", "/healthz"

    def __init__(self, name: str, folder: Path, url: str, key: Path, data: Path) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        (self.folder / "policy.yaml").write_text(self.policy())
        self.port = steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AUDIT_POLICY": str(self.folder / "policy.yaml"), "AUDIT_LOG": url, "AUDIT_SERVICE": name,
            "AUDIT_STATE": str(self.folder / "state"), "AUDIT_KEY": str(key), "BILLING_DATA": str(data),
            "AUDIT_SUBJECT_KEYS": url.partition("?")[0], "AUDIT_MASTER_KEY": master_of(key),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def policy(self) -> str:
        """The example's. Sealed: who has the answer can rely on the record; else a killed process may lose 50 ms."""
        policy = (ROOT / "policies" / "billing.yaml").read_text()
        assert policy.count(READ) == 1
        return policy.replace(READ, f"{READ}, guarantee: sealed")

    @property
    def output(self) -> str:
        """What it printed, in all its lives."""
        return (self.folder / "output").read_text()

    def start(self) -> Host:
        """Without waiting for it."""
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", self.application, "--no-access-log",
                 "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=ROOT, env=os.environ | self.environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return self

    def wait(self) -> Host:
        """Until it answers."""
        until(self._answers, "an answer")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        try:
            return httpx.get(f"{self.url}{self.health}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As an init system does it."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()


class Clients:
    """Threads that sign in to one service, ask it, and keep what they were promised."""

    def __init__(self, host: Host, count: int) -> None:
        self.promised: list[Promise] = []
        self.refused: Counter[int] = Counter()
        self._host, self._stop = host, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            try:
                with httpx.Client(base_url=self._host.url, timeout=PATIENCE) as client:
                    while not self._stop.is_set():
                        asked += 1
                        self._ask(client, asked % 4 + 1, f"n={number}-{asked}")
            except httpx.TransportError:  # killed, or not up yet
                time.sleep(0.05)

    def _ask(self, client: httpx.Client, customer: int, query: str) -> None:
        path = f"/v1/customers/{customer}"
        answer = client.get(f"{path}?{query}")
        if answer.status_code == 200:
            assert answer.json()["id"] == customer
            self.promised.append(Promise(answer.headers["audit-id"], path, query))
            return
        self.refused[answer.status_code] += 1
        if answer.status_code == 401:  # no token yet, or it is too old
            answer = client.post("/auth/login", data={"username": USER, "password": f"{USER}-demo"})
            if answer.status_code == 200:
                client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
                return
        time.sleep(0.02)

    def end(self) -> list[Promise]:
        """What they were promised in all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        return self.promised


@contextmanager
def two_hosts(server: PostgresServer, folder: Path) -> Iterator[tuple[list[Host], str]]:
    """A log that `init` made, a role that may write and read it, the persons' keys, and two services that use both."""
    database = Database(server.url())
    key = folder / "signing.key"
    create_log(place_of(server.url(), folder / "admin"), ORIGIN, key)
    service = database.role("service", "audit_writer", "audit_reader")
    database.run(f"CREATE SCHEMA audit_subjects AUTHORIZATION {urlsplit(service).username}")
    url = f"{service}?origin={ORIGIN}"
    set_up(place_of(url, folder / "admin"), service, master_of(key))
    hosts = [Host(name, folder, url, key, folder / "data") for name in ("one", "two")]
    try:
        for host in hosts:
            host.start()
        for host in hosts:
            host.wait()
        yield hosts, url
    finally:
        for host in hosts:
            host.stop()


def opened(store: Store, url: str, key: Path) -> list[dict[str, Any]]:
    """Every record, with what the services sealed; each key has to be the one that the log was told of."""
    told = told_of(store)
    with closing(open_keys(url.partition("?")[0], ORIGIN, open_master(master_of(key), ORIGIN))) as keys:
        opener = Opener(keys, ORIGIN, told.erased, told.commitments)
        return [opener.opened(decode(entry)) for frame in store.frames() for entry in frame.entries]


def assert_kept(store: Store, url: str, key: Path, promised: list[Promise]) -> list[dict[str, Any]]:
    """Every promise is in the log as it was given, and the log is one history that its key signed."""
    records = opened(store, url, key)
    found = {one["action_id"]: one for one in records if one["kind"] == "outcome"}
    assert len({one.action_id for one in promised}) == len(promised)
    for one in promised:
        record = found[one.action_id]
        assert (record["action"], record["request"]["path"]) == ("customer.read", one.path)
        assert record["request"]["query"] == one.query
        assert (record["user_id"], record["outcome"], record["response"]["status"]) == (USER, "success", 200)
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
