"""What one router will do with a request, found with the router's own ``matches()``.

`find` repeats the order of `starlette.routing.Router.app` (and, through `fastapi`, of `fastapi.APIRouter.app`) on a
copy of the scope, calling the same methods on the same route objects: full match, first partial match, slash redirect,
low-priority routes, default. It re-implements no pattern. What it cannot understand it calls ``unknown``, and the
caller refuses. That the router then really does what was found is checked by `guard`, not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette._utils import get_route_path  # private, and what every router's own match loop uses
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

from ..errors import ResolutionError
from ..model import Found
from ..protocols import Scope
from . import fastapi
from .marks import action_of, handler_name

PREFIX = "audit_middleware.prefix"
"""Scope key: the path template of the mounts and hosts above the current router."""

_TRANSPARENT = ("starlette.middleware.", "fastapi.middleware.", "audit_middleware.middleware")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT"})


def find(router: Router, scope: Scope, routes: Sequence[BaseRoute] | None = None) -> Found:
    """What ``router`` will do with this request. ``routes``: those of its routes that could match; default: all.

    Never changes ``scope``. Errors that a route's own ``matches()`` raises pass through: the router would raise them
    too, before any handler.
    """
    probe: Scope = dict(scope)
    if fastapi.SCOPE_KEY in probe:
        probe[fastapi.SCOPE_KEY] = dict(probe[fastapi.SCOPE_KEY])
    method, prefix = method_of(scope), scope.get(PREFIX, "")
    try:
        if has_own_loop(router):
            raise ResolutionError(f"{type(router).__name__} has a match loop of its own")
        return _select(router, router.routes if routes is None else routes, probe, prefix, method)
    except ResolutionError as problem:
        return Found("unknown", method=method, detail=str(problem))


def method_of(scope: Scope) -> str:
    """The name a policy's ``routes:`` uses: the HTTP method, or ``WS``."""
    return "WS" if scope["type"] == "websocket" else scope["method"]


def has_own_loop(router: Router) -> bool:
    """Does the router not use the match loop of Starlette or FastAPI, so that nobody knows what it will run?"""
    return type(router).app is not Router.app and not fastapi.is_own_loop(router)


def _select(router: Router, routes: Sequence[BaseRoute], probe: Scope, prefix: str, method: str) -> Found:
    partial: tuple[BaseRoute, Scope] | None = None
    for route in routes:
        if fastapi.answers_for_itself(route):  # its `matches()` would select, and throw away what it selected
            chosen = fastapi.selected_by(route, probe)
            if chosen is not None and chosen.full:
                return _included(chosen, prefix, method)
            if chosen is not None and partial is None:
                partial = (route, {})
            continue
        match, child = route.matches(probe)
        if match is Match.FULL:
            return _found(route, child, probe, prefix, method, partial=False)
        if match is Match.PARTIAL and partial is None:
            partial = (route, child)
    if partial is not None:
        return _found(*partial, probe, prefix, method, partial=True)
    if _redirects(router, routes, probe):
        return Found("redirect", method=method)
    low = fastapi.low_priority(router, probe)
    if low is not None:
        route, child, template, full = low
        if isinstance(route, Route):
            return leaf(route, route, child, prefix, method, partial=not full)
        return Found("opaque" if full else "partial", prefix + template, method=method, detail="frontend")
    if router.default == router.not_found and type(router).not_found is Router.not_found:
        return Found("not_found", method=method)
    inner = inner_router(router.default)
    if inner is not None:
        return Found("descend", prefix, method=method, inner=inner)
    return Found("default", default_template(prefix), method=method)


def default_template(prefix: str) -> str:
    """The name under which a policy's ``routes:`` maps a router's own default handler."""
    return prefix + "/{path}" if prefix else "default"


def _redirects(router: Router, routes: Sequence[BaseRoute], probe: Scope) -> bool:
    path = get_route_path(probe)
    if probe["type"] != "http" or not router.redirect_slashes or path == "/":
        return False
    other = dict(probe)
    other["path"] = other["path"].rstrip("/") if path.endswith("/") else other["path"] + "/"
    return any(route.matches(other)[0] is not Match.NONE for route in routes)


def _found(route: BaseRoute, child: Scope, probe: Scope, prefix: str, method: str, *, partial: bool) -> Found:
    if fastapi.is_included(route):
        chosen = fastapi.select_included(route, child, probe)
        if chosen is None:  # the included router's own default answers
            return Found("default", default_template(prefix), method=method)
        return _included(chosen, prefix, method)
    return leaf(route, route, child, prefix, method, partial=partial)


def _included(chosen: fastapi.Chosen, prefix: str, method: str) -> Found:
    return leaf(chosen.route, chosen.view, chosen.child, prefix, method, partial=not chosen.full)


def leaf(route: BaseRoute, view: Any, child: Scope, prefix: str, method: str, *, partial: bool = False) -> Found:
    """What a route that was selected is. ``view`` carries the effective template: the route, or FastAPI's include
    context."""
    params = child.get("path_params", {})
    if isinstance(route, Mount):
        return _mounted(route.app, getattr(route, "_base_app", route.app), prefix + mount_template(view), child, method)
    if isinstance(route, Host):
        return _mounted(route.app, route.app, f"//{route.host_format}{prefix}", child, method)
    if not isinstance(route, (Route, WebSocketRoute)):
        raise ResolutionError(f"unknown route class {type(route).__name__}")
    template = prefix + view.path_format
    endpoint = child.get("endpoint")
    if partial or _no_handler(endpoint, method):
        return Found("partial", template, endpoint, method=method)
    action = action_of(endpoint, getattr(view, "openapi_extra", None), method)
    return Found("route", template, endpoint, action, method, params)


def _mounted(app: Any, base: Any, template: str, child: Scope, method: str) -> Found:
    inner = inner_router(base)
    if inner is not None:
        return Found("descend", template, child.get("endpoint", app), method=method, inner=inner)
    path = template + "/{path}"
    return Found("opaque", path, child.get("endpoint", app), method=method, path_params=child.get("path_params", {}))


def mount_template(mount: Any) -> str:
    """A mount's path as a template without convertors."""
    template: str = mount.path_format
    return template.removesuffix("/{path}")


def _no_handler(endpoint: Any, method: str) -> bool:
    """Will a class-based endpoint answer 405 by itself?"""
    if not (isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)):
        return False
    if not hasattr(endpoint, handler_name(endpoint, method)):
        return True
    if method not in _METHODS:  # older Starlette would call `dispatch` for a request with the method DISPATCH
        raise ResolutionError(f"HTTP method {method[:32]!r} names no handler of a class-based endpoint")
    return False


def inner_router(app: Any) -> Router | None:
    """The router behind an ASGI application, where it is certain that it is the one that runs.

    Only Starlette's own applications, routers and middleware are seen through, and our own, which steps aside where
    another one is above it; anything else is opaque, also an application with a call of its own: it may answer before
    its router is asked.
    """
    for _ in range(32):  # bounded: a wrapper that wraps itself is nobody's router
        if isinstance(app, Starlette):
            return app.router if type(app).__call__.__module__.startswith(("starlette.", "fastapi.")) else None
        if isinstance(app, Router):
            return app
        if not type(app).__module__.startswith(_TRANSPARENT):
            return None
        app = getattr(app, "app", None)
    return None
