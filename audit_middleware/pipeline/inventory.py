"""The first steps asked for every route at start: does each route have a decision, and each policy entry a route?

A policy that does not fit the application is found here and not by the first customer who is refused. The digest of the
result goes into the log, so that the log says which routes existed under which rules.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from ..frameworks.inventory import RouteInfo
from ..ledger.canonical import encode_trusted
from ..model import Found, FoundKind, Json
from ..policy.evaluate import Policy
from ..policy.routes import template_of
from .facts import Resolved
from .resolve import resolve

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Row:
    """One route and what the policy says of it; ``problem`` is ``None`` where all is well."""

    route: RouteInfo
    action: str | None
    rule: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All routes under one policy. ``digest`` is SHA-256 over the canonical JSON of the manifest."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    digest: str

    def manifest(self) -> list[Json]:
        """Route, method, action and rule of each row, as plain JSON."""
        return _manifest(self.rows)


def examine(routes: Sequence[RouteInfo], policy: Policy, today: date) -> Inventory:
    """Every route with its action and rule, and every way in which routes and policy do not fit together."""
    rows = tuple(_row(route, policy, today) for route in routes)
    problems = [f"{_named(row.route)}: {row.problem}" for row in rows if row.problem]
    if not routes:
        problems.append("the application has no routes: is this the right application object?")
    problems += _unmatched(routes, policy)
    data = encode_trusted({"policy": policy.digest, "routes": _manifest(rows)})
    return Inventory(rows, tuple(problems), "sha256:" + hashlib.sha256(data).hexdigest())


def _manifest(rows: Sequence[Row]) -> list[Json]:
    return [
        {"route": row.route.template, "method": row.route.method, "action": row.action, "rule": row.rule}
        for row in rows
    ]


def _row(route: RouteInfo, policy: Policy, today: date) -> Row:
    if route.problem is not None:
        return Row(route, None, "denied", route.problem)
    resolved = _resolved(route, policy, today)
    action = resolved.action.name if resolved.action else None
    problem = next(_problems(route, resolved, policy), None)
    return Row(route, action, _rule(resolved, policy), problem)


def _resolved(route: RouteInfo, policy: Policy, today: date) -> Resolved:
    """As at a request. A route for any method counts as resolved when the policy has it for one of them."""
    kind: FoundKind = "opaque" if route.kind == "opaque" else "route"
    methods = _METHODS if route.method == "*" else (route.method,)
    answers = [
        resolve(Found(kind, route.template, action=route.action, method=method), policy, today) for method in methods
    ]
    return next((answer for answer in answers if answer.cause in (None, "exempt")), answers[0])


def _rule(resolved: Resolved, policy: Policy) -> str:
    if resolved.cause == "exempt":
        return "exempt"
    if resolved.rule is None:
        return f"{policy.default} by default" if resolved.cause == "unannotated" else "denied"
    return ", ".join(rule.name for rule in resolved.rule.allow) or f"{policy.default} by default"


def _problems(route: RouteInfo, resolved: Resolved, policy: Policy) -> Iterator[str]:
    if route.shadowed_by is not None:
        yield f"never runs: {route.shadowed_by} takes its requests first"
    if resolved.cause == "unannotated" and policy.default == "deny":
        ended = f" ({resolved.detail})" if resolved.detail else ""
        yield f"has no action{ended}: add @action(...), or to the policy's routes: {_suggestion(route)}"
    elif resolved.cause == "unknown_action":
        yield f"{resolved.detail}; add it under actions:"
    elif resolved.cause == "error":
        yield str(resolved.detail)
    resource = resolved.action.resource if resolved.action else None
    for name in _parameters(resource):
        if f"{{{name}}}" not in template_of(route.template):
            yield f"resource {resource!r} names {{{name}}}, which is not in the path"


def _suggestion(route: RouteInfo) -> str:
    return f"{{match: '{route.method} {route.template}', exempt: '<why>', until: <date>}}"


def _parameters(resource: str | None) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(resource or "") if name]


def _unmatched(routes: Sequence[RouteInfo], policy: Policy) -> list[str]:
    """Policy entries that no route has: a typo there would leave the real route to the default."""
    have = {(template_of(route.template), route.method) for route in routes}
    return [
        f"routes: line {entry.line}: '{method} {entry.template}' matches no route of the application"
        for entry in policy.routes
        for method in sorted(entry.methods)
        if not _exists(have, entry.template, method)
    ]


def _exists(have: set[tuple[str, str]], template: str, method: str) -> bool:
    if (template, method) in have:
        return True
    if method == "WS":
        return False
    if method == "HEAD" and (template, "GET") in have:
        return True
    return (template, "*") in have or (method == "*" and any(t == template and m != "WS" for t, m in have))


def _named(route: RouteInfo) -> str:
    return f"{route.method} {route.template} ({route.endpoint})"
