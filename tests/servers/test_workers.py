"""Several processes on one log: under load, killed at any moment, without lifespan, and two services in one trace."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit_middleware.ledger.note import parse_vkey
from tests.middleware.support import check_log, verified
from tests.servers.running import PATIENCE, Server, until

READER = {"x-user": "ann:reader"}


class Load:
    """Clients that ask until they are told to stop, and note each answer with the time it was there."""

    def __init__(self, url: str, clients: int) -> None:
        self.url = url
        self.answers: list[tuple[float, str, str]] = []  # (monotonic time, action ID, process)
        self.broken = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def _ask(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            with httpx.Client(headers=READER, timeout=PATIENCE) as client:
                try:
                    for _ in range(50):  # then a new connection: to any of the workers
                        if self._stop.is_set():
                            return
                        asked += 1
                        answer = client.get(f"{self.url}/docs/c{number}-{asked}")
                        found = answer.headers["audit-id"], answer.headers["x-pid"]
                        self.answers.append((time.monotonic(), *found))
                except httpx.TransportError:  # the worker that held this connection is gone
                    self.broken += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def by_instance(records: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The sequence numbers of each process, in the order of the log."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for record in records:
        numbers[record["service"]["instance"]].append(record["sequence"])
    return numbers


def pid_of(instance: str) -> str:
    """``host:pid:random`` names the process."""
    return instance.split(":")[1]


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_share_one_log(tmp_path: Path, workers: int) -> None:
    server = Server("uvicorn uvloop httptools", tmp_path / "service", "--workers", str(workers))
    try:
        with Load(server.url, 4 * workers) as load:
            until(lambda: len(load.answers) > 200 and len({pid for _, _, pid in load.answers}) == workers, "the load")
    finally:
        server.stop()
    records = {record["action_id"]: record for record in check_log(server.log)}
    assert load.broken == 0
    for _, action_id, pid in load.answers:
        assert pid_of(records[action_id]["service"]["instance"]) == pid
    instances = by_instance(server.log.records())
    assert len(instances) == workers
    for numbers in instances.values():
        assert numbers == list(range(len(numbers)))
    ends = Counter(record["action"] for record in server.log.records() if record["kind"] == "control")
    assert ends["audit.started"] == ends["audit.stopped"] == workers


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_under_load(tmp_path: Path, workers: int) -> None:
    """Nobody can stop kill -9: what is promised is that the log stays whole and how little may be missing."""
    server = Server("uvicorn uvloop httptools", tmp_path / "service", "--workers", str(workers))
    try:
        with Load(server.url, 4 * workers) as load:
            # The killed worker must have answered more than a second before it dies.
            until(lambda: len({pid for _, _, pid in load.answers}) == workers, "an answer of each worker")
            started = time.monotonic()
            until(lambda: time.monotonic() - started > 1.3, "a second of load")
            victim = load.answers[-1][2]
            killed = time.monotonic()
            os.kill(int(victim), signal.SIGKILL)
            until(lambda: load.broken > 0, "broken connections")
            until(lambda: time.monotonic() - killed > 0.5, "the others to go on")
            if workers == 4:  # the supervisor takes its time to notice
                until(lambda: len({pid for _, _, pid in load.answers}) > workers, "an answer of the new worker")
    finally:
        server.stop()

    report = verified(server.log)
    assert report.holds, report.findings
    records = {record["action_id"]: record for record in server.log.records()}
    promised = [action_id for at, action_id, _ in load.answers if at < killed - 1]
    assert len(promised) > 50
    assert not [action_id for action_id in promised if action_id not in records]
    others = [action_id for _, action_id, pid in load.answers if pid != victim]
    assert not [action_id for action_id in others if action_id not in records], "nobody else lost anything"

    instances = by_instance(server.log.records())
    assert len(instances) in (workers, workers + 1), "the killed one may have been replaced already"
    for numbers in instances.values():
        assert numbers == list(range(len(numbers))), "no hole; the killed one's only ends early"
    stopped = {r["service"]["instance"] for r in server.log.records() if r["action"] == "audit.stopped"}
    assert {pid_of(instance) for instance in instances if instance not in stopped} == {victim}


def test_everything_is_killed_and_the_log_goes_on(tmp_path: Path) -> None:
    """The whole service dies; a new one continues the same log. A lonely record waits for no company."""
    server = Server("uvicorn asyncio h11", tmp_path / "service")
    try:
        assert httpx.get(server.url + "/docs/before", headers=READER, timeout=PATIENCE).status_code == 200
        answered = time.monotonic()
        until(lambda: time.monotonic() - answered > 1, "a second to pass")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE)
    finally:
        server.stop()
    size = verified(server.log).size
    again = Server("uvicorn asyncio h11", tmp_path / "again", AUDIT_LOG=str(server.log.path))
    try:
        assert httpx.get(again.url + "/docs/after", headers=READER, timeout=PATIENCE).status_code == 200
    finally:
        again.stop()
    report = verified(server.log)
    assert report.holds, report.findings
    assert report.size > size
    assert [record["request"]["path"] for record in server.log.outcomes()] == ["/docs/before", "/docs/after"]
    assert parse_vkey(server.log.vkey)


def test_a_server_without_lifespan(tmp_path: Path) -> None:
    """The first request starts it, and the end of the interpreter stops it.

    SIGINT, as uvicorn ends a process that got SIGTERM by that signal: then nothing of Python runs any more, and what
    nobody waited for in the last 50 ms is lost, as at any kill.
    """
    server = Server("uvicorn uvloop httptools", tmp_path / "service", "--lifespan", "off")
    try:
        answer = httpx.get(server.url + "/docs/7", headers=READER, timeout=PATIENCE)
        assert answer.status_code == 200
        server.process.send_signal(signal.SIGINT)
        server.process.wait(PATIENCE)
    finally:
        server.stop()
    assert answer.headers["audit-id"] in {record["action_id"] for record in check_log(server.log)}
    controls = [record["action"] for record in server.log.records() if record["kind"] == "control"]
    assert controls == [
        *("audit.started", "audit.policy_archived", "audit.policy_loaded", "audit.routes_listed", "audit.stopped")
    ]


def test_a_server_without_lifespan_that_cannot_start(tmp_path: Path) -> None:
    """Every request gets 503 and the operator one message."""
    server = Server(
        "uvicorn uvloop httptools", tmp_path / "service", "--lifespan", "off", ready=False, AUDIT_LOG="/nowhere"
    )
    try:

        def asked() -> httpx.Response | None:
            try:
                return httpx.get(server.url + "/docs/7", headers=READER, timeout=PATIENCE)
            except httpx.TransportError:
                return None

        answer = until(asked, "an answer")
        assert answer is not None
        assert answer.status_code == 503
        assert httpx.get(server.url + "/health", timeout=PATIENCE).status_code == 503
    finally:
        printed = server.stop()
    assert printed.count("there is no log here") == 1
    assert "Traceback" not in printed
    assert server.log.records() == []


# --- two services ------------------------------------------------------------------------------------------------

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_one_action_in_two_services_is_found_by_one_id(tmp_path: Path) -> None:
    """The client's correlation and trace, or what the first service made for it, are in both logs."""
    second = Server("uvicorn asyncio h11", tmp_path / "second", ready=False)
    first = Server("uvicorn uvloop httptools", tmp_path / "first", DOWNSTREAM=f"{second.url}/docs/7")
    try:
        second.wait()
        given = {"x-correlation-id": "case-4711", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answers = [
            httpx.get(f"{first.url}/relay", headers=READER | headers, timeout=PATIENCE) for headers in (given, {})
        ]
    finally:
        first.stop()
        second.stop()
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "'7'")] * 2
    one, two = ([r for r in check_log(server.log) if r["action"] is not None] for server in (first, second))
    assert [record["action"] for record in (*one, *two)] == ["doc.relay", "doc.relay", "doc.read", "doc.read"]
    for answer, here, there in zip(answers, one, two, strict=True):
        ids = {record["trace"]["correlation_id"] for record in (here, there)}
        assert ids == {answer.headers["x-correlation-id"]}
        assert here["action_id"] != there["action_id"]
        assert (here["user_id"], there["user_id"]) == ("ann", "relay")
        traces = {record["trace"]["trace_id"] for record in (here, there)}
        assert traces == ({TRACE} if answer is answers[0] else {None}), "without a client's trace there is none"
    assert answers[0].headers["x-correlation-id"] == "case-4711"
    assert answers[1].headers["x-correlation-id"] != "case-4711"
