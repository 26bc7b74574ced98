"""PagerDuty, by Events API v2: every message is a trigger; those of a rule about one principal are one incident.

``dedup_key`` is the log, the rule and the principal, 255 characters at most, the rest as a digest. No event resolves an
incident: no record says that what it is about has ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from ..notify.message import Notification, bounded, clean, shown_time
from ..notify.wording import data, title
from .given import Given, Http
from .seam import HttpLine, Line

EVENTS = "https://events.pagerduty.com/v2/enqueue"
SUMMARY, LARGEST = 1_024, 512_000
_SEVERITY = {"critical": "critical", "high": "error", "medium": "warning", "low": "info", "info": "info"}


@dataclass(frozen=True, slots=True)
class PagerDuty:
    """An integration as configured."""

    http: Http
    routing_key: SecretStr

    def open(self) -> Line:
        """See `Channel`."""
        return HttpLine(self.http.open(), self._encode, gone=())

    def _encode(self, told: Notification) -> tuple[bytes, Mapping[str, str]]:
        event = {"routing_key": self.routing_key.get_secret_value(), **message(told)}
        return json.dumps(event, ensure_ascii=False).encode(), {"Content-Type": "application/json"}


def read_pagerduty(given: Given) -> PagerDuty:
    """The settings of an integration."""
    return PagerDuty(given.http(given.url(otherwise=EVENTS)), given.secret("routing_key"))


def message(told: Notification) -> dict[str, Any]:
    """The event as JSON, without the key of the integration."""
    event = told.event
    about = event.family if told.kind in ("gathered", "held") else event.incident
    return {
        "event_action": "trigger",
        "dedup_key": bounded(told.origin, told.kind, event.rule)
        if told.kind == "held"
        else bounded(told.origin, about),
        "payload": {
            "summary": clean(title(told), SUMMARY),
            "source": clean(told.origin),
            "severity": _SEVERITY.get(event.severity, "error"),
            "timestamp": shown_time(told.first),
            "component": event.service or "audit log",
            "group": event.rule,
            "class": event.action,
            "custom_details": data(told),
        },
    }
