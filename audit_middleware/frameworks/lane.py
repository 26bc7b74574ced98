"""A lane: the only route of a router that could match a request, asked once.

Where narrowing leaves one route, the guard asks it with the framework's own ``matches()``; then the router's loop would
ask it again, FastAPI's twice for an included one. What is narrowed at all is pure in that: the answer follows from the
scope's type, path, root path, method and path parameters. So an included router gives its loop the answer that the
guard got, to the scope that the guard held, while none of these has changed (`Answer.holds`); else it asks as ever. A
route that is not included is asked again: that is cheap, and it is the application's own object, which is not wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import Any, NamedTuple

import msgspec
from starlette.routing import Match

from ..errors import ResolutionError
from ..model import Action, Found
from ..protocols import Scope
from . import fastapi
from .marks import MARK
from .starlette import PREFIX, leaf, method_of

_MOST_KNOWN = 64


class Answer(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What a lane's route said of a scope, and what that followed from."""

    lane: Lane
    child: Scope
    type: str
    path: str
    root_path: str
    method: str | None
    path_params: Any

    def holds(self, lane: Lane, scope: Scope) -> bool:
        """Would this lane say the same of this scope now?"""
        return (
            self.lane is lane
            and scope["path"] == self.path
            and scope.get("root_path", "") == self.root_path
            and scope.get("method") == self.method
            and scope["type"] == self.type
            and scope.get("path_params") is self.path_params
        )


class _Known(NamedTuple):
    """What was found of a plain function: it stays so while its mark and its route's extra do."""

    endpoint: Any
    mark: Action | None
    template: str


class Lane:
    """One route, and the nodes of the include tree that lead to it, outermost first."""

    __slots__ = ("_ask", "_known", "_route", "_view")

    def __init__(self, nodes: tuple[Any, ...], candidate: Any) -> None:
        """``nodes`` see nothing but the way to ``candidate``, and belong to this lane alone from now on."""
        self._route, self._view = fastapi.asked(candidate)
        self._known: dict[tuple[str, str], _Known] = {}
        self._ask: Callable[[Scope], tuple[Match, Scope]] = self._route.matches
        if nodes:
            fastapi.give_answers(nodes, self)
            self._ask = fastapi.Asking(nodes[-1])

    def find(self, scope: Scope) -> tuple[Found, Answer] | None:
        """What the router will run, if all of this route matches; else ``None``. Never changes ``scope``."""
        match, child = self._ask(scope)
        if match is not Match.FULL:
            return None
        try:
            found = self._found(child, scope)
        except ResolutionError:  # `starlette.find` will say it again
            return None
        return found, Answer(
            self, child, scope["type"], scope["path"], scope.get("root_path", ""), scope.get("method"),
            scope.get("path_params"),
        )  # fmt: skip

    def _found(self, child: Scope, scope: Scope) -> Found:
        endpoint, view, prefix = child.get("endpoint"), self._view, scope.get(PREFIX, "")
        method = scope["method"] if scope["type"] == "http" else method_of(scope)
        params = dict(child["path_params"])  # the handler may change its own, and the record is made later
        known = self._known.get((prefix, method))
        if (
            known is not None
            and known.endpoint is endpoint
            and getattr(endpoint, MARK, None) is known.mark
            and not getattr(view, "openapi_extra", None)
        ):
            return Found("route", known.template, endpoint, known.mark, method, params)
        found = leaf(self._route, view, {**child, "path_params": params}, prefix, method)
        if found.kind == "route" and isfunction(endpoint) and not getattr(view, "openapi_extra", None):
            if len(self._known) >= _MOST_KNOWN:  # methods are the client's
                self._known.clear()
            self._known[prefix, method] = _Known(endpoint, found.action, found.template or "")
        return found
