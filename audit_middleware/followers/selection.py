"""Which records a follower takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from ..model import Effect, Outcome, Severity

SEVERITIES: tuple[str, ...] = get_args(Severity)
EFFECTS: tuple[str, ...] = get_args(Effect)
OUTCOMES: tuple[str, ...] = get_args(Outcome)


class Selecting(Protocol):
    """What says which records a follower takes."""

    def takes(self, record: Mapping[str, Any]) -> bool:
        """True for a record that is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """All that is given must hold; what is empty always does. A denial passes whatever else is given, unless
    ``denials`` is False: then it is looked at like any other record."""

    actions: tuple[str, ...] = ()
    severity: str | None = None
    decision: frozenset[str] = frozenset()
    outcome: frozenset[str] = frozenset()
    denials: bool = True

    def takes(self, record: Mapping[str, Any]) -> bool:
        """True for a record that is wanted. What has no such field is not a reason to leave a record out."""
        effect, outcome = (record.get("decision") or {}).get("effect"), record.get("outcome")
        if self.denials and (effect == "deny" or outcome == "denied"):
            return True
        if self.severity is not None and _rank(record.get("severity")) < _rank(self.severity):
            return False
        if self.decision and effect not in self.decision:
            return False
        if self.outcome and outcome not in self.outcome:
            return False
        action = record.get("action") or ""
        return not self.actions or any(_fits(pattern, action) for pattern in self.actions)


def _fits(pattern: str, name: str) -> bool:
    """``*`` stands for any text; nothing else is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.S) is not None


def _rank(severity: object) -> int:
    """What has no known severity ranks highest: that is no reason to leave a record out."""
    return SEVERITIES.index(severity) if isinstance(severity, str) and severity in SEVERITIES else len(SEVERITIES)
