"""Loads a policy: text to nodes to values to the compiled `Policy`, or one `PolicyError` that holds every finding."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import PolicyError
from . import schema
from .actions import Names, enforced, read_action
from .channels import read_channels
from .conditions import PredicateFunction
from .document import MAX_BYTES, Node, Pair, compose, decode
from .evaluate import Policy
from .findings import Findings, join, nearest
from .patterns import Pattern, PatternError
from .personal import NOTHING, read_personal
from .reader import Reader
from .routes import RouteEntry, read_routes
from .schema import PolicySpec, Redaction

__all__ = ["load", "load_bytes", "loads", "read_bytes"]

MAX_ROLES = 2_000  # inheritance is expanded for every role, so its size is the square of this at worst
_NO_PREDICATES: Mapping[str, PredicateFunction] = MappingProxyType({})


def load(path: str | Path, *, predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES) -> Policy:
    """Reads, checks and compiles a policy file.

    Args:
        path: the YAML file, UTF-8, at most 1 MiB.
        predicates: Python functions that conditions may call by name (``{predicate: name}``).

    Raises:
        PolicyError: with every finding, one a line: ``file:line: key.path: text; did you mean 'x'?``.
    """
    return load_bytes(read_bytes(path), str(path), predicates=predicates)


def load_bytes(data: bytes, filename: str, *, predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES) -> Policy:
    """As `load`, for what `read_bytes` returned."""
    findings = Findings(filename)
    return _compiled(decode(data, findings), findings, predicates)


def loads(
    text: str, filename: str = "<policy>", *, predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES
) -> Policy:
    """As `load`, for text; ``filename`` is what findings are reported under."""
    return _compiled(text.removeprefix("\ufeff"), Findings(filename), predicates)


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes, at most one more than allowed. Raises `PolicyError` when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error


def _compiled(text: str, findings: Findings, predicates: Mapping[str, PredicateFunction]) -> Policy:
    spec = _policy(Reader(findings), compose(text, findings), predicates)
    findings.close()
    return Policy.build(spec, predicates)


def _policy(reader: Reader, node: Node, predicates: Mapping[str, Any]) -> PolicySpec:
    pairs = reader.table(node, "", schema.POLICY_KEYS, required=("version", "name", "actions"))
    if "version" in pairs:
        _version(reader, pairs["version"].value)
    for feature in ("channels", "personal"):
        if feature in pairs:
            enforced(reader, feature, pairs[feature].line, feature)
    channels = read_channels(reader, pairs["channels"].value) if "channels" in pairs else {}
    roles = _roles(reader, pairs["roles"].value) if "roles" in pairs else {}
    personal, profile = read_personal(reader, pairs["personal"].value) if "personal" in pairs else (NOTHING, None)
    actions = _actions(reader, pairs, Names(roles, channels, predicates, personal))
    routes: tuple[RouteEntry, ...] = ()
    if "routes" in pairs:
        routes = read_routes(reader, pairs["routes"].value, "routes", actions)
    return PolicySpec(
        name=_name(reader, pairs["name"].value) if "name" in pairs else "",
        mode=reader.choice(pairs["mode"].value, "mode", schema.MODES, "enforce") if "mode" in pairs else "enforce",
        default=reader.choice(pairs["default"].value, "default", schema.DEFAULTS, "deny")
        if "default" in pairs
        else "deny",
        roles=MappingProxyType(roles),
        actions=MappingProxyType(actions),
        routes=routes,
        channels=MappingProxyType(channels),
        redact=_redact(reader, pairs["redact"].value) if "redact" in pairs else Redaction(),
        personal=personal,
        profile=profile,
    )


def _version(reader: Reader, node: Node) -> None:
    found = reader.value(node, "version", otherwise=schema.VERSION)
    if found != schema.VERSION or isinstance(found, bool | str):
        reader.findings.add(
            node.line, "version", f"expected {schema.VERSION}, the only version of the language, found {found}"
        )


def _name(reader: Reader, node: Node) -> str:
    text = reader.text(node, "name", "policy")
    if not schema.NAME.fullmatch(text):
        reader.findings.add(node.line, "name", f"'{text}' is not a name: letters, digits, dot, dash, underscore")
    return text


def _actions(reader: Reader, pairs: Mapping[str, Pair], names: Names) -> dict[str, schema.ActionSpec]:
    if "actions" not in pairs:
        return {}
    bodies = reader.table(pairs["actions"].value, "actions")
    return {name: read_action(reader, name, pair, join("actions", name), names) for name, pair in bodies.items()}


# --- roles -------------------------------------------------------------------------------------------------------


def _roles(reader: Reader, node: Node) -> dict[str, tuple[str, ...]]:
    bodies = reader.table(node, "roles")
    lines = {role: pair.line for role, pair in bodies.items()}
    roles: dict[str, tuple[str, ...]] = {}
    for role, pair in bodies.items():
        path = join("roles", role)
        if role in schema.BUILT_IN_ROLES:
            reader.findings.add(pair.line, path, f"'{role}' is built in and cannot be defined")
        elif not role or role != " ".join(role.split()):
            reader.findings.add(pair.line, path, f"'{role}' is not a role name")
        roles[role] = _inherits(reader, pair.value, path, lines)
    if len(roles) > MAX_ROLES:
        reader.findings.add(node.line, "roles", f"{len(roles)} roles are more than {MAX_ROLES}")
    else:
        _cycles(reader, roles, lines)
    return roles


def _inherits(reader: Reader, node: Node, path: str, defined: Mapping[str, int]) -> tuple[str, ...]:
    pairs = reader.table(node, path, ("inherits",), optional=True)
    if "inherits" not in pairs:
        return ()
    found = reader.texts(pairs["inherits"].value, join(path, "inherits"))
    for role, (line, where) in found.items():
        if role not in defined:
            reader.findings.add(line, where, f"unknown role '{role}'", nearest(role, defined))
    return tuple(sorted(role for role in found if role in defined))


def _cycles(reader: Reader, roles: Mapping[str, tuple[str, ...]], lines: Mapping[str, int]) -> None:
    """Reports each cycle once, at its first role in the file."""
    reported: set[str] = set()
    for role in roles:
        cycle = () if role in reported else _way_back(roles, role)
        if cycle:
            reported.update(cycle)
            trail = " -> ".join(cycle)
            reader.findings.add(lines[role], join("roles", role), f"inherits itself: {trail}")


def _way_back(roles: Mapping[str, tuple[str, ...]], start: str) -> tuple[str, ...]:
    """The shortest chain of inheritance from a role back to itself, or nothing."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        role = queue.popleft()
        for inherited in roles[role]:
            if inherited == start:
                trail = [start, role]
                while trail[-1] != start:
                    trail.append(came_from[trail[-1]])
                return tuple(reversed(trail))
            if inherited not in came_from:
                came_from[inherited] = role
                queue.append(inherited)
    return ()


# --- the rest ----------------------------------------------------------------------------------------------------


def _redact(reader: Reader, node: Node) -> Redaction:
    pairs = reader.table(node, "redact", ("keys", "patterns"))
    keys = reader.texts(pairs["keys"].value, "redact.keys") if "keys" in pairs else {}
    patterns = reader.texts(pairs["patterns"].value, "redact.patterns") if "patterns" in pairs else {}
    for text, (line, path) in patterns.items():
        if text.startswith("re:"):
            try:
                Pattern(text.removeprefix("re:"))
            except PatternError as error:
                reader.findings.add(line, path, str(error))
        elif text not in schema.REDACT_PATTERNS:
            hint = nearest(text, schema.REDACT_PATTERNS)
            reader.findings.add(line, path, f"unknown pattern '{text}' (a pattern of your own starts with re:)", hint)
    return Redaction(tuple(sorted(keys)), tuple(sorted(patterns)))
