"""A service of your own, by Standard Webhooks 1.0: ``{"type": "notification", "timestamp": ..., "data": ...}``.

``webhook-id`` is the notification's id, the same at every attempt. 410 means that nobody is there any more: the channel
is left alone until somebody acts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ..destinations.webhook import read_key, sign
from ..notify.message import Notification, shown_time
from ..notify.wording import data, title
from .given import Given, Http
from .seam import HttpLine, Line

TYPE = "notification"


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """A webhook as configured."""

    http: Http
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        return "WebhookChannel(...)"  # the keys are secret

    def open(self) -> Line:
        """See `Channel`."""
        return HttpLine(self.http.open(), self._encode)

    def _encode(self, told: Notification) -> tuple[bytes, Mapping[str, str]]:
        message = {
            "type": TYPE,
            "timestamp": shown_time(told.last),
            "data": {"title": title(told), **data(told)},
        }
        body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
        now = int(time.time())
        return body, {
            "Content-Type": "application/json",
            "webhook-id": told.id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(sign(key, told.id, now, body) for key in self.keys),
        }


def read_webhook(given: Given) -> WebhookChannel:
    """The settings of a webhook."""
    keys = []
    for name in ("secret", "previous_secret"):
        if secret := given.secret(name).get_secret_value():
            try:
                keys.append(read_key(secret))
            except ValueError as problem:
                given.finding(name, str(problem))
    return WebhookChannel(given.http(given.url()), tuple(keys))
