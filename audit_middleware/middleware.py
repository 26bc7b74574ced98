"""The middleware: the steps of one request, in order, and nothing else.

::

    AuditMiddleware.__call__        arrival: ids, time, correlation, address
      observe                       runs the application; sees status, bytes, time, error
        Admission.admit             called by the guard in front of each router
          resolve -> identify -> decide
        Admission.selected          the router selected what was admitted, or the request is refused
      record, append                in the writer's thread, after the last byte

`wiring` makes the parts; `frameworks.guard` calls the admission.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .context import RUNNING
from .frameworks.guard import GATE, arm, refuse_directly
from .model import Found, Refusal
from .pipeline.arrive import arrive, response_headers
from .pipeline.decide import context_of, decide, mismatch, refusal
from .pipeline.facts import UNFINISHED, Facts
from .pipeline.identify import identify
from .pipeline.observe import begin_capture, observe
from .pipeline.resolve import describe, resolve
from .protocols import ASGIApp, Identifier, Receive, Scope, Send
from .wiring import Parts, Starter

OPAQUE_APP = Found("opaque", "/{path}", detail="no router found behind the middleware")


class AuditMiddleware:
    """Guards, correlates and records every HTTP request and WebSocket connection of an ASGI application.

    Add it last, so that it is outermost::

        app.add_middleware(AuditMiddleware, policy="policies/billing.yaml", log="var/audit", service="billing")

    Args:
        app: the ASGI application; given by the framework.
        identify: who is calling; default: Starlette's ``scope["user"]``. See `audit_middleware.identity`.
        predicates: functions a policy may name in ``{predicate: name}``.
        settings: see `audit_middleware.settings.Settings`; also read from ``AUDIT_*`` variables.

    A wrong setting, policy, key or log stops the start with one message (ASGI ``lifespan.startup.failed``); a server
    without lifespan gets 503 for every request until it is repaired.
    """

    def __init__(
        self, app: ASGIApp, /, *, identify: Identifier | None = None, predicates: Any = None, **settings: Any
    ) -> None:
        self.app = app
        self._starter = Starter(app, identify, predicates or {}, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._starter.lifespan(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket") or GATE in scope:
            await self.app(scope, receive, send)  # below another audit middleware, that one records
            return
        parts = self._starter.ready(scope)
        if parts is None:
            await refuse_directly(scope, receive, send, Refusal(503, "Service Unavailable"))
            return
        facts = arrive(scope, parts.clock, parts.address, parts.amend)
        scope[GATE] = admission = Admission(parts, facts)
        running = RUNNING.set(facts.notes)
        try:
            if parts.router is not None:
                app, scope = self.app, arm(scope, admission)
            else:
                app = admission.whole_app(self.app)
            await observe(app, scope, receive, send, facts, response_headers(facts), parts.finish)
        finally:
            RUNNING.reset(running)


class Admission:
    """The gate of one request: resolve, identify, decide (`audit_middleware.protocols.Gate`)."""

    __slots__ = ("facts", "parts")

    def __init__(self, parts: Parts, facts: Facts) -> None:
        self.parts = parts
        self.facts = facts

    async def admit(self, scope: Scope, found: Found) -> Refusal | None:
        """Decides over what a router found; ``None`` admits."""
        parts, facts, policy = self.parts, self.facts, self.parts.policy
        facts.decision = UNFINISHED  # stands if anything below raises
        resolved = resolve(found, policy, parts.today())
        describe(facts, found, resolved)
        facts.subject, problem = await identify(parts.identify, scope)
        facts.notes.subject = facts.subject
        if problem is not None:
            facts.flag(problem)
        available = resolved.cause in ("exempt", "no_route") or await parts.log_available()
        facts.decision = decide(
            policy, resolved, facts.subject, problem, facts.resource, context_of(facts), log_available=available
        )
        facts.verified = found.endpoint is None
        refused = refusal(facts.decision, facts.subject, parts.settings.challenge)
        if refused is None:
            begin_capture(facts, parts.settings.max_body)
        return refused

    def selected(self, found: Found, endpoint: Any) -> bool:
        """Compares what the router selected with what was admitted; a difference is refused and recorded."""
        if endpoint is found.endpoint or (found.endpoint is not None and endpoint == found.endpoint):
            self.facts.verified = True
            return True
        facts, policy = self.facts, self.parts.policy
        if facts.found is None:  # no guard was asked at all
            facts.decision = replace(facts.decision, policy_digest=policy.digest, mode=policy.mode)
        facts.decision = mismatch(facts.decision)
        facts.severity = "critical"
        facts.flag("route_mismatch")
        facts.verified = not facts.decision.refused
        return facts.verified

    def whole_app(self, app: ASGIApp) -> ASGIApp:
        """An application without any router we can see is one opaque route."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            refused = await self.admit(scope, OPAQUE_APP)
            if refused is not None:
                await refuse_directly(scope, receive, send, refused)
            else:
                await app(scope, receive, send)

        return guarded
