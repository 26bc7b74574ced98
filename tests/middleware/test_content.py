"""What handlers note and what bodies hold: annotated from anywhere, bounded, redacted before it is written."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount, Route

from audit_middleware.context import annotate, current_action_id
from audit_middleware.errors import AuditError
from audit_middleware.frameworks.marks import action
from audit_middleware.model import Resource, Subject
from tests.kit import call
from tests.middleware.service import READER, Service, api, app_of, as_
from tests.middleware.support import Exchange, check_log, http_scope, journal_bytes, request

JSON = (b"content-type", b"application/json")
FORM = (b"content-type", b"application/x-www-form-urlencoded; charset=utf-8")
SECRET = b"S3CRET"


# --- annotate ----------------------------------------------------------------------------------------------------


def test_annotate_from_everywhere(service: Service) -> None:
    """Handlers, dependencies, middleware, threads, tasks: all write to the notes of the one request."""

    async def dependency() -> None:
        annotate(extra={"dependency": 1})

    def dependency_sync() -> None:
        annotate(extra={"sync dependency": 1})

    async def dependency_yield() -> AsyncIterator[None]:
        annotate(extra={"before yield": 1})
        yield
        annotate(extra={"after yield": 1})

    def dependency_yield_sync() -> Iterator[None]:
        annotate(extra={"sync before yield": 1})
        yield

    app = api()
    needed = [Depends(one) for one in (dependency, dependency_sync, dependency_yield, dependency_yield_sync)]

    @app.get("/", dependencies=needed)
    @action("doc.read")
    async def page() -> str:
        annotate(reason="ticket 7", impact={"before": {"a": 1}}, extra={"handler": 1})
        annotate(impact={"after": {"a": 2}, "count": 1}, resource=Resource("doc", "new"))
        await run_in_threadpool(annotate, extra={"thread": 1})
        await asyncio.create_task(_note("task"))
        await asyncio.to_thread(annotate, resource={"owner": "ann"})
        return "x"

    async def _note(name: str) -> None:
        annotate(extra={name: 1})

    class Noting(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            annotate(extra={"middleware": 1})
            response = await call_next(request)
            annotate(extra={"middleware after": 1})
            return response

    app.add_middleware(Noting)
    _, record = service.ask(app, "GET", "/", READER)
    assert set(record["extra"]) >= {
        *("dependency", "sync dependency", "before yield", "sync before yield", "handler", "thread", "task"),
        *("middleware", "middleware after"),
    }
    assert (record["reason"], record["impact"]) == ("ticket 7", {"before": {"a": 1}, "after": {"a": 2}, "count": 1})
    assert record["resource"] == {"type": "doc", "id": "new", "properties": {"owner": "ann"}}


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_annotate_from_a_handler_below_base_http_middleware(service: Service, kind: str) -> None:
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            return await call_next(request)

    app = api()

    async def page() -> str:
        annotate(reason="async")
        return "x"

    def page_sync() -> str:
        annotate(reason="sync")
        return "x"

    app.get("/")(action("doc.read")(page if kind == "async" else page_sync))
    app.add_middleware(Passing)
    _, record = service.ask(app, "GET", "/", READER)
    assert record["reason"] == kind


def test_annotations_of_a_failed_request_are_kept(service: Service) -> None:
    async def page(request: Request) -> Response:
        annotate(reason="before it broke", impact={"count": 3})
        raise ValueError

    _, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/", READER)
    assert (record["reason"], record["impact"]["count"], record["outcome"]) == ("before it broke", 3, "error")


@pytest.mark.parametrize("kind", ["async", "sync", "task", "thread"])
def test_what_is_annotated_too_late_is_a_record_of_its_own(service: Service, kind: str) -> None:
    """After the response, the record is being written: an amendment names it."""
    app = api()
    threads: list[threading.Thread] = []

    def late() -> None:
        annotate(reason="late", impact={"count": 2, "after": {"password": "S3CRET", "a": 1}}, extra={"k": "v"})

    async def late_async() -> None:
        late()

    @app.get("/")
    @action("doc.read")
    async def page(tasks: BackgroundTasks) -> str | None:
        annotate(reason="in time")
        tasks.add_task(late_async if kind == "async" else late if kind == "sync" else after)
        return current_action_id()

    async def after() -> None:
        if kind == "task":
            await asyncio.create_task(late_async())
        elif kind == "thread":
            await asyncio.to_thread(late)

    answer, record = service.ask(app, "GET", "/", READER)
    [amendment] = service.log.controls("audit.amended")
    assert record["reason"] == "in time"
    assert (amendment["reason"], amendment["impact"]["count"]) == ("late", 2)
    assert amendment["extra"] == {"amends": record["action_id"], "extra": {"k": "v"}}
    assert answer.json() == record["action_id"]
    assert amendment["sequence"] > record["sequence"]
    assert SECRET not in journal_bytes(service.log)
    assert not threads


def test_annotated_values_are_copied_at_once(service: Service) -> None:
    """The handler goes on working with its own objects; the writer's thread reads ours later."""

    async def page(request: Request) -> Response:
        before = {"lines": [{"price": 1}]}
        annotate(impact={"before": before}, extra=before)
        before["lines"][0]["price"] = 999
        before["lines"].append({"price": 998})
        return Response()

    _, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/", READER)
    assert record["impact"]["before"] == record["extra"] == {"lines": [{"price": 1}]}


def test_annotate_is_bounded(service: Service) -> None:
    async def page(request: Request) -> Response:
        for number in range(300):
            annotate(extra={f"n{number}": "x" * 1000}, resource={f"p{number}": "y" * 1000})
        annotate(reason="r" * 100_000, impact={"before": ["z" * 1000] * 1000, "after": {"k": "w" * 1_000_000}})
        return Response()

    _, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/", READER)
    assert len(json.dumps(record)) < 65_535
    assert record["action"] == "doc.read"


def test_mistakes_in_annotate_are_the_callers(service: Service) -> None:
    async def page(request: Request) -> Response:
        with pytest.raises(AuditError, match="did you mean 'reason'"):
            annotate(raeson="typo")  # type: ignore[arg-type]  # the mistake
        return Response()

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/", READER)).status == 200
        with pytest.raises(AuditError, match="only while a request runs"):
            annotate(reason="outside")

    assert service.run(app_of(Route("/", action("doc.read")(page))), drive)
    annotate(reason="no middleware runs any more: nobody listens, so nothing is lost")


# --- bodies ------------------------------------------------------------------------------------------------------


def _echo() -> FastAPI:
    app = api()

    @app.post("/request")
    @action("doc.create")
    async def one(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    @app.post("/response")
    @action("doc.full")
    async def both(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    return app


def test_bodies_by_record_level(service: Service) -> None:
    body = b'{"title": "t", "count": 1.5, "card": {"number": 1}, "mail": "ann@example.com"}'

    async def drive(app: Any) -> None:
        await call(app, "POST", "/request", [*READER, JSON], body)
        await call(app, "POST", "/response", [*READER, JSON], body)

    first, second = service.run(_echo(), drive)
    content = {"title": "t", "count": "1.5", "card": {"number": "[redacted]"}, "mail": "[redacted]"}
    captured = {"content": content, "content_type": "application/json", "size": len(body), "truncated": False}
    assert (first["request"]["body"], first["response"]["body"]) == (captured, None)
    assert second["request"]["body"] == second["response"]["body"] == captured
    assert first["request"]["digest"] is None, "a short secret in a known body could be found by trying"


@pytest.mark.parametrize(
    ("kind", "body"),
    [(JSON, b'{"title": "t"}'), ((b"content-type", b"image/png"), b"\x89PNG" * 10_000), (FORM, b"a=1&b=2")],
)
def test_a_body_without_secrets_is_recorded_with_its_digest(service: Service, kind: Any, body: bytes) -> None:
    _, record = service.ask(_echo(), "POST", "/request", [*READER, kind], body)
    assert record["request"]["digest"] == hashlib.sha256(body).hexdigest()
    assert record["request"]["size"] == len(body)


@pytest.mark.parametrize("chunks", [1, 7])
def test_a_large_body_is_counted_not_kept(service: Service, chunks: int) -> None:
    body = json.dumps({"password": "S3CRET", "filler": "x" * 100_000}).encode()
    service.settings["max_body"] = 1000
    size = len(body) // chunks + 1
    parts = [request(body[at : at + size], more=at + size < len(body)) for at in range(0, len(body), size)]
    answers: list[bytes] = []

    async def drive(app: Any) -> None:
        answer = await call(app, "POST", "/response", [*READER, JSON], incoming=parts)
        answers.append(answer.body)

    [record] = service.run(_echo(), drive)
    assert answers == [body]
    for part in (record["request"], record["response"]):
        assert part["body"] == {
            "content": None,
            "content_type": "application/json",
            "size": len(body),
            "truncated": True,
        }
        assert part["size"] == len(body)
    assert SECRET not in journal_bytes(service.log)


@pytest.mark.parametrize(
    "body", [b"{", b'{"password": "S3CRET"', b'"\\ud800"', b"[" * 5000, b"\xff\xfe", b"", b"NaN", b"1e999"]
)
def test_malformed_json_is_recorded_by_size(service: Service, body: bytes) -> None:
    answer, record = service.ask(_echo(), "POST", "/request", [*READER, JSON], body)
    assert answer.status == 200
    assert record["request"]["size"] == len(body)
    assert SECRET not in journal_bytes(service.log)


def test_a_form_is_redacted(service: Service) -> None:
    body = b"title=t&password=S3CRET&title=again&card.number=S3CRET"
    _, record = service.ask(_echo(), "POST", "/request", [*READER, FORM], body)
    assert record["request"]["body"]["content"].startswith("title=t&password=[redacted]&title=again")
    assert SECRET not in journal_bytes(service.log)


def test_a_body_that_is_never_read_is_not_waited_for(service: Service) -> None:
    async def page() -> str:
        return "done"

    app = api()
    app.post("/")(action("doc.create")(page))

    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/", [*READER, JSON]))  # no message ever comes
        await exchange.end()
        assert exchange.received == 0

    [record] = service.run(app, drive)
    assert record["request"]["body"]["truncated"] is True
    assert record["request"]["digest"] is None


def test_a_captured_stream_is_not_held_back(service: Service) -> None:
    app = api()
    app.state.go_on = asyncio.Event()

    @app.get("/")
    @action("doc.full")
    async def page() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b'{"password":'
            await app.state.go_on.wait()
            yield b'"S3CRET"}'

        return StreamingResponse(parts(), media_type="application/json")

    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("GET", "/", READER), request())
        await exchange.sent()
        assert (await exchange.sent())["body"] == b'{"password":'
        app.state.go_on.set()
        await exchange.end()

    [record] = service.run(app, drive)
    assert record["response"]["body"]["content"] == {"password": "[redacted]"}
    assert SECRET not in journal_bytes(service.log)


def test_a_record_that_is_too_large_loses_content_never_its_core(service: Service) -> None:
    """Redaction can make content longer than what was captured."""
    service.settings["max_body"] = 32_768
    body = json.dumps([{"pin": 1}] * 2900).encode()
    assert len(body) < 32_768 + 3000

    async def drive(app: Any) -> None:
        await call(app, "POST", "/response", [*READER, JSON], body[: 2900 * 11])
        await call(app, "POST", "/response", [*READER, JSON], json.dumps([{"pin": 1}] * 2700).encode())

    for record in service.run(_echo(), drive):
        assert (record["action"], record["user_id"], record["outcome"]) == ("doc.full", "ann", "success")


def test_the_largest_record_still_is_one(service: Service) -> None:
    """Everything at its bound at once, in characters that JSON writes as six."""

    async def page(request: Request) -> Response:
        nasty = "\x01" * 9000
        annotate(reason=nasty, extra={"a": nasty}, impact={"before": nasty, "after": [nasty]}, resource={"p": nasty})
        return JSONResponse({"a": "\x01" * 30_000})

    def subject(scope: Any) -> Subject:
        roles = tuple(f"{number}" + "\x01" * 1000 for number in range(100))
        return Subject("\x01" * 1000, roles=("reader", *roles), tenant="\x01" * 1000, session="\x01" * 1000)

    service.settings |= {"max_body": 32_768, "identify": subject}
    app = app_of(Route("/{rest:path}", action("doc.full", resource="doc/{rest}")(page), methods=["POST"]))
    path = "/" + "\x01" * 5000
    headers = [
        (b"user-agent", b"\x01" * 5000),
        (b"referer", b"\x01" * 5000),
        (b"x-forwarded-for", b"\x01," * 5000),
        JSON,
    ]
    answer, record = service.ask(app, "POST", path, headers, b'"\\u0001"' * 3000, query=b"\x01" * 5000)
    assert answer.status == 200
    assert (record["action"], record["kind"]) == ("doc.full", "outcome")
    assert "content_dropped" in record["flags"]


# --- redaction ---------------------------------------------------------------------------------------------------


def test_secrets_never_reach_the_disk(service: Service) -> None:
    """Marked secrets, everywhere a client or handler can put them."""

    async def page(request: Request) -> Response:
        annotate(
            reason="card 4111 1111 1111 1111",
            impact={"before": {"password": "S3CRET", "n": 4111111111111111}, "after": {"card": {"holder": "S3CRET"}}},
            extra={"api_key": "S3CRET", "list": [{"token": "S3CRET"}], "mail": "s3cret@example.com"},
            resource={"secret": "S3CRET"},
        )
        return JSONResponse({"access_token": "S3CRET", "mail": "s3cret@example.com"})

    app = app_of(Route("/reset/{token}/{mail}", action("doc.full", resource="reset/{token}")(page), methods=["POST"]))
    headers = [
        *READER,
        JSON,
        (b"authorization", b"Bearer S3CRET"),
        (b"cookie", b"session=S3CRET"),
        (b"x-api-key", b"S3CRET"),
        (b"referer", b"https://u:S3CRET@a.example/reset/s3cret@example.com?token=S3CRET"),
        (b"user-agent", b"agent (s3cret@example.com)"),
        (b"x-forwarded-for", b"s3cret@example.com"),
        (b"x-correlation-id", b"not an id: s3cret@example.com"),
    ]
    body = b'{"password": "S3CRET", "deep": [{"client_secret": "S3CRET"}], "card": {"number": "S3CRET"}}'
    answer, record = service.ask(
        app, "POST", "/reset/S3CRET/s3cret@example.com", headers, body, query=b"token=S3CRET&mail=s3cret%40example.com"
    )
    assert answer.status == 200
    written = journal_bytes(service.log)
    for secret in (b"S3CRET", b"s3cret", b"4111 1111", b"41111111"):
        at = written.find(secret)
        assert at < 0, written[max(0, at - 80) : at + 40]
    assert record["request"]["path"] == "/reset/[redacted]/[redacted]"
    assert record["request"]["query"] == "token=[redacted]&mail=[redacted]"
    assert record["reason"] == "card [redacted]"


@pytest.mark.parametrize("before", range(2030, 2050))
def test_a_cut_leaves_no_half_of_a_secret(service: Service, before: int) -> None:
    """A secret that crosses the end of what is kept no longer has its shape once it is cut."""
    secret = b"4111111111111111"

    async def page(request: Request) -> Response:
        return Response()

    app = app_of(Route("/{rest:path}", action("doc.read")(page)))
    query = b"q=" + b"x" * (before - 3) + b"&" + secret
    path = "/" + "x" * (before - 1) + "/" + secret.decode()
    answer, _ = service.ask(
        app, "GET", path, [*READER, (b"user-agent", b"x" * (before - 1536) + b" " + secret)], query=query
    )
    assert answer.status == 200
    assert not re.search(rb"[/& ]4111", journal_bytes(service.log))  # not in an ID or a hash by chance


def test_subject_properties_are_allow_listed(service: Service) -> None:
    service.settings |= {
        "identify": lambda scope: Subject("ann", roles=("reader",), properties={"team": "x", "phone": "S3CRET"}),
        "subject_properties": ["team"],
    }

    async def page(request: Request) -> Response:
        return Response()

    _, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/")
    assert record["subject"]["properties"] == {"team": "x"}
    assert SECRET not in journal_bytes(service.log)


# --- what the client sent, not what the service made of it -------------------------------------------------------


def test_the_record_has_what_the_client_sent(service: Service) -> None:
    """Middleware may rewrite path, query and headers for the handler; the trail is about the client."""

    class Rewriting:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope["path"], scope["query_string"] = "/new", b"q=2"
                scope["headers"][:] = [(b"user-agent", b"proxy"), *READER]
            await self.app(scope, receive, send)

    async def page(request: Request) -> Response:
        return PlainTextResponse(request.url.path)

    app = app_of(Route("/new", action("doc.read")(page)))
    app.add_middleware(Rewriting)
    answer, record = service.ask(app, "GET", "/old", [(b"user-agent", b"client")], query=b"q=1")
    assert answer.body == b"/new"
    assert (record["request"]["path"], record["request"]["query"], record["user_agent"]) == ("/old", "q=1", "client")
    assert (record["request"]["route"], record["action"]) == ("/new", "doc.read")


def test_mounts_do_not_change_the_recorded_path(service: Service) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse(request.scope["root_path"])

    inner = app_of(Route("/{name}", action("doc.read", resource="doc/{name}")(page)))
    _, record = service.ask(app_of(Mount("/a", app_of(Mount("/{b}", inner)))), "GET", "/a/x/y", READER)
    assert (record["request"]["path"], record["request"]["route"]) == ("/a/x/y", "/a/{b}/{name}")
    assert record["request"]["path_params"] == {"b": "x", "name": "y"}


# --- identity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "status", "challenge", "flags", "cause"),
    [
        ([], 401, "Bearer", [], "default"),
        (as_("forged"), 401, "Bearer", ["credential_refused"], "default"),
        (as_("outage"), 503, None, ["identity_unavailable"], "error"),
        (as_("bob"), 403, None, [], "default"),
        (as_("bug"), 500, None, [], "error"),
    ],
)
def test_who_cannot_be_known_is_refused(
    service: Service, user: Any, status: int, challenge: str | None, flags: list[str], cause: str
) -> None:
    ran: list[int] = []

    async def page(request: Request) -> Response:
        ran.append(1)
        return Response()

    answer, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/", user)
    assert (answer.status, answer.header(b"www-authenticate"), ran) == (status, challenge, [])
    assert (record["outcome"], record["decision"]["cause"], record["flags"]) == ("denied", cause, flags)
    assert record["user_id"] == ("bob" if "bob" in str(user) else "anonymous")


def test_the_challenge_is_a_setting(service: Service) -> None:
    service.settings["challenge"] = 'Basic realm="docs"'

    async def page(request: Request) -> Response:
        return Response()

    answer, _ = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/")
    assert answer.header(b"www-authenticate") == 'Basic realm="docs"'


@pytest.mark.parametrize(
    "wrong",
    [
        "ann",
        ("ann", "reader"),
        Subject(7, roles=("reader",)),  # type: ignore[arg-type]  # the mistake
        Subject("ann", roles={"reader"}),  # type: ignore[arg-type]
        Subject("ann", roles=("reader", None)),  # type: ignore[arg-type]
        Subject("ann", roles=None),  # type: ignore[arg-type]
        Subject("ann", roles="reader"),  # type: ignore[arg-type]
        Subject("ann", roles=("reader",), tenant=7),  # type: ignore[arg-type]
        Subject("ann", roles=("reader",), properties=None),  # type: ignore[arg-type]
        Subject("ann", roles=("reader",), source="jwt"),  # type: ignore[arg-type]
        Subject(None, roles=("reader",)),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_an_identifier_that_returns_something_else(service: Service, wrong: Any) -> None:
    """Either it is understood, or nothing runs; and the record is a whole one either way."""
    ran: list[int] = []

    async def page(request: Request) -> Response:
        ran.append(1)
        return Response()

    service.settings["identify"] = lambda scope: wrong
    answer, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/")
    if answer.status != 200:
        assert (ran, record["outcome"]) == ([], "denied")
    assert record["kind"] == "outcome"
    assert check_log(service.log)


def test_identifiers_may_be_asynchronous(service: Service) -> None:
    async def subject(scope: Any) -> Subject:
        await asyncio.sleep(0)
        return Subject("ann", roles=("reader",))

    async def page(request: Request) -> Response:
        return Response()

    service.settings["identify"] = subject
    answer, record = service.ask(app_of(Route("/", action("doc.read")(page))), "GET", "/")
    assert (answer.status, record["user_id"]) == (200, "ann")
