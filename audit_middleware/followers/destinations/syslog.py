"""Syslog: RFC 5424 messages over TCP (RFC 6587, octet counting) or TLS (RFC 5425).

The record is the message itself (format `rfc5424`), or the text of one whose header says when, who and what (CEF, LEEF
and the formats of JSON).

Syslog acknowledges nothing. A batch counts as delivered when the receiver's kernel has acknowledged every byte of it
(Linux ``SIOCOUTQ``). What that kernel holds is lost when the receiver dies before it reads it; so what was sent last is
sent again on the next connection: up to `REPEATED` bytes, which is more than Linux keeps for one connection, not older
than `AFTER_RESET` where the connection broke, `AFTER_CLOSE` where it was closed in order and only what the receiver had
in hand can be missing. What it loses beyond that, throws away or cuts, nobody can know, and nothing is sent again after
this process ended: where that matters, use a destination that answers.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FollowerError
from ...formats import FORMATS
from ...formats.fields import LIMIT, MOST
from ...formats.rfc5424 import ENTERPRISE, header
from ..config import Options
from ..shape import Shapes, checked, lines
from ..sink import Item, Sent, Way

KEYS = ("host", "port", "transport", "format", "max_message", "enterprise_number", "ca", "timeout")
REPEATED = 8 * 2**20
LEAST_MESSAGE = 4096
AFTER_RESET, AFTER_CLOSE = 600.0, 60.0

_FORMATS = ("rfc5424", *(name for name in lines() if name != "rfc5424"))
_HEADER = 4 + 1 + 28 + 255 + 48 + 128 + 32 + 7 + 2
"""Most bytes that stand before the text of a message."""
_SIOCOUTQ = 0x5411


@dataclass(frozen=True, slots=True)
class Syslog:
    """A receiver as configured. ``max_message`` is in bytes: a record in a format of text is cut to it."""

    host: str
    port: int
    tls: bool = True
    ca: Path | None = None
    timeout: float = 20.0
    format: str = "rfc5424"
    max_message: int = LIMIT
    enterprise: int = ENTERPRISE

    def open(self, way: Way) -> SyslogSink:
        """See `Destination`."""
        return SyslogSink(self, way.origin)


def read_syslog(options: Options) -> Syslog:
    """The settings of a receiver."""
    tls = options.choice("transport", ("tls", "tcp"), "tls") == "tls"
    enterprise = options.integer("enterprise_number", ENTERPRISE, 0, 2**32)
    checked(options, "enterprise_number", FORMATS["rfc5424"], "enterprise", enterprise)
    return Syslog(
        host=options.text("host"),
        port=options.integer("port", 6514 if tls else 601, 1, 65_535),
        tls=tls,
        ca=options.path("ca"),
        timeout=options.integer("timeout", 20, 1, 60),
        format=options.choice("format", _FORMATS, "rfc5424"),
        max_message=options.integer("max_message", LIMIT, LEAST_MESSAGE, MOST),
        enterprise=enterprise,
    )


def _before(record: Mapping[str, Any]) -> bytes:
    """What stands before a text that is no message of syslog yet; log and index stand in the text."""
    return f"{header(record)} - ".encode()


class SyslogSink:
    """Sends batches over one connection."""

    def __init__(self, settings: Syslog, origin: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        longest = settings.max_message
        if settings.format == "rfc5424":
            self._shapes = Shapes("rfc5424", origin, limit=longest, enterprise=settings.enterprise)
        elif FORMATS[settings.format].is_json:
            self._shapes = Shapes(settings.format, origin, _before)
        else:
            self._shapes = Shapes(settings.format, origin, _before, limit=longest - _HEADER)
        self._socket: socket.socket | None = None
        self._sent = deque[tuple[float, bytes]]()
        """What was sent last, by batches, with the time of each."""
        self._size = 0
        self._stands = False  # all that was to be sent again has been

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        made, rejected = self._shapes.shapes(items)
        messages = list[bytes]()
        for item, message in made:
            if len(message) > self._settings.max_message:
                rejected[item.index] = f"a message of {len(message)} bytes; max_message is {self._settings.max_message}"
            else:
                messages.append(b"%d %b" % (len(message), message))
        if messages:
            self._exchange(b"".join(messages))
        return Sent(len(items), rejected)

    def idle(self) -> None:
        """See `Sink`: finds out that the receiver is gone, and sends again what it may have left unread."""
        if self._socket is not None or self._sent:
            self._exchange(b"")

    def close(self) -> None:
        """See `Sink`."""
        connected, self._socket = self._socket, None
        if connected is not None:
            connected.close()

    def _exchange(self, data: bytes) -> None:
        """Sends what is to be sent again, and more, and waits until it is acknowledged."""
        try:
            if self._socket is not None and not self._is_open(self._socket):
                self._lost(AFTER_CLOSE)
            if self._socket is None and not data and not self._sent:
                return
            connected = self._socket or self._connect()
            if not data:
                return
            connected.sendall(data)
            self._wait_until_taken(connected)
        except OSError as error:
            self._lost(AFTER_RESET)
            why = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
            raise FollowerError(f"{self._settings.host}:{self._settings.port}: {why}") from error
        self._sent.append((self._clock(), data))
        self._size += len(data)
        while len(self._sent) > 1 and self._size - len(self._sent[0][1]) >= REPEATED:
            self._size -= len(self._sent.popleft()[1])

    def _lost(self, horizon: float) -> None:
        """The connection is no more; what was sent before the horizon in seconds need not be sent again.

        Of one that had not come that far nothing is known that was not known before.
        """
        self.close()
        stood, self._stands = self._stands, False
        while stood and self._sent and self._clock() - self._sent[0][0] > horizon:
            self._size -= len(self._sent.popleft()[1])

    def _connect(self) -> socket.socket:
        settings = self._settings
        plain = socket.create_connection((settings.host, settings.port), settings.timeout)
        self._socket = plain
        if settings.tls:
            context = ssl.create_default_context(cafile=settings.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._socket = context.wrap_socket(plain, server_hostname=settings.host)
        for _, data in self._sent:
            self._socket.sendall(data)
        self._wait_until_taken(self._socket)
        self._stands = True
        return self._socket

    def _is_open(self, connected: socket.socket) -> bool:
        """False where the receiver has closed: what is written after that is lost. Raises where it broke."""
        connected.setblocking(False)
        try:
            return bool(connected.recv(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True  # nothing was said, as it must be
        finally:
            connected.settimeout(self._settings.timeout)

    def _wait_until_taken(self, connected: socket.socket) -> None:
        deadline = time.monotonic() + self._settings.timeout
        while struct.unpack("i", fcntl.ioctl(connected, _SIOCOUTQ, b"\0" * 4))[0]:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.001)
        if not self._is_open(connected):
            raise ConnectionResetError
