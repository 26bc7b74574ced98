"""The policy language: its words, and the frozen values that a file is read into.

The schema is whole: a file written for it stays valid. What this version does not carry out yet is refused when a file
uses it (`ENFORCED`), because a policy that promises what nobody enforces is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from ..model import Level, Mode, Outcome, Severity
from ..persons import Personal
from .channels import CHANNEL_TYPES, Channel
from .conditions import Condition, to_json
from .patterns import Pattern
from .personal import NOTHING
from .personal import to_json as to_json_personal
from .routes import RouteEntry

__all__ = [
    "CHANNEL_TYPES",
    "ENFORCED",
    "FEATURES",
    "ActionSpec",
    "Channel",
    "Guarantee",
    "Limit",
    "LogFailure",
    "PolicySpec",
    "Rate",
    "Redaction",
    "Requirements",
    "RuleSpec",
]

VERSION = 1

FEATURES = (
    "require",
    "limit",
    "guarantee: before",
    "guarantee: sealed",
    "on_log_failure: degrade",
    "notify",
    "channels",
    "personal",
)
"""Parts of the language that a version may know without carrying them out."""

ENFORCED: frozenset[str] = frozenset(
    {
        "require",
        "limit",
        "guarantee: before",
        "guarantee: sealed",
        "on_log_failure: degrade",
        "notify",
        "channels",
        "personal",
    }
)
"""Those of `FEATURES` that this version carries out; a policy that uses another does not load."""

Guarantee = Literal["after", "sealed", "before"]
LogFailure = Literal["deny", "degrade"]
Per = Literal["subject", "tenant", "address", "action"]

DEFAULTS: tuple[Literal["deny", "allow"], ...] = ("deny", "allow")
MODES: tuple[Mode, ...] = ("enforce", "monitor")
SEVERITIES: tuple[Severity, ...] = ("info", "low", "medium", "high", "critical")
LEVELS: tuple[Level, ...] = ("none", "metadata", "request", "response")
GUARANTEES: tuple[Guarantee, ...] = ("after", "sealed", "before")
LOG_FAILURES: tuple[LogFailure, ...] = ("deny", "degrade")
PERS: tuple[Per, ...] = ("subject", "tenant", "address", "action")

POLICY_KEYS = ("version", "name", "mode", "default", "roles", "actions", "routes", "channels", "redact", "personal")
ACTION_KEYS = (
    *(
        "event",
        "severity",
        "record",
        "mode",
        "allow",
        "deny",
        "require",
        "limit",
        "guarantee",
        "on_log_failure",
        "notify",
        "personal",
    ),
)
RULE_KEYS = ("name", "roles", "when")
REQUIRE_KEYS = ("mfa", "acr", "auth_age", "reason", "confirm")
LIMIT_KEYS = ("rate", "concurrent", "per", "on_limit_error")
NOTIFY_KEYS = ("channels", "outcomes")
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "denied", "error", "aborted")
REDACT_PATTERNS = ("card-number", "email", "iban", "jwt", "us-ssn")

ANYONE = "anyone"
AUTHENTICATED = "authenticated"
BUILT_IN_ROLES = (ANYONE, AUTHENTICATED)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ACTION_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
EVENT_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)", re.ASCII)


class RuleSpec(msgspec.Struct, frozen=True):
    """An allow or deny rule. No roles means every caller that ``when`` admits."""

    name: str
    roles: tuple[str, ...] = ()
    when: Condition | None = None

    def to_json(self) -> dict[str, Any]:
        """The rule as the language writes it in full."""
        body: dict[str, Any] = {"name": self.name}
        if self.roles:
            body["roles"] = list(self.roles)
        if self.when is not None:
            body["when"] = to_json(self.when)
        return body


class Requirements(msgspec.Struct, frozen=True):
    """What a caller who may act still has to bring; ``auth_age`` is in seconds, ``reason`` a pattern or presence."""

    mfa: bool = False
    acr: tuple[str, ...] = ()
    auth_age: int | None = None
    reason: Pattern | bool = False
    confirm: bool = False

    def to_json(self) -> dict[str, Any]:
        """The requirements as the language writes them in full."""
        reason = {"matches": self.reason.text} if isinstance(self.reason, Pattern) else self.reason
        age = f"{self.auth_age}s" if self.auth_age is not None else None
        body = {"mfa": self.mfa, "acr": list(self.acr), "auth_age": age, "reason": reason, "confirm": self.confirm}
        return {key: value for key, value in body.items() if value}


class Rate(msgspec.Struct, frozen=True):
    """At most ``count`` requests in any window of ``seconds``."""

    count: int
    seconds: int


class Limit(msgspec.Struct, frozen=True):
    """How often, and how many at once, counted per subject, tenant, address or action."""

    rate: Rate | None = None
    concurrent: int | None = None
    per: Per = "subject"
    on_limit_error: Literal["deny", "allow"] = "deny"

    def to_json(self) -> dict[str, Any]:
        """The limit as the language writes it in full."""
        body: dict[str, Any] = {"per": self.per, "on_limit_error": self.on_limit_error}
        if self.rate is not None:
            unit = next(unit for unit, seconds in UNITS.items() if seconds == self.rate.seconds)
            body["rate"] = f"{self.rate.count}/{unit}"
        if self.concurrent is not None:
            body["concurrent"] = self.concurrent
        return body


class ActionSpec(msgspec.Struct, frozen=True):
    """One action as the file says it, with every default filled in.

    ``notify_outcomes`` are those of which the channels of ``notify`` hear; none are all. ``personal`` is what the
    action treats otherwise than the policy, at least as strictly. ``stated`` holds which of ``event`` and ``severity``
    the file gives itself: those win over the mark in the code. It is no part of what is digested, because it changes no
    decision.
    """

    name: str
    event: str
    severity: Severity = "low"
    record: Level = "metadata"
    mode: Mode = "enforce"
    allow: tuple[RuleSpec, ...] = ()
    deny: tuple[RuleSpec, ...] = ()
    require: Requirements | None = None
    limit: Limit | None = None
    guarantee: Guarantee = "after"
    on_log_failure: LogFailure = "deny"
    notify: tuple[str, ...] = ()
    notify_outcomes: tuple[Outcome, ...] = ()
    personal: Personal = msgspec.field(default_factory=lambda: NOTHING)
    stated: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The action as the language writes it in full."""
        body: dict[str, Any] = {
            "event": self.event,
            "severity": self.severity,
            "record": self.record,
            "mode": self.mode,
        }
        body |= {"guarantee": self.guarantee, "on_log_failure": self.on_log_failure}
        body |= {"allow": [rule.to_json() for rule in self.allow], "deny": [rule.to_json() for rule in self.deny]}
        if self.require is not None:
            body["require"] = self.require.to_json()
        if self.limit is not None:
            body["limit"] = self.limit.to_json()
        if self.notify_outcomes:
            body["notify"] = {"channels": list(self.notify), "outcomes": list(self.notify_outcomes)}
        elif self.notify:
            body["notify"] = list(self.notify)
        if self.personal:
            body["personal"] = to_json_personal(self.personal)
        return body


class Redaction(msgspec.Struct, frozen=True):
    """What never reaches a record: ``keys`` are names or dotted globs; ``patterns`` are known names or ``re:<RE2>``."""

    keys: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


class PolicySpec(msgspec.Struct, frozen=True):
    """A whole file. ``roles`` maps each role to those it directly inherits.

    ``personal`` has the ``profile`` spelled out: the digest covers what is done, not what a profile is called.
    """

    name: str
    mode: Mode = "enforce"
    default: Literal["deny", "allow"] = "deny"
    roles: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    actions: Mapping[str, ActionSpec] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    routes: tuple[RouteEntry, ...] = ()
    channels: Mapping[str, Channel] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    redact: Redaction = Redaction()
    personal: Personal = msgspec.field(default_factory=lambda: NOTHING)
    profile: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The policy as the language writes it in full: a JSON object that loads as the same policy."""
        body: dict[str, Any] = {"version": VERSION, "name": self.name, "mode": self.mode, "default": self.default}
        body["roles"] = {role: {"inherits": list(inherits)} for role, inherits in self.roles.items()}
        body["actions"] = {name: action.to_json() for name, action in self.actions.items()}
        body["routes"] = [entry.to_json() for entry in self.routes]
        body["redact"] = {"keys": list(self.redact.keys), "patterns": list(self.redact.patterns)}
        if self.channels:
            body["channels"] = {name: {"type": one.type, **one.options} for name, one in self.channels.items()}
        if self.personal:
            body["personal"] = to_json_personal(self.personal)
        return body
