"""Lets every `AuditMiddleware` of this process write to a test's log, whatever its settings say.

Nothing in a running service can redirect its log; this replaces the class's ``__call__`` for as long as a test lasts.
A middleware that is called meanwhile is not touched: its place is taken by a twin around the same application, with
the same arguments but for the log. So it does not matter when the application was made, or whether its lifespan runs.
"""

from __future__ import annotations

import atexit
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..frameworks.guard import GATE
from ..middleware import Admission, AuditMiddleware
from ..pipeline.record import wanted
from ..protocols import Receive, Scope, Send
from ..wiring.work import RUNNING

Call = Callable[[AuditMiddleware, Scope, Receive, Send], Awaitable[None]]
_CLOSE_S = 10.0


_OUTSIDE = ("signing_key", "spool", "published", "publish_to", "trust", "subject_keys", "master_key")
"""Settings that belong to the service's own log."""


class Redirect:
    """The twins of one test.

    Attributes:
        settings: What replaces the middleware's own arguments; may be added to before the first request.
        expected: Action ids of finished requests whose records must come to be in the log.
        running: Requests under way in this process.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """``settings`` name at least ``log`` and ``key``."""
        self.settings = dict(settings)
        self.expected: set[str] = set()
        self.running = 0
        self.used = False
        self._twins: dict[int, tuple[AuditMiddleware, AuditMiddleware]] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Redirects; in the end stops the twins, which writes what is queued."""
        outside = dict(RUNNING)
        RUNNING.clear()  # `record()` outside of requests must not find a service that ran before this test
        try:
            with calls_through(self._call):
                yield
        finally:
            self.stop()
            for parts in RUNNING.values():  # made by `record()` from the environment
                parts.writer.close(_CLOSE_S)
            RUNNING.clear()
            RUNNING.update(outside)

    def stop(self) -> None:
        """Ends what runs, as the end of the process does. The next request starts it anew."""
        for _, twin in self._twins.values():
            twin.stop()
            atexit.unregister(twin._starter.stop)  # else every application of a long session lives to its end
        self._twins.clear()

    def provoke(self, action: str) -> None:
        """Lets every service that runs here write a control record. Raises `AssertionError` when none does."""
        if not RUNNING:
            raise AssertionError("no service runs yet: enter its lifespan or make a request first")
        for parts in RUNNING.values():
            parts.put(parts.state(action))

    @property
    def available(self) -> bool:
        """Does the log of every service that runs here take records?"""
        return all(parts.writer.available for parts in RUNNING.values())

    async def _call(
        self, original: Call, middleware: AuditMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] not in ("lifespan", "http", "websocket") or GATE in scope or self._is_twin(middleware):
            await original(middleware, scope, receive, send)
            return
        self.used = True
        if scope["type"] == "lifespan":
            await original(self._twin(middleware), scope, receive, send)
            return
        self.running += 1
        try:
            await original(self._twin(middleware), scope, receive, send)
        finally:
            self.running -= 1
            admission = admission_of(scope)
            if admission is not None and wanted(admission.facts):
                self.expected.add(admission.facts.notes.action_id)

    def _twin(self, middleware: AuditMiddleware) -> AuditMiddleware:
        known = self._twins.get(id(middleware))
        if known is None:
            given = {name: value for name, value in middleware.given.items() if name not in _OUTSIDE}
            known = middleware, AuditMiddleware(middleware.app, **{**given, **self.settings})
            self._twins[id(middleware)] = known
        return known[1]

    def _is_twin(self, middleware: AuditMiddleware) -> bool:
        return any(twin is middleware for _, twin in self._twins.values())


def admission_of(scope: Scope) -> Admission | None:
    """What was found out about a request that went through the middleware."""
    admission = scope.get(GATE)
    return admission if isinstance(admission, Admission) else None


@contextmanager
def calls_through(
    function: Callable[[Call, AuditMiddleware, Scope, Receive, Send], Awaitable[None]],
) -> Iterator[None]:
    """Lets ``function`` stand between every caller of a middleware and the middleware, for a while."""
    original: Call = AuditMiddleware.__call__

    async def call(middleware: AuditMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        await function(original, middleware, scope, receive, send)

    AuditMiddleware.__call__ = call  # type: ignore[method-assign,assignment]  # that is what this is for
    try:
        yield
    finally:
        AuditMiddleware.__call__ = original  # type: ignore[method-assign,assignment]
