"""Syslog: RFC 5424 messages over TCP (RFC 6587, octet counting) or TLS (RFC 5425).

Syslog acknowledges nothing. A batch counts as delivered when the receiver's kernel has acknowledged every byte of it
(Linux ``SIOCOUTQ``), and the last batch is sent again on the next connection, because a receiver that was killed may
have left it unread. What a receiver loses beyond that, or throws away, nobody can know: where that matters, use a
destination that answers.
"""

from __future__ import annotations

import fcntl
import platform
import re
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import FollowerError
from .config import Options
from .sink import Item, Sent

KEYS = ("host", "port", "transport", "ca", "timeout")

_FACILITY = 13  # log audit
_SEVERITY = {"critical": 2, "high": 3, "medium": 4, "low": 5, "info": 6}
_SIOCOUTQ = 0x5411


@dataclass(frozen=True, slots=True)
class Syslog:
    """A receiver as configured."""

    host: str
    port: int
    tls: bool = True
    ca: Path | None = None
    timeout: float = 20.0

    def open(self, origin: str) -> SyslogSink:
        """See `Destination`."""
        return SyslogSink(self, origin)


def read_syslog(options: Options) -> Syslog:
    """The settings of a receiver."""
    tls = options.choice("transport", ("tls", "tcp"), "tls") == "tls"
    return Syslog(
        host=options.text("host"),
        port=options.integer("port", 6514 if tls else 601, 1, 65_535),
        tls=tls,
        ca=options.path("ca"),
        timeout=options.integer("timeout", 20, 1, 60),
    )


def message(item: Item, origin: str, host: str) -> bytes:
    """One message: the record's time, service and event in the header; id, log and index as structured data; the whole
    record as text, whose JSON holds no line break and no control character."""
    record = item.record
    priority = _FACILITY * 8 + _SEVERITY.get(str(record.get("severity")), 6)
    service = record.get("service") or {}
    data = f'[audit@32473 id="{_quoted(item.id)}" log="{_quoted(origin)}" index="{item.index}"]'
    head = " ".join(
        [
            f"<{priority}>1",
            _word(record.get("timestamp"), 32),
            _word(host, 255),
            _word(service.get("name"), 48),
            "-",
            _word(record.get("event"), 32),
            data,
        ]
    )
    return head.encode() + b" \xef\xbb\xbf" + item.entry


def _word(value: object, longest: int) -> str:
    """PRINTUSASCII without spaces; ``-`` for nothing."""
    return re.sub(r"[^\x21-\x7e]", "_", str(value or "-"))[:longest]


def _quoted(value: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", re.sub(r"[\x00-\x1f\x7f]", "_", value))


class SyslogSink:
    """Sends batches over one connection."""

    def __init__(self, settings: Syslog, origin: str) -> None:
        self._settings, self._origin, self._host = settings, origin, platform.node()
        self._socket: socket.socket | None = None
        self._before = b""

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        data = b"".join(b"%d %b" % (len(text), text) for text in (message(i, self._origin, self._host) for i in items))
        try:
            connected = self._socket or self._connect()
            self._check_open(connected)
            connected.sendall(data)
            self._wait_until_taken(connected)
        except OSError as error:
            self.close()
            why = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            raise FollowerError(f"{self._settings.host}:{self._settings.port}: {why}") from error
        self._before = data
        return Sent(len(items))

    def close(self) -> None:
        """See `Sink`."""
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()

    def _connect(self) -> socket.socket:
        settings = self._settings
        plain = socket.create_connection((settings.host, settings.port), settings.timeout)
        self._socket = plain
        if settings.tls:
            context = ssl.create_default_context(cafile=settings.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._socket = context.wrap_socket(plain, server_hostname=settings.host)
        if self._before:
            self._socket.sendall(self._before)
        return self._socket

    def _check_open(self, connected: socket.socket) -> None:
        """Raises `ConnectionError` where the receiver has closed: what is written after that is lost."""
        connected.setblocking(False)
        try:
            if not connected.recv(1):
                raise ConnectionResetError
        except (BlockingIOError, ssl.SSLWantReadError):
            pass  # nothing was said, as it must be
        finally:
            connected.settimeout(self._settings.timeout)

    def _wait_until_taken(self, connected: socket.socket) -> None:
        deadline = time.monotonic() + self._settings.timeout
        while struct.unpack("i", fcntl.ioctl(connected, _SIOCOUTQ, b"\0" * 4))[0]:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.001)
        self._check_open(connected)
