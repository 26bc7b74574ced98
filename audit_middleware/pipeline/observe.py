"""Step 4: runs the application and sees what it does; changes nothing but two response headers.

Messages are forwarded as they come, in order, unbuffered. The record is handed over when the response's last byte has
been sent; if it never is, when the application returns, raises or is cancelled. `Recording.finish` does not await, so
no cancellation can come between.

Where the action's guarantee is ``sealed`` or ``before``, the last byte waits for the record. The response's start waits
for the first of its body, so that there can still be a 503 where all of it comes at once; a stream that is under way
is cut off instead, and a WebSocket is closed with 1011.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol

import msgspec

from ..context import RUNNING
from ..errors import LogUnavailable, RouteMismatch
from ..frameworks.failures import ClientDisconnect, WebSocketDisconnect, await_error_page
from ..frameworks.guard import refuse_directly
from ..model import Refusal
from ..protocols import ASGIApp, Message, Receive, Scope, Send
from .facts import Capture, Facts


class Recording(Protocol):
    """What becomes of a request's facts."""

    def finish(self, facts: Facts) -> None:
        """Hands them over; the first time only."""

    async def seal(self, facts: Facts) -> bool:
        """Hands them over and waits until the record is durable; False where it is not in time."""


NO_RECORD = Refusal(503, "Service Unavailable", {"retry-after": "5"})
"""What stands in the place of a response whose record is not durable. The handler has run."""

CAPTURED = frozenset({"request", "response"})
"""Levels of records that hold bodies."""

_HTTP = {"type": "http"}
_NORMAL_CLOSE = frozenset({1000, 1001, 1005, None})
_OWN_CODES = range(3000, 5000)  # those of the application


async def observe(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, facts: Facts, headers: list[tuple[bytes, bytes]],
    recording: Recording,
) -> None:  # fmt: skip
    """Runs ``app`` once. ``headers`` are added to the response's first message."""
    kind = _Http if facts.protocol == "http" else _WebSocket
    seen = kind(receive, send, facts, headers, recording)
    outermost = scope.get("app")  # a mounted application puts itself there
    try:
        await app(scope, seen.receive, seen.send)
    except BaseException as error:
        _note(error, facts)
        if facts.sealed and isinstance(error, Exception):
            await recording.seal(facts)  # a 500, or a stream cut off: nothing to take back if it fails
        unanswered = isinstance(error, Exception) and not facts.started and facts.protocol == "http"
        page = _ErrorPage(facts, headers, recording.finish)
        if unanswered and await_error_page(outermost, scope, page):
            asyncio.get_running_loop().call_soon(page.give_up)
        else:
            recording.finish(facts)
        raise
    if seen.prefix:  # a WebSocket: only there is something left to do
        await seen.end()
    if not facts.finished:
        recording.finish(facts)


class _ErrorPage:
    """The answer to an unhandled exception, which is made above us: its headers, and the record once it is made.

    Layers between may swallow the exception, or take their time: then the record is made without the answer, as a 500.
    """

    def __init__(self, facts: Facts, headers: list[tuple[bytes, bytes]], finish: Callable[[Facts], None]) -> None:
        self.headers = headers
        self._facts = facts
        self._finish = finish
        self._begun = False

    @contextmanager
    def answering(self) -> Iterator[Callable[[int, int], None]]:
        self._begun = True
        running = RUNNING.set(self._facts.notes)  # the application's handler may ask for ids, and annotate
        try:
            yield self._tell
        finally:
            RUNNING.reset(running)
            self._finish(self._facts)

    def _tell(self, status: int, size: int) -> None:
        if not self._facts.finished:
            self._facts.status, self._facts.response_size = status, size

    def give_up(self) -> None:
        """Called as soon as the loop is idle: whoever answers at once has begun by then."""
        if not self._begun:
            self._finish(self._facts)


def _note(error: BaseException, facts: Facts) -> None:
    if facts.finished:
        return  # a background task's: the response is out, and its record is being made
    if isinstance(error, (asyncio.CancelledError, ClientDisconnect)):
        facts.aborted = True
    elif not isinstance(error, WebSocketDisconnect):  # how it ended was seen in `receive`
        facts.error = type(error).__name__


class _Http(msgspec.Struct, eq=False):
    """The two channels of an HTTP request."""

    prefix: ClassVar[str] = ""  # of the types of a response's messages

    _receive: Receive
    _send: Send
    _facts: Facts
    _headers: list[tuple[bytes, bytes]]
    _recording: Recording
    _held: Message | None = None  # a sealed response's start, until there is more of it
    _length: int | None = None  # of a sealed response's body, where it says so
    _withheld: bool = False  # a wait for the record that failed, or was cancelled: no end is shown any more
    _trailers: bool = False
    _over: bool = False  # the last message is on its way: what is received now is not about this exchange

    async def receive(self) -> Message:
        facts = self._facts
        if facts.unread:
            return facts.unread.pop(0)  # was seen when the rule read it
        message = await self._receive()
        if self._over or facts.finished:
            return message
        if message["type"] == "http.request":
            body = message.get("body", b"")
            facts.request_size += len(body)
            if facts.request_body is not None:
                facts.request_body.feed(body)
                facts.request_body.complete = not message.get("more_body", False)
        elif message["type"] == "http.disconnect":
            facts.aborted = True
        return message

    async def send(self, message: Message) -> None:
        kind, facts = message["type"], self._facts
        if kind == "http.response.start":
            message = self._start(message)
            self._over = False
        elif kind == "http.response.body":
            if facts.response_body is None:
                facts.response_size += len(message.get("body", b""))
            else:
                self._body(message)
            self._over = not self._trailers and not message.get("more_body", False)
        else:
            self._over = self._last(kind, message)
        if facts.sealed and not await self._sealed(kind, message):
            return
        try:
            await self._send(message)  # as `_forward` does it
        except OSError:
            facts.aborted = True
            raise
        if self._over:
            self._recording.finish(facts)

    async def _forward(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self._facts.aborted = True
            raise

    async def end(self) -> None:
        """The application has returned. A response that it did not end is broken off by the server, for all to see."""

    async def _durable(self) -> bool:
        """Hands the record over and waits for it, once."""
        if not self._withheld and not self._facts.finished:
            self._withheld = True
            self._withheld = not await self._recording.seal(self._facts)
        return not self._withheld

    async def _sealed(self, kind: str, message: Message) -> bool:
        """May this message of a sealed response be sent now?"""
        facts = self._facts
        if kind.endswith("http.response.start"):
            self._held, facts.started = message, False
            self._length = 0 if _bodiless(facts.method, message["status"]) else _content_length(message["headers"])
            return False
        if self._withheld:
            return False
        # A client counts: with the last byte of the stated length it has the whole response.
        complete = self._over or (self._length is not None and facts.response_size >= self._length)
        durable = not complete or await self._durable()
        held, self._held = self._held, None
        if held is None and not durable:
            raise LogUnavailable("the end of a response is withheld: its record is not durable")
        if held is not None:
            facts.started = True
            if not durable:
                await refuse_directly(_HTTP, self._receive, self._unsealed, NO_RECORD)
                return False
            await self._forward(held)
        return True

    async def _unsealed(self, message: Message) -> None:
        """Sends what stands in a response's place."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *self._headers]}
        await self._forward({**message, "type": self.prefix + message["type"]})

    def _start(self, message: Message) -> Message:
        facts = self._facts
        if not facts.verified and message["status"] < 400:
            # The router never told which endpoint it selected, so nobody knows that it is the one decided on.
            facts.flag("route_mismatch")
            facts.severity = "critical"
            if facts.decision.mode == "enforce":
                raise RouteMismatch("a response was started before the router's selection could be compared")
        facts.status = message["status"]
        facts.started = True
        self._trailers = message.get("trailers", False)
        headers = list(message.get("headers", ()))
        if facts.response_body is not None:
            kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            facts.response_body.content_type = kind.decode("latin-1")
        return {**message, "headers": headers + self._headers}

    def _body(self, message: Message) -> None:
        facts = self._facts
        body = message.get("body", b"")
        facts.response_size += len(body)
        if facts.response_body is not None:
            facts.response_body.feed(body)
            facts.response_body.complete = not message.get("more_body", False)

    def _last(self, kind: str, message: Message) -> bool:
        if kind == "http.response.zerocopysend":
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind == "http.response.pathsend"


class _WebSocket(_Http):
    """The two channels of a WebSocket connection: one record, when it ends."""

    prefix: ClassVar[str] = "websocket."

    _gone: bool = False  # the client closed it

    async def end(self) -> None:
        """The application has returned. A connection that it left open is closed by the server, as if all were well."""
        facts = self._facts
        if facts.sealed and facts.started and not (self._over or self._gone) and not await self._durable():
            await self._forward({"type": "websocket.close", "code": 1011, "reason": ""})

    async def receive(self) -> Message:
        message = await self._receive()
        facts = self._facts
        if self._over or facts.finished:
            return message
        if message["type"] == "websocket.receive":
            facts.request_size += _size(message)
        elif message["type"] == "websocket.disconnect":
            self._gone = True
            code = message.get("code")
            facts.aborted |= code not in _NORMAL_CLOSE and code not in _OWN_CODES
        return message

    async def send(self, message: Message) -> None:
        kind, facts = message["type"], self._facts
        if kind in ("websocket.accept", "websocket.http.response.start"):
            accepted = kind == "websocket.accept"
            message = self._start({**message, "status": message.get("status", 101)})
            if accepted:
                message = {key: value for key, value in message.items() if key != "status"}
        elif kind == "websocket.close":
            self._close(message)
            if facts.sealed and not await self._durable():
                message = {**message, "code": 1011, "reason": ""}
        elif kind == "websocket.send":
            facts.response_size += _size(message)
        elif kind == "websocket.http.response.body":
            self._body(message)
            self._over = not message.get("more_body", False)
        if facts.sealed and kind.startswith("websocket.http.") and not await self._sealed(kind, message):
            return
        await self._forward(message)
        if kind == "websocket.http.response.body" and self._over:
            self._recording.finish(facts)

    def _close(self, message: Message) -> None:
        facts, code = self._facts, message.get("code", 1000)
        self._over = True
        if not facts.started:
            facts.status = 403  # the ASGI specification: a close before accept is an HTTP 403
            facts.started = True
        elif code == 1011:
            facts.error = facts.error or "close 1011"


def _bodiless(method: str, status: int) -> bool:
    """Is the response complete with its head, whatever its body (RFC 9112, 6.3)?"""
    return method == "HEAD" or status in (204, 304)


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """The least that is stated: servers are lenient, and clients may believe any of it."""
    stated = [value.strip() for name, value in headers if name.lower() == b"content-length"]
    return min((int(value) for value in stated if value.isdigit()), default=None)


def _size(message: Message) -> int:
    if message.get("bytes") is not None:
        return len(message["bytes"])
    return len((message.get("text") or "").encode("utf-8", "surrogatepass"))


def begin_capture(facts: Facts, limit: int) -> None:
    """Starts keeping bodies where the action's record level asks for it; called before anything is read."""
    if facts.request_body is None and facts.level in CAPTURED and facts.protocol == "http":
        kind = next((value for name, value in facts.headers if name == b"content-type"), b"")
        facts.request_body = Capture(limit, kind.decode("latin-1"), digest=hashlib.sha256())
        if facts.level == "response":
            facts.response_body = Capture(limit, digest=hashlib.sha256())
