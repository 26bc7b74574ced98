"""Webhooks as Standard Webhooks 1.0 has them: one signed POST a record.

The headers: ``webhook-id`` is the record's ``action_id``, the same at every attempt, by which a receiver drops
repetitions; ``webhook-timestamp`` is of the attempt; ``webhook-signature`` is ``v1,`` and the base64 of the HMAC-SHA256
over ``id.timestamp.body``, one for each secret. The body: ``{"type": action, "timestamp": ..., "data": ...}``, or the
record in a format of JSON, which is signed in the same way.

Any 2xx is taken as delivered. 400, 409, 413 and 422 say that this record will never be taken; a redirect is not
followed; everything else is tried again, also 401, 403, 404 and 410: they are about the endpoint, not about the record.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ...errors import FollowerError
from ..config import Options
from ..post import Poster
from ..shape import Shapes, json_lines
from ..sink import Item, Sent, Way

KEYS = ("url", "secret", "previous_secret", "payload", "allow_private", "ca", "timeout")
PAYLOADS = ("thin", "whole", *(name for name in json_lines() if name != "jsonl"))
_PERMANENT = (400, 409, 413, 422)
_PREFIX = "whsec_"


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """One signature (version 1) over a message."""
    message = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, message, hashlib.sha256)).decode()


def read_key(secret: str) -> bytes:
    """The key of a ``whsec_`` secret. Raises `ValueError` unless it is 24 to 64 bytes of base64."""
    if not secret.startswith(_PREFIX):
        raise ValueError(f"must begin with {_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be base64 after {_PREFIX}") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("must be 24 to 64 bytes long")
    return key


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as configured. ``payload``: ``thin`` sends what identifies the record, ``whole`` the record itself; the
    name of a format makes the record in that format the body."""

    url: SecretStr
    keys: tuple[bytes, ...]
    payload: str = "thin"
    allow_private: bool = False
    ca: Path | None = None
    timeout: float = 20.0

    def __repr__(self) -> str:
        return "Webhook(...)"  # the keys are secret

    def open(self, way: Way) -> WebhookSink:
        """See `Destination`."""
        poster = Poster(self.url.get_secret_value(), patience=self.timeout, ca=self.ca, guarded=not self.allow_private)
        return WebhookSink(self, poster, way.origin)


def read_webhook(options: Options) -> Webhook:
    """The settings of a webhook."""
    keys = []
    for name in ("secret", "previous_secret"):
        secret = options.secret(name, required=name == "secret")
        if secret is not None and secret.get_secret_value():
            try:
                keys.append(read_key(secret.get_secret_value()))
            except ValueError as error:
                options.finding(name, str(error))
    return Webhook(
        url=options.url("url"),
        keys=tuple(keys),
        payload=options.choice("payload", PAYLOADS, "thin"),
        allow_private=options.flag("allow_private", False),
        ca=options.path("ca"),
        timeout=options.integer("timeout", 20, 1, 60),
    )


class WebhookSink:
    """Sends records one by one."""

    def __init__(self, settings: Webhook, poster: Poster, origin: str, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._poster, self._origin, self._clock = settings, poster, origin, clock
        payload = settings.payload
        self._shapes = Shapes("jsonl" if payload in ("thin", "whole") else payload, origin)
        self._type = "application/cloudevents+json" if payload == "cloudevents" else "application/json"

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`: stops at the first record that must be tried again."""
        rejected: dict[int, str] = {}
        for settled, item in enumerate(items):
            body, unshown = self._body(item)
            if body is None:
                rejected |= unshown
                continue
            timestamp = int(self._clock())
            signatures = " ".join(sign(key, item.id, timestamp, body) for key in self._settings.keys)
            headers = {
                "Content-Type": self._type,
                "webhook-id": item.id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signatures,
            }
            try:
                reply = self._poster.post(body, headers)
            except FollowerError as error:
                return Sent(settled, rejected, str(error))  # what was sent before this one stays settled
            if reply.status in _PERMANENT:
                rejected[item.index] = f"answered {reply.status}"
            elif not 200 <= reply.status < 300:
                what = "a redirect, which is not followed" if 300 <= reply.status < 400 else "not taken now"
                return Sent(settled, rejected, f"{self._poster.place}: answered {reply.status}: {what}", reply.after)
        return Sent(len(items), rejected)

    def _body(self, item: Item) -> tuple[bytes | None, dict[int, str]]:
        made, unshown = self._shapes.shapes([item])
        if not made or self._settings.payload not in ("thin", "whole"):
            return made[0][1] if made else None, unshown
        record = item.record
        kind = re.sub(r"[^a-zA-Z0-9_.]", "_", record.get("action") or "request")
        head = json.dumps({"type": kind, "timestamp": record.get("timestamp")}, separators=(",", ":"))
        data = made[0][1] if self._settings.payload == "whole" else self._thin(item)
        return b'%b,"data":%b}' % (head[:-1].encode(), data), unshown

    def _thin(self, item: Item) -> bytes:
        record = item.record
        data: dict[str, Any] = {"log": self._origin, "index": item.index}
        data |= {name: record.get(name) for name in ("action_id", "kind", "action", "event", "severity", "outcome")}
        data["decision"] = (record.get("decision") or {}).get("effect")
        return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        self._poster.close()
