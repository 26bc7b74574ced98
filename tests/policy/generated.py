"""Generated conditions over all operators, and requests whose values are near their operands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from audit_middleware.model import ANONYMOUS, Resource, Subject

PATHS = ("resource.p", "resource.q", "context.p", "subject.p")
WORDS = ("", "a", "ab", "abc", "b", "-", "10.0.0.1", "2026-03-02T09:00:00Z")
NUMBERS = (-1, 0, 0.5, 1, 1.5, 2, 3)
NETWORKS = ("10.0.0.0/8", "10.0.0.0/30", "10.0.0.1/32", "192.0.2.0/24", "2001:db8::/32", "::ffff:10.0.0.0/120")
WINDOWS = ("08:00-18:00", "09:00-10:00", "22:00-06:00", "18:00-24:00", "00:00-08:00")
ZONES = ("UTC", "Asia/Tokyo")

scalars = st.one_of(st.sampled_from(WORDS[1:]), st.sampled_from(NUMBERS), st.booleans())
kinds = st.one_of(
    *(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True) for values in (WORDS[1:], NUMBERS)),
    st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
)


def _compare(operator: str, operands: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda path, operand: {path: {operator: operand}}, st.sampled_from(PATHS), operands)


leaves = st.one_of(
    *(_compare(operator, scalars) for operator in ("equals", "not_equals", "contains")),
    *(_compare(operator, kinds) for operator in ("in", "not_in")),
    *(_compare(operator, st.sampled_from(NUMBERS)) for operator in ("lt", "lte", "gt", "gte")),
    *(_compare(operator, st.sampled_from(WORDS[1:])) for operator in ("starts_with", "ends_with")),
    _compare("exists", st.booleans()),
    _compare("matches", st.sampled_from(["^a", "b$", "^$", "."])),
    _compare("same_as", st.sampled_from([*PATHS, "subject.id"])),
    _compare("in_cidr", st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2, unique=True)),
    st.builds(
        lambda path, window, zone: {path: {"between": window, "zone": zone}},
        *(st.sampled_from(PATHS), st.sampled_from(WINDOWS), st.sampled_from(ZONES)),
    ),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=5,
)

addresses = (
    "10.0.0.0",
    "10.0.0.3",
    "10.0.0.4",
    "10.1.0.0",
    "192.0.2.255",
    "::ffff:10.0.0.1",
    "2001:db8::",
    "2001:db9::",
)
moments = st.integers(0, 47).map(lambda half: datetime(2026, 3, 2, tzinfo=UTC) + timedelta(minutes=30 * half))
values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([*NUMBERS, 0.75, 2.5, -7, 10**18, float("nan"), float("inf")]),
    st.sampled_from([*WORDS, "abcb", "\ud800", "a" * 70_000, *addresses]),
    moments,
    moments.map(lambda moment: moment.isoformat()),
    st.integers(-(10**6), 2 * 10**9),
    st.lists(scalars, max_size=3),
    st.dictionaries(st.sampled_from(["p", "q"]), scalars, max_size=1),
)
attributes = st.fixed_dictionaries({}, optional={"p": values, "q": values})
ROLES = ("r0", "r1", "r2")
subjects = st.builds(
    lambda identity, roles, properties, nobody: Subject(
        identity, ANONYMOUS if nobody else "user", () if nobody else tuple(sorted(roles)), properties=properties
    ),
    *(st.sampled_from(["a", "ab", ""]), st.sets(st.sampled_from([*ROLES, "unknown"])), attributes, st.booleans()),
)
resources = st.builds(lambda properties: Resource("t", "1", properties), attributes)

rules = st.lists(
    st.tuples(
        st.sets(st.sampled_from([*ROLES, "anyone", "authenticated"]), max_size=2), st.one_of(st.none(), conditions)
    ),
    max_size=3,
)


def _rule(name: str, roles: set[str], when: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name}
    if roles or when is None:
        body["roles"] = sorted(roles or {"anyone"})
    return body if when is None else {**body, "when": when}


def _policy(allow: list[Any], deny: list[Any], inherits: set[str], default: str) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "p",
        "default": default,
        "roles": {"r0": {}, "r1": {}, "r2": {"inherits": sorted(inherits)}},
        "actions": {
            "a.b": {
                "allow": [_rule(f"allow{n}", *rule) for n, rule in enumerate(allow)],
                "deny": [_rule(f"deny{n}", *rule) for n, rule in enumerate(deny)],
            }
        },
    }


policies = st.builds(
    _policy, rules, rules, st.sets(st.sampled_from(["r0", "r1"])), st.sampled_from(["deny", "deny", "allow"])
)
