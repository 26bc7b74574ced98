"""Step 4: runs the application and sees what it does; changes nothing but two response headers.

Messages are forwarded as they come, in order, unbuffered. The record is handed over when the response's last byte has
been sent; if it never is, when the application returns, raises or is cancelled. `finish` does not await, so no
cancellation can come between.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..context import RUNNING
from ..errors import RouteMismatch
from ..frameworks.failures import ClientDisconnect, WebSocketDisconnect, await_error_page
from ..protocols import ASGIApp, Message, Receive, Scope, Send
from .facts import Capture, Facts

Finish = Callable[[Facts], None]
_NORMAL_CLOSE = frozenset({1000, 1001, 1005, None, *range(3000, 5000)})  # from 3000 on: the application's own codes


async def observe(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, facts: Facts, headers: list[tuple[bytes, bytes]],
    finish: Finish,
) -> None:  # fmt: skip
    """Runs ``app`` once. ``headers`` are added to the response's first message."""
    kind = _Http if facts.protocol == "http" else _WebSocket
    seen = kind(receive, send, facts, headers, finish)
    outermost = scope.get("app")  # a mounted application puts itself there
    try:
        await app(scope, seen.receive, seen.send)
    except BaseException as error:
        _note(error, facts)
        unanswered = isinstance(error, Exception) and not facts.started and facts.protocol == "http"
        page = _ErrorPage(facts, headers, finish)
        if unanswered and await_error_page(outermost, scope, page):
            asyncio.get_running_loop().call_soon(page.give_up)
        else:
            finish(facts)
        raise
    finish(facts)


class _ErrorPage:
    """The answer to an unhandled exception, which is made above us: its headers, and the record once it is made.

    Layers between may swallow the exception, or take their time: then the record is made without the answer, as a 500.
    """

    def __init__(self, facts: Facts, headers: list[tuple[bytes, bytes]], finish: Finish) -> None:
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


class _Http:
    """The two channels of an HTTP request."""

    __slots__ = ("_facts", "_finish", "_headers", "_over", "_receive", "_send", "_trailers")

    def __init__(
        self, receive: Receive, send: Send, facts: Facts, headers: list[tuple[bytes, bytes]], finish: Finish
    ) -> None:
        self._receive = receive
        self._send = send
        self._facts = facts
        self._headers = headers
        self._finish = finish
        self._trailers = False
        self._over = False  # the last message is on its way: what is received now is not about this exchange

    async def receive(self) -> Message:
        message = await self._receive()
        facts = self._facts
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
        kind = message["type"]
        if kind == "http.response.start":
            message = self._start(message)
        elif kind == "http.response.body":
            self._body(message)
        self._over = self._last(kind, message)
        try:
            await self._send(message)
        except OSError:
            self._facts.aborted = True
            raise
        if self._over:
            self._finish(self._facts)

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
        if kind == "http.response.body":
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        return kind == "http.response.pathsend"


class _WebSocket(_Http):
    """The two channels of a WebSocket connection: one record, when it ends."""

    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        facts = self._facts
        if self._over or facts.finished:
            return message
        if message["type"] == "websocket.receive":
            facts.request_size += _size(message)
        elif message["type"] == "websocket.disconnect":
            facts.aborted |= message.get("code") not in _NORMAL_CLOSE
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
        elif kind == "websocket.send":
            facts.response_size += _size(message)
        elif kind == "websocket.http.response.body":
            self._body(message)
        try:
            await self._send(message)
        except OSError:
            facts.aborted = True
            raise
        if kind == "websocket.http.response.body" and not message.get("more_body", False):
            self._finish(facts)

    def _close(self, message: Message) -> None:
        facts, code = self._facts, message.get("code", 1000)
        self._over = True
        if not facts.started:
            facts.status = 403  # the ASGI specification: a close before accept is an HTTP 403
            facts.started = True
        elif code == 1011:
            facts.error = facts.error or "close 1011"


def _size(message: Message) -> int:
    if message.get("bytes") is not None:
        return len(message["bytes"])
    return len((message.get("text") or "").encode("utf-8", "surrogatepass"))


def begin_capture(facts: Facts, limit: int) -> None:
    """Starts keeping bodies where the action's record level asks for it; called before anything is read."""
    if facts.level in ("request", "response") and facts.protocol == "http":
        kind = next((value for name, value in facts.scope["headers"] if name == b"content-type"), b"")
        facts.request_body = Capture(limit, kind.decode("latin-1"), digest=hashlib.sha256())
        if facts.level == "response":
            facts.response_body = Capture(limit, digest=hashlib.sha256())
