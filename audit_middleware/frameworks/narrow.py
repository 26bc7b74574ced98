"""Narrowing: the routes of a router that could match a path, found by the literal segments of their templates.

A router asks its routes one by one. Here they are put into a trie of path segments once, and for a request the router
runs over those alone that could match: a *superset* of the routes that do, in their order, for the path and for its
form with the slash at the end toggled (which redirects look at). So the first full match, the first partial match,
redirects and defaults come out the same, found by the framework's own ``matches()`` in the framework's own loop.

The loop runs on a shallow copy of the router whose ``routes`` is the short list (`Narrower.narrowed`); copies are kept,
one for each list. For FastAPI's included routers the same is done at every level.

When is a route left out? Its pattern is one that `starlette.routing.compile_path` makes of its template (compared, not
assumed), and the path differs from the template in a literal segment, or in the number of segments where no parameter
can span several. What is not understood is kept: parameters of other convertors match anything from there on, `Host`
routes any path. A route class with its own ``matches()``, which might do anything, switches narrowing off for its
router, and so do routers with unusual loops. A route list that was changed makes a new trie; one that keeps changing
ends the attempt. Patterns of route objects that are replaced after the first request are not noticed here; then the
guard's comparison of what was found and what is selected still holds, as both look at the same list.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import Any, NamedTuple

import msgspec
from starlette._utils import get_route_path  # private, and what every router's own match loop uses
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute, compile_path

from ..protocols import Scope
from . import fastapi
from .lane import Lane

_ONE_SEGMENT = frozenset(
    {
        "[^/]+",
        "[0-9]+",
        r"[0-9]+(\.[0-9]+)?",
        "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    }
)
"""Patterns of convertors that never match a slash."""

_MATCHES = frozenset({Route.matches, WebSocketRoute.matches, Mount.matches, Host.matches})
_DEEPEST = 32  # levels of included routers
_MOST_TRIES = 16  # made for one router: whose routes change all the time is better off without
_MOST_LISTS = 4096  # kept for one router
_MOST_STATES = 65_536  # kept for one router, each counted with the names it knows: some 6 MB

Position = tuple[int, ...]
"""Where a route is: its place in the router's list, then in the included router's, and so on."""


class NotNarrowable(Exception):
    """The router holds something whose matching is not known."""


class _Node(msgspec.Struct):
    """What is known of the segments so far: routes that end here, and routes that match whatever follows."""

    literals: dict[str, _Node] = msgspec.field(default_factory=dict)
    parameter: _Node | None = None
    ends: list[Position] = msgspec.field(default_factory=list)
    rests: list[Position] = msgspec.field(default_factory=list)


class _State:
    """What is known of the segments so far, on all ways through the trie at once. Each belongs to one sequence of
    literals and of segments that are none there: paths of one sequence have the same routes. Made when the first one
    comes by."""

    __slots__ = ("found", "literals", "nodes", "other", "slashed")

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self.nodes = nodes
        self.literals: dict[str, _State | None] = {name: None for node in nodes for name in node.literals}
        self.other: _State | None = None if nodes else self  # after a segment that is no literal here
        self.found: Narrowed | None = None  # for a path that ends here
        self.slashed: Narrowed | None = None  # and with a slash


class _Level(msgspec.Struct):
    """A router's list, or what an included router sees of it; nested ones are levels again."""

    node: Any
    children: list[Any]


class Narrowed(NamedTuple):
    """A router with fewer routes. ``touched``: does the whole one ask an included router before any of these? FastAPI
    leaves its key in the scope then."""

    router: Router
    touched: bool = False
    lane: Lane | None = None  # where there is but one route

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes that could match."""
        return self.router.routes


class Narrower:
    """Gives a router, for each request, as a router with fewer routes."""

    def __init__(self, router: Router) -> None:
        """Looks at nothing yet: routes may still be added."""
        self._whole = Narrowed(router)
        self._trie: _Trie | None = None
        self._tries = 0

    def narrowed(self, scope: Scope) -> Narrowed:
        """A router that does with this request what the router would do."""
        trie = self._trie
        if trie is None or not trie.current():
            trie = self._make()
            if trie is None:
                return self._whole
        return trie.find(get_route_path(scope))

    def _make(self) -> _Trie | None:
        self._trie = None
        if self._tries >= _MOST_TRIES:
            return None
        self._tries += 1
        try:
            self._trie = _Trie(self._whole)
        except NotNarrowable:
            self._tries = _MOST_TRIES  # unknown classes stay unknown
        return self._trie


class _Trie:
    """The routes of one router as they are now."""

    def __init__(self, whole: Narrowed) -> None:
        """Raises `NotNarrowable`."""
        self._whole = whole
        router = whole.router
        self._listed: list[tuple[Any, list[Any]]] = []
        self._counted: list[tuple[Any, list[Any], int]] = []
        self._nodes: list[tuple[Any, int, Any]] = []
        self._rest = (router.default, router.redirect_slashes)
        self._root = _Node()
        self._top = _Level(None, self._children(router, router.routes, (), 0))
        levels = (number for number, child in enumerate(self._top.children) if isinstance(child, _Level))
        self._first_level = next(levels, None)
        self._by_key: dict[tuple[Position, ...], Narrowed] = {}
        self._start = _State([self._root])
        self._states = 0

    def current(self) -> bool:
        """Are all route lists as they were, object for object, and what the copies took over from the router?

        An included router that counts its changes is not looked at again, not even by FastAPI, until its count has
        changed, or that of a router it includes. So of its list it counts only which nodes of the include tree are in
        it. That lists are equal is quick to see, as objects that are the same are not looked into.
        """
        router, (default, redirect) = self._whole.router, self._rest
        if router.default is not default or router.redirect_slashes is not redirect:
            return False
        for owner, routes in self._listed:
            if len(owner.routes) != len(routes) or not all(map(is_, owner.routes, routes)):
                return False
        for owner, routes, version in self._counted:
            if owner._routes_version != version or owner.routes != routes:
                return False
        return not self._nodes or all(owner.routes[at] is node for owner, at, node in self._nodes)

    # --- making it -----------------------------------------------------------------------------------------------

    def _children(self, owner: Any, candidates: Sequence[Any], at: Position, depth: int) -> list[Any]:
        if depth > _DEEPEST or "routes" not in vars(owner):  # a list that is computed is another one each time
            raise NotNarrowable
        routes, version = list(owner.routes), fastapi.routes_version(owner) if depth else None
        if version is None:
            self._listed.append((owner, routes))
        else:
            self._counted.append((owner, routes, version))
            self._nodes += [(owner, at, one) for at, one in enumerate(routes) if fastapi.is_included(one)]
        children: list[Any] = []
        for number, candidate in enumerate(candidates):
            position = (*at, number)
            if fastapi.is_included(candidate):
                inner = fastapi.narrowable_candidates(candidate)
                if inner is None:
                    raise NotNarrowable
                children.append(
                    _Level(candidate, self._children(candidate.original_router, inner, position, depth + 1))
                )
            else:
                self._add(*fastapi.asked(candidate), position)
                children.append(candidate)
        return children

    def _add(self, route: Any, view: Any, position: Position) -> None:
        if not _standard(route):
            raise NotNarrowable
        if isinstance(route, Host):
            self._root.rests.append(position)
            return
        template = view.path + "/{path:path}" if isinstance(route, Mount) else view.path
        pattern, _, convertors = compile_path(template)
        if pattern != view.path_regex:  # equal patterns have the same text and flags
            raise NotNarrowable
        node = self._root
        for segment in template.split("/"):
            names = [name for name in convertors if f"{{{name}}}" in segment or f"{{{name}:" in segment]
            if not names and "{" not in segment:
                node = node.literals.setdefault(segment, _Node())
            elif all(view.param_convertors[name].regex in _ONE_SEGMENT for name in names) and names:
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node.rests.append(position)
                return
        node.ends.append(position)

    # --- asking it -----------------------------------------------------------------------------------------------

    def find(self, path: str) -> Narrowed:
        """The router with the routes that could match this path, or the path with its last slash toggled."""
        if "\n" in path or "//" in path:  # patterns forgive a newline at the end; toggling strips every slash
            return self._whole
        slashed = path.endswith("/")
        state = self._start
        for segment in (path[:-1] if slashed else path).split("/"):
            following = state.literals.get(segment, state.other) or self._following(state, segment)
            if following is None:
                return self._of(self._positions(path))
            state = following
        found = state.slashed if slashed else state.found
        if found is None:
            found = self._of(self._positions(path))
            if slashed:
                state.slashed = found
            else:
                state.found = found
        return found

    def _following(self, state: _State, segment: str) -> _State | None:
        """The state after one more segment; ``None`` where there are too many to keep."""
        if self._states >= _MOST_STATES:
            return None
        following = _State(list(_after(state.nodes, segment)))
        self._states += 1 + len(following.literals)
        if segment in state.literals:
            state.literals[segment] = following
        else:
            state.other = following
        return following

    def _of(self, positions: Iterable[Position]) -> Narrowed:
        """The router with the routes at these positions."""
        key = tuple(sorted(set(positions)))
        found = self._by_key.get(key)
        if found is None:
            if len(self._by_key) >= _MOST_LISTS:
                self._by_key.clear()
            touched = self._first_level is not None and (not key or key[0][0] > self._first_level)
            picked = _pick(self._top, key, 0)
            lane = _lane(picked[0]) if len(key) == 1 else None
            router = _copy(self._whole.router, self._with_first_level(picked, key))
            found = self._by_key[key] = Narrowed(router, touched, lane)
        return found

    def _with_first_level(self, picked: list[Any], key: Sequence[Position]) -> list[Any]:
        """Where an included router is asked behind some of these, if they do not match, one without routes is, too."""
        first = self._first_level
        if first is not None and key and key[0][0] < first and all(position[0] != first for position in key):
            before = len({position[0] for position in key if position[0] < first})
            picked.insert(before, fastapi.with_candidates(self._top.children[first].node, []))
        return picked

    def _positions(self, path: str) -> Iterator[Position]:
        nodes = before = [self._root]
        for segment in path.split("/"):
            before, nodes = nodes, list(_after(nodes, segment))
            for node in before:
                yield from node.rests
        for node in nodes:
            yield from node.ends
            yield from node.rests
            slashed = node.literals.get("")
            if slashed is not None:
                yield from slashed.ends
                yield from slashed.rests
            if node.parameter is not None:
                yield from node.parameter.rests
        for node in before if path.endswith("/") else ():
            yield from node.ends


def _after(nodes: Iterable[_Node], segment: str) -> Iterator[_Node]:
    for node in nodes:
        literal = node.literals.get(segment)
        if literal is not None:
            yield literal
        if node.parameter is not None:
            yield node.parameter


def _standard(route: Any) -> bool:
    """Is this route matched by code that is known, on its class and on itself?"""
    if "matches" in vars(route):
        return False
    matches = type(route).matches
    return matches in _MATCHES or fastapi.is_standard_matches(matches)


def _pick(level: _Level, key: Sequence[Position], depth: int) -> list[Any]:
    """The candidates at these positions; included routers as copies that see no more than theirs."""
    picked: list[Any] = []
    start = 0
    while start < len(key):
        number = key[start][depth]
        stop = start
        while stop < len(key) and key[stop][depth] == number:
            stop += 1
        child = level.children[number]
        if isinstance(child, _Level):
            picked.append(fastapi.with_candidates(child.node, _pick(child, key[start:stop], depth + 1)))
        else:
            picked.append(child)
        start = stop
    return picked


def _lane(picked: Any) -> Lane:
    """The way to the only route below what was picked."""
    nodes = []
    while fastapi.is_included(picked):
        nodes.append(picked)
        (picked,) = picked.effective_candidates()
    return Lane(tuple(nodes), picked)


def _copy(router: Router, routes: list[BaseRoute]) -> Router:
    narrowed = copy.copy(router)
    narrowed.routes = routes
    fastapi.keep_low_priority(narrowed, router)
    return narrowed
