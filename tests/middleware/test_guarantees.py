"""``guarantee: sealed`` and ``before``, ``on_log_failure: degrade``: what is durable when, and what if it cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from audit_middleware.errors import LogUnavailable, RecordError
from audit_middleware.frameworks.marks import action
from audit_middleware.pipeline.record import Recorder
from audit_middleware.stores.journal import JournalStore
from tests.kit import Log, Running, call, write_policy
from tests.middleware.service import READER, Service, app_of
from tests.middleware.support import Exchange, eventually, http_scope, request, verified, websocket_scope

POLICY = """
roles: {reader: {}}
actions:
  doc.sealed: {guarantee: sealed, allow: [reader]}
  doc.before: {guarantee: before, allow: [reader]}
  doc.after: {allow: [reader]}
  doc.soft: {guarantee: before, on_log_failure: degrade, allow: [reader]}
  doc.easy: {on_log_failure: degrade, allow: [reader]}
"""


class Store:
    """The journal of this test: it waits, or fails, when told to; and says what was durable when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self.go_on = threading.Event()
        self.go_on.set()
        self.waiting = threading.Event()
        genuine = JournalStore.append

        def append(store: JournalStore, entries: Any, seal: Any) -> Any:
            self.waiting.set()
            assert self.go_on.wait(60)
            if self.fails:
                raise LogUnavailable("no")
            return genuine(store, entries, seal)

        monkeypatch.setattr(JournalStore, "append", append)

    def stop(self) -> None:
        """From now on a commit waits."""
        self.waiting.clear()
        self.go_on.clear()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of this test."""
    return Store(monkeypatch)


@pytest.fixture
def guarded(service: Service) -> Service:
    """A service under this file's policy."""
    service.policy = POLICY
    return service


def waiting(service: Service) -> list[Path]:
    """The files of the service's spool."""
    return list(Path(f"{service.log.path}.spool").rglob("*.jsonl"))


def app_with(ran: list[str], log: Log) -> Any:
    """Handlers that tell when they ran, and what the log held then."""

    def handler(name: str) -> Any:
        @action(name)
        async def run(request: Request) -> Response:
            ran.append(name)
            return PlainTextResponse(f"done {len(log.records())}", headers={"x-kept": "yes"})

        return run

    @action("doc.sealed")
    async def broken(request: Request) -> Response:
        raise ZeroDivisionError

    @action("doc.sealed")
    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for part in (b"one", b"two"):
                ran.append(part.decode())
                yield part

        size = {"content-length": "6"} if "sized" in request.query_params else {}
        return StreamingResponse(parts(), headers=size)

    @action("doc.sealed")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        await websocket.close(1000, "bye")

    return app_of(
        *[Route(f"/{name}", handler(f"doc.{name}")) for name in ("sealed", "before", "after", "soft", "easy")],
        Route("/broken", broken),
        Route("/stream", stream),
        WebSocketRoute("/socket", socket),
    )


# --- while the log works -----------------------------------------------------------------------------------------


def test_a_sealed_response_ends_when_its_record_is_durable(guarded: Service, store: Store) -> None:
    ran: list[str] = []

    async def drive(app: Any) -> None:
        store.go_on.clear()
        exchange = Exchange(app, http_scope("GET", "/sealed", READER), request())
        await eventually(lambda: ran, "the handler runs")
        await eventually(store.waiting.is_set, "the writer commits")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert exchange.messages == [], "not even the start: there may still be a 503 in its place"
        store.go_on.set()
        await exchange.end()
        assert [message["type"] for message in exchange.messages] == ["http.response.start", "http.response.body"]
        assert [record["action"] for record in guarded.log.outcomes()] == ["doc.sealed"], "durable by now"

    (record,) = guarded.run(app_with(ran, guarded.log), drive)
    assert (record["outcome"], record["response"]["status"], record["intent_id"]) == ("success", 200, None)


def test_the_answer_is_the_same_as_without(guarded: Service) -> None:
    async def drive(app: Any) -> None:
        for path in ("/sealed", "/before", "/soft"):
            answer = await call(app, "GET", path, READER)
            assert (answer.status, answer.header(b"x-kept"), answer.body[:4]) == (200, "yes", b"done")
            assert answer.header(b"audit-id")
        answer = await call(app, "GET", "/stream", READER)
        assert [m.get("body") for m in answer.messages] == [None, b"one", b"two", b""]

    assert len(guarded.run(app_with([], guarded.log), drive)) == 4


@pytest.mark.parametrize("sized", [False, True])
def test_a_stream_flows_and_only_its_end_waits(guarded: Service, store: Store, sized: bool) -> None:
    """With a stated length, the client has it all at the last byte, before the message that ends it."""
    ran: list[str] = []

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.go_on.clear()
        query = b"sized=1" if sized else b""
        exchange = Exchange(app, http_scope("GET", "/stream", READER, query_string=query), request())
        shown = [await exchange.sent(), await exchange.sent()]
        assert [message["type"] for message in shown] == ["http.response.start", "http.response.body"]
        if not sized:
            assert (await exchange.sent())["body"] == b"two"
        await eventually(lambda: ran == ["one", "two"], "the stream ends")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert len(exchange.messages) == (2 if sized else 3)
        store.go_on.set()
        assert await exchange.end() is None
        assert b"".join(message.get("body", b"") for message in exchange.messages) == b"onetwo"

    (record,) = guarded.run(app_with(ran, guarded.log), drive)
    assert record["response"]["size"] == 6


def test_an_intent_is_durable_before_the_handler_runs(guarded: Service, store: Store) -> None:
    ran: list[str] = []

    async def drive(app: Any) -> None:
        store.go_on.clear()
        exchange = Exchange(app, http_scope("GET", "/before", READER), request())
        await eventually(store.waiting.is_set, "the writer commits")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert ran == []
        store.go_on.set()
        await exchange.end()
        assert ran == ["doc.before"]

    guarded.run(app_with(ran, guarded.log), drive)
    intent, outcome = [record for record in guarded.log.records() if record["kind"] != "control"]
    assert (intent["kind"], outcome["kind"]) == ("intent", "outcome")
    assert outcome["intent_id"] == intent["action_id"] != outcome["action_id"]
    assert intent["outcome"] is None
    assert intent["response"]["status"] is None
    assert intent["duration_us"] is None
    for same in ("action", "user_id", "decision", "resource", "trace", "timestamp", "initiator_ip"):
        assert intent[same] == outcome[same], same


class Again:
    """Asks the application once more where it answered 503, and then for another page."""

    def __init__(self, app: Any, then: str) -> None:
        self.app, self.then = app, then

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        if scope["type"] == "http":
            await self.app(scope, receive, keep)
            scope["path"] = self.then
        await self.app(scope, receive, send)


def test_an_intent_that_is_not_durable_admits_nobody_the_second_time(guarded: Service, store: Store) -> None:
    guarded.settings |= {"patience": 200}
    ran: list[str] = []
    app = app_with(ran, guarded.log)
    app.add_middleware(Again, then="/before")

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.stop()
        assert (await call(app, "GET", "/before", READER)).status == 503
        assert ran == []
        store.go_on.set()

    guarded.run(app, drive)


def test_an_intent_is_about_one_action(guarded: Service) -> None:
    """Where a middleware leads a request somewhere else, that is announced, too."""
    guarded.policy = POLICY.replace("doc.sealed: {guarantee: sealed", "doc.sealed: {guarantee: before")
    ran: list[str] = []
    app = app_with(ran, guarded.log)
    app.add_middleware(Again, then="/sealed")

    async def drive(app: Any) -> None:
        await call(app, "GET", "/before", READER)

    (outcome,) = guarded.run(app, drive)
    intents = [record for record in guarded.log.records() if record["kind"] == "intent"]
    assert [intent["action"] for intent in intents] == ["doc.before", "doc.sealed"]
    assert outcome["intent_id"] in {intent["action_id"] for intent in intents}


def test_a_denied_request_has_no_intent_and_does_not_wait(guarded: Service, store: Store) -> None:
    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.go_on.clear()
        assert (await call(app, "GET", "/before")).status == 401
        store.go_on.set()

    (record,) = guarded.run(app_with([], guarded.log), drive)
    assert (record["outcome"], record["intent_id"]) == ("denied", None)
    assert all(record["kind"] != "intent" for record in guarded.log.records())


def test_an_exception_of_a_sealed_action(guarded: Service) -> None:
    async def drive(app: Any) -> None:
        answer = await call(app, "GET", "/broken", READER)
        assert answer.status == 500
        assert [record["outcome"] for record in guarded.log.outcomes()] == ["error"], "durable when it is answered"

    (record,) = guarded.run(app_with([], guarded.log), drive)
    assert record["response"] == {"status": 500, "size": 0, "error": "ZeroDivisionError", "body": None}


def test_a_sealed_websocket_closes_when_its_record_is_durable(guarded: Service, store: Store) -> None:
    async def drive(app: Any) -> None:
        for durable, code in ((True, 1000), (False, 1011)):
            exchange = Exchange(app, websocket_scope("/socket", READER), {"type": "websocket.connect"})
            assert (await exchange.sent())["type"] == "websocket.accept"
            store.fails = not durable
            exchange.give({"type": "websocket.receive", "text": "hello"})
            closed = await exchange.sent()
            assert (closed["type"], closed["code"]) == ("websocket.close", code)
            await exchange.end()
        store.fails = False

    assert len(guarded.run(app_with([], guarded.log), drive)) == 2


def test_a_cancelled_sealed_request_is_recorded(guarded: Service, store: Store) -> None:
    async def drive(app: Any) -> None:
        store.go_on.clear()
        exchange = Exchange(app, http_scope("GET", "/sealed", READER), request())
        await eventually(store.waiting.is_set, "the writer commits")
        await asyncio.sleep(0.05)
        exchange.task.cancel()
        await exchange.end()
        assert exchange.messages == []
        store.go_on.set()

    (record,) = guarded.run(app_with([], guarded.log), drive)
    assert record["action"] == "doc.sealed"


# --- while it does not -------------------------------------------------------------------------------------------


def test_without_the_log_what_is_not_announced_does_not_run(guarded: Service, store: Store) -> None:
    ran: list[str] = []

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.fails = True
        answer = await call(app, "GET", "/before", READER)
        assert (answer.status, answer.header(b"retry-after")) == (503, "5")
        assert ran == []
        store.fails = False

    records = guarded.run(app_with(ran, guarded.log), drive)
    (outcome,) = [record for record in records if record["kind"] == "outcome"]
    assert outcome["decision"]["cause"] == "log_unavailable"
    assert outcome["outcome"] == "denied"
    (intent,) = [record for record in guarded.log.records() if record["kind"] == "intent"]
    assert outcome["intent_id"] == intent["action_id"], "it came to the log afterwards, and this says it did not run"


def test_an_intent_that_cannot_be_written_down_denies(guarded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise RecordError("too large")

    monkeypatch.setattr(Recorder, "_intent", refuse)
    ran: list[str] = []

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/before", READER)).status == 503
        assert ran == []

    records = guarded.run(app_with(ran, guarded.log), drive)
    assert [record["decision"]["cause"] for record in records] == ["log_unavailable"]


def test_a_sealed_response_is_withheld(guarded: Service, store: Store) -> None:
    """The handler has run: the record says so once the log is back, and that the client was not told."""
    ran: list[str] = []

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.fails = True
        answer = await call(app, "GET", "/sealed", READER)
        assert (answer.status, answer.header(b"retry-after"), answer.header(b"x-kept")) == (503, "5", None)
        assert answer.header(b"audit-id")
        assert ran == ["doc.sealed"]
        store.fails = False

    (record,) = guarded.run(app_with(ran, guarded.log), drive)
    assert (record["outcome"], record["response"]["status"]) == ("success", 200)
    (amendment,) = guarded.log.controls("audit.amended")
    assert amendment["extra"]["amends"] == record["action_id"]
    assert "withheld" in amendment["extra"]["response"]


def test_a_stream_under_way_is_cut_off(guarded: Service, store: Store) -> None:
    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.fails = True
        exchange = Exchange(app, http_scope("GET", "/stream", READER), request())
        error = await exchange.end()
        assert isinstance(error, LogUnavailable)
        assert exchange.messages[-1].get("more_body"), "no end"
        store.fails = False

    guarded.run(app_with([], guarded.log), drive)


def test_an_action_that_may_degrade_goes_on(guarded: Service, store: Store) -> None:
    ran: list[str] = []

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.fails = True
        for path in ("/soft", "/easy", "/soft", "/easy"):
            assert (await call(app, "GET", path, READER)).status == 200, path
        assert (await call(app, "GET", "/after", READER)).status == 503
        spooled = b"".join(path.read_bytes() for path in waiting(guarded))
        assert spooled.count(b'"kind":"intent"') == 2
        assert spooled.count(b'"kind":"outcome"') >= 2, "a sealed outcome is on disk when it is answered"
        store.fails = False

    guarded.run(app_with(ran, guarded.log), drive)
    assert ran == ["doc.soft", "doc.easy"] * 2
    report = verified(guarded.log)
    assert report.holds
    assert not [finding for finding in report.findings if finding.cause == "missing"]
    records = [record for record in guarded.log.records() if record["kind"] != "control"]
    assert [record["sequence"] for record in records] == sorted(record["sequence"] for record in records)
    assert {record["action"] for record in records} == {"doc.soft", "doc.easy", "doc.after"}
    flagged = [record["action"] for record in records if "log_degraded" in record["flags"]]
    assert "doc.easy" in flagged
    assert "doc.after" not in flagged
    assert guarded.log.controls("audit.gap") == []


def test_the_next_process_sends_what_one_left(guarded: Service, store: Store) -> None:
    async def once(app: Any) -> None:
        async with Running(guarded.guard(app)):
            await eventually(lambda: guarded.log.controls("audit.routes_listed"), "the start's records")
            store.fails = True
            assert (await call(app, "GET", "/soft", READER)).status == 200

    asyncio.run(once(app_with([], guarded.log)))
    assert guarded.log.outcomes() == [], "the log was never back"
    store.fails = False

    async def drive(app: Any) -> None:
        await eventually(lambda: guarded.log.controls("audit.spool_replayed"), "the spool is sent")

    guarded.run(app_with([], guarded.log), drive)
    actions = [record["action"] for record in guarded.log.records()]
    first_run = actions.index("doc.soft")
    assert actions[first_run : first_run + 3] == ["doc.soft", "doc.soft", "audit.stopped"], "intent, outcome, the end"
    assert actions.index("audit.spool_replayed") > first_run
    (told,) = guarded.log.controls("audit.spool_replayed")
    assert told["extra"]["count"] == 3
    assert verified(guarded.log).holds
    assert waiting(guarded) == []


def test_a_store_that_hangs(guarded: Service, store: Store) -> None:
    """No error to go by: after the set patience, the action's own rule decides."""
    guarded.settings |= {"patience": 100}
    ran: list[str] = []

    async def drive(app: Any) -> None:
        await eventually(lambda: len(guarded.log.records()) >= 3, "the start's records")
        store.go_on.clear()
        assert (await call(app, "GET", "/before", READER)).status == 503
        assert ran == []
        assert (await call(app, "GET", "/sealed", READER)).status == 503
        assert (await call(app, "GET", "/soft", READER)).status == 200
        store.go_on.set()

    guarded.run(app_with(ran, guarded.log), drive)
    assert ran == ["doc.sealed", "doc.soft"]
    assert verified(guarded.log).holds


# --- the real thing ----------------------------------------------------------------------------------------------

SERVICE = """
import os, signal
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_middleware import AuditMiddleware, action

@action("doc.before")
async def die(request):
    os.kill(os.getpid(), signal.SIGKILL)

@action("doc.sealed")
async def sealed(request):
    return PlainTextResponse("ok")

app = Starlette(routes=[Route("/die", die), Route("/sealed", sealed)])
app.add_middleware(AuditMiddleware, service="test")
"""


def test_killed_in_the_handler_and_after_the_answer(tmp_path: Path, log: Log) -> None:
    """An intent without an outcome shows; and what was answered was durable."""
    (tmp_path / "service.py").write_text(SERVICE)
    actions = "actions:\n  doc.before: {guarantee: before, allow: [anyone]}\n"
    policy = write_policy(tmp_path, actions + "  doc.sealed: {guarantee: sealed, allow: [anyone]}\n")
    environment = os.environ | {"AUDIT_POLICY": str(policy), "AUDIT_LOG": str(log.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", "0"]
    output = tmp_path / "server.log"
    for path, last in (("/sealed", "outcome"), ("/die", "intent")):
        with output.open("w") as written:
            server = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=written)
        try:
            address = _address(output)
            with httpx.Client(base_url=address, timeout=30) as client:
                if path == "/sealed":
                    assert client.get(path).text == "ok"
                    server.send_signal(signal.SIGKILL)
                else:
                    with pytest.raises(httpx.HTTPError):
                        client.get(path)
            assert server.wait(30) == -signal.SIGKILL
        finally:
            server.kill()
            server.wait()
        assert [record["kind"] for record in log.records() if record["kind"] != "control"][-1] == last
    shown = subprocess.run(
        [sys.executable, "-m", "audit_middleware", "query", str(log.path), "--unfinished", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.count("\n") == 1
    assert '"doc.before"' in shown.stdout
    assert verified(log).holds


def _address(output: Path) -> str:
    deadline = time.monotonic() + 60
    while "running on " not in output.read_text():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)
    return output.read_text().partition("running on ")[2].split()[0]
