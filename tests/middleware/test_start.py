"""Starting, failing to start, and living through a log that cannot be written."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from audit_middleware.errors import ConfigError
from audit_middleware.frameworks.marks import action
from audit_middleware.middleware import AuditMiddleware
from audit_middleware.pipeline.append import Writer
from audit_middleware.settings import load_settings
from audit_middleware.stores.journal import JournalStore
from tests.kit import Answer, Log, Running, call, steady_port, write_policy
from tests.middleware.service import READER, Service, app_of
from tests.middleware.support import check_log, eventually, verified

POLICY = """
actions:
  doc.read: {allow: [anyone]}
routes:
  - {match: 'GET /health', exempt: 'liveness probe, touches no data'}
"""


@action("doc.read")
async def read(request: Request) -> Response:
    """A guarded page."""
    return PlainTextResponse("read")


async def health(request: Request) -> Response:
    """An exempt page."""
    return PlainTextResponse("well")


def _app(events: list[str] | None = None) -> Any:
    def note(name: str) -> None:
        if events is not None:
            events.append(name)

    class Lifespan:
        def __init__(self, app: Any) -> None: ...

        async def __aenter__(self) -> None:
            note("startup")

        async def __aexit__(self, *exc: object) -> None:
            note("shutdown")

    return app_of(Route("/", read), Route("/health", health), lifespan=Lifespan)


def _critical(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.CRITICAL]


# --- what stops the start ----------------------------------------------------------------------------------------

Change = Callable[[Path, Log, dict[str, Any]], None]


def _setting(**wrong: Any) -> Change:
    return lambda folder, log, options: options.update(wrong)


def _without(name: str) -> Change:
    return lambda folder, log, options: options.__delitem__(name)


def _policy(text: str) -> Change:
    return lambda folder, log, options: options.update(policy=write_policy(folder, text, "wrong.yaml"))


def _key(change: Callable[[Path], None]) -> Change:
    return lambda folder, log, options: change(Path(f"{log.path}.key"))


def _log(change: Callable[[Path], None]) -> Change:
    return lambda folder, log, options: change(log.path)


def _environment(folder: Path, log: Log, options: dict[str, Any]) -> None:
    os.environ["AUDIT_POLCY"] = "x"


def _other_key(path: Path) -> None:
    other = make_log_with_origin(path.parent / "other", "example.com/other")
    path.write_text(Path(f"{other}.key").read_text())


def make_log_with_origin(path: Path, origin: str) -> Path:
    """A second log, of another name."""
    from audit_middleware.evidence.keys import create_log

    create_log(path, origin)
    return path


def _spoil(path: Path) -> None:
    path.write_text("hello")


def _damage(path: Path) -> None:
    (path / "config.json").write_text("{")


def _replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


# what is changed: words of the message, in order
WRONG: dict[str, tuple[Change, tuple[str, ...]]] = {
    "unknown setting": (_setting(polcy="x"), ("unknown setting polcy", "did you mean policy?")),
    "unknown variable": (_environment, ("unknown setting AUDIT_POLCY", "did you mean AUDIT_POLICY?")),
    "missing setting": (_without("service"), ("setting service is missing", "AUDIT_SERVICE")),
    "empty service": (_setting(service=""), ("setting service",)),
    "wrong type": (_setting(queue="many"), ("setting queue",)),
    "out of range": (_setting(max_body=-1), ("setting max_body",)),
    "wrong choice": (_setting(inventory="off"), ("setting inventory", "enforce")),
    "several": (_setting(inventory="off", linger=999), ("linger", "inventory")),
    "proxy that is no network": (_setting(trusted_proxies=["10.0.0.0/33"]), ("trusted proxies", "10.0.0.0/33")),
    "proxy for everybody": (_setting(trusted_proxies="0.0.0.0/0"), ("trusts everybody",)),
    "no policy file": (_setting(policy="/nowhere/policy.yaml"), ("/nowhere/policy.yaml",)),
    "policy is a folder": (_setting(policy="/"), ("/",)),
    "unknown key": (_policy("actions: {a.b: {alow: [anyone]}}\n"), ("wrong.yaml:3", "alow", "allow")),
    "unknown role": (_policy("actions: {a.b: {allow: [reeder]}}\nroles: {reader: {}}\n"), ("reeder", "reader")),
    "not YAML": (_policy("actions: [\n"), ("wrong.yaml", "not valid YAML")),
    "unknown action": (_policy("actions: {}\nroutes: [{match: GET /, action: a.b}]\n"), ("unknown action", "a.b")),
    "unknown predicate": (_policy("actions: {a.b: {allow: [{name: x, when: {predicate: nope}}]}}\n"), ("nope",)),
    "bad redaction": (_policy("actions: {a.b: {allow: []}}\nredact: {patterns: ['re:(']}\n"), ("redact.patterns[0]",)),
    "no key": (_key(Path.unlink), ("key file", "No such file")),
    "key for everybody": (_key(lambda path: path.chmod(0o644)), ("others have access", "chmod 600")),
    "no key at all": (_key(_spoil), ("key",)),
    "another log's key": (_key(_other_key), ("example.com/other", "example.com/test")),
    "no log": (_log(shutil.rmtree), ("there is no log here", "audit-middleware init")),
    "a file for a log": (_log(_replace_by_file), ("there is no log here",)),
    "damaged configuration": (_log(_damage), ("config.json", "unreadable")),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_stops_the_start_with_one_message(
    tmp_path: Path, log: Log, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_POLCY", "x")  # so that it is taken away again
    monkeypatch.delenv("AUDIT_POLCY")
    change, words = WRONG[name]
    options: dict[str, Any] = {"policy": write_policy(tmp_path, POLICY), "log": str(log.path), "service": "test"}
    change(tmp_path, log, options)
    events: list[str] = []
    app = _app(events)
    app.add_middleware(AuditMiddleware, **options)

    async def start() -> tuple[str | None, Answer]:
        async with Running(app) as running:
            return running.failed, await call(app, "GET", "/")

    message, answer = asyncio.run(start())
    assert message is not None
    at = 0
    for word in words:
        at = message.find(word, at)
        assert at >= 0, (word, message)
    assert "Traceback" not in message
    assert [text.endswith(message) for text in _critical(caplog)] == [True], "one message"
    assert (events, answer.status) == ([], 503), "the application's own start did not run, and nothing is served"


def test_a_signing_key_is_never_printed(tmp_path: Path, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    app = _app()
    policy = write_policy(tmp_path, POLICY)
    app.add_middleware(
        AuditMiddleware, policy=policy, log=str(log.path), service="x", signing_key="PRIVATE+KEY+S3CRET", queue=0
    )

    async def start() -> str | None:
        async with Running(app) as running:
            return running.failed

    assert "S3CRET" not in str(asyncio.run(start())) + caplog.text


@pytest.mark.parametrize("wrong", [True, False])
def test_without_lifespan(tmp_path: Path, log: Log, wrong: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The first request starts it; if it cannot start, every request gets 503, and the log one message."""
    app = _app()
    policy = "/nowhere.yaml" if wrong else str(write_policy(tmp_path, POLICY))
    app.add_middleware(AuditMiddleware, policy=policy, log=str(log.path), service="test")

    async def ask() -> list[Answer]:
        return [await call(app, "GET", path) for path in ("/", "/health", "/", "/none")]

    answers = asyncio.run(ask())
    if wrong:
        assert [answer.status for answer in answers] == [503] * 4
        assert answers[0].json() == {"detail": "Service Unavailable"}, "why is for the log, not for the client"
        assert len(_critical(caplog)) == 1
        assert (asyncio.run(call(app, "WS", "/"))).status == 403
    else:
        assert [answer.status for answer in answers] == [200, 200, 200, 404]
        assert _critical(caplog) == []
        _stop(app)
        assert len(check_log(log)) == 3


def _stop(app: Any) -> None:
    layer = app.middleware_stack
    while not isinstance(layer, AuditMiddleware):
        layer = layer.app
    layer._starter.stop()  # as atexit does


def test_an_application_that_knows_no_lifespan(tmp_path: Path, log: Log) -> None:
    """A server takes the exception for "no lifespan" and goes on."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await PlainTextResponse("bare")(scope, receive, send)

    policy = write_policy(tmp_path, "default: allow\nactions: {a.b: {allow: []}}\n")
    app = AuditMiddleware(bare, policy=policy, log=str(log.path), service="test")

    async def ask() -> Answer:
        channel: asyncio.Queue[Any] = asyncio.Queue()
        with pytest.raises(AssertionError):
            await app({"type": "lifespan", "asgi": {"version": "3.0"}}, channel.get, channel.put)
        return await call(app, "GET", "/")

    assert asyncio.run(ask()).body == b"bare"
    app._starter.stop()
    assert check_log(log)[0]["request"]["route"] == "/{path}"


def test_start_stop_start(service: Service) -> None:
    """As test clients do: each start is a process's worth of records, with an instance and a sequence of its own."""
    service.policy = POLICY
    app = service.guard(_app())

    async def live() -> None:
        for _ in range(2):
            async with Running(app) as running:
                assert running.failed is None, running.failed
                assert (await call(app, "GET", "/")).status == 200

    asyncio.run(live())
    assert len(check_log(service.log)) == 2
    assert len(service.log.controls("audit.started")) == len(service.log.controls("audit.stopped")) == 2
    assert len({record["service"]["instance"] for record in service.log.records()}) == 2


def test_routes_that_do_not_fit_stop_the_start(tmp_path: Path, log: Log) -> None:
    app = app_of(Route("/", read), Route("/open", health), Mount("/m", _app()))
    app.add_middleware(
        AuditMiddleware,
        policy=write_policy(tmp_path, POLICY),
        log=str(log.path),
        service="test",
    )

    async def start() -> tuple[str | None, Answer]:
        async with Running(app) as running:
            return running.failed, await call(app, "GET", "/")

    message, answer = asyncio.run(start())
    assert message is not None
    assert "GET /open" in message
    assert "GET /m/health" in message
    assert "'GET /health' matches no route" in message
    assert answer.status == 503
    assert log.records() == []


def test_or_are_warned_about(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.policy = POLICY  # `Service` warns
    app = app_of(Route("/", read), Route("/open", health))

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/open")).status == 403
        assert (await call(app, "GET", "/")).status == 200

    service.run(app, drive)
    assert "GET /open" in caplog.text
    assert "'GET /health' matches no route" in caplog.text


def test_routes_added_at_start_count(tmp_path: Path, log: Log) -> None:
    app = FastAPI(openapi_url=None)

    class Lifespan:
        def __init__(self, app: Any) -> None: ...

        async def __aenter__(self) -> None:
            app.router.routes += [Route("/", read), Route("/health", health)]

        async def __aexit__(self, *exc: object) -> None: ...

    app.router.lifespan_context = Lifespan
    app.add_middleware(AuditMiddleware, policy=write_policy(tmp_path, POLICY), log=str(log.path), service="test")

    async def start() -> int | None:
        async with Running(app) as running:
            assert running.failed is None, running.failed
            return (await call(app, "GET", "/")).status

    assert asyncio.run(start()) == 200


# --- a log that cannot be written --------------------------------------------------------------------------------


async def _status(app: Any, path: str = "/") -> int | None:
    return (await call(app, "GET", path, READER)).status


async def _until(app: Any, status: int) -> int:
    """Asks until the answer has this status; how many other answers came before."""
    before = 0
    deadline = asyncio.get_running_loop().time() + 60
    while (got := await _status(app)) != status:
        assert asyncio.get_running_loop().time() < deadline, got
        before += 1
        await asyncio.sleep(0.01)
    return before


def test_a_failed_start_is_raised_where_a_test_client_waits_for_it(service: Service) -> None:
    service.policy = "actionss: {}\n"
    with pytest.raises(ConfigError, match="did you mean 'actions'"), TestClient(service.guard(_app())):
        raise AssertionError("it started")


def _break_journal(log: Log) -> Callable[[], None]:
    """Takes the segments away, also from whoever has them open; returns what puts them back."""
    journal, aside = log.path / "journal", log.path / "aside"
    journal.rename(aside)
    journal.write_text("not a folder")

    def repair() -> None:
        journal.unlink()
        aside.rename(journal)

    return repair


def test_guarded_actions_are_refused_while_the_log_is_gone_and_served_again(service: Service) -> None:
    service.policy = POLICY
    served = 0

    async def drive(app: Any) -> None:
        nonlocal served
        assert await _status(app) == 200
        await eventually(service.log.outcomes, "the first record")
        repair = _break_journal(service.log)
        before = await _until(app, 503)
        answer = await call(app, "GET", "/")
        assert (answer.status, answer.header(b"retry-after")) == (503, "5")
        assert await _status(app, "/health") == 200, "exempt: needs no log"
        assert await _status(app, "/none") == 404
        repair()
        again = await _until(app, 200)
        served = 1 + before + 2 + 1 + again + 1  # health is exempt and left out

    records = service.run(_app(), drive)
    refused = [record for record in records if record["decision"]["cause"] == "log_unavailable"]
    assert len(refused) >= 2
    assert {record["outcome"] for record in refused} == {"denied"}
    assert len(records) == served, "what happened meanwhile was kept and written afterwards"
    assert service.log.controls("audit.gap") == []


class Failing:
    """A store that fails: before it persists, after it, or that hangs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.how = "works"
        self.go_on = threading.Event()
        self.waiting = threading.Event()
        genuine = JournalStore.append

        def append(store: JournalStore, entries: Any, seal: Any) -> Any:
            if self.how == "before":
                raise OSError("no")
            if self.how == "hangs":
                self.waiting.set()
                assert self.go_on.wait(60)
            head = genuine(store, entries, seal)
            if self.how == "after":
                raise OSError("after persisting")
            return head

        monkeypatch.setattr(JournalStore, "append", append)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """The store of this test."""
    return Failing(monkeypatch)


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_failing_store(service: Service, store: Failing, how: str) -> None:
    service.policy = POLICY
    asked = 0

    async def drive(app: Any) -> None:
        nonlocal asked
        asked += await _until(app, 200) + 1
        store.how = how
        asked += await _until(app, 503) + 1
        store.how = "works"
        asked += await _until(app, 200) + 1

    app = _app()

    async def main() -> None:
        async with Running(service.guard(app)):
            await drive(app)

    asyncio.run(main())
    report = verified(service.log)
    assert report.holds, report.findings
    records = service.log.outcomes()
    assert len({record["action_id"] for record in records}) == asked
    if how == "before":
        assert len(records) == asked
    else:  # nobody knows what a failed write left (perhaps only what the log says of its start): sent again, marked so
        assert len(records) >= asked
        assert {finding.cause for finding in report.findings} == {"repeated"}


def test_a_full_queue_refuses_and_what_cannot_be_kept_is_a_gap(service: Service, store: Failing) -> None:
    """Admitted requests have twice the room; who finishes even then leaves a gap record instead of nothing."""
    service.policy = POLICY
    service.settings |= {"queue": 64, "patience": 10, "linger": 0}
    release = asyncio.Event()
    finished = 0

    @action("doc.read")
    async def slow(request: Request) -> Response:
        await release.wait()
        return PlainTextResponse("slow")

    app = app_of(Route("/", read), Route("/slow", slow), Route("/health", health))

    async def drive(app: Any) -> None:
        nonlocal finished
        running = [asyncio.ensure_future(_status(app, "/slow")) for _ in range(200)]
        for _ in range(5):
            await asyncio.sleep(0)
        store.how = "hangs"
        assert await _status(app) == 200
        await eventually(store.waiting.is_set, "the store hangs")
        answers = [await _status(app) for _ in range(80)]
        assert answers[:60] == [200] * 60
        assert answers[-1] == 503, "the queue is full and nobody frees it"
        assert await _status(app, "/health") == 200
        release.set()
        assert await asyncio.gather(*running) == [200] * 200, "admitted while there was room"
        store.how = "works"
        store.go_on.set()
        await _until(app, 200)
        finished = 1 + 80 + 200 + 1

    records = service.run(app, drive)
    lost = sum(gap["extra"]["count"] for gap in service.log.controls("audit.gap"))
    assert lost > 0
    extra = len(records) + lost - finished
    assert extra >= 0, "each request is a record or counted in a gap"
    assert extra < 60, "only the requests that asked for the log to come back"
    assert {gap["severity"] for gap in service.log.controls("audit.gap")} == {"critical"}


def test_an_exempt_route_does_not_wait_for_the_log(service: Service, store: Failing) -> None:
    """A liveness probe that hangs with the log would have the service killed for it."""
    service.policy = POLICY
    service.settings |= {"queue": 64, "patience": 60_000, "linger": 0}

    async def drive(app: Any) -> None:
        store.how = "hangs"
        for _ in range(100):
            waiting = asyncio.ensure_future(_status(app))
            if not (await asyncio.wait({waiting}, timeout=1))[0]:
                break  # the queue is full: this one waits for room
        assert not waiting.done()
        assert await asyncio.wait_for(_status(app, "/health"), 30) == 200
        assert await asyncio.wait_for(_status(app, "/none"), 30) == 404
        assert not waiting.done()
        store.how = "works"
        store.go_on.set()
        assert await waiting == 200

    service.run(_app(), drive)


@pytest.mark.parametrize("patience", [0.2, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "as it is"])
def test_records_that_cannot_be_written_at_the_end_are_told_of(
    service: Service,
    store: Failing,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    patience: float | None,
) -> None:
    """The process ends, the log is still gone, and so is the spool: the last that can be done is to say so."""
    service.policy = POLICY
    (service.folder / "spool").write_text("no folder")
    service.settings |= {"spool": service.folder / "spool"}
    close = Writer.close
    monkeypatch.setattr(Writer, "close", lambda writer, seconds=None: close(writer, patience or seconds))
    app = _app()

    async def main() -> None:
        async with Running(service.guard(app)):
            assert await _status(app) == 200
            await eventually(service.log.outcomes, "the first record")
            store.how = "before"
            assert await _status(app) == 200

    asyncio.run(main())
    assert any("2 records" in message for message in _critical(caplog)), "the request's and the stop's"
    assert verified(service.log).holds


# --- a real server -----------------------------------------------------------------------------------------------

SERVICE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_middleware import AuditMiddleware, action

@action("doc.read")
async def read(request):
    return PlainTextResponse("read")

app = Starlette(routes=[Route("/", read)])
app.add_middleware(AuditMiddleware, service="test")
"""


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_a_real_server_ends_with_the_message(tmp_path: Path, log: Log, lifespan: str) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    policy = write_policy(tmp_path, "actions: {doc.read: {alow: [anyone]}}\n")
    port = steady_port()
    environment = os.environ | {"AUDIT_POLICY": str(policy), "AUDIT_LOG": str(log.path)}
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", str(port), "--lifespan", lifespan]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert "policy.yaml:3" in ended.stderr
    assert ended.stderr.count("'allow'") in (1, 2), "our message, and the server's copy of it"
    assert "Traceback" not in ended.stderr
    assert "Application startup failed. Exiting." in ended.stderr


@pytest.mark.parametrize("challenge", ["Bearer\r\nx: y", "Bearer\n", "", "B\u00e9arer"])
def test_a_challenge_that_is_no_header_value_is_refused(challenge: str) -> None:
    with pytest.raises(ConfigError, match="setting challenge"):
        load_settings({"policy": "p", "log": "l", "service": "s", "challenge": challenge}, {})
