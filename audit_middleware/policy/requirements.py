"""Requirements: what a caller who may act still has to bring. Pure; asked only after a request was allowed.

How a caller was authenticated is in the subject's properties, whoever identified it:

``mfa``        ``True``: with more than one factor
``acr``        text: the authentication context class (OpenID Connect Core, 2)
``auth_time``  a number: when the caller last authenticated actively, seconds since the epoch

A property that is absent, of another type, or in the future meets nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from ..context import MAX_REASON
from ..errors import ConditionError
from ..model import Decision, Resource, Subject
from .operators import instant
from .patterns import Pattern
from .schema import Requirements

if TYPE_CHECKING:  # it imports this module to know what requirements read
    from .evaluate import Policy

__all__ = [
    "AUTHENTICATION",
    "CONFIRM",
    "NOTHING_OFFERED",
    "REASON",
    "Offer",
    "about",
    "decide",
    "demanded",
    "read_by",
    "seconds_of",
    "unmet",
    "usable",
]

AUTHENTICATION = frozenset({"mfa", "acr", "auth_age"})
"""Requirements that signing in again, or more strongly, can meet."""

REASON, CONFIRM = "reason", "confirm"
"""Names of what a request offers, beside the attributes: the reason it gives, and whether it confirms."""

_AHEAD = 60  # seconds by which the clock of whoever authenticated the caller may be ahead of ours
_UTC = ZoneInfo("UTC")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]").search


class Offer(msgspec.Struct, frozen=True):
    """What a request brings to meet requirements. ``confirm``: the text that it repeats, or ``True``, the right one."""

    reason: str | None = None
    confirm: str | bool = False

    def confirms(self, expected: str) -> bool:
        """Whether it repeats what the request is about."""
        return self.confirm is True or self.confirm == expected


NOTHING_OFFERED = Offer()


def decide(
    policy: Policy,
    action: str,
    subject: Subject,
    resource: Resource,
    context: Mapping[str, Any],
    offer: Offer = NOTHING_OFFERED,
) -> Decision:
    """What the policy says of one request in full: its rules, and then its requirements. Limits are not counted.

    Without ``context["time"]`` no authentication is recent.
    """
    decision = policy.evaluate(action, subject, resource, context)
    compiled = policy.actions.get(action)
    if compiled is None or compiled.require is None:
        return decision
    confirmed = offer.confirms(about(action, resource))
    now = seconds_of(context)
    return demanded(decision, compiled.require, subject, reason=usable(offer.reason), confirmed=confirmed, now=now)


def demanded(
    decision: Decision,
    require: Requirements,
    subject: Subject,
    *,
    reason: str | None,
    confirmed: bool,
    now: float | None,
) -> Decision:
    """The decision of the rules once the requirements were asked: of those who are allowed, and of nobody else."""
    if decision.effect != "allow":
        return decision
    missing = unmet(require, subject, reason=reason, confirmed=confirmed, now=now)
    if not missing:
        return decision
    detail = f"missing: {', '.join(missing)}"
    return replace(decision, effect="deny", cause="requirement", missing=missing, detail=detail)


def usable(reason: str | None) -> str | None:
    """The reason if it is one: 1 to 2,048 bytes of UTF-8 without control characters, else ``None``.

    Nothing is shortened: a pattern could hold for a part of what was written.
    """
    text = (reason or "").strip(" \t")
    if not text or _UNSEEN(text) or len(text.encode("utf-8", "surrogatepass")) > MAX_REASON:
        return None
    return text


def about(action: str, resource: Resource) -> str:
    """What a confirmation has to repeat: the resource's id where there is one, else the action's name."""
    return resource.id or action


def seconds_of(context: Mapping[str, Any]) -> float | None:
    """``context.time`` in seconds since the epoch; ``None`` where it is missing or no time."""
    try:
        return instant(context.get("time"), "context.time", _UTC).timestamp()
    except ConditionError:
        return None


def read_by(require: Requirements) -> tuple[str, ...]:
    """What these requirements read, by name: attributes of the subject, the time, `REASON` and `CONFIRM`."""
    asked = {
        "subject.mfa": require.mfa,
        "subject.acr": bool(require.acr),
        "subject.auth_time": require.auth_age is not None,
        "context.time": require.auth_age is not None,
        REASON: require.reason is not False,
        CONFIRM: require.confirm,
    }
    return tuple(name for name, wanted in asked.items() if wanted)


def unmet(
    require: Requirements, subject: Subject, *, reason: str | None, confirmed: bool, now: float | None
) -> tuple[str, ...]:
    """The requirements that are not met, all of them, by their names in the policy and in its order.

    ``reason`` is the caller's justification, ``confirmed`` whether the request repeats what it is about; ``now`` is in
    seconds since the epoch; where it is not known, no authentication is recent.
    """
    known = subject.properties
    met = {
        "mfa": not require.mfa or known.get("mfa") is True,
        "acr": not require.acr or known.get("acr") in require.acr,
        "auth_age": require.auth_age is None or _recent(known.get("auth_time"), require.auth_age, now),
        "reason": require.reason is False or _given(reason, require.reason),
        "confirm": not require.confirm or confirmed,
    }
    return tuple(name for name, held in met.items() if not held)


def _recent(auth_time: Any, limit: int, now: float | None) -> bool:
    if now is None or isinstance(auth_time, bool) or not isinstance(auth_time, int | float):
        return False
    return -_AHEAD <= now - auth_time <= limit


def _given(reason: str | None, wanted: Pattern | bool) -> bool:
    if reason is None or not isinstance(wanted, Pattern):
        return reason is not None
    try:
        return wanted.search(reason, "reason")
    except ConditionError:  # longer than its pattern may read
        return False
