"""FastAPI's additions to routing: included routers (a lazy tree since 0.137) and frontends (low-priority routes).

Everything private that we touch is here, looked up by name once and tested over several versions. A FastAPI that
changed it makes requests to included routers ``unknown``, which are refused: a denial, never a bypass. Without
FastAPI installed all of this is empty.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from starlette.routing import BaseRoute, Match, Router

from ..errors import ResolutionError
from ..protocols import Scope

SCOPE_KEY = "fastapi"
_INCLUDED_KEY = "included_router"


def _routing(name: str) -> Any:
    """A name of `fastapi.routing`, ``None`` where FastAPI is not loaded: then no route of it can exist either."""
    return getattr(sys.modules.get("fastapi.routing"), name, None)


def is_own_loop(router: Router) -> bool:
    """Is the router's match loop FastAPI's?"""
    api_router = _routing("APIRouter")
    return api_router is not None and type(router).app is api_router.app


def is_included(route: BaseRoute) -> bool:
    """Is this a node of FastAPI's lazy include tree?"""
    included = _routing("_IncludedRouter")
    return included is not None and isinstance(route, included)


def select_included(included: Any, child: Scope, probe: Scope) -> tuple[BaseRoute, Any, Scope, bool] | None:
    """Which route inside an included router will run: (route, its effective view, child scope, full match).

    Follows `_IncludedRouter.handle`: each level asks its own ``_match`` with the scope updated by the level above.
    ``None`` when the included router falls to its default.

    Raises:
        ResolutionError: the router overrides the methods this relies on, or FastAPI no longer has them.
    """
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
            return None
        if not is_included(route):
            effective = getattr(view, "starlette_route", None) or view or route
            return route, effective, child, match is Match.FULL
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
