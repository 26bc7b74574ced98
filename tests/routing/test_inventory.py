"""The inventory: every route there is, and every way in which routes and policy do not fit together."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles

from audit_middleware.frameworks.inventory import RouteInfo, list_routes
from audit_middleware.frameworks.marks import action
from audit_middleware.pipeline.inventory import Inventory, examine
from audit_middleware.policy.load import loads

TODAY = date(2026, 1, 1)
HEAD = "version: 1\nname: test\n"
ACTIONS = "actions: {doc.read: {allow: [anyone]}, doc.write: {allow: []}}\n"


def page(name: str | None = "doc.read", resource: str | None = None) -> Any:
    """A fresh endpoint, with a mark unless the name is ``None``."""

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x")

    return endpoint if name is None else action(name, resource=resource)(endpoint)


def inventory(app: Any, policy: str = ACTIONS, today: date = TODAY) -> Inventory:
    """What the start would say."""
    router = app if isinstance(app, Router) else app.router
    return examine(list_routes(router), loads(HEAD + policy), today)


def problems(app: Any, policy: str = ACTIONS, today: date = TODAY) -> str:
    """The findings as text."""
    return "\n".join(inventory(app, policy, today).problems)


def listed(app: Any) -> list[tuple[str, str]]:
    """Method and template of every route."""
    return [(info.method, info.template) for info in list_routes(app.router)]


# --- the listing -------------------------------------------------------------------------------------------------


def test_every_route_of_a_starlette_application(tmp_path: Path) -> None:
    class Docs(HTTPEndpoint):
        async def get(self, request: Request) -> None: ...

        async def delete(self, request: Request) -> None: ...

    async def socket(websocket: WebSocket) -> None: ...

    async def foreign(scope: Any, receive: Any, send: Any) -> None: ...

    app = Starlette(
        routes=[
            Route("/a", page()),
            Route("/b/{n:int}", page(), methods=["POST", "PUT"]),
            Route("/c", Docs),
            Route("/d", page(), methods=["HEAD"]),
            Route("/e", foreign, methods=None) if False else Route("/e", type("App", (), {"__call__": foreign})()),
            WebSocketRoute("/f", socket),
            Mount("/g/{tenant}", routes=[Route("/", page()), Mount("/h", app=Starlette(routes=[Route("/i", page())]))]),
            Mount("/j", foreign),
            Mount("/k", StaticFiles(directory=tmp_path)),
            Host("{sub}.example", Router([Route("/l", page())])),
        ]
    )
    assert listed(app) == [
        ("GET", "/a"),
        ("POST", "/b/{n}"),
        ("PUT", "/b/{n}"),
        ("GET", "/c"),
        ("DELETE", "/c"),
        ("HEAD", "/d"),
        ("*", "/e"),
        ("WS", "/f"),
        ("GET", "/g/{tenant}/"),
        ("GET", "/g/{tenant}/h/i"),
        ("*", "/j/{path}"),
        ("*", "/k/{path}"),
        ("GET", "//{sub}.example/l"),
    ]


def test_every_route_of_a_fastapi_application(tmp_path: Path) -> None:
    inner = APIRouter(prefix="/inner")
    inner.add_api_route("/one", page(), methods=["GET"])
    middle = APIRouter()
    middle.include_router(inner, prefix="/mid")
    app = FastAPI()
    app.include_router(middle, prefix="/v1")
    app.include_router(inner, prefix="/v2")
    inner.add_api_route("/late", page(), methods=["POST"])
    sub = FastAPI(openapi_url=None)
    sub.add_api_route("/three", page(), methods=["GET"])
    app.mount("/sub", sub)
    got = listed(app)
    for wanted in (
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/docs/oauth2-redirect"),
        ("GET", "/redoc"),
        ("GET", "/v1/mid/inner/one"),
        ("GET", "/v2/inner/one"),
        ("GET", "/sub/three"),
    ):
        assert wanted in got
    if hasattr(app, "frontend"):  # then includes are lazy, too
        assert ("POST", "/v2/inner/late") in got
        app.frontend("/", directory=tmp_path)
        assert ("GET", "/{path}") in listed(app)


def test_a_default_handler_of_ones_own() -> None:
    async def fallback(scope: Any, receive: Any, send: Any) -> None: ...

    app = Starlette(routes=[Route("/a", page()), Mount("/m", Router([], default=fallback))])
    app.router.default = fallback
    assert listed(app) == [("GET", "/a"), ("*", "/m/{path}"), ("*", "default")]


def test_a_router_as_default_is_listed_with_its_routes() -> None:
    app = Starlette(routes=[Route("/a", page())])
    app.router.default = Router([Route("/b", page())])
    assert listed(app) == [("GET", "/a"), ("GET", "/b")]


def test_a_router_mounted_in_itself_ends() -> None:
    app = Starlette(routes=[Route("/a", page())])
    app.mount("/again", app.router)
    assert listed(app) == [("GET", "/a")]


def test_one_router_mounted_twice_is_listed_twice() -> None:
    shared = Router([Route("/x", page())])
    app = Starlette(routes=[Mount("/a", shared), Mount("/b", shared)])
    assert listed(app) == [("GET", "/a/x"), ("GET", "/b/x")]


def test_endpoints_are_named() -> None:
    [info] = list_routes(Router([Route("/", page())]))
    assert info.endpoint.endswith("test_inventory:page.<locals>.endpoint")


# --- findings ----------------------------------------------------------------------------------------------------


def test_what_fits_has_no_findings() -> None:
    app = Starlette(routes=[Route("/a", page()), Route("/b", page("doc.write"))])
    found = inventory(app)
    assert found.problems == ()
    assert [(row.route.template, row.action, row.rule) for row in found.rows] == [
        ("/a", "doc.read", "anyone"),
        ("/b", "doc.write", "deny by default"),
    ]


def test_no_routes_at_all() -> None:
    assert "no routes: is this the right application object?" in problems(Starlette())


def test_a_route_without_an_action() -> None:
    found = problems(Starlette(routes=[Route("/a", page(None), methods=["POST"])]))
    assert "POST /a" in found
    assert "has no action: add @action(...)" in found
    assert "{match: 'POST /a', exempt: '<why>', until: <date>}" in found, "a line to paste"


def test_with_default_allow_it_needs_none() -> None:
    found = inventory(Starlette(routes=[Route("/a", page(None))]), "default: allow\n" + ACTIONS)
    assert found.problems == ()
    assert found.rows[0].rule == "allow by default"


def test_an_action_the_policy_does_not_know() -> None:
    found = problems(Starlette(routes=[Route("/a", page("doc.raed"))]))
    assert "no action doc.raed; add it under actions:" in found


def test_an_exemption() -> None:
    app = Starlette(routes=[Route("/a", page(None))])
    policy = ACTIONS + "routes: [{match: GET /a, exempt: because, until: 2026-01-01}]\n"
    assert inventory(app, policy).rows[0].rule == "exempt"
    assert problems(app, policy) == ""
    assert "exemption ended on 2026-01-01" in problems(app, policy, date(2026, 1, 2))


def test_mark_and_exemption_contradict_each_other() -> None:
    policy = ACTIONS + "routes: [{match: GET /a, exempt: because}]\n"
    assert "the route says doc.read, the policy's routes say an exemption" in problems(
        Starlette(routes=[Route("/a", page())]), policy
    )


def test_mark_and_policy_name_different_actions() -> None:
    policy = ACTIONS + "routes: [{match: GET /a, action: doc.write}]\n"
    assert "the route says doc.read, the policy's routes say doc.write" in problems(
        Starlette(routes=[Route("/a", page())]), policy
    )


def test_mark_and_openapi_contradict_each_other() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/a", page(), methods=["GET"], openapi_extra={"x-audit-action": "doc.write"})
    assert "@action says 'doc.read' but x-audit-action says 'doc.write'" in problems(app)


def test_a_malformed_openapi_extra() -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/a", page(None), methods=["GET"], openapi_extra={"x-audit-action": {"nmae": "x"}})
    assert "unknown key 'nmae'" in problems(app)


@pytest.mark.parametrize(
    ("match", "finds"),
    [
        ("GET /a", True),
        ("HEAD /a", True),
        ("* /a", True),
        ("GET /b/{n:int}", True),
        ("GET /b/{n}", True),
        ("GET /b/{m}", False),
        ("POST /a", False),
        ("WS /a", False),
        ("GET /typo", False),
        ("GET /a/", False),
        ("WS /s", True),
        ("GET /s", False),
        ("* /s", False),
        ("GET default", False),
        ("GET /m/{path}", True),
        ("* /m/{path:path}", True),
    ],
)
def test_a_policy_entry_that_matches_no_route(match: str, finds: bool) -> None:
    async def foreign(scope: Any, receive: Any, send: Any) -> None: ...

    async def socket(websocket: WebSocket) -> None: ...

    app = Starlette(
        routes=[
            Route("/a", page(None)),
            Route("/b/{n:int}", page(None)),
            WebSocketRoute("/s", socket),
            Mount("/m", foreign),
        ]
    )
    found = problems(app, "default: allow\n" + ACTIONS + f"routes: [{{match: '{match}', exempt: x}}]\n")
    assert ("matches no route" in found) is not finds
    if not finds:
        assert "line 5" in found


SHADOWS: dict[str, tuple[list[BaseRoute], str | None]] = {
    "parameter first": ([Route("/x/{n}", page()), Route("/x/new", page("doc.write"))], "/x/{n}"),
    "literal first": ([Route("/x/new", page("doc.write")), Route("/x/{n}", page())], None),
    "same twice": ([Route("/x", page()), Route("/x", page("doc.write"))], "/x"),
    "other method": ([Route("/x", page()), Route("/x", page("doc.write"), methods=["POST"])], None),
    "mount first": ([Mount("/x", routes=[]), Route("/x/y", page("doc.write"))], "/x"),
    "opaque mount first": ([Mount("/x", app=page(None)), Route("/x/y", page("doc.write"))], "/x/{path}"),
    "by type": ([Route("/x/{n:int}", page()), Route("/x/{s}", page("doc.write"))], None),
    "path first": ([Route("/{rest:path}", page()), Route("/x/{s}", page("doc.write"))], "/{rest}"),
    "a socket is no page": ([Route("/{rest:path}", page()), WebSocketRoute("/x", page("doc.write"))], None),
}


@pytest.mark.parametrize("name", SHADOWS)
def test_a_route_that_never_runs(name: str) -> None:
    routes, by = SHADOWS[name]
    found = problems(Starlette(routes=routes), "default: allow\n" + ACTIONS)
    assert (f"never runs: {by} takes its requests first" in found) is (by is not None)
    assert ("never runs" in found) is (by is not None)


def test_a_shadow_inside_an_included_router() -> None:
    router = APIRouter(prefix="/r")
    router.add_api_route("/{n}", page(), methods=["GET"])
    router.add_api_route("/new", page("doc.write"), methods=["GET"])
    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/v1")
    assert "GET /v1/r/new" in problems(app)
    assert "never runs: /v1/r/{n}" in problems(app)


def test_a_route_that_looks_at_more_than_the_path_is_no_shadow() -> None:
    class Versioned(Route):
        def matches(self, scope: Any) -> Any:
            match, child = super().matches(scope)
            return (match, child) if (b"x-v", b"2") in scope["headers"] else (Match.NONE, {})

    app = Starlette(routes=[Versioned("/x", page()), Versioned("/x", page("doc.write"))])
    assert problems(app) == ""


def test_a_convertor_of_ones_own_makes_no_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    class Year(Convertor[int]):
        regex = "[0-9]{4}"

        def convert(self, value: str) -> int:
            return int(value)

        def to_string(self, value: int) -> str:
            return str(value)

    monkeypatch.setitem(CONVERTOR_TYPES, "year", Year())
    app = Starlette(routes=[Route("/{any}", page()), Route("/{y:year}", page("doc.write"))])
    assert "never runs" not in problems(app)


def test_a_resource_that_names_no_path_parameter() -> None:
    app = Starlette(routes=[Route("/x/{number:int}", page("doc.read", "doc/{id}"))])
    assert "resource 'doc/{id}' names {id}, which is not in the path" in problems(app)
    assert problems(Starlette(routes=[Route("/x/{id:int}", page("doc.read", "doc/{id}"))])) == ""


def test_a_resource_that_is_no_template() -> None:
    app = FastAPI(openapi_url=None)
    extra = {"x-audit-action": {"name": "doc.read", "resource": "doc/{id.x}"}}
    app.add_api_route("/x/{id}", page(None), methods=["GET"], openapi_extra=extra)
    assert "resource 'doc/{id.x}' of doc.read is not of the form" in problems(app)


def test_an_unknown_route_class() -> None:
    class Own(BaseRoute):
        path = "/own"

        def matches(self, scope: Any) -> Any:
            return Match.FULL, {}

    assert "* /own (Own): unknown route class" in problems(Starlette(routes=[Own(), Route("/a", page())]))


def test_a_router_with_a_match_loop_of_its_own() -> None:
    class OwnLoop(Router):
        async def app(self, scope: Any, receive: Any, send: Any) -> None: ...

    app = Starlette(routes=[Mount("/m", OwnLoop([Route("/x", page())]))])
    assert "OwnLoop has a match loop of its own" in problems(app)


def test_opaque_applications_need_an_entry(tmp_path: Path) -> None:
    app = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))])
    assert "/static/{path}" in problems(app)
    for match in ("GET /static/{path}", "* /static/{path:path}"):
        assert problems(app, ACTIONS + f"routes: [{{match: '{match}', action: doc.read}}]\n") == ""


def test_a_frontend_needs_an_entry(tmp_path: Path) -> None:
    app = FastAPI(openapi_url=None)
    if not hasattr(app, "frontend"):
        pytest.skip("this FastAPI has no frontends")
    app.frontend("/app", directory=tmp_path)
    assert "GET /app/{path} (frontend): is opaque" in problems(app)
    assert problems(app, ACTIONS + "routes: [{match: 'GET /app/{path}', action: doc.read}]\n") == ""


def test_a_default_handler_needs_an_entry() -> None:
    async def fallback(scope: Any, receive: Any, send: Any) -> None: ...

    app = Starlette(routes=[Route("/a", page())])
    app.router.default = fallback
    assert "* default" in problems(app)
    assert problems(app, ACTIONS + "routes: [{match: '* default', action: doc.read}]\n") == ""


# --- digest ------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_routes_and_policy() -> None:
    def of(*routes: BaseRoute, policy: str = ACTIONS) -> str:
        return inventory(Starlette(routes=list(routes)), policy).digest

    one = of(Route("/a", page()))
    assert one == of(Route("/a", page()))
    assert one.startswith("sha256:")
    assert (
        len(
            {one, of(Route("/b", page())), of(Route("/a", page("doc.write"))), of(Route("/a", page(), methods=["PUT"]))}
        )
        == 4
    )
    assert one != of(Route("/a", page()), policy=ACTIONS + "default: allow\n")


def test_infos_are_values() -> None:
    assert RouteInfo("/a", "GET", "route", "x") == RouteInfo("/a", "GET", "route", "x")
