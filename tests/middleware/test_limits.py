"""Limits: who is counted, what is not, and that a place is given back once, however a request ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from audit_middleware.frameworks.marks import action
from audit_middleware.model import Source, Subject
from tests.kit import Answer, Running, call
from tests.middleware.service import Service, app_of, header
from tests.middleware.support import DISCONNECT, Exchange, eventually, http_scope, request, websocket_scope

POLICY = """
roles: {clerk: {}}
actions:
  per.subject: {allow: [anyone], limit: {rate: 2/day}}
  per.tenant: {allow: [anyone], limit: {rate: 2/day, per: tenant}}
  per.address: {allow: [anyone], limit: {rate: 2/day, per: address}}
  per.action: {allow: [anyone], limit: {rate: 2/day, per: action}}
  may.uncounted: {allow: [anyone], limit: {rate: 2/day, per: tenant, on_limit_error: allow}}
  at.once: {allow: [anyone], limit: {concurrent: 1}}
  both.limits: {allow: [anyone], limit: {concurrent: 1, rate: 2/day}}
  seen.only: {mode: monitor, allow: [anyone], limit: {rate: 1/day}}
  quiet.limit: {allow: [anyone], record: none, limit: {rate: 1/day}}
  for.clerks: {allow: [clerk], limit: {rate: 1/day, per: action}}
"""


def identify(scope: Any) -> Subject | None:
    """``name[@tenant][/issuer][:role]``."""
    user = header(scope, b"x-user")
    if user is None:
        return None
    name, _, role = user.partition(":")
    name, _, issuer = name.partition("/")
    name, _, tenant = name.partition("@")
    return Subject(name, roles=(role,) if role else (), tenant=tenant or None, source=Source("header", issuer or None))


def who(user: str | None) -> list[tuple[bytes, bytes]]:
    """Headers of a user."""
    return [] if user is None else [(b"x-user", user.encode())]


@pytest.fixture
def service(tmp_path: Path, log: Any) -> Service:
    """Guarded by the policy above."""
    return Service(tmp_path, log, POLICY, {"identify": identify, "trusted_proxy_depth": 1})


async def done(request: Request) -> Response:
    """At once."""
    return PlainTextResponse("done")


def marked(name: str, run: Callable[[Any], Awaitable[Any]]) -> Any:
    """An endpoint of its own: a function takes one mark."""

    async def endpoint(given: Any) -> Any:
        return await run(given)

    return action(name)(endpoint)


def rates() -> Any:
    """One route for each action that counts a rate."""
    names = ("per.subject", "per.tenant", "per.address", "per.action", "may.uncounted", "seen.only", "for.clerks")

    return app_of(*(Route(f"/{name}", marked(name, done)) for name in (*names, "quiet.limit")))


def statuses(service: Service, path: str, *callers: tuple[str | None, str]) -> tuple[list[int | None], list[Any]]:
    """One request for each (user, address); statuses and records."""
    answers: list[Answer] = []

    async def drive(app: Any) -> None:
        for user, address in callers:
            headers = [*who(user), (b"x-forwarded-for", address.encode())]
            answers.append(await call(app, "GET", path, headers))

    records = service.run(rates(), drive)
    return [answer.status for answer in answers], records


HERE, THERE = "192.0.2.1", "192.0.2.2"
V6, V6_SAME_NET, V6_OTHER = "2001:db8:1:1::1", "2001:db8:1:1:ffff::9", "2001:db8:1:2::1"


@pytest.mark.parametrize(
    ("path", "callers", "expected"),
    [
        ("/per.subject", [("ann", HERE)] * 3, [200, 200, 429]),
        ("/per.subject", [("ann", HERE)] * 2 + [("bob", HERE), ("ann", THERE)], [200, 200, 200, 429]),
        ("/per.subject", [("ann", HERE)] * 2 + [("ann/other", HERE)], [200, 200, 200]),
        ("/per.subject", [(None, HERE)] * 3 + [(None, THERE)], [200, 200, 429, 200]),
        ("/per.subject", [(None, HERE)] * 2 + [("ann", HERE)], [200, 200, 200]),
        ("/per.tenant", [("ann@a", HERE), ("bob@a", THERE), ("eve@a", HERE), ("eve@b", HERE)], [200, 200, 429, 200]),
        ("/per.address", [("ann", HERE), ("bob", HERE), ("eve", HERE), ("eve", THERE)], [200, 200, 429, 200]),
        ("/per.address", [("a", V6), ("a", V6_SAME_NET), ("a", V6), ("a", V6_OTHER)], [200, 200, 429, 200]),
        ("/per.address", [("a", f"::ffff:{HERE}"), ("a", HERE), ("a", HERE)], [200, 200, 429]),
        ("/per.action", [("ann", HERE), ("bob", THERE), (None, HERE)], [200, 200, 429]),
    ],
)
def test_whom_a_limit_counts(service: Service, path: str, callers: Any, expected: list[int]) -> None:
    found, records = statuses(service, path, *callers)
    assert found == expected
    per = path.removeprefix("/per.")
    for status, record in zip(found, records, strict=True):
        decision = record["decision"]
        if status == 429:
            said = (decision["effect"], decision["cause"], decision["rule"], decision["detail"], record["outcome"])
            assert said == ("deny", "limit", "anyone", f"rate per {per}", "denied")
        else:
            assert (decision["effect"], decision["cause"]) == ("allow", "rule")


def test_what_the_client_is_told(service: Service) -> None:
    answers: list[Answer] = []

    async def drive(app: Any) -> None:
        for _ in range(3):
            answers.append(await call(app, "GET", "/per.action"))

    service.run(rates(), drive)
    refused = answers[2]
    assert refused.header(b"content-type") == "application/problem+json"
    assert refused.json() == {"type": "about:blank", "title": "Too Many Requests", "status": 429}
    assert 86_000 < int(refused.header(b"retry-after") or "") <= 86_401
    assert sorted(name for name, _ in refused.headers) == [
        b"audit-id", b"content-length", b"content-type", b"retry-after", b"x-correlation-id",
    ]  # fmt: skip


def test_who_is_refused_before_uses_nothing_up(service: Service) -> None:
    callers = [("ann", HERE)] * 5 + [("bob:clerk", HERE), ("eve:clerk", HERE)]
    found, _ = statuses(service, "/for.clerks", *callers)
    assert found == [403] * 5 + [200, 429]


def test_a_caller_without_a_tenant_cannot_be_counted(service: Service) -> None:
    found, [record] = statuses(service, "/per.tenant", ("ann", HERE))
    assert found == [403]
    assert (record["decision"]["cause"], record["decision"]["detail"]) == ("error", "limit: subject.tenant is missing")


def test_a_limit_may_be_skipped_where_it_cannot_be_counted_and_the_record_says_so(service: Service) -> None:
    found, records = statuses(service, "/may.uncounted", *[("ann", HERE)] * 3)
    assert found == [200] * 3
    assert {tuple(record["flags"]) for record in records} == {("limit_not_counted",)}


def test_an_address_nobody_knows_cannot_be_counted(service: Service) -> None:
    found, [record] = statuses(service, "/per.address", ("ann", "unknown"))
    assert found == [403]
    assert record["decision"]["detail"] == "limit: the caller's address is not known"


def test_monitored_the_request_passes_and_the_limit_is_recorded(service: Service) -> None:
    found, records = statuses(service, "/seen.only", *[("ann", HERE)] * 2)
    assert found == [200, 200]
    assert [(r["decision"]["effect"], r["decision"]["cause"]) for r in records] == [
        ("allow", "rule"),
        ("deny", "limit"),
    ]


def test_a_refusal_is_recorded_where_successes_are_not(service: Service) -> None:
    found, records = statuses(service, "/quiet.limit", *[("ann", HERE)] * 3)
    assert found == [200, 429, 429]
    assert len(records) == 2


# --- places ------------------------------------------------------------------------------------------------------


class Places:
    """An application whose handlers wait until the test lets them go on."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.most = 0

    async def wait(self) -> None:
        """Inside of a handler."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1

    def app(self, **options: Any) -> Any:
        """All the ways to end."""
        routes = {
            "plain": self.plain, "raises": self.raises, "stream": self.stream, "task": self.task, "read": self.read
        }  # fmt: skip
        return app_of(
            *(Route(f"/{name}", marked("at.once", endpoint), methods=["POST"]) for name, endpoint in routes.items()),
            WebSocketRoute("/feed", marked("at.once", self.feed)),
            **options,
        )

    async def plain(self, request: Request) -> Response:
        await self.wait()
        return PlainTextResponse("done")

    async def raises(self, request: Request) -> Response:
        await self.wait()
        raise RuntimeError("broken")

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            await self.wait()
            yield b"last"

        return StreamingResponse(parts())

    async def task(self, request: Request) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(self.wait))

    async def read(self, request: Request) -> Response:
        self.running += 1
        await request.body()
        return PlainTextResponse("done")

    async def feed(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.running += 1
        async for text in websocket.iter_text():
            await websocket.send_text(text)


async def is_free(app: Any, places: Places) -> bool:
    """May another request of this caller run to its end?"""
    places.go.set()
    answer = await call(app, "POST", "/plain", who("ann"))
    assert answer.status in (200, 429)
    return answer.status == 200


@pytest.mark.parametrize("path", ["/plain", "/raises", "/stream"])
@pytest.mark.parametrize("end", ["by itself", "cancelled", "send fails"])
@pytest.mark.parametrize("layer", ["", "BaseHTTPMiddleware"])
def test_a_place_is_given_back_however_a_request_ends(service: Service, path: str, end: str, layer: str) -> None:
    async def drive(app: Any) -> None:
        if end == "send fails":
            failing = asyncio.ensure_future(app(http_scope("POST", path, who("ann")), _body, _broken))
            await eventually(lambda: places.running == 1 or failing.done(), "the handler")
            places.go.set()
            await asyncio.wait({failing})
            assert failing.exception() is not None
        else:
            exchange = Exchange(app, http_scope("POST", path, who("ann")), request())
            await eventually(lambda: places.running == 1, "the handler")
            second = await call(app, "POST", "/plain", who("ann"))
            assert (second.status, second.header(b"retry-after")) == (429, "1")
            assert (await call(app, "POST", "/read", who("bob"))).status == 200, "bob has a place of his own"
            exchange.task.cancel() if end == "cancelled" else places.go.set()
            await exchange.end()
        assert await is_free(app, places)
        assert await is_free(app, places)

    places = Places()
    app = places.app()
    if layer:

        class Passing(BaseHTTPMiddleware):
            async def dispatch(self, request: Request, call_next: Any) -> Response:
                response: Response = await call_next(request)
                return response

        app.add_middleware(Passing)
    records = service.run(app, drive)
    refused = [record for record in records if record["decision"]["effect"] == "deny"]
    assert [record["decision"]["detail"] for record in refused] == ["concurrent per subject"] * len(refused)
    assert len(refused) == (end != "send fails")


async def _body() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _broken(message: Any) -> None:
    raise OSError("the client is gone")


def test_a_client_that_hangs_up_does_not_free_what_still_runs(service: Service) -> None:
    """Or a limit could be outrun by asking and hanging up."""

    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/plain", who("ann")), request(), DISCONNECT)
        await eventually(lambda: places.running == 1, "the handler")
        assert (await call(app, "POST", "/plain", who("ann"))).status == 429
        places.go.set()
        await exchange.end()
        assert await is_free(app, places)

    places = Places()
    service.run(places.app(), drive)


def test_a_client_that_hangs_up_while_its_body_is_read_frees_its_place(service: Service) -> None:
    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/read", who("ann")), request(b"x", more=True))
        await eventually(lambda: places.running == 1, "the handler")
        assert (await call(app, "POST", "/plain", who("ann"))).status == 429
        exchange._in.put_nowait(DISCONNECT)
        await exchange.end()
        assert await is_free(app, places)

    places = Places()
    service.run(places.app(), drive)


def test_a_websocket_holds_its_place_while_it_is_open(service: Service) -> None:
    async def drive(app: Any) -> None:
        exchange = Exchange(app, websocket_scope("/feed", who("ann")), {"type": "websocket.connect"})
        await eventually(lambda: places.running == 1, "the connection")
        other = await call(app, "WS", "/feed", who("ann"), extensions={"websocket.http.response": {}})
        assert other.status == 429
        assert other.header(b"retry-after") == "1"
        exchange._in.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await exchange.end()
        assert await is_free(app, places)

    places = Places()
    service.run(places.app(), drive)


def test_work_after_the_last_byte_holds_no_place(service: Service) -> None:
    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", "/task", who("ann")), request())
        await eventually(lambda: places.running == 1, "the background task")
        assert exchange.messages[0]["status"] == 200
        places.go.set()
        assert (await call(app, "POST", "/plain", who("ann"))).status == 200
        await exchange.end()

    places = Places()
    service.run(places.app(), drive)


def test_many_at_once_never_run_more_than_the_limit(service: Service) -> None:
    async def drive(app: Any) -> None:
        asked = [asyncio.ensure_future(call(app, "POST", "/plain", who("ann"))) for _ in range(50)]
        await eventually(lambda: sum(one.done() for one in asked) == 49, "the refusals")
        places.go.set()
        answers = [(await one).status for one in asked]
        assert sorted(answers, key=str) == [200] + [429] * 49

    places = Places()
    service.run(places.app(), drive)
    assert places.most == 1


def test_who_finds_no_place_uses_up_no_rate(service: Service) -> None:
    places = Places()
    app = app_of(Route("/", marked("both.limits", places.plain), methods=["POST"]))

    async def drive(app: Any) -> None:
        first = Exchange(app, http_scope("POST", "/", who("ann")), request())
        await eventually(lambda: places.running == 1, "the handler")
        for _ in range(5):
            assert (await call(app, "POST", "/", who("ann"))).status == 429
        places.go.set()
        await first.end()
        found = [(await call(app, "POST", "/", who("ann"))).status for _ in range(3)]
        assert found == [200, 429, 429], "and a place is given back by whom the rate refuses"

    records = service.run(app, drive)
    details = [record["decision"]["detail"] for record in records if record["decision"]["cause"] == "limit"]
    assert details == ["concurrent per subject"] * 5 + ["rate per subject"] * 2


def test_a_store_that_is_none_stops_the_start(service: Service) -> None:
    async def main() -> None:
        service.settings["limit_store"] = "ftp://user:hunter2@127.0.0.1"
        async with Running(service.guard(rates())) as running:
            assert running.failed is not None
            assert "limit_store" in running.failed
            assert "hunter2" not in running.failed

    asyncio.run(main())


# --- the store ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_error", "status"), [("deny", 503), ("allow", 200)])
def test_a_store_that_is_away(tmp_path: Path, log: Any, on_error: str, status: int) -> None:
    policy = f"actions: {{a.b: {{allow: [anyone], limit: {{rate: 1/day, concurrent: 1, on_limit_error: {on_error}}}}}}}"
    service = Service(tmp_path, log, policy, {"limit_store": "redis://:hunter2@127.0.0.1:1"})
    answer, record = service.ask(app_of(Route("/", marked("a.b", done))), "GET", "/")
    assert answer.status == status
    if status == 503:
        assert answer.header(b"retry-after") == "5"
        decision = record["decision"]
        assert (decision["effect"], decision["cause"], decision["detail"]) == (
            "deny",
            "error",
            "limit_store_unavailable",
        )
    else:
        assert record["flags"] == ["limit_store_unavailable"]
        assert record["outcome"] == "success"


class AnswersFirst:
    """Middleware that answers by itself, and runs the application all the same."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            """Nobody is there any more."""

        if scope["type"] == "http" and scope["path"] == "/task":
            await PlainTextResponse("early")(scope, receive, send)
            send = swallow
        await self.app(scope, receive, send)


def test_a_place_taken_after_the_response_is_given_back(service: Service) -> None:
    async def drive(app: Any) -> None:
        places.go.set()
        assert (await call(app, "POST", "/task", who("ann"))).body == b"early"
        assert places.most == 1, "the handler ran"
        assert await is_free(app, places)

    places = Places()
    app = places.app()
    app.add_middleware(AnswersFirst)
    service.run(app, drive)
