"""The first steps asked for every route at start: does each route have a decision, and each policy entry a route?

A policy that does not fit the application is found here and not by the first customer who is refused. The digest of the
result goes into the log, so that the log says which routes existed under which rules.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator, Sequence
from datetime import date

import msgspec

from ..frameworks.inventory import RouteInfo
from ..ledger.canonical import encode_trusted
from ..model import Found, FoundKind, Json
from ..policy.evaluate import Policy
from ..policy.routes import RouteEntry, template_of
from .facts import Resolved
from .resolve import resolve

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


PROBLEMS = {
    "unannotated": "A route has no action",
    "exemption-ended": "A route's exemption has ended",
    "opaque": "What happens behind a mount cannot be seen, and the policy says nothing of it",
    "unknown-action": "A route names an action that the policy does not have",
    "contradiction": "The code and the policy say different things of a route",
    "never-runs": "A route never runs, because an earlier one takes its requests",
    "no-such-parameter": "A resource template names a parameter that is not in the path",
    "not-understood": "A route or router cannot be understood",
    "no-routes": "The application has no routes",
    "nothing-annotated": "No route of the application has an action",
    "no-such-route": "An entry of the policy's routes matches no route",
}
"""Every way in which routes and policy do not fit together, by the code that reports give it."""


class Problem(msgspec.Struct, frozen=True):
    """One thing that does not fit. ``route`` or ``line`` (in the policy file) says where; neither: the application."""

    code: str
    text: str
    route: RouteInfo | None = None
    line: int | None = None

    def __str__(self) -> str:
        return f"{_named(self.route)}: {self.text}" if self.route else self.text


class Row(msgspec.Struct, frozen=True):
    """One route and what the policy says of it; ``problem`` is ``None`` where all is well."""

    route: RouteInfo
    action: str | None
    rule: str
    problem: str | None
    code: str | None = None


class Inventory(msgspec.Struct, frozen=True):
    """All routes under one policy. ``digest`` is SHA-256 over the canonical JSON of the manifest."""

    rows: tuple[Row, ...]
    findings: tuple[Problem, ...]
    digest: str

    @property
    def problems(self) -> tuple[str, ...]:
        """The findings as lines of text."""
        return tuple(map(str, self.findings))

    def manifest(self) -> list[Json]:
        """Route, method, action and rule of each row, as plain JSON."""
        return _manifest(self.rows)


def examine(routes: Sequence[RouteInfo], policy: Policy, today: date, *, strict: bool = False) -> Inventory:
    """Every route with its action and rule, and every way in which routes and policy do not fit together.

    ``strict``: as a gate before deployment, where a route without an action is a problem even under ``default: allow``,
    and so is an application of which nothing has an action.
    """
    rows = tuple(_row(route, policy, today, strict) for route in routes)
    found = [Problem(row.code or "", row.problem, row.route) for row in rows if row.problem]
    if not routes:
        found.append(Problem("no-routes", "the application has no routes: is this the right application object?"))
    elif strict and not any(row.action for row in rows):
        text = f"none of {len(rows)} routes has an action: is this the right application object?"
        found.append(Problem("nothing-annotated", text))
    found += _unmatched(routes, policy)
    data = encode_trusted({"policy": policy.digest, "routes": _manifest(rows)})
    return Inventory(rows, tuple(found), "sha256:" + hashlib.sha256(data).hexdigest())


def _manifest(rows: Sequence[Row]) -> list[Json]:
    return [
        {"route": row.route.template, "method": row.route.method, "action": row.action, "rule": row.rule}
        for row in rows
    ]


def _row(route: RouteInfo, policy: Policy, today: date, strict: bool) -> Row:
    if route.problem is not None:
        return Row(route, None, "denied", route.problem, "not-understood")
    resolved = _resolved(route, policy, today)
    action = resolved.action.name if resolved.action else None
    code, problem = next(_problems(route, resolved, policy, strict), (None, None))
    return Row(route, action, _rule(resolved, policy), problem, code)


def _resolved(route: RouteInfo, policy: Policy, today: date) -> Resolved:
    """As at a request. A route for any method counts as resolved when the policy has it for one of them."""
    kind: FoundKind = "opaque" if route.kind == "opaque" else "route"
    methods = _METHODS if route.method == "*" else (route.method,)
    answers = [
        resolve(Found(kind, route.template, action=route.action, method=method), policy, lambda: today)
        for method in methods
    ]
    return next((answer for answer in answers if answer.cause in (None, "exempt")), answers[0])


def _rule(resolved: Resolved, policy: Policy) -> str:
    if resolved.cause == "exempt":
        return "exempt"
    if resolved.rule is None:
        return f"{policy.default} by default" if resolved.cause == "unannotated" else "denied"
    return ", ".join(rule.name for rule in resolved.rule.allow) or f"{policy.default} by default"


def _problems(route: RouteInfo, resolved: Resolved, policy: Policy, strict: bool) -> Iterator[tuple[str, str]]:
    if route.shadowed_by is not None:
        yield "never-runs", f"never runs: {route.shadowed_by} takes its requests first"
    if resolved.cause == "unannotated" and (strict or policy.default == "deny"):
        yield _unannotated(route, resolved)
    elif resolved.cause == "unknown_action":
        yield "unknown-action", f"{resolved.detail}; add it under actions:"
    elif resolved.cause == "error":
        yield "contradiction", str(resolved.detail)
    resource = resolved.action.resource if resolved.action else None
    for name in _parameters(resource):
        if f"{{{name}}}" not in template_of(route.template):
            yield "no-such-parameter", f"resource {resource!r} names {{{name}}}, which is not in the path"


def _unannotated(route: RouteInfo, resolved: Resolved) -> tuple[str, str]:
    if resolved.detail:
        return "exemption-ended", (
            f"has no action ({resolved.detail}): look at it again and set a later date, add @action(...), "
            f"or to the policy's routes: {_suggestion(route)}"
        )
    if route.kind == "opaque":
        mapped = f"{{match: '{route.method} {route.template}', action: <name>}}"
        return "opaque", (
            f"is opaque: which action happens behind it cannot be seen; add to the policy's routes: {mapped}, "
            f"or {_suggestion(route)}"
        )
    return "unannotated", f"has no action: add @action(...), or to the policy's routes: {_suggestion(route)}"


def _suggestion(route: RouteInfo) -> str:
    return f"{{match: '{route.method} {route.template}', exempt: '<why>', until: <date>}}"


def _parameters(resource: str | None) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(resource or "") if name]


def _unmatched(routes: Sequence[RouteInfo], policy: Policy) -> list[Problem]:
    """Policy entries that no route has: a typo there would leave the real route to the default."""
    have = {(template_of(route.template), route.method) for route in routes}
    return [
        Problem("no-such-route", _no_route(entry, method), line=entry.line)
        for entry in policy.routes
        for method in sorted(entry.methods)
        if not _exists(have, entry.template, method)
    ]


def _no_route(entry: RouteEntry, method: str) -> str:
    return f"routes: line {entry.line}: '{method} {entry.template}' matches no route of the application"


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
