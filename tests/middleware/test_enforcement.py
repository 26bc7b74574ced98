"""Denied means that nothing of the handler ran; and what runs is what was decided on, or the request is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute

from audit_middleware.frameworks.marks import action
from tests.kit import call
from tests.middleware.service import ADMIN, READER, Record, Service, api, app_of, as_
from tests.middleware.support import Exchange, http_scope, request, websocket_scope

JSON = (b"content-type", b"application/json")
RAN: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


def page(name: str, act: str = "doc.read") -> Any:
    """An endpoint that says that it ran."""

    async def endpoint(request: Request) -> Response:
        RAN.append(name)
        return PlainTextResponse(name)

    return action(act)(endpoint)


# --- denied means not run ----------------------------------------------------------------------------------------


class Doc(BaseModel):
    """A body, whose validation can be seen."""

    title: str

    def __init__(self, **data: Any) -> None:
        RAN.append("validation")
        super().__init__(**data)


def _api() -> FastAPI:
    async def dependency() -> None:
        RAN.append("dependency")

    def dependency_sync() -> Iterator[None]:
        RAN.append("sync dependency")
        yield

    def body_reader(part: Annotated[dict[str, Any], Body()]) -> None:
        RAN.append("body dependency")

    app = api()
    router = APIRouter(prefix="/r", dependencies=[Depends(dependency)])
    needed = [Depends(dependency), Depends(dependency_sync)]
    owners: list[FastAPI | APIRouter] = [app, router]
    for owner in owners:

        @owner.post("/json", dependencies=needed)
        @action("doc.delete")
        async def as_json(doc: Doc, _: None = Depends(body_reader)) -> None:
            RAN.append("handler")

        @owner.post("/form", dependencies=needed)
        @action("doc.delete")
        def as_form(title: str = Form()) -> None:
            RAN.append("handler")

    app.include_router(router)
    return app


@pytest.mark.parametrize(
    "user", [[], READER, as_("forged"), as_("outage"), as_("bug")], ids=lambda user: str(user)[:40]
)
@pytest.mark.parametrize("path", ["/json", "/form", "/r/json", "/r/form"])
def test_a_denied_request_runs_nothing_and_reads_nothing(service: Service, path: str, user: Any) -> None:
    async def drive(app: Any) -> None:
        exchange = Exchange(app, http_scope("POST", path, [*user, JSON]), request(b"{"))
        await exchange.end()
        assert exchange.messages[0]["status"] in (401, 403, 500, 503)
        assert exchange.received == 0

    [record] = service.run(_api(), drive)
    assert RAN == []
    assert (record["outcome"], record["request"]["size"]) == ("denied", 0)


def test_the_same_request_is_read_where_it_is_allowed(service: Service) -> None:
    """So that the silence above means something."""
    answer, record = service.ask(_api(), "POST", "/r/json", [*ADMIN, JSON], b"{")
    assert answer.status == 422
    assert "dependency" in RAN or record["request"]["size"] == 1


def test_malformed_json_is_refused_before_it_is_malformed(service: Service) -> None:
    answer, _ = service.ask(_api(), "POST", "/json", [*READER, JSON], b"{")
    assert answer.status == 403, "not 422"


def test_a_denied_websocket_is_not_accepted(service: Service) -> None:
    async def feed(websocket: WebSocket) -> None:
        RAN.append("feed")
        await websocket.accept()

    async def drive(app: Any) -> None:
        exchange = Exchange(app, websocket_scope("/", READER), {"type": "websocket.connect"})
        await exchange.end()
        assert [message["type"] for message in exchange.messages] == ["websocket.close"]

    service.run(app_of(WebSocketRoute("/", action("doc.delete")(feed))), drive)
    assert RAN == []


# --- middleware that rewrites what the router sees ---------------------------------------------------------------


class Rewriting:
    """Sends requests elsewhere than the client asked: in place, or in a copy of the scope."""

    def __init__(self, app: Any, copies: bool = False) -> None:
        self.app = app
        self.copies = copies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            wanted = {name: value for name, value in scope["headers"] if name in (b"x-path", b"x-method")}
            new = dict(scope) if self.copies else scope
            if b"x-path" in wanted:
                new["path"] = wanted[b"x-path"].decode()
            if b"x-method" in wanted:
                new["method"] = wanted[b"x-method"].decode()
            scope = new
        await self.app(scope, receive, send)


def _routes() -> list[Route]:
    return [
        Route("/open", page("open"), methods=["GET"]),
        Route("/closed", page("closed", "doc.delete"), methods=["GET"]),
        Route("/open", page("deleting", "doc.delete"), methods=["DELETE"]),
    ]


def _shapes(copies: bool) -> dict[str, tuple[Any, str]]:
    """Applications with the rewriting at every place where there can be middleware, and the prefix of the routes."""
    rewriting = Middleware(Rewriting, copies=copies)

    def rewritten_router() -> Router:
        router = Router(_routes())
        router.middleware_stack = Rewriting(router.middleware_stack, copies)
        return router

    fastapi = FastAPI(openapi_url=None)
    fastapi.router.routes += _routes()
    fastapi.add_middleware(Rewriting, copies=copies)
    return {
        "application": (app_of(*_routes(), middleware=[rewriting]), ""),
        "mounted application": (app_of(Mount("/m", Starlette(routes=_routes(), middleware=[rewriting]))), "/m"),
        "mounted FastAPI": (app_of(Mount("/m", fastapi)), "/m"),
        "mount": (app_of(Mount("/m", routes=_routes(), middleware=[rewriting])), "/m"),
        "router": (app_of(Mount("/m", rewritten_router())), "/m"),
        "host": (app_of(Host("a.example", Starlette(routes=_routes(), middleware=[rewriting]))), ""),
        "twice": (app_of(Mount("/m", app_of(Mount("/n", routes=_routes(), middleware=[rewriting])))), "/m/n"),
    }


@pytest.mark.parametrize("copies", [False, True], ids=["in place", "in a copy"])
@pytest.mark.parametrize("shape", _shapes(False))
def test_the_route_that_runs_decides_not_the_path_that_was_asked_for(
    service: Service, shape: str, copies: bool
) -> None:
    app, prefix = _shapes(copies)[shape]
    host = (b"host", b"a.example")

    async def drive(app: Any) -> None:
        async def status(user: Any, *headers: tuple[bytes, bytes]) -> int | None:
            return (await call(app, "GET", f"{prefix}/open", [*user, host, *headers])).status

        elsewhere = (b"x-path", f"{prefix}/closed".encode())
        assert await status(READER) == 200
        assert await status(READER, elsewhere) == 403
        assert await status(READER, (b"x-method", b"DELETE")) == 403
        assert RAN == ["open"]
        assert await status(ADMIN, elsewhere) == 200
        assert await status(ADMIN, (b"x-method", b"DELETE")) == 200
        assert RAN == ["open", "closed", "deleting"]

    records = service.run(app, drive)
    assert [record["action"] for record in records] == [
        "doc.read",
        "doc.delete",
        "doc.delete",
        "doc.delete",
        "doc.delete",
    ]
    assert {record["request"]["path"] for record in records} == {f"{prefix}/open"}, "what the client asked for"
    assert {record["request"]["method"] for record in records} == {"GET"}
    assert records[1]["request"]["route"].endswith("/closed")


def test_middleware_that_forgets_the_scope_is_refused(service: Service) -> None:
    """A new scope of the standard keys only: behind it nobody can tell whether the request was ever admitted."""

    class Forgetting:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            known = (
                "type",
                "method",
                "path",
                "raw_path",
                "root_path",
                "headers",
                "query_string",
                "app",
                "app_root_path",
            )
            await self.app({key: scope[key] for key in known if key in scope}, receive, send)

    app = app_of(Mount("/m", routes=_routes(), middleware=[Middleware(Forgetting)]))
    answer, record = service.ask(app, "GET", "/m/open", ADMIN)
    assert (answer.status, RAN) == (503, [])
    assert record["response"]["status"] == 503


# --- a router that does something else than it said --------------------------------------------------------------


class Flipping(Route):
    """Matches one way when it is asked, and another way when it is run."""

    def __init__(self, *answers: Any) -> None:
        super().__init__("/flip", page("said"))
        self.answers = list(answers)
        self.asked = 0

    def matches(self, scope: Any) -> Any:
        match, child = super().matches(scope)
        if match is Match.NONE:
            return match, child
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if answer is None:
            return Match.NONE, {}
        return (Match.FULL, {**child, "endpoint": answer}) if answer != "partial" else (Match.PARTIAL, child)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse(await _run(scope["endpoint"], scope))(scope, receive, send)


async def _run(endpoint: Any, scope: Any) -> bytes:
    return bytes((await endpoint(Request(scope))).body)


SAID, OTHER = page("said"), page("other", "doc.delete")


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize(
    "answers",
    [(SAID, OTHER), (None, OTHER), ("partial", OTHER), (SAID, None)],
    ids=["another endpoint", "404 first", "405 first", "another route"],
)
def test_another_endpoint_than_the_one_decided_on(service: Service, answers: Any, mode: str) -> None:
    service.policy = f"mode: {mode}\n" + service.policy
    fallback = Route("/{anything}", page("fallback", "doc.delete"), methods=["POST", "GET"])
    routes = [Flipping(*answers)] + ([fallback] if answers[1] is None else [])
    answer, record = service.ask(app_of(*routes), "GET", "/flip", READER)
    assert (record["decision"]["cause"], record["decision"]["effect"]) == ("route_mismatch", "deny")
    assert (record["severity"], record["flags"]) == ("critical", ["route_mismatch"])
    if mode == "enforce":
        assert (answer.status, RAN, record["outcome"]) == (403, [], "denied")
    else:
        assert (answer.status, record["outcome"], len(RAN)) == (200, "success", 1)


def test_the_same_endpoint_is_no_mismatch(service: Service) -> None:
    answer, record = service.ask(app_of(Flipping(SAID)), "GET", "/flip", READER)
    assert (answer.status, RAN, record["flags"]) == (200, ["said"], [])


def test_a_framework_that_takes_the_last_match(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a future Starlette changed the order of its loop: a denial, not a bypass."""

    async def last_match(router: Any, scope: Any, receive: Any, send: Any) -> None:
        for route in reversed(router.routes):
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                await route.handle(scope, receive, send)
                return

    app = _patched(monkeypatch, last_match, Route("/{x}", page("first")), Route("/x", page("last", "doc.delete")))
    answer, record = service.ask(app, "GET", "/x", READER)
    assert (answer.status, RAN) == (403, [])
    assert record["flags"] == ["route_mismatch"]


def test_a_framework_that_no_longer_tells_what_it_selected(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can compare, so the response does not leave."""
    app = _patched(monkeypatch, _quiet, Route("/x", page("first")))
    answer, record = service.ask(app, "GET", "/x", READER)
    assert answer.status == 500
    assert b"first" not in answer.body
    assert (record["flags"], record["severity"], record["outcome"]) == (["route_mismatch"], "critical", "error")
    assert record["response"] == {"status": 500, "size": len(answer.body), "error": "RouteMismatch", "body": None}


def test_and_in_monitor_mode_it_does(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.policy = "mode: monitor\n" + service.policy
    app = _patched(monkeypatch, _quiet, Route("/x", page("first")))
    answer, record = service.ask(app, "GET", "/x", READER)
    assert (answer.body, record["flags"]) == (b"first", ["route_mismatch"])


async def _quiet(router: Any, scope: Any, receive: Any, send: Any) -> None:
    for route in router.routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            await route.handle({**scope, **child}, receive, send)
            return


def _patched(monkeypatch: pytest.MonkeyPatch, loop: Any, *routes: Route) -> Starlette:
    """An application whose framework has another match loop; its lifespan is the old one's."""
    old = Router.app

    async def app(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await (old if scope["type"] == "lifespan" else loop)(self, scope, receive, send)

    monkeypatch.setattr(Router, "app", app)
    return app_of(*routes)


# --- routers of one's own ----------------------------------------------------------------------------------------


class OwnLoop(Router):
    """Has a match loop of its own."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await super().app(scope, receive, send)
            return
        await self.routes[-1].handle(scope, receive, send)


class OwnCall(Router):
    """Goes around whatever stands in front of its match loop."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("kind", [OwnLoop, OwnCall])
@pytest.mark.parametrize("where", ["root", "mounted", "mounted in FastAPI", "mounted later"])
def test_a_router_that_cannot_be_guarded_runs_nothing(service: Service, kind: type[Router], where: str) -> None:
    router = kind([Route("/x", page("inside", "doc.delete"))])
    path = "/x" if where == "root" else "/m/x"
    app: Any = api() if "FastAPI" in where else app_of()
    if where == "root":
        app.router = router
    elif where != "mounted later":
        app.mount("/m", router)
    statuses: list[int | None] = []

    async def drive(app: Any) -> None:
        if where == "mounted later":
            app.mount("/m", router)
        statuses.append((await call(app, "GET", path, READER)).status)

    if kind is OwnCall and where != "mounted later":
        with pytest.raises(AssertionError, match="OwnCall has a __call__ of its own"):  # the start failed
            service.run(app, drive)
        return
    records: list[Record] = service.run(app, drive)
    assert RAN == []
    assert statuses[0] in (403, 500)
    assert records[0]["outcome"] in ("denied", "error")


def test_a_match_loop_that_nobody_guards_is_noticed(service: Service) -> None:
    """Something replaced the router's entry after the start: the scope itself refuses what it selects."""
    app = app_of(Route("/x", page("inside", "doc.read")))

    async def drive(app: Any) -> None:
        app.router.middleware_stack = app.router.app
        assert (await call(app, "GET", "/x", ADMIN)).status == 403

    [record] = service.run(app, drive)
    assert RAN == []
    assert (record["decision"]["cause"], record["severity"]) == ("route_mismatch", "critical")


def test_an_application_as_a_routes_endpoint(service: Service) -> None:
    """Starlette runs what is no function as an ASGI application; what that selects inside is its own affair."""
    inner = action("doc.read")(app_of(Route("/x/{y}", page("inner"))))
    answer, record = service.ask(app_of(Route("/x/{rest:path}", inner)), "GET", "/x/1", READER)
    assert (answer.status, RAN, record["action"]) == (200, ["inner"], "doc.read")
    assert record["request"]["route"] == "/x/{rest}"


def test_a_handler_may_hand_its_request_to_another_application(service: Service) -> None:
    """What an admitted handler does with its request is its own affair; a second record there is none."""
    other = app_of(Route("/x", page("other")))

    async def relay(request: Request) -> Any:
        RAN.append("relay")
        messages: list[Any] = []

        async def keep(message: Any) -> None:
            messages.append(message)

        await other(dict(request.scope), request.receive, keep)
        return Response(messages[1]["body"], messages[0]["status"])

    answer, record = service.ask(app_of(Route("/x", action("doc.read")(relay))), "GET", "/x", READER)
    assert (answer.status, RAN) == (200, ["relay", "other"])
    assert record["action"] == "doc.read"


def test_parallel_requests_keep_their_own_decisions(service: Service) -> None:
    """One router, one guard, many scopes at a time."""

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.005)
        return Response()

    async def slow_too(request: Request) -> Response:
        return await slow(request)

    app = app_of(Route("/open", action("doc.read")(slow)), Route("/closed", action("doc.delete")(slow_too)))

    async def drive(app: Any) -> None:
        paths = ["/open", "/closed"] * 20
        answers = await asyncio.gather(*(call(app, "GET", path, READER) for path in paths))
        assert [answer.status for answer in answers] == [200, 403] * 20

    service.run(app, drive)
