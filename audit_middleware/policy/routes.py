"""The policy's ``routes:``: actions and exemptions for code that cannot be annotated.

A template is compared as the framework writes it, with the convertors taken out: ``/static/{path:path}`` and
``/static/{path}`` are one template, ``/x/{id}`` and ``/x/{key}`` are two. For one template a method's own entry comes
first, then GET's for HEAD, then ``*``. ``*`` is every HTTP method; a WebSocket connection is the method ``WS`` and is
never matched by ``*``, because what exempts a page should not silently exempt a socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

import msgspec

from .document import Node, Pair
from .findings import join, nearest
from .reader import Reader

__all__ = ["DEFAULT", "RouteEntry", "find", "read_routes", "table", "template_of"]

DEFAULT = "default"  # the template that stands for the application's custom default handler
WEBSOCKET = "WS"
ANY = "*"
# A closed list: a misspelt method would make an entry that never matches. Exotic ones are covered by "*".
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", WEBSOCKET, ANY),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE"),
)
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::[A-Za-z_][A-Za-z0-9_]*)?\}")
_TEMPLATE = re.compile(rf"/(?:[^\s{{}}?#]|{_PARAMETER.pattern})*")
_RESOURCE = re.compile(r"[A-Za-z0-9_.-]+(?:/\{([A-Za-z_][A-Za-z0-9_]*)\})?")


class RouteEntry(msgspec.Struct, frozen=True):
    """One entry: for ``methods`` on ``template`` either an ``action`` (with a resource template) or an exemption.

    ``exempt`` is the reason; ``until`` is the last day (UTC) on which the exemption holds.
    """

    methods: frozenset[str]
    template: str
    action: str | None = None
    resource: str | None = None
    exempt: str | None = None
    until: date | None = None
    line: int = 0

    @property
    def match(self) -> str:
        """The entry's ``match:`` in canonical form."""
        return f"{'|'.join(sorted(self.methods))} {self.template}"

    def expired(self, today: date) -> bool:
        """True for an exemption whose last day is over: the route is then un-annotated again."""
        return self.until is not None and today > self.until

    def to_json(self) -> dict[str, Any]:
        """The entry as the language writes it in full."""
        until = self.until.isoformat() if self.until else None
        body = {"action": self.action, "resource": self.resource, "exempt": self.exempt, "until": until}
        return {"match": self.match, **{key: value for key, value in body.items() if value is not None}}


@lru_cache(maxsize=4096)
def template_of(template: str) -> str:
    """The template without convertors."""
    return _PARAMETER.sub(r"{\1}", template)


def table(entries: Iterable[RouteEntry]) -> Mapping[tuple[str, str], RouteEntry]:
    """Entries by method and template, for `find`."""
    return {(method, entry.template): entry for entry in entries for method in entry.methods}


def find(entries: Mapping[tuple[str, str], RouteEntry], template: str, method: str) -> RouteEntry | None:
    """The entry for one route, or ``None``."""
    template = template_of(template)
    entry = entries.get((method, template))
    if entry is None and method == "HEAD":
        entry = entries.get(("GET", template))
    if entry is None and method != WEBSOCKET:
        entry = entries.get((ANY, template))
    return entry


def read_routes(reader: Reader, node: Node, path: str, actions: Iterable[str]) -> tuple[RouteEntry, ...]:
    """Reads the ``routes:`` list; what is wrong becomes findings."""
    known = frozenset(actions)
    entries: list[RouteEntry] = []
    seen: dict[tuple[str, str], int] = {}
    for where, item in reader.items(node, path):
        entry = _entry(reader, item, where, known)
        for method in sorted(entry.methods):
            key = (method, entry.template)
            if key in seen:
                text = f"'{method} {entry.template}' is matched already on line {seen[key]}"
                reader.findings.add(item.line, join(where, "match"), text)
            seen.setdefault(key, item.line)
        entries.append(entry)
    return tuple(sorted(entries, key=lambda entry: (entry.template, sorted(entry.methods))))


def _entry(reader: Reader, node: Node, path: str, actions: frozenset[str]) -> RouteEntry:
    pairs = reader.table(node, path, ("match", "action", "resource", "exempt", "until"), required=("match",))
    methods, template = _match(reader, pairs["match"].value, join(path, "match")) if "match" in pairs else (set(), "")
    if ("action" in pairs) == ("exempt" in pairs):
        reader.findings.add(node.line, path, "expected exactly one of action and exempt")
    if "until" in pairs and "exempt" not in pairs:
        reader.findings.add(pairs["until"].line, join(path, "until"), "only an exemption ends on a date")
    if "resource" in pairs and "action" not in pairs:
        reader.findings.add(pairs["resource"].line, join(path, "resource"), "an exempt route has no resource")
    return RouteEntry(
        methods=frozenset(methods),
        template=template,
        action=_action(reader, pairs, path, actions),
        resource=_resource(reader, pairs, path, template),
        exempt=reader.text(pairs["exempt"].value, join(path, "exempt")) if "exempt" in pairs else None,
        until=_until(reader, pairs, path),
        line=node.line,
    )


def _match(reader: Reader, node: Node, path: str) -> tuple[set[str], str]:
    text = reader.text(node, path, "GET /")
    verbs, _, template = text.partition(" ")
    template = template.strip()
    if not template:
        reader.findings.add(node.line, path, f"'{text}' is not of the form 'METHOD /template'")
        return set(), ""
    methods = verbs.split("|")
    for method in methods:
        if method not in METHODS:
            reader.findings.add(node.line, path, f"unknown method '{method}'", nearest(method.upper(), METHODS))
    if len(set(methods)) < len(methods):
        reader.findings.add(node.line, path, f"'{verbs}' names a method twice")
    if template != DEFAULT and not _TEMPLATE.fullmatch(template):
        text = f"'{template}' is not a path template such as /static/{{path:path}}, nor the word {DEFAULT}"
        reader.findings.add(node.line, path, text)
    return set(methods), template_of(template)


def _action(reader: Reader, pairs: Mapping[str, Pair], path: str, actions: frozenset[str]) -> str | None:
    if "action" not in pairs:
        return None
    node, where = pairs["action"].value, join(path, "action")
    name = reader.text(node, where)
    if name and name not in actions:
        reader.findings.add(node.line, where, f"unknown action '{name}'", nearest(name, actions))
    return name


def _resource(reader: Reader, pairs: Mapping[str, Pair], path: str, template: str) -> str | None:
    if "resource" not in pairs:
        return None
    node, where = pairs["resource"].value, join(path, "resource")
    text = reader.text(node, where, "x")
    match = _RESOURCE.fullmatch(text)
    if match is None:
        reader.findings.add(node.line, where, f"'{text}' is not of the form type/{{parameter}}")
    elif (name := match.group(1)) and name not in (names := _PARAMETER.findall(template)):
        reader.findings.add(node.line, where, f"'{template}' has no parameter '{name}'", nearest(name, names))
    return text


def _until(reader: Reader, pairs: Mapping[str, Pair], path: str) -> date | None:
    if "until" not in pairs:
        return None
    node, where = pairs["until"].value, join(path, "until")
    text = reader.text(node, where, "2000-01-01")
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            return date.fromisoformat(text)
    except ValueError:
        pass
    reader.findings.add(node.line, where, f"'{text}' is not a date such as 2027-06-30")
    return None
