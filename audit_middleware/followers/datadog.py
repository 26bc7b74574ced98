"""Datadog: the logs intake, version 2.

Limits of the intake (its API reference): 1,000 logs and 5 MB before compression in one request; an entry of ours is far
below the 1 MB of one log. What is older than 18 hours is accepted and then dropped without a word, so it is not sent:
it goes to the dead letters, where it can be seen. The intake knows no ids: a repetition is a second log, to be
found by ``audit.action_id``.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from .config import Options
from .post import Poster
from .runner import age
from .sink import Item, Sent

KEYS = ("url", "api_key", "tags", "ca", "timeout")
MOST, LARGEST, OLDEST = 1_000, 5_000_000, 18 * 3600.0
_SITE = "https://http-intake.logs.datadoghq.com/api/v2/logs"
_STATUS = {"critical": "critical", "high": "error", "medium": "warning", "low": "notice", "info": "info"}


@dataclass(frozen=True, slots=True)
class Datadog:
    """An intake as configured."""

    url: SecretStr
    api_key: SecretStr
    tags: str = ""
    ca: Path | None = None
    timeout: float = 30.0

    def open(self, origin: str) -> DatadogSink:
        """See `Destination`."""
        return DatadogSink(self, Poster(self.url.get_secret_value(), patience=self.timeout, ca=self.ca), origin)


def read_datadog(options: Options) -> Datadog:
    """The settings of an intake."""
    return Datadog(
        url=options.url("url", _SITE),
        api_key=options.secret("api_key", required=True) or SecretStr(""),
        tags=options.text("tags", ""),
        ca=options.path("ca"),
        timeout=options.integer("timeout", 30, 1, 120),
    )


class DatadogSink:
    """Sends requests to the intake."""

    def __init__(self, settings: Datadog, poster: Poster, origin: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._poster, self._origin, self._clock = settings, poster, origin, clock

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`. A request that the intake refuses as a whole is halved, until the record at fault is alone."""
        now, old, logs, size, settled = self._clock(), dict[int, str](), list[bytes](), 2, 0
        for item in items:
            if age(item.record.get("timestamp"), now) > OLDEST:
                old[item.index] = "older than 18 hours: the intake would drop it"
            else:
                log = self._log(item)
                if len(logs) == MOST or size + len(log) + 1 > LARGEST:
                    break
                logs.append(log)
                size += len(log) + 1
            settled += 1
        if not logs:
            return Sent(settled, old)
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "DD-API-KEY": self._settings.api_key.get_secret_value(),
        }
        reply = self._poster.post(gzip.compress(b"[" + b",".join(logs) + b"]", 1), headers)
        if 200 <= reply.status < 300:
            return Sent(settled, old)
        if reply.status not in (400, 413, 422):
            return Sent(0, retry=f"{self._poster.place}: answered {reply.status}", after=reply.after)
        if settled > 1:
            return self.send(items[: settled // 2])
        return Sent(1, {items[0].index: f"answered {reply.status}"})

    def _log(self, item: Item) -> bytes:
        record = item.record
        service = record.get("service") or {}
        head = {
            "ddsource": "audit-middleware",
            "service": service.get("name"),
            "status": _STATUS.get(str(record.get("severity")), "info"),
            "timestamp": record.get("timestamp"),
            "message": record.get("event") or record.get("action") or "request",
            "evt": {"name": record.get("action"), "outcome": record.get("outcome")},
            "usr": {"id": record.get("user_id")},
            "audit_log": {"origin": self._origin, "index": item.index},
        }
        if self._settings.tags:
            head["ddtags"] = self._settings.tags
        return json.dumps(head, separators=(",", ":")).encode()[:-1] + b',"audit":' + item.entry + b"}"

    def close(self) -> None:
        """See `Sink`."""
        self._poster.close()
