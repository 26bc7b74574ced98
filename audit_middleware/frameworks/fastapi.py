"""FastAPI's additions to routing: included routers (a lazy tree since 0.137) and frontends (low-priority routes).

Everything private that we touch is here, looked up by name once and tested over several versions. A FastAPI that
changed it makes requests to included routers ``unknown``, which are refused: a denial, never a bypass. Without
FastAPI installed all of this is empty.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from starlette.routing import BaseRoute, Match, Router

from ..errors import ResolutionError
from ..protocols import Scope

SCOPE_KEY = "fastapi"
_INCLUDED_KEY = "included_router"
_ALONE = "_audit_middleware_alone"
"""Attribute of our own copies of nodes of the include tree that give answers; see `give_answers`."""


_names: dict[str, Any] = {}


def _routing(name: str) -> Any:
    """A name of `fastapi.routing`, ``None`` where FastAPI is not loaded: then no route of it can exist either."""
    found = _names.get(name)
    if found is None:
        found = getattr(sys.modules.get("fastapi.routing"), name, None)
        if found is not None:
            _names[name] = found
    return found


def is_own_loop(router: Router) -> bool:
    """Is the router's match loop FastAPI's?"""
    api_router = _routing("APIRouter")
    return api_router is not None and type(router).app is api_router.app


def is_included(route: BaseRoute) -> bool:
    """Is this a node of FastAPI's lazy include tree?"""
    included = _routing("_IncludedRouter")
    return included is not None and isinstance(route, included)


class Chosen(NamedTuple):
    """A route inside an included router, what carries its effective template, its child scope, and whether it matched
    in full."""

    route: BaseRoute
    view: Any
    child: Scope
    full: bool


def answers_for_itself(route: Any) -> bool:
    """Is this an included router whose ``matches()`` is known to say what `select_included` finds?"""
    included_class = _routing("_IncludedRouter")
    if included_class is None or type(route) is not included_class:
        return False
    owner, router_class, own = route.original_router, _routing("APIRouter"), vars(route)
    if ("matches" in own and _ALONE not in own) or "matches" in vars(owner):
        return False
    return type(owner).matches is router_class.matches and type(owner).handle is router_class.handle


def selected_by(included: Any, probe: Scope) -> Chosen | None:
    """What an included router selects; ``None`` where it does not match. ``probe`` stays as it is."""
    own = probe.get(SCOPE_KEY)
    return select_included(included, {}, {**probe, SCOPE_KEY: {} if own is None else dict(own)})


def select_included(included: Any, child: Scope, probe: Scope) -> Chosen | None:
    """Which route inside an included router will run.

    Follows `_IncludedRouter.handle`: each level asks its own ``_match`` with the scope updated by the level above.
    ``None`` when the included router falls to its default.

    Raises:
        ResolutionError: the router overrides the methods this relies on, or FastAPI no longer has them.
    """
    outermost = included
    while True:
        owner = getattr(included, "original_router", None)
        if not callable(getattr(included, "_match", None)) or not isinstance(owner, Router):
            raise ResolutionError("this FastAPI's included routers cannot be read")
        if getattr(type(owner), "handle", None) is not _routing("APIRouter").handle:
            raise ResolutionError(f"{type(owner).__name__} overrides handle()")
        _update(probe, child)
        probe.setdefault(SCOPE_KEY, {})[_INCLUDED_KEY] = included
        match, child, route, view = included._match(probe)
        if match is Match.NONE or route is None:
            if included is not outermost:
                raise ResolutionError("an included router matched, and then selected nothing")
            return None
        if not is_included(route):
            effective = getattr(view, "starlette_route", None) or view or route
            return Chosen(route, effective, child, match is Match.FULL)
        included = route


def _update(probe: Scope, child: Scope) -> None:
    """As FastAPI merges a child scope: its own key is merged, not replaced."""
    own = child.get(SCOPE_KEY)
    if isinstance(own, dict):
        probe.setdefault(SCOPE_KEY, {}).update(own)
        child = {key: value for key, value in child.items() if key != SCOPE_KEY}
    probe.update(child)


def low_priority(router: Router, probe: Scope) -> tuple[BaseRoute, Scope, str, bool] | None:
    """The low-priority route (a frontend) that will run: (route, child scope, template, full match)."""
    select = getattr(router, "_match_low_priority", None)
    if select is None:
        return None
    match, child, route, view = select(probe)
    if match is Match.NONE or route is None:
        return None
    prefix = getattr(view, "frontend_prefix", "")
    return route, child, frontend_template(route, probe, prefix), match is Match.FULL


def frontend_template(group: Any, probe: Scope, prefix: str) -> str:
    """The template under which a policy maps a frontend: its path and ``/{path}``."""
    choose = getattr(group, "_match", None)
    chosen = choose(probe, prefix=prefix)[2] if choose is not None else None
    return join_frontend(prefix, getattr(chosen, "path", "") or "")


def join_frontend(prefix: str, path: str) -> str:
    """``/app`` and ``/`` both end in ``/{path}``."""
    return f"{prefix}{path}".rstrip("/") + "/{path}"


def frontends(router: Router) -> Iterator[str]:
    """Templates of all frontends of a router and of those it includes."""
    candidates = getattr(router, "_iter_low_priority_routes", None)
    for candidate in candidates() if candidates is not None else ():
        group = getattr(candidate, "original_route", candidate)
        for route in getattr(group, "routes", ()):
            yield join_frontend(getattr(candidate, "frontend_prefix", ""), route.path)


def included_views(included: Any) -> Iterator[tuple[BaseRoute, Any]]:
    """Every (route, effective view) below a node of the include tree, in match order."""
    for candidate in included.effective_candidates():
        if is_included(candidate):
            yield from included_views(candidate)
        else:
            route = candidate.starlette_route or candidate.original_route
            yield route, candidate.starlette_route or candidate


# --- narrowing ---------------------------------------------------------------------------------------------------


def is_standard_matches(matches: Any) -> bool:
    """Is this the ``matches`` of one of FastAPI's own route classes, which decide by pattern alone?"""
    return any(
        kind is not None and matches is kind.matches for kind in map(_routing, ("APIRoute", "APIWebSocketRoute"))
    )


def narrowable_candidates(included: Any) -> list[Any] | None:
    """What an included router asks one by one, in order; ``None`` where it is not known how it asks."""
    included_class, router_class = _routing("_IncludedRouter"), _routing("APIRouter")
    owner = getattr(included, "original_router", None)
    if type(included) is not included_class or not isinstance(owner, router_class) or not hasattr(included, "__dict__"):
        return None
    if any(getattr(type(owner), name) is not getattr(router_class, name) for name in ("matches", "handle")):
        return None
    if not all(callable(getattr(included, name, None)) for name in ("effective_candidates", "_match")):
        return None
    return list(included.effective_candidates())


def routes_version(router: Any) -> int | None:
    """How often the routes of an included router were changed, where FastAPI itself looks at them again only then."""
    if getattr(_routing("_IncludedRouter"), "_effective_candidates_version", 0) is not None:
        return None
    version = vars(router).get("_routes_version")
    return version if type(version) is int else None


def asked(candidate: Any) -> tuple[Any, Any]:
    """The object whose ``matches()`` a router calls, and the one whose pattern decides then."""
    context = _routing("_EffectiveRouteContext")
    if context is None or not isinstance(candidate, context):
        return candidate, candidate
    route = candidate.starlette_route
    return (route, route) if route is not None else (candidate.original_route, candidate)


def with_candidates(included: Any, candidates: list[Any]) -> Any:
    """A copy of a node of the include tree that sees these candidates only."""
    narrowed = copy.copy(included)
    narrowed.effective_candidates = lambda: candidates
    return narrowed


class Answers(Protocol):
    """An answer that was given about a scope; see `lane.Answer`."""

    @property
    def child(self) -> Scope:
        """The child scope of the innermost route."""
        ...

    def holds(self, lane: Any, scope: Scope) -> bool:
        """Would this lane say the same of this scope now?"""
        ...


class Asking:
    """What the only candidate of a node says of a scope, which stays as it is.

    The nodes above, which have this one as their only candidate, say the same: FastAPI hands a match through. The node
    asks by its own method, on a copy of the scope. For a route of FastAPI's that comes down to ``matches()`` of the
    context, and that to less than half the time: so that is called from then on, once a full match was the same both
    ways.
    """

    __slots__ = ("_context", "_direct", "_node")

    def __init__(self, node: Any) -> None:
        self._node = node
        (self._context,) = node.effective_candidates()
        self._direct = False

    def __call__(self, scope: Scope) -> tuple[Match, Scope]:
        if self._direct:
            match, child = self._context.matches(scope)
            child["route"] = self._context.original_route
            return match, child
        own = scope.get(SCOPE_KEY)
        key = {_INCLUDED_KEY: self._node} if own is None else {**own, _INCLUDED_KEY: self._node}
        match, child, route, context = self._node._match({**scope, SCOPE_KEY: key})
        if match is Match.FULL and context is self._context and route is context.original_route:
            self._direct = (
                context.matches(dict(scope))
                == (
                    match,
                    {name: value for name, value in child.items() if name != "route"},
                )
                and child.get("route") is route
            )
        return match, child


def give_answers(nodes: Sequence[Any], lane: Any) -> None:
    """Makes our copies of nodes, each the only candidate of the one before, give a scope's answer where it has one."""
    candidate = nodes[-1].effective_candidates()[0]
    route, context = (asked(candidate)[0], candidate)
    for node, following in zip(nodes, (*nodes[1:], None), strict=True):
        _give_answers(node, lane, (following, None) if following is not None else (route, context))


def _give_answers(node: Any, lane: Any, selected: tuple[Any, Any]) -> None:
    ask, ask_all = node.matches, node._match
    is_last = not is_included(selected[0])

    def matches(scope: Scope) -> Any:
        answer: Answers | None = getattr(scope, "answer", None)
        if answer is None or not answer.holds(lane, scope):
            return ask(scope)
        if SCOPE_KEY not in scope:
            scope[SCOPE_KEY] = {}  # as asking leaves it
        return Match.FULL, {}

    def match_all(scope: Scope) -> Any:
        answer: Answers | None = getattr(scope, "answer", None)
        if answer is None or not answer.holds(lane, scope):
            return ask_all(scope)
        return (Match.FULL, answer.child if is_last else {}, *selected)

    node.matches, node._match = matches, match_all
    setattr(node, _ALONE, True)


def keep_low_priority(narrowed: Router, router: Router) -> None:
    """Frontends are looked for in all included routers, not only in those that were picked."""
    match = getattr(router, "_match_low_priority", None)
    if match is not None:
        narrowed._match_low_priority = match  # type: ignore[attr-defined]  # FastAPI's, not Starlette's
