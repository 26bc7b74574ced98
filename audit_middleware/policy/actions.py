"""Reads ``actions:`` and what they hold: rules, requirements, limits, guarantees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar

from ..model import Outcome
from ..persons import Personal
from . import schema
from .conditions import read_condition
from .document import ListNode, MapNode, Node, Pair, ScalarNode
from .findings import join, nearest
from .operators import OPERATORS
from .patterns import Pattern
from .personal import NOTHING, read_stricter
from .reader import Reader
from .schema import ActionSpec, Limit, Rate, Requirements, RuleSpec

__all__ = ["Names", "enforced", "read_action"]

Word = TypeVar("Word", bound=str)
_NONE: tuple[tuple[str, ...], tuple[Outcome, ...]] = ((), ())
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Names:
    """What an action may refer to: roles, channels and predicates by name, and the policy's treatments of personal
    data, which it may make stricter."""

    def __init__(
        self, roles: Collection[str], channels: Collection[str], predicates: Mapping[str, Any], personal: Personal
    ) -> None:
        self.roles = (*roles, *schema.BUILT_IN_ROLES)
        self.channels = channels
        self.predicates = predicates
        self.personal = personal


def enforced(reader: Reader, feature: str, line: int, path: str) -> None:
    """Reports the use of a feature that this version would not carry out."""
    if feature not in schema.ENFORCED:
        value = feature.partition(": ")[2]
        reader.findings.add(line, path, f"'{value}' is not supported by this version" if value else _UNSUPPORTED)


_UNSUPPORTED = "not supported by this version"


def read_action(reader: Reader, name: str, pair: Pair, path: str, names: Names) -> ActionSpec:
    """One action's mapping, with every default filled in. ``invoice.read:`` alone is an action without rules."""
    pairs = reader.table(pair.value, path, schema.ACTION_KEYS, optional=True)
    for feature in ("require", "limit", "notify", "personal"):
        if feature in pairs:
            enforced(reader, feature, pairs[feature].line, join(path, feature))
    if not schema.ACTION_NAME.fullmatch(name):
        reader.findings.add(pair.line, path, f"'{name}' is not an action name such as invoice.delete")
    allow, deny = _rules(reader, pairs, path, names)
    notify, outcomes = (
        _notify(reader, pairs["notify"].value, join(path, "notify"), names) if "notify" in pairs else _NONE
    )
    record = _word(reader, pairs, path, "record", schema.LEVELS, "metadata")
    guarantee = _word(reader, pairs, path, "guarantee", schema.GUARANTEES, "after")
    if record == "none" and guarantee != "after":
        text = f"'{guarantee}' waits for a record, but record: none leaves it out"
        reader.findings.add(pairs["guarantee"].line, join(path, "guarantee"), text)
    return ActionSpec(
        name=name,
        event=_event(reader, name, pair.line, pairs, path),
        severity=_word(reader, pairs, path, "severity", schema.SEVERITIES, "low"),
        record=record,
        mode=_word(reader, pairs, path, "mode", schema.MODES, "enforce"),
        allow=allow,
        deny=deny,
        require=_require(reader, pairs["require"].value, join(path, "require")) if "require" in pairs else None,
        limit=_limit(reader, pairs["limit"].value, join(path, "limit")) if "limit" in pairs else None,
        guarantee=guarantee,
        on_log_failure=_word(reader, pairs, path, "on_log_failure", schema.LOG_FAILURES, "deny"),
        notify=notify,
        notify_outcomes=outcomes,
        personal=read_stricter(reader, pairs["personal"].value, join(path, "personal"), names.personal)
        if "personal" in pairs
        else NOTHING,
        stated=frozenset(pairs) & {"event", "severity"},
    )


def _word(
    reader: Reader, pairs: Mapping[str, Pair], path: str, key: str, options: tuple[Word, ...], otherwise: Word
) -> Word:
    if key not in pairs:
        return otherwise
    word = reader.choice(pairs[key].value, join(path, key), options, otherwise)
    if (feature := f"{key}: {word}") in schema.FEATURES:
        enforced(reader, feature, pairs[key].value.line, join(path, key))
    return word


def _event(reader: Reader, name: str, line: int, pairs: Mapping[str, Pair], path: str) -> str:
    text = name.upper().replace(".", "_").replace("-", "_")
    if "event" in pairs:
        line = pairs["event"].value.line
        text = reader.text(pairs["event"].value, join(path, "event"), "EVENT")
    elif not schema.ACTION_NAME.fullmatch(name):
        return "EVENT"  # the name itself is reported
    if not schema.EVENT_NAME.fullmatch(text):
        reader.findings.add(line, join(path, "event"), f"'{text}' is not an event name such as INVOICE_DELETED")
    return text


# --- rules -------------------------------------------------------------------------------------------------------


def _rules(
    reader: Reader, pairs: Mapping[str, Pair], path: str, names: Names
) -> tuple[tuple[RuleSpec, ...], tuple[RuleSpec, ...]]:
    """The allow and the deny rules; a rule's name is unique among both, because a decision carries it alone."""
    taken: dict[str, int] = {}
    lists: dict[str, tuple[RuleSpec, ...]] = {"allow": (), "deny": ()}
    for key in lists:
        if key in pairs:
            where = join(path, key)
            rules = [_rule(reader, item, at, names, taken) for at, item in reader.items(pairs[key].value, where)]
            lists[key] = tuple(rules)
    return lists["allow"], lists["deny"]


def _rule(reader: Reader, node: Node, path: str, names: Names, taken: dict[str, int]) -> RuleSpec:
    if isinstance(node, ScalarNode):
        role = reader.text(node, path)
        if role:
            _check_roles(reader, {role: (node.line, path)}, names)
            _claim(reader, role, node.line, path, taken)
        return RuleSpec(role, (role,))
    pairs = reader.table(node, path, schema.RULE_KEYS, required=("name",))
    name = ""
    if "name" in pairs:
        name = reader.text(pairs["name"].value, join(path, "name"))
        _claim(reader, name, pairs["name"].value.line, join(path, "name"), taken)
    if isinstance(node, MapNode) and "roles" not in pairs and "when" not in pairs:
        text = f"rule '{name}' needs roles or when: for every caller write roles: [{schema.ANYONE}]"
        reader.findings.add(node.line, path, text)
    roles: tuple[str, ...] = ()
    if "roles" in pairs:
        found = reader.texts(pairs["roles"].value, join(path, "roles"))
        _check_roles(reader, found, names)
        roles = tuple(sorted(found))
        # An empty list must not mean what a missing one means: every caller.
        if isinstance(pairs["roles"].value, ListNode) and not found:
            reader.findings.add(pairs["roles"].line, join(path, "roles"), "an empty list can never match")
    when = (
        read_condition(reader, pairs["when"].value, join(path, "when"), names.predicates) if "when" in pairs else None
    )
    return RuleSpec(name, roles, when)


def _check_roles(reader: Reader, roles: Mapping[str, tuple[int, str]], names: Names) -> None:
    for role, (line, path) in roles.items():
        if role not in names.roles:
            reader.findings.add(line, path, f"unknown role '{role}'", nearest(role, names.roles))


def _claim(reader: Reader, name: str, line: int, path: str, taken: dict[str, int]) -> None:
    if name in taken:
        reader.findings.add(line, path, f"duplicate rule name '{name}', first on line {taken[name]}")
    elif name:
        taken[name] = line


def _notify(reader: Reader, node: Node, path: str, names: Names) -> tuple[tuple[str, ...], tuple[Outcome, ...]]:
    """The channels of an action, and the outcomes of which they hear; none are all of them."""
    outcomes: tuple[Outcome, ...] = ()
    if isinstance(node, MapNode):
        pairs = reader.table(node, path, schema.NOTIFY_KEYS, required=("channels",))
        if "outcomes" in pairs:
            listed, where = pairs["outcomes"].value, join(path, "outcomes")
            found = {reader.choice(item, at, schema.OUTCOMES, "success") for at, item in reader.items(listed, where)}
            if not found:
                reader.findings.add(listed.line, where, "lists no outcome: leave it out to hear of all")
            outcomes = tuple(word for word in schema.OUTCOMES if word in found and found != set(schema.OUTCOMES))
        if "channels" not in pairs:
            return (), ()
        node, path = pairs["channels"].value, join(path, "channels")
        if isinstance(node, ListNode) and not node.items:
            reader.findings.add(node.line, path, "lists no channel")
    channels = reader.texts(node, path)
    for name, (line, where) in channels.items():
        if name not in names.channels:
            reader.findings.add(line, where, f"unknown channel '{name}'", nearest(name, names.channels))
    return tuple(sorted(channels)), outcomes


# --- requirements and limits -------------------------------------------------------------------------------------


def _require(reader: Reader, node: Node, path: str) -> Requirements:
    pairs = reader.table(node, path, schema.REQUIRE_KEYS)
    flags = {key: reader.flag(pairs[key].value, join(path, key)) for key in ("mfa", "confirm") if key in pairs}
    acr = tuple(sorted(reader.texts(pairs["acr"].value, join(path, "acr")))) if "acr" in pairs else ()
    age = _duration(reader, pairs["auth_age"].value, join(path, "auth_age")) if "auth_age" in pairs else None
    reason = _reason(reader, pairs["reason"].value, join(path, "reason")) if "reason" in pairs else False
    found = Requirements(flags.get("mfa", False), acr, age, reason, flags.get("confirm", False))
    if isinstance(node, MapNode) and found == Requirements():
        reader.findings.add(node.line, path, "nothing is required: remove it, or name a requirement")
    return found


def _duration(reader: Reader, node: Node, path: str) -> int:
    text = reader.text(node, path, "1s")
    match = schema.DURATION.fullmatch(text)
    if match is None:
        reader.findings.add(node.line, path, f"'{text}' is not a duration such as 15m (s, m, h, d)")
        return 1
    return int(match.group(1)) * SECONDS[match.group(2)]


def _reason(reader: Reader, node: Node, path: str) -> Pattern | bool:
    if not isinstance(node, MapNode):
        return reader.flag(node, path)
    pairs = reader.table(node, path, ("matches",), required=("matches",))
    if "matches" not in pairs:
        return True
    return OPERATORS["matches"].read(reader, pairs["matches"].value, join(path, "matches")) or True


def _limit(reader: Reader, node: Node, path: str) -> Limit:
    pairs = reader.table(node, path, schema.LIMIT_KEYS)
    if isinstance(node, MapNode) and "rate" not in pairs and "concurrent" not in pairs:
        reader.findings.add(node.line, path, "expected rate, concurrent or both")
    concurrent = None
    if "concurrent" in pairs:
        concurrent = reader.integer(pairs["concurrent"].value, join(path, "concurrent"), 1, 1_000_000)
    on_error: tuple[Literal["deny", "allow"], ...] = ("deny", "allow")
    return Limit(
        rate=_rate(reader, pairs["rate"].value, join(path, "rate")) if "rate" in pairs else None,
        concurrent=concurrent,
        per=_word(reader, pairs, path, "per", schema.PERS, "subject"),
        on_limit_error=_word(reader, pairs, path, "on_limit_error", on_error, "deny"),
    )


def _rate(reader: Reader, node: Node, path: str) -> Rate:
    text = reader.text(node, path, "1/second")
    match = schema.RATE.fullmatch(text)
    if match is None:
        reader.findings.add(node.line, path, f"'{text}' is not a rate such as 10/minute (second, minute, hour, day)")
        return Rate(1, 1)
    return Rate(int(match.group(1)), schema.UNITS[match.group(2)])
