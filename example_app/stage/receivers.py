"""Who listens in the demo: a SIEM that takes syslog, and an on-call service that takes signed webhooks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, TypeVar

SECRET = "whsec_" + base64.b64encode(hashlib.sha256(b"the demo's webhook secret").digest()).decode()
"""What signs the webhooks; a real one is random and known to the two ends alone."""


T = TypeVar("T")


class _Serving(Protocol):
    def serve_forever(self) -> None: ...

    def shutdown(self) -> None: ...

    def server_close(self) -> None: ...


class Receivers:
    """What arrived: syslog messages as text, and webhooks whose signature holds."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.webhooks: list[dict[str, Any]] = []
        self.forged = 0
        self.syslog_port = self.webhook_port = 0

    def message(self, text: str) -> str | None:
        """The first syslog message with this text in it, waited for."""
        return _awaited(lambda: next((one for one in self.messages if text in one), None))

    def webhook(self, rule: str) -> dict[str, Any] | None:
        """The first webhook by this rule of the configuration, waited for."""
        return _awaited(lambda: next((one for one in self.webhooks if one["data"].get("rule") == rule), None))


def verified(headers: Any, body: bytes) -> bool:
    """Checks one webhook as the Standard Webhooks specification says; a receiver of your own does no more than this."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    identity, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not moment.isdecimal() or abs(time.time() - int(moment)) > 300:
        return False
    expected = base64.b64encode(hmac.digest(key, f"{identity}.{moment}.".encode() + body, "sha256")).decode()
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(f"v1,{expected}", one) for one in given)


@contextlib.contextmanager
def receive() -> Iterator[Receivers]:
    """Listens on two free ports of this machine, for as long as the block lasts."""
    found = Receivers()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            good = verified(self.headers, body)
            if good:
                found.webhooks.append(json.loads(body) | {"webhook-id": self.headers["webhook-id"]})
            else:
                found.forged += 1
            self.send_response(204 if good else 401)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the demo says what arrived."""

    class Syslog(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while length := _digits(self.rfile):  # RFC 6587, octet counting
                found.messages.append(self.rfile.read(length).decode())

    hooks = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    lines = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Syslog)
    lines.daemon_threads = True
    found.webhook_port, found.syslog_port = hooks.server_address[1], int(lines.server_address[1])
    servers: list[_Serving] = [hooks, lines]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _digits(stream: Any) -> int:
    text = b""
    while (byte := stream.read(1)) not in (b"", b" "):
        text += byte
    return int(text or 0)


def _awaited(look: Callable[[], T | None], seconds: float = 20.0) -> T | None:
    until = time.monotonic() + seconds
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(0.05)
    return found
