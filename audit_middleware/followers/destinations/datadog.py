"""Datadog: the logs intake, version 2.

Each record is a log in the format `datadog`. Limits of the intake (its API reference): 1,000 logs and 5 MB before
compression in one request, 1 MB for one log: what is larger would be cut without a word. What is older than 18 hours is
accepted and then dropped without a word. Neither is sent: it goes to the dead letters, where it can be seen. The intake
knows no ids: a repetition is a second log, to be found by ``audit.id``.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from ...formats import FORMATS
from ..config import Options
from ..post import Poster
from ..runner import age
from ..shape import Shapes, checked
from ..sink import Item, Sent, Way

KEYS = ("url", "api_key", "tags", "ca", "timeout")
MOST, LARGEST, LONGEST, OLDEST = 1_000, 5_000_000, 1_000_000, 18 * 3600.0
_SITE = "https://http-intake.logs.datadoghq.com/api/v2/logs"


@dataclass(frozen=True, slots=True)
class Datadog:
    """An intake as configured."""

    url: SecretStr
    api_key: SecretStr
    tags: str = ""
    ca: Path | None = None
    timeout: float = 30.0

    def open(self, way: Way) -> DatadogSink:
        """See `Destination`."""
        return DatadogSink(self, Poster(self.url.get_secret_value(), patience=self.timeout, ca=self.ca), way.origin)


def read_datadog(options: Options) -> Datadog:
    """The settings of an intake."""
    tags = options.text("tags", "")
    if tags:
        checked(options, "tags", FORMATS["datadog"], "tags", tags)
    return Datadog(
        url=options.url("url", _SITE),
        api_key=options.secret("api_key", required=True) or SecretStr(""),
        tags=tags,
        ca=options.path("ca"),
        timeout=options.integer("timeout", 30, 1, 120),
    )


class DatadogSink:
    """Sends requests to the intake."""

    def __init__(self, settings: Datadog, poster: Poster, origin: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._poster, self._clock = settings, poster, clock
        self._shapes = Shapes("datadog", origin, tags=settings.tags or None)

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`. A request that the intake refuses as a whole is halved, until the record at fault is alone."""
        now, refused, logs, size, settled = self._clock(), dict[int, str](), list[bytes](), 2, 0
        for item in items:
            log = self._log(item, now)
            if isinstance(log, str):
                refused[item.index] = log
            elif len(logs) == MOST or size + len(log) + 1 > LARGEST:
                break
            else:
                logs.append(log)
                size += len(log) + 1
            settled += 1
        return self._post(items[:settled], logs, refused)

    def _log(self, item: Item, now: int) -> bytes | str:
        """What is sent of an entry, or why it would not be kept."""
        if age(item.record.get("timestamp"), now) > OLDEST:
            return "older than 18 hours: the intake would drop it"
        made, unshown = self._shapes.shapes([item])
        if not made:
            return unshown[item.index]
        log = made[0][1]
        return log if len(log) <= LONGEST else f"has {len(log)} bytes: the intake would cut it at {LONGEST}"

    def _post(self, items: Sequence[Item], logs: Sequence[bytes], refused: dict[int, str]) -> Sent:
        if not logs:
            return Sent(len(items), refused)
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "DD-API-KEY": self._settings.api_key.get_secret_value(),
        }
        reply = self._poster.post(gzip.compress(b"[" + b",".join(logs) + b"]", 1), headers)
        if 200 <= reply.status < 300:
            return Sent(len(items), refused)
        if reply.status not in (400, 413, 422):
            return Sent(0, retry=f"{self._poster.place}: answered {reply.status}", after=reply.after)
        if len(items) > 1:
            return self.send(items[: len(items) // 2])
        return Sent(1, {items[0].index: f"answered {reply.status}"})

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        self._poster.close()
