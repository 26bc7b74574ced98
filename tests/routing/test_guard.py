"""The guard in front of every router: what is found, decided and held to, for every kind of route there is."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from audit_middleware.errors import ConfigError
from audit_middleware.frameworks.guard import GATE, HeldScope, RouterGuard, arm, guarded, hold, install
from audit_middleware.frameworks.marks import action
from audit_middleware.frameworks.starlette import PREFIX, find
from audit_middleware.middleware import AuditMiddleware
from audit_middleware.model import Found
from tests.kit import Log, Running, call, write_policy
from tests.middleware.service import ADMIN, READER, Record, Service, api, app_of, identify
from tests.middleware.support import check_log, http_scope, websocket_scope

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


@pytest.fixture
def service(tmp_path: Path, log: Log) -> Service:
    """Readers may ``doc.read``, only administrators may ``doc.delete``."""
    return Service(tmp_path, log)


def page(name: str, act: str | None = "doc.delete", resource: str | None = None) -> Any:
    """An endpoint that says that it ran."""

    async def endpoint(request: Request) -> Response:
        RAN.append(name)
        return PlainTextResponse(name)

    return endpoint if act is None else action(act, resource=resource)(endpoint)


def foreign(name: str) -> Any:
    """A foreign ASGI application."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        RAN.append(name)
        await PlainTextResponse(name)(scope, receive, send)

    return application


# app, path, further arguments: the template the record must name
Place = tuple[Callable[[], Any], str, dict[str, Any], str]


def _included() -> Any:
    app, outer, inner = api(), APIRouter(prefix="/outer"), APIRouter()
    inner.add_api_route("/leaf/{n}", page("leaf"), methods=["GET"])
    outer.include_router(inner, prefix="/in/{tenant}")
    app.include_router(outer, prefix="/v1")
    return app


def _included_later() -> Any:
    app, router = api(), APIRouter()
    app.include_router(router, prefix="/v1")
    router.add_api_route("/leaf", page("leaf"), methods=["GET"])
    return app


def _mounted(inner: Any) -> Any:
    inner.router.routes.append(Route("/leaf", page("leaf")))
    return inner


def _websocket(app: Any, path: str = "/leaf") -> Any:
    async def feed(websocket: WebSocket) -> None:
        RAN.append("leaf")
        await websocket.accept()
        await websocket.close()

    app.router.routes.append(WebSocketRoute(path, action("doc.delete")(feed)))
    return app


class Feed(WebSocketEndpoint):
    """A class-based WebSocket."""

    async def on_connect(self, websocket: WebSocket) -> None:
        RAN.append("leaf")
        await websocket.accept()


def _frontend(app: Any, folder: Path) -> Any:
    (folder / "index.html").write_text("front")
    app.frontend("/", directory=folder)
    return app


HOST = {"headers": [(b"host", b"t.example:8000")]}
PLACES: dict[str, Place] = {
    "route": (lambda: app_of(Route("/leaf", page("leaf"))), "/leaf", {}, "/leaf"),
    "API route": (lambda: _api_route(api()), "/leaf", {}, "/leaf"),
    "included": (_included, "/v1/outer/in/t/leaf/1", {}, "/v1/outer/in/{tenant}/leaf/{n}"),
    "mount": (lambda: app_of(Mount("/m", routes=[Route("/leaf", page("leaf"))])), "/m/leaf", {}, "/m/leaf"),
    "mount with a parameter": (
        lambda: app_of(Mount("/m/{tenant}", routes=[Route("/leaf", page("leaf"))])),
        "/m/t/leaf",
        {},
        "/m/{tenant}/leaf",
    ),
    "mount at the root": (lambda: app_of(Mount("/", _mounted(Starlette()))), "/leaf", {}, "/leaf"),
    "Starlette in Starlette": (lambda: app_of(Mount("/m", _mounted(Starlette()))), "/m/leaf", {}, "/m/leaf"),
    "FastAPI in Starlette": (lambda: app_of(Mount("/m", _mounted(api()))), "/m/leaf", {}, "/m/leaf"),
    "Starlette in FastAPI": (lambda: _with(api(), Mount("/m", _mounted(Starlette()))), "/m/leaf", {}, "/m/leaf"),
    "FastAPI in FastAPI in FastAPI": (
        lambda: _with(api(), Mount("/a", _with(api(), Mount("/b", _mounted(api()))))),
        "/a/b/leaf",
        {},
        "/a/b/leaf",
    ),
    "mount in an included router": (
        lambda: _include(Mount("/m", routes=[Route("/leaf", page("leaf"))])),
        "/v1/m/leaf",
        {},
        "/v1/m/leaf",
    ),
    "route in an included router": (lambda: _include(Route("/leaf", page("leaf"))), "/v1/leaf", {}, "/v1/leaf"),
    "mount with middleware": (
        lambda: app_of(
            Mount("/m", routes=[Route("/leaf", page("leaf"))], middleware=[Middleware(GZipMiddleware)]),
        ),
        "/m/leaf",
        {},
        "/m/leaf",
    ),
    "application behind middleware": (
        lambda: app_of(Mount("/m", CORSMiddleware(_mounted(Starlette()), allow_origins=["*"]))),
        "/m/leaf",
        {},
        "/m/leaf",
    ),
    "host": (
        lambda: app_of(Host("{tenant}.example", Router([Route("/leaf", page("leaf"))]))),
        "/leaf",
        HOST,
        "//{tenant}.example/leaf",
    ),
    "host in a mount": (
        lambda: app_of(Mount("/m", routes=[Host("t.example", Router([Route("/leaf", page("leaf"))]))])),
        "/m/leaf",
        HOST,
        "//t.example/m/leaf",
    ),
    "router as default": (
        lambda: _default(app_of(Route("/other", page("other"))), Router([Route("/leaf", page("leaf"))])),
        "/leaf",
        {},
        "/leaf",
    ),
    "root path": (lambda: app_of(Route("/leaf", page("leaf"))), "/proxy/leaf", {"root_path": "/proxy"}, "/leaf"),
    "root path and mount": (
        lambda: app_of(Mount("/m", _mounted(api()))),
        "/proxy/m/leaf",
        {"root_path": "/proxy"},
        "/m/leaf",
    ),
    "root path that is not in the path": (
        lambda: app_of(Route("/leaf", page("leaf"))),
        "/leaf",
        {"root_path": "/proxy"},
        "/leaf",
    ),
}


def _with(app: Any, route: BaseRoute) -> Any:
    app.router.routes.append(route)
    return app


def _api_route(app: FastAPI) -> FastAPI:
    app.add_api_route("/leaf", page("leaf"), methods=["GET"])
    return app


def _include(route: BaseRoute) -> FastAPI:
    app, router = api(), APIRouter()
    router.routes.append(route)
    app.include_router(router, prefix="/v1")
    return app


def _default(app: Any, default: Any) -> Any:
    app.router.default = default
    return app


def served(app: Any, path: str, more: dict[str, Any]) -> bool:
    """Does the application alone run the leaf for this request?"""
    RAN.clear()
    method = more.get("method", "GET")
    asyncio.run(call(app, method, path, **{key: value for key, value in more.items() if key != "method"}))
    ran = list(RAN)
    RAN.clear()
    return ran == ["leaf"]


@pytest.mark.parametrize("name", PLACES)
def test_every_place_is_guarded(service: Service, name: str) -> None:
    """Refused to one, run for another, and named with every prefix; the application alone runs it for anyone."""
    make, path, more, template = PLACES[name]
    if not served(make(), path, more):
        pytest.skip("this version of the framework does not serve it at all")
    headers = more.get("headers", [])
    rest = {key: value for key, value in more.items() if key != "headers"}

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", path, [*READER, *headers], **rest)).status == 403
        assert RAN == []
        assert (await call(app, "GET", path, [*ADMIN, *headers], **rest)).status == 200
        assert RAN == ["leaf"]

    denied, allowed = service.run(make(), drive)
    for record in (denied, allowed):
        assert (record["action"], record["request"]["route"]) == ("doc.delete", template)
        assert record["flags"] == []


SOCKETS: dict[str, tuple[Callable[[], Any], str]] = {
    "WebSocket": (lambda: _websocket(Starlette()), "/leaf"),
    "WebSocket of FastAPI": (lambda: _websocket(api()), "/leaf"),
    "WebSocket in a mount": (lambda: app_of(Mount("/m", _websocket(api()))), "/m/leaf"),
    "WebSocket class": (lambda: app_of(WebSocketRoute("/leaf", action("doc.delete")(type("F", (Feed,), {})))), "/leaf"),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_every_websocket_is_guarded(service: Service, name: str) -> None:
    make, path = SOCKETS[name]

    async def drive(app: Any) -> None:
        assert (await call(app, "WS", path, READER)).status == 403
        assert RAN == []
        assert (await call(app, "WS", path, ADMIN)).status == 101
        assert RAN == ["leaf"]

    records = service.run(make(), drive)
    assert [record["outcome"] for record in records] == ["denied", "success"]
    assert {(record["action"], record["request"]["method"]) for record in records} == {("doc.delete", "WS")}


# --- after the start ---------------------------------------------------------------------------------------------


def _late(kind: str, app: Any) -> str:
    """Adds something to a running application; its path."""
    inner = app_of(Route("/leaf", page("leaf")))
    if kind == "route":
        app.router.routes.append(Route("/late", page("leaf")))
        return "/late"
    if kind == "host":
        app.host("t.example", inner)
        return "/leaf"
    if kind == "included route":
        router = app.state.router
        router.add_api_route("/late", page("leaf"), methods=["GET"])
        return "/v1/late"
    if kind == "route in a mount":
        app.state.mounted.router.routes.append(Route("/late", page("leaf")))
        return "/m/late"
    if kind == "mount in a mount":
        app.state.mounted.mount("/late", inner)
        return "/m/late/leaf"
    if kind == "default":
        app.router.default = inner
        return "/leaf"
    app.mount("/late", inner)
    return "/late/leaf"


LATE = ["mount", "route", "host", "included route", "route in a mount", "mount in a mount", "default"]


@pytest.mark.parametrize("kind", LATE)
def test_what_is_added_to_a_running_application_is_guarded(service: Service, kind: str) -> None:
    app = api()
    app.add_api_route("/there", page("there"), methods=["GET"])
    app.state.router = APIRouter()
    app.include_router(app.state.router, prefix="/v1")
    app.state.mounted = Starlette()
    app.mount("/m", app.state.mounted)

    async def drive(app: Any) -> None:
        host = (b"host", b"t.example" if kind == "host" else b"other")
        assert (await call(app, "GET", "/there", ADMIN)).status == 200
        RAN.clear()
        path = _late(kind, app)
        status = (await call(app, "GET", path, [*READER, host])).status
        assert RAN == []
        if status == 404 and kind == "included route":
            return  # before lazy includes, an included router was copied
        assert status == 403
        assert (await call(app, "GET", path, [*ADMIN, host])).status == 200
        assert RAN == ["leaf"]

    service.run(app, drive)


# --- methods -----------------------------------------------------------------------------------------------------


class Docs(HTTPEndpoint):
    """Marks on single methods."""

    @action("doc.read")
    async def get(self, request: Request) -> Response:
        RAN.append("get")
        return Response()

    @action("doc.delete")
    def delete(self, request: Request) -> Response:
        RAN.append("delete")
        return Response()

    async def put(self, request: Request) -> Response:
        RAN.append("put")
        return Response()


@pytest.mark.parametrize(
    ("method", "status", "act"),
    [
        ("GET", 200, "doc.read"),
        ("HEAD", 200, "doc.read"),
        ("DELETE", 403, "doc.delete"),
        ("PUT", 403, None),
        ("POST", 405, None),
        ("OPTIONS", 405, None),
    ],
)
def test_methods_of_a_class_have_their_own_actions(service: Service, method: str, status: int, act: str | None) -> None:
    answer, record = service.ask(app_of(Route("/", Docs)), method, "/", READER)
    assert (answer.status, record["action"]) == (status, act)
    assert len(RAN) == (status == 200)


@pytest.mark.parametrize("method", ["DISPATCH", "__INIT__", "METHOD_NOT_ALLOWED", "__CLASS__", "get", "BREW"])
def test_a_method_that_names_another_attribute_of_a_class_runs_nothing(service: Service, method: str) -> None:
    answer, record = service.ask(app_of(Route("/", Docs)), method, "/", ADMIN)
    assert RAN == []
    assert answer.status in (403, 405)
    assert record["outcome"] in ("denied", "failure")


def _methods_app() -> FastAPI:
    app = api()
    app.add_api_route("/x", page("get", "doc.read"), methods=["GET"])
    app.add_api_route("/x", page("head"), methods=["HEAD"])
    app.add_api_route("/x", page("options"), methods=["OPTIONS"])
    app.add_api_route("/x", page("query"), methods=["QUERY"])
    app.add_api_route("/x", page("trace"), methods=["TRACE"])
    app.add_api_route("/x", page("own"), methods=["PURGE"])
    return app


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "QUERY", "TRACE", "PURGE"])
def test_every_method_is_guarded_like_any_other(service: Service, method: str) -> None:
    async def drive(app: Any) -> None:
        assert (await call(app, method, "/x", READER)).status == 403
        assert RAN == []
        assert (await call(app, "GET", "/x", READER)).status == 200

    assert [record["action"] for record in service.run(_methods_app(), drive)] == ["doc.delete", "doc.read"]


def test_head_of_a_policy_entry_is_gets(service: Service) -> None:
    service.policy += "routes: [{match: GET /x, action: doc.delete}]\n"
    answer, record = service.ask(app_of(Route("/x", page("x", None))), "HEAD", "/x", READER)
    assert (answer.status, record["action"], RAN) == (403, "doc.delete", [])


def test_an_exempt_page_exempts_no_websocket(service: Service) -> None:
    service.policy += "routes: [{match: '* /leaf', exempt: because}]\n"

    async def feed(websocket: WebSocket) -> None:
        RAN.append("leaf")

    app = app_of(Route("/leaf", page("page", None)), WebSocketRoute("/leaf", feed))

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/leaf")).status == 200
        assert (await call(app, "WS", "/leaf")).status == 403

    service.run(app, drive)
    assert RAN == ["page"]


# --- where the action comes from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["doc.delete", {"name": "doc.delete", "resource": "doc/{n}"}])
def test_the_openapi_extra(service: Service, extra: Any) -> None:
    app = api()
    router = APIRouter()
    for owner, path in ((app, "/a/{n}"), (router, "/b/{n}")):
        owner.add_api_route(path, page("leaf", None), methods=["GET"], openapi_extra={"x-audit-action": extra})
    app.include_router(router)

    async def drive(app: Any) -> None:
        for path in ("/a/1", "/b/1"):
            assert (await call(app, "GET", path, READER)).status == 403

    for record in service.run(app, drive):
        assert record["action"] == "doc.delete"
        assert record["resource"]["id"] == ("1" if isinstance(extra, dict) else None)


def test_the_extra_that_the_schema_shows_is_the_one_enforced(service: Service) -> None:
    """FastAPI may merge an include's own settings into a route's."""
    app = FastAPI()
    app.add_api_route("/a", page("leaf", None), methods=["GET"], openapi_extra={"x-audit-action": "doc.delete"})
    assert app.openapi()["paths"]["/a"]["get"]["x-audit-action"] == "doc.delete"
    _, record = service.ask(app, "GET", "/a", READER)
    assert record["action"] == "doc.delete"


CONFLICTS: dict[str, tuple[Any, Any, str]] = {
    "mark and extra": ("doc.read", "doc.delete", ""),
    "malformed extra": (None, 7, ""),
    "mark and policy": ("doc.read", None, "routes: [{match: GET /a, action: doc.delete}]\n"),
    "mark and exemption": ("doc.read", None, "routes: [{match: GET /a, exempt: because}]\n"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_what_contradicts_itself_is_refused(service: Service, name: str) -> None:
    mark, extra, routes = CONFLICTS[name]
    service.policy += routes
    app = api()
    openapi = {"x-audit-action": extra} if extra is not None else None
    app.add_api_route("/a", page("leaf", mark), methods=["GET"], openapi_extra=openapi)
    answer, record = service.ask(app, "GET", "/a", ADMIN)
    assert (answer.status, RAN) == (403, [])
    assert (record["decision"]["cause"], record["severity"]) == ("error", "critical")


def test_an_action_the_policy_does_not_know_is_denied_even_by_default_allow(service: Service) -> None:
    service.policy = "default: allow\n" + service.policy
    answer, record = service.ask(app_of(Route("/", page("leaf", "doc.unheard"))), "GET", "/", ADMIN)
    assert (answer.status, record["decision"]["cause"], RAN) == (403, "unknown_action", [])


def test_a_route_without_an_action_is_denied(service: Service) -> None:
    answer, record = service.ask(app_of(Route("/", page("leaf", None))), "GET", "/", ADMIN)
    assert (answer.status, record["decision"]["cause"], record["severity"]) == (403, "unannotated", "high")
    assert RAN == []


def test_documentation_pages_are_routes_like_any_other(service: Service) -> None:
    async def drive(app: Any) -> None:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await call(app, "GET", path, ADMIN)).status == 403

    records = service.run(FastAPI(), drive)
    assert [record["request"]["route"] for record in records] == ["/docs", "/redoc", "/openapi.json"]


# --- what cannot be looked into ----------------------------------------------------------------------------------


class OwnLoop(Router):
    """A match loop of its own."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await super().app(scope, receive, send)
            return
        RAN.append("leaf")
        await PlainTextResponse("own loop")(scope, receive, send)


class OwnRoute(BaseRoute):
    """A route class that nobody knows."""

    path = "/x"

    def matches(self, scope: Any) -> Any:
        return (Match.FULL, {}) if scope["type"] == "http" else (Match.NONE, {})

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        RAN.append("leaf")
        await PlainTextResponse("own route")(scope, receive, send)


class Foreign:
    """Wraps an application in a way that nobody can look through."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        RAN.append("leaf")
        await self.app(scope, receive, send)


class OwnCall(Starlette):
    """An application that may answer before its router is asked."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        RAN.append("leaf")
        await PlainTextResponse("own call")(scope, receive, send)


def _wsgi() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        module = pytest.importorskip("starlette.middleware.wsgi")

    def application(environ: Any, start_response: Any) -> Any:
        RAN.append("leaf")
        start_response("200 OK", [])
        return [b"wsgi"]

    return module.WSGIMiddleware(application)


# app, path: (template, cause of the denial)
OPAQUE: dict[str, tuple[Callable[[], Any], str, str, str]] = {
    "foreign application": (lambda: app_of(Mount("/m", foreign("leaf"))), "/m/x", "/m/{path}", "unannotated"),
    "wrapped application": (
        lambda: app_of(Mount("/m", Foreign(_mounted(Starlette())))),
        "/m/leaf",
        "/m/{path}",
        "unannotated",
    ),
    "application with a call of its own": (
        lambda: app_of(Mount("/m", _mounted(OwnCall()))),
        "/m/leaf",
        "/m/{path}",
        "unannotated",
    ),
    "WSGI": (lambda: app_of(Mount("/m", _wsgi())), "/m/x", "/m/{path}", "unannotated"),
    "host": (lambda: app_of(Host("t.example", foreign("leaf"))), "/x", "//t.example/{path}", "unannotated"),
    "default": (lambda: _default(app_of(), foreign("leaf")), "/x", "default", "unannotated"),
    "default of a mounted router": (
        lambda: app_of(Mount("/m", Router([], default=foreign("leaf")))),
        "/m/x",
        "/m/{path}",
        "unannotated",
    ),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_cannot_be_looked_into_is_refused_unless_the_policy_names_it(service: Service, name: str) -> None:
    make, path, template, cause = OPAQUE[name]

    async def refused(app: Any) -> None:
        assert (await call(app, "GET", path, [*ADMIN, (b"host", b"t.example")])).status == 403
        assert RAN == []

    [record] = service.run(make(), refused)
    assert (record["request"]["route"], record["decision"]["cause"]) == (template, cause)

    service.policy += f"routes: [{{match: '* {template}', action: doc.delete}}]\n"

    async def allowed(app: Any) -> None:
        assert (await call(app, "GET", path, [*READER, (b"host", b"t.example")])).status == 403
        assert RAN == []
        assert (await call(app, "GET", path, [*ADMIN, (b"host", b"t.example")])).status == 200
        assert RAN[0] == "leaf"

    records: list[Record] = service.run(make(), allowed)
    assert [record["action"] for record in records[1:]] == ["doc.delete", "doc.delete"]


def test_the_root_application_may_have_a_call_of_its_own(service: Service) -> None:
    """What it does before its router is as middleware's; its routes are guarded."""

    class Own(Starlette):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            RAN.append("own")
            await super().__call__(scope, receive, send)

    app = AuditMiddleware(
        _mounted(Own()),
        policy=write_policy(service.folder, service.policy),
        log=str(service.log.path),
        service="test",
        identify=identify,
    )

    async def main() -> None:
        async with Running(app) as running:
            assert running.failed is None, running.failed
            RAN.clear()
            assert (await call(app, "GET", "/leaf", READER)).status == 403
            assert RAN == ["own"]
            assert (await call(app, "GET", "/leaf", ADMIN)).status == 200

    asyncio.run(main())
    assert [record["action"] for record in check_log(service.log)] == ["doc.delete", "doc.delete"]


def test_static_files(service: Service, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "a.txt").write_text("text")
    app = app_of(Mount("/static", StaticFiles(directory=tmp_path / "public")))
    service.policy += "routes: [{match: 'GET /static/{path:path}', action: doc.read}]\n"

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/static/a.txt")).status == 401
        assert (await call(app, "GET", "/static/a.txt", READER)).body == b"text"
        assert (await call(app, "HEAD", "/static/a.txt", READER)).status == 200
        assert (await call(app, "GET", "/static/none", READER)).status == 404
        assert (await call(app, "POST", "/static/a.txt", READER)).status == 403, "the entry is for GET"

    records = service.run(app, drive)
    assert {record["request"]["route"] for record in records} == {"/static/{path}"}
    assert [record["request"]["path"] for record in records][1] == "/static/a.txt"


def test_a_frontend(service: Service, tmp_path: Path) -> None:
    app = api()
    if not hasattr(app, "frontend"):
        pytest.skip("this FastAPI has no frontends")
    (tmp_path / "dist").mkdir()
    app.add_api_route("/api", page("api", "doc.read"), methods=["GET"])
    router = APIRouter()
    _frontend(router, tmp_path / "dist")
    app.include_router(router, prefix="/ui")
    service.policy += "routes: [{match: 'GET /ui/{path}', action: doc.delete}]\n"

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/ui/index.html", READER)).status == 403
        assert (await call(app, "GET", "/ui/index.html", ADMIN)).body == b"front"
        assert (await call(app, "GET", "/api", READER)).status == 200
        assert (await call(app, "GET", "/none", READER)).status == 404

    records = service.run(app, drive)
    assert [record["action"] for record in records] == ["doc.delete", "doc.delete", "doc.read", None]


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: app_of(OwnRoute()), "/x"),
        (lambda: app_of(Mount("/m", routes=[OwnRoute()])), "/m/x"),
        (lambda: app_of(Mount("/m", OwnLoop())), "/m/x"),
        (lambda: _include_router(OwnLoopAPI()), "/v1/x"),
    ],
    ids=["route class", "route class in a mount", "match loop", "match loop of an included router"],
)
def test_what_nobody_understands_is_refused_and_critical(service: Service, make: Any, path: str) -> None:
    answer, record = service.ask(make(), "GET", path, ADMIN)
    if answer.status == 404 or RAN == ["said"]:
        pytest.skip("this version of the framework has nothing of the kind: it copied what was included")
    assert (answer.status, RAN) == (403, [])
    assert (record["decision"]["cause"], record["severity"]) == ("error", "critical")
    assert record["decision"]["detail"]


class OwnLoopAPI(APIRouter):
    """An included router that handles its requests itself."""

    def __init__(self) -> None:
        super().__init__()
        self.add_api_route("/x", page("said", "doc.read"), methods=["GET"])

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        RAN.append("leaf")
        await PlainTextResponse("own")(scope, receive, send)


def _include_router(router: APIRouter) -> FastAPI:
    app = api()
    app.include_router(router, prefix="/v1")
    return app


def test_a_route_that_chooses_by_header(service: Service) -> None:
    """`matches()` is asked, not the path: two versions behind one path have two actions."""

    class Versioned(APIRoute):
        def matches(self, scope: Any) -> Any:
            match, child = super().matches(scope)
            return (match, child) if (b"x-v", b"2") in scope["headers"] else (Match.NONE, {})

    app, router = api(), APIRouter()
    router.add_api_route("/x", page("two"), methods=["GET"], route_class_override=Versioned)
    router.add_api_route("/x", page("one", "doc.read"), methods=["GET"])
    app.include_router(router, prefix="/v")

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/v/x", READER)).body == b"one"
        assert (await call(app, "GET", "/v/x", [*READER, (b"x-v", b"2")])).status == 403

    assert [record["action"] for record in service.run(app, drive)] == ["doc.read", "doc.delete"]


def test_an_error_in_matches_is_the_applications_own(service: Service) -> None:
    class Raising(Route):
        def matches(self, scope: Any) -> Any:
            if scope["type"] == "http" and scope["path"] == "/raise":
                raise LookupError("in matches")
            return super().matches(scope)

    answer, record = service.ask(app_of(Raising("/x", page("leaf"))), "GET", "/raise", READER)
    assert isinstance(answer.error, LookupError)
    assert (record["response"]["status"], record["outcome"], record["response"]["error"]) == (
        500,
        "error",
        "LookupError",
    )


# --- requests that never passed the middleware -------------------------------------------------------------------


def test_a_guarded_router_refuses_what_did_not_pass_the_middleware(service: Service) -> None:
    """A second application around the same routes, without us: refused, not served unseen."""
    inner = app_of(Route("/leaf", page("leaf")))
    app = app_of(Mount("/m", inner))
    unguarded = app_of(Mount("/other", inner))

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/m/leaf", ADMIN)).status == 200
        RAN.clear()
        for way, path in ((unguarded, "/other/leaf"), (inner, "/leaf")):
            answer = await call(way, "GET", path, ADMIN)
            assert (answer.status, RAN) == (503, [])
            assert b"did not pass the audit middleware" in answer.body
        assert (await call(inner.router, "GET", "/leaf", ADMIN)).status == 503, "also without an application around"
        assert (await call(inner, "WS", "/leaf", ADMIN)).status == 403

    assert len(service.run(app, drive)) == 1


# --- installing --------------------------------------------------------------------------------------------------


def test_installing_twice_guards_once() -> None:
    inner = Router([Route("/x", page("x"))])
    router = Router([Mount("/m", inner)])
    for _ in range(3):
        install(router)
    assert isinstance(router.middleware_stack, RouterGuard)
    assert router.middleware_stack.inner == router.app
    assert guarded(inner)


def test_the_guard_stands_behind_a_routers_own_middleware() -> None:
    router = Router([Route("/x", page("x"))], middleware=[Middleware(GZipMiddleware), Middleware(GZipMiddleware)])
    install(router)
    layers: list[Any] = [router.middleware_stack]
    while hasattr(layers[-1], "app"):
        layers.append(layers[-1].app)
    assert [type(layer) for layer in layers] == [GZipMiddleware, GZipMiddleware, RouterGuard]
    install(router)
    assert layers[-1].inner == router.app, "not a second time"


def test_middleware_that_hides_the_match_loop_stops_the_start() -> None:
    class Hiding:
        def __init__(self, app: Any) -> None:
            self.hidden = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.hidden(scope, receive, send)

    router = Router([Route("/x", page("x"))], middleware=[Middleware(Hiding)])
    with pytest.raises(ConfigError, match="middleware without an `app` attribute"):
        install(router)


def test_a_call_of_its_own_stops_the_start() -> None:
    class Own(Router):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    with pytest.raises(ConfigError, match="Own has a __call__ of its own"):
        install(Router([Mount("/m", Own())]))


def test_routers_that_lead_in_circles_end() -> None:
    router = Router([Route("/x", page("x"))])
    router.routes.append(Mount("/again", router))
    install(router)
    assert guarded(router)


# --- finding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_finding_changes_nothing_in_the_scope(name: str) -> None:
    make, path, more, _ = PLACES[name]
    scope = http_scope("GET", path, **more)
    before = {key: (dict(value) if isinstance(value, dict) else value) for key, value in scope.items()}
    find(make().router, scope)
    assert scope == before


def test_found_kinds() -> None:
    app = api()
    app.add_api_route("/x/{n}", page("x"), methods=["GET"])
    app.mount("/m", Starlette())
    app.mount("/o", foreign("o"))

    def kind(method: str, path: str) -> str:
        return find(app.router, http_scope(method, path)).kind

    assert kind("GET", "/x/1") == "route"
    assert kind("POST", "/x/1") == "partial"
    assert kind("GET", "/x/1/") == "redirect"
    assert kind("GET", "/none") == "not_found"
    assert kind("GET", "/m/any") == "descend"
    assert kind("GET", "/o/any") == "opaque"
    assert find(app.router, websocket_scope("/x/1")).kind == "not_found"


# --- the trap ----------------------------------------------------------------------------------------------------


class Gate:
    """Says yes or no to what was selected, and remembers."""

    replay: Any = None

    def __init__(self, answer: bool = False) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def admit(self, scope: Any, receive: Any, found: Found) -> None:
        return None

    def selected(self, found: Found, endpoint: Any) -> bool:
        self.asked.append(endpoint)
        return self.answer


def _one() -> None: ...


def _two() -> None: ...


WRITES: dict[str, Callable[[Any], Any]] = {
    "item": lambda scope: scope.__setitem__("endpoint", _two),
    "update": lambda scope: scope.update({"endpoint": _two}),
    "update by pairs": lambda scope: scope.update([("endpoint", _two)]),
    "update by name": lambda scope: scope.update(endpoint=_two),
    "update from another scope": lambda scope: scope.update(hold({"endpoint": _two}, Found("opaque"), Gate(True))),
    "or": lambda scope: scope.__ior__({"endpoint": _two}),
    "setdefault": lambda scope: scope.setdefault("endpoint", _two),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_selecting_an_endpoint_in_any_way_asks_the_gate(how: str, kind: str) -> None:
    below = {"type": kind, "path": "/"}
    gate = Gate()
    held = hold(below, Found("route", "/", _one), gate)
    with pytest.raises(HTTPException if kind == "http" else WebSocketException):
        WRITES[how](held)
    assert gate.asked == [_two]
    assert "endpoint" not in held
    assert "endpoint" not in below, "nothing is left behind"


@pytest.mark.parametrize("how", WRITES)
def test_what_the_gate_admits_is_written_through(how: str) -> None:
    below: dict[str, Any] = {"type": "http"}
    held = hold(below, Found("route", "/", _two), Gate(True))
    WRITES[how](held)
    assert held["endpoint"] is below["endpoint"] is _two


def test_the_trap_stays_armed() -> None:
    """A framework that selects twice is asked twice."""
    gate = Gate(True)
    held = hold({"type": "http"}, Found("route", "/", _one), gate)
    held["endpoint"] = _one
    held["endpoint"] = _two
    assert gate.asked == [_one, _two]


def test_an_armed_scope_admits_nothing_yet() -> None:
    below: dict[str, Any] = {"type": "http"}
    held = arm(below, Gate())
    with pytest.raises(HTTPException):
        held["endpoint"] = _one
    held["state"] = {}
    assert below == {"type": "http", "state": {}}


def test_other_writes_and_deletions_go_through() -> None:
    below: dict[str, Any] = {"type": "http", "a": 1, "b": 2, "c": 3}
    held = hold(below, Found("route", "/", _one), Gate())
    held["d"] = 4
    held |= {"e": 5}
    del held["a"]
    assert held.pop("b") == 2
    assert held.pop("none", None) is None
    assert held.setdefault("c", 9) == 3
    assert below == dict(held) == {"type": "http", "c": 3, "d": 4, "e": 5}


def test_holding_a_held_scope_arms_it_anew() -> None:
    gate = Gate(True)
    held = hold({"type": "http"}, Found("route", "/a", _one), gate)
    again = hold(held, Found("route", "/b", _two), gate)
    assert again is held
    assert again.found == Found("route", "/b", _two)


def test_a_copy_is_a_plain_dictionary_and_is_held_again() -> None:
    held = hold({"type": "http", GATE: 1}, Found("route", "/a", _one), Gate())
    copy = dict(held)
    assert type(copy) is dict
    assert type(hold(copy, Found("route", "/b", _two), Gate())) is HeldScope


def test_the_prefix_ends_with_the_mount(service: Service) -> None:
    """An application that tries something else after a mount found nothing: no prefix is left over from there."""

    class Fallback:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            kept: list[Any] = []

            async def keep(message: Any) -> None:
                kept.append(message)

            before: Callable[[], Awaitable[None]] = lambda: self.app(scope, receive, keep)  # noqa: E731
            await before()
            if kept[0]["status"] == 404:
                scope["path"], scope["root_path"] = "/leaf", ""
                await self.app(scope, receive, send)
                return
            for message in kept:
                await send(message)

    app = app_of(Route("/leaf", page("leaf", None)), Mount("/m", routes=[Route("/leaf", page("mounted", None))]))
    app.add_middleware(Fallback)
    service.policy += "routes: [{match: GET /m/leaf, action: doc.read}, {match: GET /leaf, action: doc.delete}]\n"

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/m/none", READER)).status == 403, "the action of /leaf, not of /m/leaf"
        assert (await call(app, "GET", "/m/leaf", READER)).status == 200

    records = service.run(app, drive)
    assert RAN == ["mounted"]
    assert [record["request"]["route"] for record in records] == ["/leaf", "/m/leaf"]


def test_nothing_of_ours_is_left_in_the_scope_but_the_gate(service: Service) -> None:
    scopes: list[Any] = []

    class Outer:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await self.app(scope, receive, send)

    async def main() -> None:
        app = service.guard(app_of(Mount("/m", routes=[Route("/leaf", page("leaf"))])))
        app.add_middleware(Outer)
        async with Running(app):
            await call(app, "GET", "/m/leaf", ADMIN)

    asyncio.run(main())
    ours = {key for key in scopes[-1] if str(key).startswith("audit_middleware")}
    assert ours == {GATE}
    assert PREFIX not in scopes[-1]
