"""The guard in front of every router's match loop, and the scope that holds the router to what was found.

Installing wraps the attribute ``middleware_stack`` of a router at its innermost point, which runs for every request to
that router, included routers' routes too. Routers behind mounts and hosts get their own guard, at start and again when
they are first reached, so routes and mounts added later are guarded as well.
"""

from __future__ import annotations

from functools import partial
from inspect import isfunction, ismethod
from types import FunctionType
from typing import Any, Literal

from starlette.exceptions import HTTPException, WebSocketException
from starlette.responses import JSONResponse
from starlette.routing import Host, Mount, Router

from ..errors import ConfigError
from ..model import Found, Refusal
from ..protocols import ASGIApp, Gate, Receive, Scope, Send
from . import fastapi
from .lane import Answer
from .narrow import Narrowed, Narrower
from .starlette import PREFIX, find, has_own_loop, inner_router

GATE = "audit_middleware.gate"
"""Scope key: the request's gate, set by the audit middleware."""

Narrowing = bool | Literal["guard"]

_NOTHING = Found("not_found")
_DENIAL_RESPONSE = "websocket.http.response"
_OUTSIDE = Refusal(503, "This route is guarded, and the request did not pass the audit middleware.")


def install(router: Router, *, narrow: Narrowing = True) -> None:
    """Guards a router and every router reachable from it through mounts and hosts. Idempotent.

    ``narrow``: who looks at those routes only that could match (see `narrow`): ``True``, guards and routers;
    ``"guard"``, guards alone, so that each router runs as it would without us; ``False``, nobody.

    Raises:
        ConfigError: a router hides its match loop behind middleware or a call of its own, so nothing can stand in
            front of it.
    """
    if guarded(router):
        return
    if type(router).__call__ is not Router.__call__:
        raise ConfigError(
            f"{type(router).__name__} has a __call__ of its own, which may go around a guard; its routes cannot be "
            "guarded. Put what it does into middleware."
        )
    guard = RouterGuard(router, narrow)
    if router.middleware_stack == router.app:
        router.middleware_stack = guard
    else:
        _install_innermost(router, guard)
    for inner in _inner_routers(router):
        install(inner, narrow=narrow)


def guarded(router: Router) -> bool:
    """Does a guard stand in front of this router's match loop?"""
    layer: Any = router.middleware_stack
    while layer is not None and layer != router.app:
        if isinstance(layer, RouterGuard):
            return layer.router is router
        layer = getattr(layer, "app", None)
    return False


def _install_innermost(router: Router, guard: RouterGuard) -> None:
    # A router's own middleware may rewrite the path; the guard must stand behind it.
    layer: Any = router.middleware_stack
    while layer is not None:
        following = getattr(layer, "app", None)
        if following == router.app:
            layer.app = guard
            return
        layer = following
    raise ConfigError(
        f"{type(router).__name__} has middleware without an `app` attribute "
        f"({type(router.middleware_stack).__name__}); its routes cannot be guarded. "
        "Add that middleware to the application instead."
    )


def _inner_routers(router: Router) -> list[Router]:
    apps: list[Any] = [router.default]
    for route in router.routes:
        views = (view for view, _ in fastapi.included_views(route)) if fastapi.is_included(route) else (route,)
        apps += [getattr(view, "_base_app", view.app) for view in views if isinstance(view, (Mount, Host))]
    return [inner for inner in map(inner_router, apps) if inner is not None]


class RouterGuard:
    """Asks the gate before the router runs, then lets the router run exactly what was found."""

    def __init__(self, router: Router, narrow: Narrowing) -> None:
        self.router = router
        self._narrow = narrow
        self._narrower = Narrower(router) if narrow and not has_own_loop(router) else None
        self._whole = Narrowed(router)
        self.inner: ASGIApp = router.app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.inner(scope, receive, send)
            return
        gate: Gate | None = scope.get(GATE)
        if gate is None:
            await refuse(scope, receive, send, _OUTSIDE)
            return
        narrowed = self._whole if self._narrower is None else self._narrower.narrowed(scope)
        given = narrowed.lane.find(scope) if narrowed.lane is not None else None
        found, answer = given or (find(self.router, scope, narrowed.routes), None)
        refusal = await gate.admit(scope, receive, found)
        if refusal is not None:
            await refuse(scope, receive, send, refusal)
            return
        if gate.replay is not None:  # a rule read the body: the router gets the same messages again
            receive, gate.replay = gate.replay, None
        if self._narrow == "guard":  # the router looks at all of its routes, and is held to what was found
            narrowed, answer = self._whole, None
        held = hold(scope, found, gate, answer)
        if "router" not in held:
            held["router"] = self.router  # as the router itself would do it; a narrowed one is nobody's
        if narrowed.touched and fastapi.SCOPE_KEY not in held:
            held[fastapi.SCOPE_KEY] = {}
        if found.kind != "descend":
            await narrowed.router.app(held, receive, send)
            return
        # Idempotent; a router mounted after the start is guarded from its first request on.
        install(found.inner, narrow=self._narrow)
        above = held.get(PREFIX)
        held.lead(found.template)
        try:
            await narrowed.router.app(held, receive, send)
        finally:
            held.lead(above)  # who asks a router again afterwards is no longer below the mount


class HeldScope(dict[str, Any]):
    """A scope that compares the endpoint a router selects with the one that was found.

    Writes go through to the scope below, so that outer middleware sees ``route``, ``endpoint`` and ``path_params`` as
    it would without us.
    """

    __slots__ = ("answer", "below", "found", "gate")

    below: Scope
    gate: Gate
    found: Found | None
    answer: Answer | None

    def _check(self, endpoint: Any) -> None:
        found = self.found
        if found is None:
            return
        if not self.gate.selected(found, endpoint):
            if self["type"] == "websocket":
                raise WebSocketException(1008, "Forbidden")
            raise HTTPException(403, "Forbidden")
        if found.kind == "opaque" or (type(endpoint) is not FunctionType and _is_application(endpoint)):
            self.found = None  # what a foreign application selects inside is its own affair

    def lead(self, prefix: str | None) -> None:
        """Sets the prefix of the routers below; not written through, as it means nothing outside."""
        if prefix is None:
            super().pop(PREFIX, None)
        else:
            super().__setitem__(PREFIX, prefix)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "endpoint":
            self._check(value)
        _set(self, key, value)
        self.below[key] = value

    def update(self, other: Any = (), /, **more: Any) -> None:
        new = other if type(other) is dict and not more else dict(other, **more)
        if "endpoint" in new:
            self._check(new["endpoint"])
        _update(self, new)
        self.below.update(new)

    def __ior__(self, other: Any) -> HeldScope:  # type: ignore[override, misc]  # dict's `|` keeps returning a plain dict
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        try:  # a router of FastAPI's asks at every route
            return self[key]
        except KeyError:
            self[key] = default
            return default

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.below.pop(key, None)

    def pop(self, key: str, *default: Any) -> Any:
        self.below.pop(key, None)
        return super().pop(key, *default)


_set, _update = dict.__setitem__, dict.update


def _is_application(endpoint: Any) -> bool:
    """Is the endpoint of a route not a function, so that Starlette runs it as an ASGI application?"""
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return not (isfunction(endpoint) or ismethod(endpoint))


def arm(scope: Scope, gate: Gate) -> HeldScope:
    """A scope for which nothing was found yet: a router that selects an endpoint went around its guard."""
    held = HeldScope(scope)
    held.below, held.gate, held.found, held.answer = scope, gate, _NOTHING, None
    return held


def hold(scope: Scope, found: Found, gate: Gate, answer: Answer | None = None) -> HeldScope:
    """Arms a scope for what was found at this router, with the answer of its only route."""
    held = scope if type(scope) is HeldScope else arm(scope, gate)
    held.found, held.answer = found, answer
    return held


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Refuses through the application's own error handling where there is one, before any body is read.

    HTTP: ``HTTPException`` (text detail), so the app's handlers and CORS headers apply; a refusal with a problem
    document is sent from here, still through the app's middleware. WebSocket, before accept: a denial response where
    the server offers it (ASGI extension ``websocket.http.response``), else close 1008.
    """
    if "app" not in scope or (refusal.problem is not None and scope["type"] == "http"):
        await refuse_directly(scope, receive, send, refusal)
    elif scope["type"] == "http":
        raise HTTPException(refusal.status, refusal.detail, dict(refusal.headers) or None)
    elif _DENIAL_RESPONSE in scope.get("extensions", {}):
        await _send_response(send, refusal, "websocket.http.response")
    else:
        raise WebSocketException(1008, refusal.detail)


async def refuse_directly(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Refuses where no application handles exceptions above us."""
    if scope["type"] == "http":
        await _send_response(send, refusal, "http.response")
        return
    await receive()  # websocket.connect
    if _DENIAL_RESPONSE in scope.get("extensions", {}):
        await _send_response(send, refusal, "websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})


async def _send_response(send: Send, refusal: Refusal, kind: str) -> None:
    if refusal.problem is not None:
        response = JSONResponse(refusal.problem, refusal.status, dict(refusal.headers), "application/problem+json")
    else:
        response = JSONResponse({"detail": refusal.detail}, refusal.status, dict(refusal.headers))
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": response.raw_headers})
    await send({"type": f"{kind}.body", "body": response.body})
