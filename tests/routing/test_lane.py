"""The only route that could match is asked once, and never answers for another request than the one it was asked of."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router

from audit_middleware import action
from audit_middleware.frameworks import fastapi
from audit_middleware.frameworks.guard import GATE, arm, install
from audit_middleware.frameworks.marks import MARK
from audit_middleware.frameworks.narrow import Narrower
from audit_middleware.model import Found
from tests.kit import Answer, call

LAZY = hasattr(FastAPI, "frontend")
"""Are included routers asked when a request comes? Before FastAPI 0.137 their routes were copied."""

lazy = pytest.mark.skipif(not LAZY, reason="this FastAPI copies the routes when a router is included")


@action("doc.read")
async def page(request: Request) -> Response:
    return PlainTextResponse(f"page {sorted(request.path_params.items())}")


def scope(path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", **more}


def nested(depth: int = 1) -> FastAPI:
    """One route below so many included routers, and others that do not match."""
    app, router = FastAPI(openapi_url=None), APIRouter()
    router.add_api_route("/doc/{name}", page, methods=["GET"])
    router.add_api_route("/other", page)
    for level in range(depth):
        outer = APIRouter() if level + 1 < depth else app.router
        outer.include_router(router, prefix=f"/l{level}")
        router = outer
    return app


def path_of(depth: int, name: str = "x") -> str:
    return "".join(f"/l{level}" for level in reversed(range(depth))) + f"/doc/{name}"


class Gate:
    """Admits everything, after it did something to the scope."""

    replay: Any = None

    def __init__(self, meddle: Callable[[Any], None] = lambda scope: None) -> None:
        self.meddle = meddle
        self.found: list[Found] = []

    async def admit(self, scope: Any, receive: Any, found: Found) -> None:
        self.found.append(found)
        self.meddle(scope)

    def selected(self, found: Found, endpoint: Any) -> bool:
        return True


def ask(app: Any, path: str, gate: Gate | None = None, method: str = "GET") -> Answer:
    """One request to an application or router, through its guard if there is one."""
    gate = gate or Gate()

    async def below(scope: Any, receive: Any, send: Any) -> None:
        held = arm({**scope, GATE: gate}, gate)
        await app(held, receive, send)

    return asyncio.run(call(below, method, path))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that FastAPI's effective contexts are asked about."""
    from fastapi.routing import _EffectiveRouteContext  # type: ignore[attr-defined, unused-ignore]  # of some versions

    asked: list[str] = []
    original = _EffectiveRouteContext.matches

    def matches(self: Any, scope: Any) -> Any:
        asked.append(scope["path"])
        return original(self, scope)

    monkeypatch.setattr(_EffectiveRouteContext, "matches", matches)
    return asked


@lazy
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_an_included_route_is_asked_once(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    app = nested(depth)
    bare = ask(nested(depth), path_of(depth))
    install(app.router)
    asked = counted(monkeypatch)
    ask(app, path_of(depth))  # the first time both ways, to see that they are the same
    for name in ("x", "y"):
        asked.clear()
        gate = Gate()
        answer = ask(app, path_of(depth, name), gate)
        assert asked == [path_of(depth, name)]
        assert answer.body == bare.body.replace(b"'x'", f"'{name}'".encode())
        assert gate.found == [
            Found("route", path_of(depth, "{name}"), page, getattr(page, MARK), "GET", {"name": name})
        ]


@lazy
def test_a_way_that_is_not_the_same_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FastAPI whose route and context disagree is asked in full each time."""
    app = nested()
    install(app.router)
    from fastapi.routing import APIRoute

    original, calls = APIRoute.matches, []

    def matches(self: Any, scope: Any) -> Any:
        calls.append(scope["path"])
        match, child = original(self, scope)
        return match, {**child, "extra": True} if child else child

    monkeypatch.setattr(APIRoute, "matches", matches)
    for _ in range(3):
        calls.clear()
        assert ask(app, path_of(1)).status == 200
        assert calls, "the route itself"


MEDDLING: dict[str, Callable[[Any], None]] = {
    "path": lambda scope: scope.update(path="/l0/other"),
    "nowhere": lambda scope: scope.update(path="/nowhere"),
    "method": lambda scope: scope.update(method="DELETE"),
    "root path": lambda scope: scope.update(root_path="/l0"),
    "path parameters": lambda scope: scope.update(path_params={"more": "1"}),
    "nothing": lambda scope: None,
}


@pytest.mark.parametrize("how", MEDDLING)
@pytest.mark.parametrize("depth", [1, 3])
def test_what_changed_since_is_asked_again(how: str, depth: int) -> None:
    """Whoever is asked between the guard and the router may change the scope: then the router decides, as it would."""
    narrowed, whole = nested(depth), nested(depth)
    install(narrowed.router)
    install(whole.router, narrow=False)
    for _ in range(3):
        answers = [ask(app, path_of(depth), Gate(MEDDLING[how])) for app in (narrowed, whole)]
        found, expected = [(answer.status, answer.body) for answer in answers]
        if how == "path":  # the routes that could match were picked for the path that was asked about
            assert found[0] == 404
        else:
            assert found == expected


def test_routers_look_at_all_routes_where_the_guard_alone_is_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are held to what it found: an index that left a route out would refuse requests, and let none through."""

    async def first(request: Request) -> Response:
        return PlainTextResponse("first")

    class Strict(Gate):
        def selected(self, found: Found, endpoint: Any) -> bool:
            return endpoint is found.endpoint

    looked: list[Any] = []

    class Seen(Route):
        matches = Route.matches  # of the known ones

        async def handle(self, scope: Any, receive: Any, send: Any) -> None:
            looked.append(scope["router"].routes)
            await super().handle(scope, receive, send)

    router = Router([Route("/b", page), Seen("/doc/{name}", first), Seen("/doc/{name}", page)])
    install(router, narrow="guard")
    gate = Strict()
    assert ask(router, "/doc/x", gate).body == b"first"
    assert looked == [router.routes]
    assert gate.found[0].endpoint is first
    short = Narrower(Router(router.routes[2:])).narrowed(scope("/doc/x"))
    monkeypatch.setattr(Narrower, "narrowed", lambda self, scope: short)
    assert type(ask(router, "/doc/x", Strict()).error) is HTTPException


def test_a_handler_may_change_its_parameters() -> None:
    """The record is made later: it must not see that."""

    async def greedy(request: Request) -> Response:
        request.scope["path_params"].clear()
        return PlainTextResponse("gone")

    app = FastAPI(openapi_url=None)
    inner = APIRouter()
    inner.add_api_route("/doc/{name}", greedy)
    app.include_router(inner, prefix="/l0")
    app.router.routes.append(Route("/plain/{name}", greedy))
    install(app.router)
    for path in ("/l0/doc/x", "/plain/x"):
        for _ in range(3):
            gate = Gate()
            assert ask(app, path, gate).body == b"gone"
            assert dict(gate.found[0].path_params) == {"name": "x"}


def test_a_mark_that_changes_is_seen() -> None:
    async def handler(request: Request) -> Response:
        return PlainTextResponse("page")

    router = Router([Route("/doc", handler), Route("/b", page)])
    install(router)

    def name() -> str | None:
        gate = Gate()
        assert ask(router, "/doc", gate).status == 200
        return gate.found[0].action.name if gate.found[0].action else None

    assert [name(), name()] == [None, None]
    action("doc.read")(handler)
    assert [name(), name()] == ["doc.read", "doc.read"]
    delattr(handler, MARK)
    assert name() is None


def test_an_extra_that_changes_is_seen() -> None:
    app = FastAPI(openapi_url=None)
    inner = APIRouter()
    inner.add_api_route("/doc", page)
    app.include_router(inner, prefix="/l0")
    narrowed = Narrower(app.router).narrowed(scope("/l0/doc"))
    assert narrowed.lane is not None

    def found() -> str:
        given = narrowed.lane.find(scope("/l0/doc")) if narrowed.lane else None
        return "unknown" if given is None else given[0].kind

    assert [found(), found()] == ["route", "route"]
    narrowed.lane._view.openapi_extra = {"x-audit-action": "doc.delete"}
    assert found() == "unknown", "contradicts the mark, so `starlette.find` is asked, and refuses"


def test_one_lane_by_all_its_names() -> None:
    """One router below two mounts: the prefix is the request's."""
    inner = Router([Route("/doc/{name}", page), Route("/b", page)])
    router = Router([Mount("/one", inner), Mount("/two", inner)])
    install(router)
    for _ in range(2):
        for prefix in ("/one", "/two"):
            gate = Gate()
            assert ask(router, f"{prefix}/doc/x", gate).status == 200
            assert [found.template for found in gate.found] == [prefix, f"{prefix}/doc/{{name}}"]


def test_methods_that_are_kept_are_bounded() -> None:
    route = Route("/doc", page)
    route.methods = set()  # any, also those that a client makes up
    router = Router([route, Route("/b", page)])
    lane = Narrower(router).narrowed(scope("/doc")).lane
    assert lane is not None
    for number in range(500):
        given = lane.find(scope("/doc", f"M{number}"))
        assert given is not None
        assert given[0].method == f"M{number}"
    assert len(lane._known) <= 64


def test_there_is_no_lane_for_several() -> None:
    router = Router([Route("/doc", page, methods=["GET"]), Route("/doc", page, methods=["POST"])])
    assert Narrower(router).narrowed(scope("/doc")).lane is None
    assert Narrower(Router([Route("/doc", page)])).narrowed(scope("/nowhere")).lane is None


@pytest.mark.parametrize(("path", "method", "status"), [("/l0/doc/x", "POST", 405), ("/l0/other/", "GET", 307)])
def test_what_is_no_full_match_is_found_as_ever(path: str, method: str, status: int) -> None:
    app, bare = nested(), nested()
    install(app.router)
    for _ in range(3):
        answer, expected = ask(app, path, method=method), ask(bare, path, method=method)
        assert (answer.status, answer.headers, answer.body) == (expected.status, expected.headers, expected.body)
        assert answer.status == status


@lazy
def test_the_scope_of_the_question_stays_as_it_was() -> None:
    lane = Narrower(nested(2).router).narrowed(scope(path_of(2))).lane
    assert lane is not None
    asked = scope(path_of(2), fastapi={"own": 1})
    for _ in range(3):
        before = {**asked, "fastapi": dict(asked["fastapi"])}
        given = lane.find(asked)
        assert given is not None
        assert asked == before


@lazy
def test_changes_of_included_routers_are_seen() -> None:
    """Those that FastAPI sees: routes that are added, routers that are put into the list."""
    app = nested(2)
    install(app.router)
    inner: Any = app.router.routes[-1]
    router: APIRouter = inner.original_router
    assert ask(app, "/l1/new").status == 404
    router.add_api_route("/new", page)
    assert ask(app, "/l1/new").status == 200
    donor = APIRouter()
    late = APIRouter()
    late.add_api_route("/late", page)
    donor.include_router(late, prefix="/n")
    assert ask(app, "/l1/n/late").status == 404
    router.routes.append(donor.routes[0])  # without a word to FastAPI, which sees it all the same
    assert ask(app, "/l1/n/late").status == 200
    late.add_api_route("/later", page)
    assert ask(app, "/l1/n/later").status == 200


@lazy
def test_nodes_of_the_tree_that_are_replaced_in_place_are_seen() -> None:
    app = nested(2)
    narrower = Narrower(app.router)
    inner: Any = app.router.routes[-1]
    router: APIRouter = inner.original_router
    at = next(number for number, one in enumerate(router.routes) if fastapi.is_included(one))
    narrower.narrowed(scope("/"))
    trie = narrower._trie
    assert trie is not None
    assert trie.current()
    router.routes[at] = copy.copy(router.routes[at])
    assert not trie.current(), "equal, and another object"


def test_answers_are_given_to_the_scope_that_was_asked_about() -> None:
    lane = Narrower(nested().router).narrowed(scope("/l0/doc/x")).lane
    assert lane is not None
    asked = scope("/l0/doc/x", path_params={})
    given = lane.find(asked)
    assert given is not None
    answer = given[1]
    assert answer.holds(lane, asked)
    assert answer.child["path_params"] == {"name": "x"}
    changes: list[dict[str, Any]] = [
        {"path": "/l0/doc/y"}, {"method": "POST"}, {"root_path": "/r"}, {"type": "websocket"}, {"path_params": {}},
    ]  # fmt: skip
    for change in changes:
        assert not answer.holds(lane, {**asked, **change}), change
    other = Narrower(nested().router).narrowed(scope("/l0/doc/x")).lane
    assert other is not None
    assert not answer.holds(other, asked)
    assert lane.find(scope("/l0/doc/x", "POST")) is None
