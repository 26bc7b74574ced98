"""Which records a channel hears of, and by which rule.

Looked at are records of requests that have ended, and control records: an intent is followed by an outcome, and to tell
of both would be to tell twice. Records of notifications cause none, ever: that would be a loop.

The rules of a configuration come first, in their order, then the policy's ``notify``; a channel hears of a record once,
by the first rule that matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...policy.evaluate import Policy
from ..selection import Selection

NOTIFIED, NOTIFICATION_FAILED = "audit.notified", "audit.notification_failed"
POLICY_RULE = "policy"
"""The rule by which a policy's ``notify`` is known."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a configuration."""

    name: str
    selection: Selection
    channels: frozenset[str]


@dataclass(frozen=True, slots=True)
class Heard:
    """What one channel hears of. ``policy`` returns the policy in force, if one is looked at."""

    channel: str
    rules: tuple[Rule, ...]
    policy: Callable[[], Policy] | None = None

    def takes(self, record: Mapping[str, Any]) -> bool:
        """See `Selecting`."""
        return self.rule_of(record) is not None

    def rule_of(self, record: Mapping[str, Any]) -> str | None:
        """The rule by which the channel hears of a record; ``None`` if it does not."""
        kind, action = record.get("kind"), record.get("action")
        if kind not in ("outcome", "control") or action in (NOTIFIED, NOTIFICATION_FAILED):
            return None
        for rule in self.rules:
            if self.channel in rule.channels and rule.selection.takes(record):
                return rule.name
        if self.policy is None or kind != "outcome" or not isinstance(action, str):
            return None
        found = self.policy().actions.get(action)
        if found is None or self.channel not in found.notify:
            return None
        heard = not found.notify_outcomes or record.get("outcome") in found.notify_outcomes
        return POLICY_RULE if heard else None
