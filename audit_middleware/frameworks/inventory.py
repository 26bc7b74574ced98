"""Every route of an application, as its routers hold them: the list that a policy is checked against.

Right for a listing, not for enforcement: what runs is asked of the router at each request (`starlette.find`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute

from ..errors import ResolutionError
from ..model import Action
from ..protocols import Scope
from . import fastapi
from .marks import action_of, handler_name
from .starlette import PREFIX, default_template, find, has_own_loop, inner_router, mount_template

_SAMPLES = {"str": "zq7w", "path": "zq7w", "int": "1", "float": "1.5", "uuid": "00000000-0000-4000-8000-000000000000"}
_CLASS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


class RouteInfo(msgspec.Struct, frozen=True):
    """One route and method. ``method`` is ``*`` for any, ``WS`` for a WebSocket; ``problem`` names what is wrong."""

    template: str
    method: str
    kind: str
    endpoint: str
    action: Action | None = None
    problem: str | None = None
    shadowed_by: str | None = None


def list_routes(router: Router, prefix: str = "") -> list[RouteInfo]:
    """All routes of a router and of the routers it mounts, in match order."""
    return list(_walk(router, prefix, frozenset()))


def _walk(router: Router, prefix: str, above: frozenset[int]) -> Iterator[RouteInfo]:
    if id(router) in above:
        return
    above |= {id(router)}
    if has_own_loop(router):
        name = type(router).__name__
        yield RouteInfo(prefix + "/{path}", "*", "unknown", name, problem=f"{name} has a match loop of its own")
        return
    for route in router.routes:
        pairs = fastapi.included_views(route) if fastapi.is_included(route) else iter([(route, route)])
        for leaf, view in pairs:
            yield from _entries(router, leaf, view, prefix, above)
    for template in fastapi.frontends(router):
        yield RouteInfo(prefix + template, "GET", "opaque", "frontend")
    if router.default != router.not_found or type(router).not_found is not Router.not_found:
        yield from _behind(router.default, router.default, prefix, default_template(prefix), above)


def _entries(router: Router, route: BaseRoute, view: Any, prefix: str, above: frozenset[int]) -> Iterator[RouteInfo]:
    if isinstance(route, Mount):
        template = prefix + mount_template(view)
        yield from _behind(route.app, getattr(route, "_base_app", route.app), template, template + "/{path}", above)
    elif isinstance(route, Host):
        template = f"//{route.host_format}{prefix}"
        yield from _behind(route.app, route.app, template, template + "/{path}", above)
    elif isinstance(route, WebSocketRoute):
        yield _info(router, prefix, route, view, "WS")
    elif isinstance(route, Route):
        for method in _methods(view):
            yield _info(router, prefix, route, view, method)
    else:
        name = type(route).__name__
        yield RouteInfo(prefix + str(getattr(route, "path", "?")), "*", "unknown", name, problem="unknown route class")


def _behind(app: Any, base: Any, prefix: str, template: str, above: frozenset[int]) -> Iterator[RouteInfo]:
    inner = inner_router(base)
    if inner is not None:
        yield from _walk(inner, prefix, above)
    else:
        yield RouteInfo(template, "*", "opaque", name_of(app))


def _methods(view: Any) -> list[str]:
    endpoint = view.endpoint
    if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        allowed = view.methods or _CLASS_METHODS
        return [m for m in _CLASS_METHODS if m in allowed and hasattr(endpoint, m.lower())]
    if not view.methods:
        return ["*"]
    # HEAD runs the GET handler, so it is listed only where it stands alone.
    return sorted(m for m in view.methods if m != "HEAD" or "GET" not in view.methods)


def _info(router: Router, prefix: str, route: BaseRoute, view: Any, method: str) -> RouteInfo:
    template, endpoint = prefix + view.path_format, view.endpoint
    asked = "GET" if method == "*" else method
    try:
        action = action_of(endpoint, getattr(view, "openapi_extra", None), asked)
        problem = None
    except ResolutionError as error:
        action, problem = None, str(error)
    own_match = not type(route).matches.__module__.startswith(("starlette.", "fastapi."))
    shadow = None if own_match else _shadow(router, prefix, view, asked, template)
    return RouteInfo(template, method, "route", _endpoint_name(endpoint, asked), action, problem, shadow)


def _shadow(router: Router, prefix: str, view: Any, method: str, template: str) -> str | None:
    """The template of an earlier route that takes this route's own sample path; ``None`` when there is none."""
    samples = {}
    for name, convertor in view.param_convertors.items():
        sample = _SAMPLES.get(type(convertor).__name__.removesuffix("Convertor").lower().replace("string", "str"))
        if sample is None:
            return None  # a convertor of the application's own: no sample, no claim
        samples[name] = sample
    path = view.path_format.format(**samples)
    scope: Scope = {
        "type": "websocket" if method == "WS" else "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "headers": [],
        "query_string": b"",
        PREFIX: prefix,
    }
    found = find(router, scope)
    same = found.template == template and found.endpoint == view.endpoint
    if same or found.kind in ("unknown", "not_found"):
        return None
    return found.template or found.kind


def _endpoint_name(endpoint: Any, method: str) -> str:
    if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
        return f"{name_of(endpoint)}.{handler_name(endpoint, method)}"
    return name_of(endpoint)


def name_of(thing: Any) -> str:
    """``module:qualname`` of a function or class, or of an instance's class."""
    named = thing if hasattr(thing, "__qualname__") else getattr(thing, "func", type(thing))
    return f"{getattr(named, '__module__', '?')}:{getattr(named, '__qualname__', type(thing).__qualname__)}"
