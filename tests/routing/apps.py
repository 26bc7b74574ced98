"""Random applications: the same seed gives the same application twice, once bare and once to be guarded."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

from audit_middleware.frameworks.marks import action

SEGMENTS = ("a", "b", "c", "items", "x-y", "A")
PARAMETERS = ("{p%d}", "{n%d:int}", "{rest%d:path}", "{f%d:float}", "{u%d:uuid}", "pre-{p%d}")
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
VALUES = {
    "p": ("1", "a", "z z"),
    "n": ("7", "x", "0"),
    "rest": ("q/w", "", "a"),
    "f": ("1.5", "2"),
    "u": ("0b1e2c3d-0000-4000-8000-000000000000", "nope"),
}
HOSTS = (b"a.example.org", b"t1.example.net", b"testserver")


class VersionedRoute(APIRoute):
    """A route that also looks at a header: FastAPI users version their APIs so."""

    def matches(self, scope: Any) -> tuple[Match, Any]:
        match, child = super().matches(scope)
        if match is not Match.NONE and (b"x-v", b"2") not in scope["headers"]:
            return Match.NONE, {}
        return match, child


class App:
    """One random application, what ran in it, and the paths worth asking for."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.ran: list[tuple[str, dict[str, Any]]] = []
        self.templates: list[str] = ["/docs", "/openapi.json", "/nowhere"]
        self.targets: list[tuple[str, str]] = []  # (method, template) of routes: requests worth making
        self.endpoints = 0
        self.parameters = 0
        self.app = FastAPI(redirect_slashes=self.random.random() < 0.8, root_path=self._maybe("", "/proxy", 0.9))
        if self.random.random() < 0.3:
            self.app.add_middleware(CORSMiddleware, allow_origins=["https://other.example"])
        self._fill_api(self.app, "", 0)
        if self.random.random() < 0.3:
            self.app.router.default = self._opaque("default")

    def _maybe(self, usual: str, other: str, chance: float) -> str:
        return usual if self.random.random() < chance else other

    # --- endpoints -----------------------------------------------------------------------------------------------

    def _next(self) -> str:
        self.endpoints += 1
        return f"r.e{self.endpoints}"

    def _endpoint(self, *, asynchronous: bool) -> Callable[..., Any]:
        name = self._next()

        def note(request: Request) -> JSONResponse:
            params = {key: str(value) for key, value in request.path_params.items()}
            self.ran.append((name, params))
            return JSONResponse({"ran": name, "params": params}, headers={"set-cookie": "k=v"})

        if asynchronous:

            async def endpoint(request: Request) -> JSONResponse:
                return note(request)
        else:

            def endpoint(request: Request) -> JSONResponse:  # type: ignore[misc]  # the sync twin
                return note(request)

        return action(name)(endpoint)

    def _class(self) -> type[HTTPEndpoint]:
        namespace: dict[str, Any] = {}
        for verb in self.random.sample(["get", "post", "put", "delete", "head"], self.random.randint(1, 4)):
            name = self._next()

            def handler(endpoint: HTTPEndpoint, request: Request, name: str = name) -> JSONResponse:
                self.ran.append((name, {}))
                return JSONResponse({"ran": name})

            namespace[verb] = action(name)(handler)
        return type("Endpoint", (HTTPEndpoint,), namespace)

    def _socket(self) -> Callable[..., Any]:
        name = self._next()

        async def endpoint(websocket: WebSocket) -> None:
            self.ran.append((name, {}))
            await websocket.accept()
            await websocket.send_text(name)
            await websocket.close()

        return action(name)(endpoint)

    def _opaque(self, name: str) -> Callable[..., Any]:
        async def foreign(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
                return
            self.ran.append((f"opaque {name}", {}))
            await JSONResponse({"opaque": name})(scope, receive, send)

        return foreign

    # --- structure -----------------------------------------------------------------------------------------------

    def _path(self, prefix: str, *, mount: bool = False) -> str:
        parts = []
        for _ in range(self.random.randint(1, 3)):
            part = self.random.choice(SEGMENTS)
            if self.random.random() < 0.3:
                self.parameters += 1  # a name may stand only once in a template, however deep it is nested
                part = self.random.choice(PARAMETERS[:2] if mount else PARAMETERS) % self.parameters
            parts.append(part)
        path = "/" + "/".join(parts) + ("/" if not mount and self.random.random() < 0.2 else "")
        self.templates.append(prefix + path)
        return path

    def _target(self, *methods: str) -> None:
        self.targets += [(method, self.templates[-1]) for method in methods]

    def _fill_api(self, target: FastAPI | APIRouter, prefix: str, depth: int) -> None:
        for _ in range(self.random.randint(2, 6)):
            kind = self.random.choice(
                ["api", "api", "api", "versioned", "plain", "class", "ws", "include", "mount", "host"]
            )
            self._add_api(target, kind, prefix, depth)
        if hasattr(target, "frontend") and self.random.random() < 0.2:
            target.frontend(self.random.choice(["/", "/f"]), directory=self.folder, check_dir=False)
            self.templates += [prefix + "/f/index.html", prefix + "/index.html"]

    def _add_api(self, target: FastAPI | APIRouter, kind: str, prefix: str, depth: int) -> None:
        router = target.router if isinstance(target, FastAPI) else target
        if kind in ("api", "versioned"):
            methods = self.random.sample(METHODS[:6], self.random.randint(1, 2))
            endpoint = self._endpoint(asynchronous=self.random.random() < 0.8)
            override = VersionedRoute if kind == "versioned" else None
            router.add_api_route(self._path(prefix), endpoint, methods=methods, route_class_override=override)
            self._target(*methods)
        elif kind == "ws":
            router.add_api_websocket_route(self._path(prefix), self._socket())
            self._target("WS")
        elif kind == "include" and depth < 3:
            self._include(target, prefix, depth)
        elif kind in ("plain", "class", "mount", "host"):
            route = self._plain_route(kind, prefix, depth)
            if route is not None:
                router.routes.append(route)

    def _include(self, target: FastAPI | APIRouter, prefix: str, depth: int) -> None:
        self.parameters += 1
        own = self.random.choice(["", "/r", f"/own/{{p{self.parameters}}}"])
        inner = APIRouter(prefix=own, redirect_slashes=self.random.random() < 0.8)
        under = self._path(prefix, mount=True)
        self._fill_api(inner, prefix + under + own, depth + 1)
        target.include_router(inner, prefix=under)
        if self.random.random() < 0.3:  # one router, included twice
            again = "/again"
            self.templates += [prefix + again + t.removeprefix(prefix + under) for t in self.templates[-3:]]
            target.include_router(inner, prefix=again)
        if self.random.random() < 0.3:  # a route that comes after the include
            inner.add_api_route("/late", self._endpoint(asynchronous=True), methods=["GET"])
            self.templates.append(prefix + under + own + "/late")

    def _plain_route(self, kind: str, prefix: str, depth: int) -> BaseRoute | None:
        if kind == "plain":
            methods = self.random.choice([None, ["GET"], ["POST", "DELETE"]])
            route = Route(self._path(prefix), self._endpoint(asynchronous=self.random.random() < 0.7), methods=methods)
            self._target(*(methods or ["GET"]))
            return route
        if kind == "class":
            route = Route(self._path(prefix), self._class())
            self._target("GET", "POST", "PUT")
            return route
        if depth >= 3:
            return None
        if kind == "host":
            host = self.random.choice(["a.example.org", "{tenant}.example.net"])
            return Host(host, app=Router(self._plain_routes(prefix, depth + 1)))
        return self._mount(prefix, depth)

    def _mount(self, prefix: str, depth: int) -> Mount:
        path = self._path(prefix, mount=True)
        kind = self.random.choice(["fastapi", "starlette", "router", "opaque", "middleware"])
        below = prefix + path
        self.templates.append(below + "/")
        if kind == "fastapi":
            inner = FastAPI()
            self._fill_api(inner, below, depth + 1)
            return Mount(path, app=inner)
        if kind == "starlette":
            return Mount(path, app=Starlette(routes=self._plain_routes(below, depth + 1)))
        if kind == "router":
            return Mount(path, routes=self._plain_routes(below, depth + 1))
        if kind == "middleware":
            cors = Middleware(CORSMiddleware, allow_origins=["*"])
            return Mount(path, routes=self._plain_routes(below, depth + 1), middleware=[cors])
        self.templates.append(below + "/inside")
        return Mount(path, app=self._opaque(path))

    def _plain_routes(self, prefix: str, depth: int) -> list[BaseRoute]:
        routes: list[BaseRoute] = []
        for _ in range(self.random.randint(1, 4)):
            kind = self.random.choice(["plain", "plain", "class", "ws", "mount"])
            if kind == "ws":
                routes.append(WebSocketRoute(self._path(prefix), self._socket()))
                self._target("WS")
            else:
                route = self._plain_route(kind, prefix, depth)
                if route is not None:
                    routes.append(route)
        return routes


def requests(app: App, count: int, seed: int) -> list[tuple[str, str, list[tuple[bytes, bytes]]]]:
    """Requests at and around an application's own templates."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        method, template = rng.choice((*METHODS, "QUERY", "WS", "BREW")), rng.choice(app.templates)
        if app.targets and rng.random() < 0.7:
            method, template = rng.choice(app.targets)
            method = "HEAD" if method == "GET" and rng.random() < 0.1 else method
        path = _fill(rng, template)
        roll = rng.random() * (0.6 if rng.random() < 0.5 else 4)
        if roll < 0.15:
            path = path.rstrip("/") if path.endswith("/") and path != "/" else path + "/"
        elif roll < 0.2:
            path += rng.choice(["\n", "/x", "//", "/..", "/%2e", ";a", "\u00e9"])
        elif roll < 0.25:
            path = "/" + path
        headers = [(b"host", rng.choice(HOSTS))]
        if rng.random() < 0.7:
            headers.append((b"x-v", b"2"))
        if rng.random() < 0.1:
            headers += [(b"origin", b"https://other.example"), (b"access-control-request-method", b"GET")]
        made.append((method, path, headers))
    return made


def _fill(rng: random.Random, template: str) -> str:
    def value(match: re.Match[str]) -> str:
        good = VALUES[match[1]][0]
        return good if rng.random() < 0.7 else rng.choice(VALUES[match[1]])

    return re.sub(r"\{([a-z]+)\d+(?::[a-z]+)?\}", value, template)
