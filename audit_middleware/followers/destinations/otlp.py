"""OTLP over HTTP: log records for an OpenTelemetry collector, or whatever else takes them, as protobuf.

What is sent is what the format ``otlp`` makes of each record (`formats.otlp`), encoded and compressed by the
OpenTelemetry SDK's exporter; how it is carried is in `otlp_exporter`. A repetition has the same ``log.record.uid``.

400, 413 and 422 are about what was sent: the request is halved, until the record at fault is alone. A partial success
says how many records were refused, but not which, so that request is halved as well, and what was taken of it comes a
second time: OTLP asks clients not to do that, but then nobody could say which record is missing. Everything else but
2xx is tried again: it is about the endpoint, not about a record.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
from pydantic import SecretStr

from ...errors import FollowerError
from ..config import Options
from ..post import Poster
from ..shape import Shapes
from ..sink import Item, Sent, Way

if TYPE_CHECKING:
    from .otlp_exporter import Exporter

KEYS = ("url", "headers", "ca", "certificate", "key", "compress", "timeout")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OURS = frozenset(
    ("host", "content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "accept-encoding",
     "user-agent")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Otlp:
    """An endpoint as configured. ``client`` is a certificate and its key."""

    url: SecretStr
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    ca: Path | None = None
    client: tuple[Path, Path] | None = None
    compress: bool = True
    timeout: float = 30.0

    def open(self, way: Way) -> OtlpSink:
        """See `Destination`."""
        try:
            from .otlp_exporter import Exporter
        except ImportError as problem:
            extra = f"{problem.name}: pip install 'audit-middleware[otlp]'"
            raise FollowerError(f"the destination otlp needs {extra}") from problem
        poster = Poster(self.url.get_secret_value(), patience=self.timeout, ca=self.ca, client=self.client)
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        exporter = Exporter(self.url.get_secret_value(), poster, headers, compress=self.compress)
        return OtlpSink(exporter, poster, Shapes("otlp", way.origin))


def read_otlp(options: Options) -> Otlp:
    """The settings of an endpoint."""
    url, headers = options.url("url"), options.secrets("headers")
    if url.get_secret_value() and urlsplit(url.get_secret_value()).path in ("", "/"):
        options.finding("url", "has no path: it is the whole URL, for most receivers one that ends with /v1/logs")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            options.finding("headers", f"{name[:64]!r} is no header's name")
        elif name.lower() in _OURS:
            options.finding("headers", f"{name} is set by what is sent")
        elif value.get_secret_value() and not _VALUE.fullmatch(value.get_secret_value()):
            options.finding("headers", f"the value of {name} is not one line of printable ASCII")
    certificate, key = options.path("certificate"), options.path("key")
    if (certificate is None) != (key is None):
        options.finding("certificate" if key is None else "key", "certificate and key go together")
    return Otlp(
        url=url,
        headers=headers,
        ca=options.path("ca"),
        client=(certificate, key) if certificate is not None and key is not None else None,
        compress=options.flag("compress", True),
        timeout=options.integer("timeout", 30, 1, 120),
    )


class OtlpSink:
    """Sends requests of many log records each."""

    def __init__(self, exporter: Exporter, poster: Poster, shapes: Shapes) -> None:
        self._exporter, self._poster, self._shapes = exporter, poster, shapes
        self._most = sys.maxsize  # records that the receiver takes at once, as far as it is known

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        items = items[: self._most]
        made, rejected = self._shapes.shapes(items)
        lines = [msgspec.json.decode(line) for _, line in made]
        if not lines:
            return Sent(len(items), rejected)
        reply = self._exporter.export(lines)
        if reply.status in (400, 413, 422):
            return self._halved(items, f"answered {reply.status}", too_large=reply.status == 413)
        if not 200 <= reply.status < 300:
            return Sent(0, retry=f"{self._poster.place}: answered {reply.status}", after=reply.after)
        refused = self._exporter.refused(reply)
        if 0 < refused < len(lines):
            return self._halved(items, "refused")
        if refused:
            rejected |= {item.index: "refused" for item in items if item.index not in rejected}
        return Sent(len(items), rejected)

    def _halved(self, items: Sequence[Item], why: str, *, too_large: bool = False) -> Sent:
        if len(items) > 1:
            self._most = len(items) // 2 if too_large else self._most
            return self.send(items[: len(items) // 2])
        self._most = sys.maxsize  # it was this one that is too large, and not the others with it
        return Sent(1, {items[0].index: why})

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        self._exporter.close()
        self._poster.close()
