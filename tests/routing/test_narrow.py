"""Narrowing leaves out no route that could match, keeps their order, and gives up where it cannot be sure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

from audit_middleware.frameworks import narrow
from audit_middleware.frameworks.guard import install
from audit_middleware.frameworks.narrow import Narrower
from tests.kit import call

LAZY = hasattr(FastAPI, "frontend")
"""Are included routers asked when a request comes? Before FastAPI 0.137 their routes were copied."""


class SlashConvertor(Convertor[str]):
    """A convertor of the user's own, which matches slashes."""

    regex = "[a-z/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("slashes", SlashConvertor())

SEGMENTS = [
    "a",
    "b",
    "items",
    "x.y",
    "it-ems",
    "{p}",
    "{n:int}",
    "{f:float}",
    "{u:uuid}",
    "v{n:int}",
    "{p}.json",
    "{a}-{b}",
]
LAST = ["{rest:path}", "{own:slashes}", "pre{rest:path}post", ""]
VALUES = ["a", "b", "items", "x.y", "xzy", "it-ems", "7", "1.5", "v7", "a-b", "doc.json", "é", "A", "", "{p}", "a b",
          "123e4567-e89b-12d3-a456-426614174000"]  # fmt: skip


async def page(request: Request) -> Response:
    return PlainTextResponse("page")


def template(chance: random.Random) -> str:
    parts = [chance.choice(SEGMENTS) for _ in range(chance.randint(0, 3))]
    if chance.random() < 0.4:
        parts.append(chance.choice(LAST))
    seen: set[str] = set()
    for number, part in enumerate(parts):  # a name may stand in a template once
        for name in ("p", "n", "f", "u", "a", "b", "rest", "own"):
            if f"{{{name}" in part:
                if name in seen:
                    parts[number] = "items"
                seen.add(name)
    return "/" + "/".join(parts)


def path(chance: random.Random) -> str:
    return "/" + "/".join(chance.choice(VALUES) for _ in range(chance.randint(0, 5)))


def route(chance: random.Random) -> BaseRoute:
    roll = chance.random()
    if roll < 0.7:
        return Route(template(chance), page, methods=[chance.choice(["GET", "POST"])])
    if roll < 0.8:
        return WebSocketRoute(template(chance), page)
    if roll < 0.97:
        return Mount(template(chance).replace("{rest:path}", "m").replace("{own:slashes}", "m"), app=Router([]))
    return Host("{sub}.example.org", Router([]))


def api(chance: random.Random, depth: int = 0) -> APIRouter:
    """A router with included ones in it."""
    router = APIRouter()
    for _ in range(chance.randint(1, 6)):
        if depth < 3 and chance.random() < 0.4:
            prefix = chance.choice(["/c", "/a", "/items", f"/{{t{depth}}}", "/b/x.y", f"/v{{t{depth}:int}}/a"])
            router.include_router(api(chance, depth + 1), prefix=prefix)
        elif chance.random() < 0.6:
            router.add_api_route(template(chance), page, methods=[chance.choice(["GET", "POST"])])
        else:
            router.routes.append(route(chance))
    return router


def scope(path: str, kind: str = "http", root: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "method": "GET",
        "path": root + path,
        "root_path": root,
        "headers": [(b"host", b"www.example.org")],
        "query_string": b"",
    }


def leaves(routes: Any, asked: dict[str, Any]) -> Iterator[int]:
    """The routes that match, in the order in which the router asks; included ones by what is below them."""
    for one in routes:
        candidates = getattr(one, "effective_candidates", None)
        if candidates is not None:
            yield from leaves(candidates(), asked)
            continue
        owner = getattr(one, "original_route", one)
        if hasattr(one, "starlette_route") and one.starlette_route is None:
            matched = one.matches(asked)[0]
        else:
            matched = (getattr(one, "starlette_route", None) or one).matches(asked)[0]
        if matched is not Match.NONE:
            yield id(owner) if matched is Match.FULL else -id(owner)


def toggled(asked: dict[str, Any]) -> dict[str, Any]:
    found = asked["path"]
    return {**asked, "path": found.rstrip("/") if found.endswith("/") else found + "/"}


@pytest.mark.parametrize("seed", range(30))
def test_nothing_that_could_match_is_left_out(seed: int) -> None:
    chance = random.Random(seed)
    router = api(chance) if seed % 2 else Router([route(chance) for _ in range(chance.randint(1, 25))])
    narrower = Narrower(router)
    shorter = 0
    for _ in range(200):
        asked = scope(path(chance), chance.choice(["http", "websocket"]), chance.choice(["", "", "/root"]))
        found = narrower.narrowed(asked)
        for one in (asked, toggled(asked)):
            assert list(leaves(found.routes, one)) == list(leaves(router.routes, one)), (seed, one["path"])
        shorter += len(found.routes) < len(router.routes)
    if len(router.routes) > 3:
        assert shorter, "or it would be of no use"


def test_how_short_the_list_is() -> None:
    app = FastAPI(openapi_url=None)
    for number in range(20):
        router = APIRouter(prefix=f"/r{number}")
        for item in range(20):
            router.add_api_route(f"/items{item}/{{item_id}}", page)
        app.include_router(router)
    found: list[Any] = list(Narrower(app.router).narrowed(scope("/r3/items7/1")).routes)
    if LAZY:
        (included,) = found  # a copy of FastAPI's node
        found = included.effective_candidates()
    assert [route.path for route in found] == ["/r3/items7/{item_id}"]
    assert Narrower(app.router).narrowed(scope("/nowhere")).routes == []


def test_lists_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "_MOST_STATES", 6)
    monkeypatch.setattr(narrow, "_MOST_LISTS", 2)
    router = Router([Route(f"/{name}", page) for name in "abcdef"])
    narrower = Narrower(router)
    assert narrower.narrowed(scope("/a")) is narrower.narrowed(scope("/a"))
    for number in range(100):
        assert narrower.narrowed(scope(f"/{'abcdef'[number % 6]}")).routes == [router.routes[number % 6]]
        assert narrower.narrowed(scope(f"/none{number}")).routes == []
    trie = narrower._trie
    assert trie is not None
    assert 6 <= trie._states < 6 + 7, "the last one is counted with the six names it may know"
    assert len(trie._by_key) <= 2


def test_what_is_kept_is_what_a_new_one_finds() -> None:
    paths = ("/a/{id}", "/a/b/{id}", "/{name}/b", "/{name}/", "/a/{rest:path}", "/")
    router = Router([Route(one, page) for one in paths])
    narrower = Narrower(router)
    segments = ("a", "b", "x", "y")
    asked = ["/", *(f"/{'/'.join(one)}{end}" for n in (1, 2, 3) for one in product(segments, repeat=n) for end in "|/")]
    for one in 3 * [path.rstrip("|") for path in asked]:
        assert narrower.narrowed(scope(one)).routes == Narrower(router).narrowed(scope(one)).routes, one
    assert narrower.narrowed(scope("/b/x")) is narrower.narrowed(scope("/b/y"))


def test_paths_that_patterns_forgive() -> None:
    router = Router([Route("/a", page), Route("/b", page)])
    for forgiven in ("/a\n", "//a", "/a//"):
        assert Narrower(router).narrowed(scope(forgiven)).router is router


# --- routes that change ------------------------------------------------------------------------------------------


def test_changed_lists_are_seen() -> None:
    router = Router([Route("/a", page), Route("/b", page)])
    narrower = Narrower(router)
    assert narrower.narrowed(scope("/c")).routes == []
    added = Route("/c", page)
    router.routes.append(added)
    assert narrower.narrowed(scope("/c")).routes == [added]
    router.routes[2] = replaced = Route("/c", page)  # equal to the other, and another object
    assert narrower.narrowed(scope("/c")).routes[0] is replaced
    router.routes = [added]
    assert narrower.narrowed(scope("/a")).routes == []


@pytest.mark.skipif(not LAZY, reason="this FastAPI copies the routes when a router is included")
def test_changes_below_an_include_are_seen() -> None:
    app, inner = FastAPI(openapi_url=None), APIRouter()
    inner.add_api_route("/a", page)
    app.include_router(inner, prefix="/i")
    narrower = Narrower(app.router)
    assert narrower.narrowed(scope("/i/b")).routes == []
    inner.add_api_route("/b", page)
    assert len(narrower.narrowed(scope("/i/b")).routes) == 1


def test_a_replaced_default_is_seen() -> None:
    """Or the old one would run, of which nobody was told."""

    async def other(scope: Any, receive: Any, send: Any) -> None: ...

    router = Router([Route("/a", page)])
    narrower = Narrower(router)
    for name, value in (("default", other), ("default", router.not_found), ("redirect_slashes", False)):
        narrower.narrowed(scope("/b"))
        setattr(router, name, value)
        assert getattr(narrower.narrowed(scope("/b")).router, name) == value


class Computed(Router):
    """Routes of its own for every request."""

    @property
    def routes(self) -> list[BaseRoute]:
        return [Route("/a", page)]

    @routes.setter
    def routes(self, routes: Any) -> None: ...


def test_routes_that_are_computed_are_left_alone() -> None:
    router = Computed()
    assert Narrower(router).narrowed(scope("/b")).router is router


def test_a_router_that_changes_all_the_time_is_left_alone() -> None:
    router = Router([Route("/a", page)])
    narrower = Narrower(router)
    for number in range(40):
        router.routes.append(Route(f"/{number}", page))
        narrower.narrowed(scope("/a"))
    assert narrower.narrowed(scope("/a")).router is router


# --- what is not understood --------------------------------------------------------------------------------------


class OwnMatches(Route):
    def matches(self, scope: Any) -> tuple[Match, Any]:
        return Match.FULL, {"endpoint": page}


class OwnApiMatches(APIRoute):
    def matches(self, scope: Any) -> tuple[Match, Any]:
        return Match.FULL, {"endpoint": page}


class Harmless(APIRoute):
    """A subclass that leaves matching alone, as most do."""


class OwnRouter(APIRouter):
    def matches(self, scope: Any) -> tuple[Match, Any]:
        return Match.FULL, {}


def with_included(inner: APIRouter) -> Router:
    app = FastAPI(openapi_url=None)
    app.include_router(inner, prefix="/i")
    return app.router


def patched() -> Router:
    one = Route("/a", page)
    one.matches = lambda scope: (Match.FULL, {"endpoint": page})  # type: ignore[method-assign]
    return Router([one])


def rewritten() -> Router:
    one = Route("/a", page)
    one.path_regex = Route("/b", page).path_regex
    return Router([one])


def router_of(kind: Any, outer: Any = APIRouter) -> APIRouter:
    router: APIRouter = outer(route_class=kind)
    router.add_api_route("/a", page)
    return router


UNKNOWN = {
    "own matches": lambda: Router([OwnMatches("/a", page)]),
    "an instance's own matches": patched,
    "another pattern than its template's": rewritten,
    "FastAPI route with its own matches": lambda: router_of(OwnApiMatches),
    "the same, included": lambda: with_included(router_of(OwnApiMatches)),
}
if LAZY:  # else the routes are copied, and the router is never asked
    UNKNOWN["an included router with its own matches"] = lambda: with_included(router_of(APIRoute, OwnRouter))


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_what_is_not_understood_is_left_alone(make: Any) -> None:
    router = make()
    assert Narrower(router).narrowed(scope("/other")).router is router


@pytest.mark.parametrize("make", [lambda: router_of(Harmless), lambda: with_included(router_of(Harmless))])
def test_subclasses_that_leave_matching_alone(make: Any) -> None:
    assert Narrower(make()).narrowed(scope("/other")).routes == []


# --- what an application sees ------------------------------------------------------------------------------------


class Yes:
    """A gate that admits everything."""

    replay = None

    async def admit(self, *arguments: Any) -> None:
        return None

    def selected(self, *arguments: Any) -> bool:
        return True


def test_the_applications_router_is_the_real_one() -> None:
    async def told(request: Request) -> Response:
        return PlainTextResponse(f"{request.scope['router'] is router} {request.url_for('far', name='x')}")

    async def far(request: Request) -> Response:
        return PlainTextResponse("far")

    router = Router([Route("/here", told), Route("/far/{name}", far, name="far")])
    install(router)

    async def main() -> bytes:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await router({**scope, "audit_middleware.gate": Yes()}, receive, send)

        return (await call(app, "GET", "/here", [(b"host", b"h")])).body

    assert asyncio.run(main()) == b"True http://h/far/x"


@pytest.mark.parametrize("path", ["/before/x", "/after", "/nowhere", "/both"])
def test_the_scope_is_as_the_whole_router_leaves_it(path: str) -> None:
    """Asking an included router leaves a key there, also where that router has nothing for this path."""

    def make() -> tuple[APIRouter, list[list[str]]]:
        seen: list[list[str]] = []

        async def told(request: Request) -> Response:
            seen.append(sorted(name for name in request.scope if not name.startswith("audit_middleware")))
            return PlainTextResponse("told")

        router, inner = APIRouter(), APIRouter()
        router.routes += [Route("/before/{x}", told), Route("/both", told, methods=["POST"])]
        inner.add_api_route("/within", told)
        router.include_router(inner, prefix="/i")
        router.routes += [Route("/after", told), Route("/both", told, methods=["GET"])]
        return router, seen

    async def main() -> None:
        (bare, expected), (router, seen) = make(), make()
        install(router)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await router({**scope, "audit_middleware.gate": Yes()}, receive, send)

        assert (await call(app, "GET", path)).status == (await call(bare, "GET", path)).status
        assert seen == expected
        assert bool(seen) == (path != "/nowhere")

    asyncio.run(main())


def test_root_paths_are_taken_off() -> None:
    router = Router([Route("/a", page), Route("/root/a", page)])
    asked = scope("/a", root="/root")
    assert get_route_path(asked) == "/a"
    assert Narrower(router).narrowed(asked).routes == [router.routes[0]]
