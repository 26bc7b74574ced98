"""Exactly one outcome record for each request, whatever happens, and what stands in it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from audit_middleware.context import annotate, current_correlation_id
from audit_middleware.frameworks.marks import action
from tests.kit import Answer, Running, call
from tests.middleware.service import ADMIN, READER, Record, Service, api, app_of, as_
from tests.middleware.support import (
    DISCONNECT,
    Exchange,
    check_log,
    http_scope,
    journal_bytes,
    request,
    websocket_scope,
)

HAS_BODY_LIMIT = "max_body_size" in inspect.signature(FastAPI.__init__).parameters
JSON = (b"content-type", b"application/json")


class Doc(BaseModel):
    """A body."""

    title: str


def _docs() -> FastAPI:
    """Every way in which a request can end."""
    app = api()
    app.state.ran = ran = []

    @app.get("/docs/{number}")
    @action("doc.read", resource="doc/{number}")
    async def read(number: int) -> int:
        ran.append("read")
        return number

    @app.get("/sync/{number}")
    @action("doc.read", resource="doc/{number}")
    def read_sync(number: int) -> int:
        return number

    @app.post("/docs", status_code=201)
    @action("doc.create", resource="doc")
    async def create(doc: Doc) -> Doc:
        ran.append("create")
        return doc

    @app.delete("/docs/{number}")
    @action("doc.delete", resource="doc/{number}")
    async def delete(number: int) -> None:
        ran.append("delete")

    @app.get("/quiet")
    @action("doc.quiet")
    async def quiet(fail: int = 0) -> str:
        if fail:
            raise HTTPException(fail)
        return "quiet"

    @app.get("/status/{status}")
    @action("doc.public")
    async def status(status: int) -> Response:
        return Response(b"four", status)

    @app.get("/broken")
    @action("doc.broken")
    async def broken() -> None:
        raise ValueError("a secret: hunter2")

    @app.get("/broken/sync")
    @action("doc.broken")
    def broken_sync() -> None:
        raise KeyError("sync")

    @app.get("/midway")
    @action("doc.read")
    async def midway() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"12345"
            raise ValueError("midway")

        return StreamingResponse(parts())

    @app.get("/waits")
    @action("doc.read")
    async def waits() -> None:
        app.state.waiting.set()
        await asyncio.sleep(1000)

    @app.post("/reads")
    @action("doc.read")
    async def reads(request: Request) -> int:
        return len(await request.body())

    if HAS_BODY_LIMIT:

        @app.post("/small", max_body_size=4)
        @action("doc.read")
        async def small(request: Request) -> int:
            return len(await request.body())

    _sockets(app)
    return app


def _sockets(app: FastAPI) -> None:
    @app.websocket("/watch")
    @action("doc.watch")
    async def watch(websocket: WebSocket, how: str = "normal") -> None:
        app.state.ran.append("watch")
        if how == "reject":
            await websocket.close(4403)
            return
        await websocket.accept()
        if how == "raise":
            raise ValueError("broken")
        if how == "close":
            await websocket.close(1011)
            return
        await websocket.send_text("hello")
        await websocket.receive_text()


# --- exactly one, whatever happens -------------------------------------------------------------------------------

# what is asked, as whom: (status on the wire, outcome, cause of the decision, action)
ENDINGS: dict[str, tuple[str, str, list[Any], bytes, tuple[Any, ...]]] = {
    "200": ("GET", "/docs/7", READER, b"", (200, "success", "rule", "doc.read")),
    "200 sync": ("GET", "/sync/7", READER, b"", (200, "success", "rule", "doc.read")),
    "201": ("POST", "/docs", [*READER, JSON], b'{"title": "t"}', (201, "success", "rule", "doc.create")),
    "401": ("GET", "/docs/7", [], b"", (401, "denied", "default", "doc.read")),
    "403": ("DELETE", "/docs/7", READER, b"", (403, "denied", "default", "doc.delete")),
    "403 without a role": ("GET", "/docs/7", as_("bob"), b"", (403, "denied", "default", "doc.read")),
    "404": ("GET", "/none", READER, b"", (404, "failure", "no_route", None)),
    "405": ("PATCH", "/docs/7", READER, b"", (405, "failure", "no_route", None)),
    "HEAD 405": ("HEAD", "/docs/7", READER, b"", (405, "failure", "no_route", None)),
    "redirect": ("GET", "/docs/7/", READER, b"", (307, "success", "no_route", None)),
    "422 path": ("GET", "/docs/x", READER, b"", (422, "failure", "rule", "doc.read")),
    "422 body": ("POST", "/docs", [*READER, JSON], b"{", (422, "failure", "rule", "doc.create")),
    "500": ("GET", "/broken", READER, b"", (500, "error", "rule", "doc.broken")),
    "500 sync": ("GET", "/broken/sync", READER, b"", (500, "error", "rule", "doc.broken")),
    "503 by the handler": ("GET", "/status/503", [], b"", (503, "error", "rule", "doc.public")),
    "418 by the handler": ("GET", "/status/418", [], b"", (418, "failure", "rule", "doc.public")),
    "midway": ("GET", "/midway", READER, b"", (200, "error", "rule", "doc.read")),
    "identity down": ("GET", "/docs/7", as_("outage"), b"", (503, "denied", "error", "doc.read")),
    "identifier raises": ("GET", "/docs/7", as_("bug"), b"", (500, "denied", "error", "doc.read")),
    "bad token": ("GET", "/docs/7", as_("forged"), b"", (401, "denied", "default", "doc.read")),
}
if HAS_BODY_LIMIT:
    ENDINGS["413"] = ("POST", "/small", READER, b"12345", (413, "failure", "rule", "doc.read"))


@pytest.mark.parametrize("name", ENDINGS)
def test_one_record_for_each_ending(service: Service, name: str) -> None:
    method, path, headers, body, (status, outcome, cause, act) = ENDINGS[name]
    answer, record = service.ask(_docs(), method, path, headers, body)
    assert answer.status == status
    assert (record["response"]["status"], record["outcome"]) == (status, outcome)
    assert (record["decision"]["cause"], record["action"]) == (cause, act)
    assert record["action_id"] == answer.header(b"audit-id")
    assert record["trace"]["correlation_id"] == answer.header(b"x-correlation-id")
    assert (record["request"]["method"], record["request"]["path"]) == (method, path)


def test_an_error_names_its_type_and_never_its_text(service: Service) -> None:
    _, record = service.ask(_docs(), "GET", "/broken", READER)
    assert record["response"]["error"] == "ValueError"
    assert b"hunter2" not in journal_bytes(service.log)


async def _wait(app: Any) -> Exchange:
    app.state.waiting = asyncio.Event()
    exchange = Exchange(app, http_scope("GET", "/waits", READER), request())
    await asyncio.wait_for(app.state.waiting.wait(), 30)
    return exchange


def test_cancelled(service: Service) -> None:
    async def drive(app: Any) -> None:
        exchange = await _wait(app)
        exchange.task.cancel()
        await exchange.end()

    [record] = service.run(_docs(), drive)
    assert (record["outcome"], record["response"]["status"], record["action"]) == ("aborted", None, "doc.read")


def test_cancelled_by_a_scope(service: Service) -> None:
    """anyio keeps on cancelling: an await between the handler and the record would lose it."""

    async def drive(app: Any) -> None:
        app.state.waiting = asyncio.Event()
        with anyio.CancelScope() as scope:

            async def inside() -> None:
                await app.state.waiting.wait()
                scope.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(inside)
                await app(http_scope("GET", "/waits", READER), asyncio.Queue().get, asyncio.Queue().put)

    [record] = service.run(_docs(), drive)
    assert record["outcome"] == "aborted"


def test_the_client_went_away_before_the_body_was_whole(service: Service) -> None:
    async def drive(app: Any) -> None:
        await Exchange(app, http_scope("POST", "/reads", READER), request(b"part", more=True), DISCONNECT).end()

    [record] = service.run(_docs(), drive)
    assert (record["outcome"], record["request"]["size"]) == ("aborted", 4)


def test_a_disconnect_after_the_last_byte_is_no_abort(service: Service) -> None:
    """Servers say ``http.disconnect`` to whoever still listens once the response is out, also before `send` returns."""

    class Listening:
        """As granian: `send` takes its time, and meanwhile a waiting `receive` learns that all is over."""

        def __init__(self) -> None:
            self.over = asyncio.Event()

        async def receive(self) -> Any:
            await self.over.wait()
            return DISCONNECT

        async def send(self, message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.over.set()
                for _ in range(5):
                    await asyncio.sleep(0)

    async def page(request: Request) -> Response:
        listener = asyncio.ensure_future(request.receive())
        request.app.state.listener = listener
        await asyncio.sleep(0)
        return PlainTextResponse("x")

    async def drive(app: Any) -> None:
        server = Listening()
        await app(http_scope("GET", "/"), server.receive, server.send)
        await app.state.listener

    [record] = service.run(app_of(Route("/", action("doc.public")(page))), drive)
    assert record["outcome"] == "success"


def test_nothing_was_answered(service: Service) -> None:
    """An application that returns without a response: the server answers 500."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return None

    class Silent:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            return None

    _, record = service.ask(app_of(Route("/", action("doc.public")(Silent)())), "GET", "/")
    assert (record["outcome"], record["response"]["status"]) == ("error", None)


def test_what_a_background_task_raises_or_reads_comes_too_late(service: Service) -> None:
    """The record is of the response, whenever the writer gets to it."""
    service.settings["linger"] = 50

    async def page(request: Request, tasks: BackgroundTasks) -> str:
        async def late() -> None:
            await request.body()
            raise ValueError("late")

        tasks.add_task(late)
        return "x"

    app = api()
    app.post("/")(action("doc.create")(page))
    answer, record = service.ask(app, "POST", "/", READER, b"0123456789")
    assert isinstance(answer.error, ValueError)
    assert (record["outcome"], record["response"]["error"], record["request"]["size"]) == ("success", None, 0)
    assert record["request"]["body"] == {"content": None, "content_type": None, "size": 0, "truncated": True} or (
        record["request"]["body"]["size"] == 0
    )


# --- WebSockets --------------------------------------------------------------------------------------------------

CONNECT = {"type": "websocket.connect"}
DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


def _gone(code: int) -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code}


# the query, as whom, messages, scope: (first message, outcome, status, error)
SOCKETS: dict[str, tuple[bytes, list[Any], list[Any], dict[str, Any], tuple[Any, ...]]] = {
    "ended": (b"", READER, [CONNECT, _gone(1000)], {}, ("accept", "success", 101, None)),
    "left the page": (b"", READER, [CONNECT, _gone(1001)], {}, ("accept", "success", 101, None)),
    "lost": (b"", READER, [CONNECT, _gone(1006)], {}, ("accept", "aborted", 101, None)),
    "raised": (b"how=raise", READER, [CONNECT], {}, ("accept", "error", 101, "ValueError")),
    "closed 1011": (b"how=close", READER, [CONNECT], {}, ("accept", "error", 101, "close 1011")),
    "rejected": (b"how=reject", READER, [CONNECT], {}, ("close", "failure", 403, None)),
    "denied": (b"", as_("bob"), [CONNECT], {}, ("close", "denied", 403, None)),
    "denied with a response": (b"", as_("bob"), [CONNECT], DENIAL, ("http.response.start", "denied", 403, None)),
    "nobody": (b"", [], [CONNECT], DENIAL, ("http.response.start", "denied", 401, None)),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_one_record_for_each_websocket(service: Service, name: str) -> None:
    query, headers, messages, more, (first, outcome, status, error) = SOCKETS[name]
    app = _docs()
    sent: list[Any] = []

    async def drive(app: Any) -> None:
        exchange = Exchange(app, websocket_scope("/watch", headers, query_string=query, **more), *messages)
        await exchange.end()
        sent.extend(exchange.messages)

    [record] = service.run(app, drive)
    assert sent[0]["type"] == f"websocket.{first}"
    assert (record["outcome"], record["response"]["status"], record["response"]["error"]) == (outcome, status, error)
    assert (record["request"]["protocol"], record["request"]["method"], record["action"]) == (
        "websocket",
        "WS",
        "doc.watch",
    )
    if first != "close":  # a close before accept has no headers
        assert dict(sent[0]["headers"])[b"audit-id"].decode() == record["action_id"]
    if outcome == "denied":
        assert app.state.ran == []
        assert sent[0].get("code", 1008) == 1008


# --- preflights, HEAD, QUERY -------------------------------------------------------------------------------------


def test_a_preflight_is_one_record_and_no_decision(service: Service) -> None:
    app = _docs()
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"], allow_methods=["DELETE"])
    asked = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"DELETE")]
    answer, record = service.ask(app, "OPTIONS", "/docs/7", asked)
    assert (answer.status, record["outcome"], record["decision"]["effect"]) == (200, "success", "not_applicable")
    assert (record["action"], record["decision"]["cause"]) == (None, "no_route")


def test_a_denial_has_cors_headers(service: Service) -> None:
    """Or a browser shows its script a network error instead of the refusal."""
    app = _docs()
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])
    answer, _ = service.ask(app, "DELETE", "/docs/7", [*READER, (b"origin", b"https://a.example")])
    assert answer.status == 403
    assert answer.header(b"access-control-allow-origin") == "https://a.example"


def test_a_denial_goes_through_the_applications_own_error_page(service: Service) -> None:
    app = _docs()

    @app.exception_handler(403)
    async def page(request: Request, error: Any) -> Response:
        assert isinstance(error.detail, str)
        return PlainTextResponse(f"own page: {error.detail} {current_correlation_id()}", 403)

    answer, record = service.ask(app, "DELETE", "/docs/7", [*READER, (b"x-correlation-id", b"case-9")])
    assert answer.body == b"own page: Forbidden case-9"
    assert record["outcome"] == "denied"


def test_head_takes_the_get_action(service: Service) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("text")

    app = app_of(Route("/", action("doc.delete")(page)))
    answer, record = service.ask(app, "HEAD", "/", READER)
    assert (answer.status, record["action"], record["request"]["method"]) == (403, "doc.delete", "HEAD")


def test_every_response_has_both_ids(service: Service) -> None:
    """Also 404, 405 and 500, and with the client's own correlation ID."""
    app = _docs()
    wanted = [*READER, (b"x-correlation-id", b"case-1")]

    async def drive(app: Any) -> None:
        for method, path in (("GET", "/none"), ("PUT", "/docs/1"), ("GET", "/broken"), ("DELETE", "/docs/1")):
            answer = await call(app, method, path, wanted)
            assert answer.header(b"x-correlation-id") == "case-1"
            assert len(answer.header(b"audit-id") or "") == 36

    assert {record["trace"]["correlation_id"] for record in service.run(app, drive)} == {"case-1"}


def test_a_500_handler_runs_within_the_request(service: Service) -> None:
    """It may annotate and log with the correlation ID, and its answer is what is recorded."""

    async def page(request: Request, error: Exception) -> Response:
        annotate(extra={"handled": type(error).__name__})
        return PlainTextResponse(str(current_correlation_id()), 502)

    async def broken(request: Request) -> Response:
        raise ValueError

    app = app_of(Route("/", action("doc.public")(broken)), exception_handlers={500: page})
    answer, record = service.ask(app, "GET", "/", [(b"x-correlation-id", b"case-2")])
    assert (answer.status, answer.body) == (502, b"case-2")
    assert (record["response"]["status"], record["response"]["size"]) == (502, 6)
    assert (record["extra"], record["outcome"]) == ({"handled": "ValueError"}, "error")


def test_an_error_that_is_swallowed_above_is_still_one_record(service: Service) -> None:
    """Middleware outside of ours answers instead of Starlette: nobody tells us how."""

    class Swallowing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            except ValueError:
                await PlainTextResponse("swallowed", 200)(scope, receive, send)

    app = _docs()
    answers: list[Answer] = []

    async def main() -> None:
        service.guard(app)
        app.add_middleware(Swallowing)
        async with Running(app):
            answers.append(await call(app, "GET", "/broken", READER))

    asyncio.run(main())
    [record] = check_log(service.log)
    assert answers[0].body == b"swallowed"
    assert (record["outcome"], record["response"]["status"]) == ("error", 500)


# --- what stands in a record -------------------------------------------------------------------------------------


def test_the_fields_of_a_success(service: Service) -> None:
    sent = [
        *READER,
        (b"user-agent", b"curl/8"),
        (b"accept", b"text/html"),
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"x-request-id", b"r-1"),
    ]
    service.settings |= {"service": "docs", "service_version": "1.2", "environment": "staging"}
    answer, record = service.ask(_docs(), "GET", "/docs/7", sent, query=b"page=2")
    assert record["service"] | {"instance": ""} == {
        "name": "docs",
        "version": "1.2",
        "instance": "",
        "environment": "staging",
    }
    assert (record["user_id"], record["subject"]["type"], record["subject"]["roles"]) == ("ann", "user", ["reader"])
    assert record["source"] == {"method": "header", "issuer": "test", "detail": None}
    assert (record["initiator_ip"], record["user_agent"]) == ("127.0.0.1", "curl/8")
    assert record["forwarded"] == {"untrusted": ["203.0.113.9"], "header": "x-forwarded-for"}
    assert record["resource"] == {"type": "doc", "id": "7", "properties": {}}
    assert record["request"]["route"] == "/docs/{number}"
    assert (record["request"]["path_params"], record["request"]["query"]) == ({"number": "7"}, "page=2")
    assert record["request"]["headers"] == {"accept": "text/html"}
    assert record["response"] == {"status": 200, "size": len(answer.body), "error": None, "body": None}
    assert record["trace"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (record["trace"]["parent"], record["trace"]["request_id"]) == ("b7ad6b7169203331", "r-1")
    assert (record["decision"]["effect"], record["decision"]["rule"]) == ("allow", "reader")
    assert record["decision"]["policy_digest"].startswith("sha256:")
    assert (record["kind"], record["flags"], record["severity"]) == ("outcome", [], "low")


def test_a_denial_has_the_same_fields(service: Service) -> None:
    answer, record = service.ask(_docs(), "DELETE", "/docs/7", READER)
    assert (record["event"], record["severity"], record["user_id"]) == ("DOC_DELETED", "high", "ann")
    assert record["resource"] == {"type": "doc", "id": "7", "properties": {}}
    assert (record["decision"]["effect"], record["decision"]["rule"]) == ("deny", None)
    assert (record["response"]["status"], record["response"]["size"]) == (403, len(answer.body))
    assert json.loads(answer.body) == {"detail": "Forbidden"}, "nothing about the policy"


def test_times_and_sequence(service: Service) -> None:
    """By the process's own clocks: arrival before recording, durations that contain the handler's own."""

    async def page(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return Response()

    async def drive(app: Any) -> None:
        for _ in range(3):
            await call(app, "GET", "/")

    records = service.run(app_of(Route("/", action("doc.public")(page))), drive)
    for record in records:
        assert record["timestamp"] < record["recorded_at"]
        assert 50_000 <= record["duration_us"] < 60_000_000
    assert [record["timestamp"] for record in records] == sorted(record["timestamp"] for record in records)
    numbers = [record["sequence"] for record in service.log.records()]
    assert numbers == list(range(len(numbers)))
    assert len({record["service"]["instance"] for record in service.log.records()}) == 1


def test_the_log_tells_when_it_was_started_with_which_policy_and_routes(service: Service) -> None:
    service.ask(_docs(), "GET", "/docs/7", READER)
    log = service.log
    kinds = [record["action"] for record in log.records() if record["kind"] == "control"]
    assert kinds == [
        "audit.started",
        "audit.policy_archived",
        "audit.policy_loaded",
        "audit.routes_listed",
        "audit.stopped",
    ]
    [loaded] = log.controls("audit.policy_loaded")
    assert loaded["extra"]["digest"] == log.outcomes()[0]["decision"]["policy_digest"]
    assert log.controls("audit.routes_listed")[0]["extra"]["routes"] >= 10


# --- record levels -----------------------------------------------------------------------------------------------


def test_record_none_leaves_out_successes_only(service: Service) -> None:
    async def drive(app: Any) -> None:
        for headers, query in (
            (READER, b""),
            (READER, b"fail=404"),
            (READER, b"fail=500"),
            ([], b""),
            (as_("bob"), b""),
        ):
            await call(app, "GET", "/quiet", headers, query=query)

    outcomes = [(record["response"]["status"], record["outcome"]) for record in service.run(_docs(), drive)]
    assert outcomes == [(404, "failure"), (500, "error"), (401, "denied"), (403, "denied")]


def test_record_none_keeps_aborts_and_anomalies(service: Service) -> None:
    service.policy = service.policy.replace(
        "doc.public: {allow: [anyone]}", "doc.public: {allow: [anyone], record: none}"
    )

    async def drive(app: Any) -> None:
        await call(app, "GET", "/status/200", as_("forged"))  # served, as anyone may, but with a forged token
        await call(app, "GET", "/status/200", READER)

    [record] = service.run(_docs(), drive)
    assert (record["outcome"], record["flags"], record["user_id"]) == ("success", ["credential_refused"], "anonymous")


# --- monitor mode ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [[], as_("bob"), as_("forged"), as_("outage")])
def test_monitor_mode_lets_pass_and_records_what_it_would_have_done(service: Service, user: Any) -> None:
    service.policy = "mode: monitor\n" + service.policy
    answer, record = service.ask(_docs(), "DELETE", "/docs/7", user)
    assert answer.status == 200
    assert (record["decision"]["effect"], record["decision"]["mode"]) == ("deny", "monitor")
    assert record["outcome"] == "success"


def test_one_action_in_monitor_mode(service: Service) -> None:
    service.policy = service.policy.replace("doc.delete: {", "doc.delete: {mode: monitor, ")

    async def drive(app: Any) -> None:
        assert (await call(app, "DELETE", "/docs/7", READER)).status == 200
        assert (await call(app, "GET", "/docs/7", as_("bob"))).status == 403

    records = service.run(_docs(), drive)
    assert [record["decision"]["mode"] for record in records] == ["monitor", "enforce"]


def test_monitor_mode_also_for_routes_without_an_action(service: Service) -> None:
    service.policy = "mode: monitor\n" + service.policy
    app = app_of(Route("/", lambda request: PlainTextResponse("x")))
    answer, record = service.ask(app, "GET", "/", [])
    assert (answer.status, record["decision"]["cause"], record["decision"]["effect"]) == (200, "unannotated", "deny")


# --- nesting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["added", "around"])
def test_a_middleware_below_another_leaves_the_record_to_it(service: Service, how: str) -> None:
    from audit_middleware.middleware import AuditMiddleware
    from tests.kit import write_policy

    inner = _docs()
    other = write_policy(service.folder, "actions: {other.action: {allow: []}}\n", "other.yaml")
    options: dict[str, Any] = {"policy": other, "log": "/nowhere", "service": "inner"}
    outer = api()
    if how == "added":
        inner.add_middleware(AuditMiddleware, **options)
        outer.mount("/in", inner)
    else:
        outer.mount("/in", AuditMiddleware(inner, **options))

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/in/docs/7", READER)).status == 200
        assert (await call(app, "DELETE", "/in/docs/7", READER)).status == 403

    records = service.run(outer, drive)
    assert [(record["action"], record["outcome"]) for record in records] == [
        ("doc.read", "success"),
        ("doc.delete", "denied"),
    ]
    assert {record["request"]["route"] for record in records} == {"/in/docs/{number}"}


def test_class_based_endpoints(service: Service) -> None:
    class Endpoint(HTTPEndpoint):
        @action("doc.read")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("got")

        @action("doc.delete")
        def delete(self, request: Request) -> Response:
            return PlainTextResponse("gone")

    async def drive(app: Any) -> None:
        for method in ("GET", "DELETE", "PUT"):
            await call(app, method, "/", READER)

    records: list[Record] = service.run(app_of(Route("/", Endpoint)), drive)
    assert [(record["action"], record["response"]["status"]) for record in records] == [
        ("doc.read", 200),
        ("doc.delete", 403),
        (None, 405),
    ]


def test_requests_at_the_same_time_do_not_mix(service: Service) -> None:
    app = api()

    @app.get("/{number}")
    @action("doc.public")
    async def page(number: int) -> int:
        annotate(extra={"before": number})
        await asyncio.sleep(0.001 * (number % 7))
        annotate(extra={"after": number})
        return number

    async def drive(app: Any) -> None:
        await asyncio.gather(*(call(app, "GET", f"/{number}", as_(f"u{number}")) for number in range(50)))

    for record in service.run(app, drive):
        number = int(record["request"]["path"][1:])
        assert record["extra"] == {"before": number, "after": number}
        assert record["user_id"] == f"u{number}"


def test_admin_may_delete(service: Service) -> None:
    """The denials above are of a service that also lets someone pass."""
    app = _docs()
    answer, record = service.ask(app, "DELETE", "/docs/7", ADMIN)
    assert (answer.status, record["outcome"], app.state.ran) == (200, "success", ["delete"])
