"""The middleware: the steps of one request, in order, and nothing else.

::

    AuditMiddleware.__call__        arrival: ids, time, correlation, address
      observe                       runs the application; sees status, bytes, time, error
        Admission.admit             called by the guard in front of each router
          resolve -> identify -> blocks -> load -> decide -> limit
        Admission.selected          the router selected what was admitted, or the request is refused
      record, append                in the writer's thread, after the last byte

`wiring` makes the parts; `frameworks.guard` calls the admission.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from .context import RUNNING
from .errors import AttributesError
from .frameworks.guard import GATE, arm, refuse_directly
from .model import Action, Decision, Found, Refusal
from .pipeline.answer import refusal
from .pipeline.arrive import arrive, response_headers
from .pipeline.blocks import MANUAL
from .pipeline.body import Replay, parse
from .pipeline.decide import announced, context_of, decide, decide_by_role, held_against, mismatch, without_log
from .pipeline.facts import UNFINISHED, Facts, Problem, Resolved
from .pipeline.identify import identify
from .pipeline.inputs import take
from .pipeline.limit import enter
from .pipeline.load import load_properties, unknown
from .pipeline.observe import CAPTURED, begin_capture, observe
from .pipeline.resolve import describe, resolve
from .policy.evaluate import CompiledAction, Needs
from .protocols import ASGIApp, Identifier, Message, Receive, Scope, Send
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
        self.given: dict[str, Any] = {"identify": identify, "predicates": predicates, **settings}  # for `testing`
        self._starter = Starter(app, identify, predicates or {}, settings)

    def stop(self) -> None:
        """Writes what is queued and a last record, as the end of the lifespan does; safe to call twice."""
        self._starter.stop()

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
        facts = arrive(scope, parts.clock, parts.address, parts.late)
        scope[GATE] = admission = Admission(parts, facts)
        running = RUNNING.set(facts.notes)
        try:
            if parts.router is not None:
                app, scope = self.app, arm(scope, admission)
            else:
                app = admission.whole_app(self.app)
            await observe(app, scope, receive, send, facts, response_headers(facts), parts)
        finally:
            RUNNING.reset(running)


class Admission(msgspec.Struct, eq=False):
    """The gate of one request: resolve, identify, decide (`audit_middleware.protocols.Gate`)."""

    parts: Parts
    facts: Facts
    replay: Receive | None = None
    ahead: list[Message] | None = None  # what `replay` has read

    async def admit(self, scope: Scope, receive: Receive, found: Found) -> Refusal | None:
        """Decides over what a router found; ``None`` admits."""
        parts, facts, policy = self.parts, self.facts, self.parts.policy
        facts.decision, facts.inputs = UNFINISHED, None  # stands if anything below raises
        resolved = resolve(found, policy, parts.today)
        describe(facts, found, resolved)
        known = identify(parts.identify, scope)
        facts.subject, problem = known if type(known) is tuple else await known  # type: ignore[misc]
        facts.notes.subject = facts.subject
        if problem is not None:
            facts.flag(problem)
        decision = self._held_against(resolved) if parts.blocks.table is not None else None
        if decision is None and parts.writer.takes_records():
            decision = decide_by_role(policy, resolved, facts.subject, problem)
        facts.decision = decision or await self._decided(scope, receive, resolved, problem)
        facts.verified = found.endpoint is None
        rule = resolved.rule
        if rule is not None and rule.guarantee == "before" and announced(facts) and not await parts.announce(facts):
            facts.decision = without_log(facts.decision)
        refused = self._refused(rule) if facts.decision.effect == "deny" else None
        if refused is None and facts.level in CAPTURED:
            begin_capture(facts, parts.settings.max_body)
        return refused

    def _refused(self, rule: CompiledAction | None) -> Refusal | None:
        """The answer to a request that is denied; ``None`` where that is not enforced."""
        parts, facts = self.parts, self.facts
        refused = refusal(facts.decision, facts.subject, parts.settings.challenge, rule.require if rule else None)
        facts.sealed = facts.sealed and refused is None
        if refused is not None and self.replay is not None:
            facts.unread, self.replay = self.ahead, None  # a handler of exceptions may read the body, too
        return refused

    def _held_against(self, resolved: Resolved) -> Decision | None:
        """The decision about a caller who is blocked; records of one whom an open finding is about are flagged."""
        parts, facts = self.parts, self.facts
        if resolved.cause in ("exempt", "no_route"):
            return None
        standing = parts.blocks.standing(facts.subject, facts.initiator_ip, facts.arrived_ns)
        if standing is None:
            return None
        for name in standing.rules:
            if name != MANUAL:
                facts.flag(f"finding:{name}")
        decision, rule = held_against(standing, parts.policy, resolved), resolved.rule
        if decision is not None and rule is not None and not rule.needing:  # what it reads is at hand: say it
            facts.inputs = take(rule, facts.subject, facts.resource, context_of(facts), facts.headers)
        return decision

    async def _decided(self, scope: Scope, receive: Receive, resolved: Resolved, problem: Problem | None) -> Decision:
        """What the policy, the log and the limits say."""
        parts, facts, policy = self.parts, self.facts, self.parts.policy
        context, failed, rule = context_of(facts), None, resolved.rule
        if rule is not None and rule.needing:
            try:
                await self._gather(scope, receive, rule.needs(facts.subject), resolved.action, context)
            except AttributesError as unknown_attribute:
                failed = str(unknown_attribute)
        available = resolved.cause in ("exempt", "no_route") or await parts.log_available(facts)
        facts.decision = decide(
            policy, resolved, facts.subject, problem, facts.resource, context,
            headers=facts.headers, failed=failed, log_available=available,
        )  # fmt: skip
        if rule is not None and (rule.reading or rule.required):
            facts.inputs = take(rule, facts.subject, facts.resource, context, facts.headers)
        if rule is not None and rule.limit is not None and facts.decision.effect == "allow":
            return await enter(parts.limits, policy.name, rule, facts)
        return facts.decision

    async def _gather(
        self, scope: Scope, receive: Receive, needs: Needs, action: Action | None, context: dict[str, Any]
    ) -> None:
        """Fetches what the rules about this caller read and the request does not tell; raises `AttributesError`."""
        facts, settings = self.facts, self.parts.settings
        patience = settings.decision_timeout / 1000
        if action is not None and action.loader is not None and unknown(needs, facts.resource):
            facts.resource = await load_properties(action.loader, facts.resource, scope, patience)
        if needs.body and facts.protocol == "http":
            begin_capture(facts, settings.max_body)
            self.replay = replay = Replay(receive)
            self.ahead = replay.ahead
            body = await replay.read(settings.max_decision_body, patience)
            kinds = [value.decode("latin-1") for name, value in facts.headers if name == b"content-type"]
            context["body"] = parse(body, kinds)

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
            refused = await self.admit(scope, receive, OPAQUE_APP)
            if refused is not None:
                await refuse_directly(scope, receive, send, refused)
            else:
                await app(scope, self.replay or receive, send)

        return guarded
