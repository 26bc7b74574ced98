"""The compiled policy: immutable, digested, and a pure function from a request to a `Decision`.

How `Policy.evaluate` decides, in this order; the order of rules in the file never changes the effect:

1. An action that the policy does not know is denied (``unknown_action``), whatever ``default`` says.
2. Every deny rule whose roles match is evaluated. One that holds denies (``rule``). Otherwise, one whose condition
   cannot be computed denies (``error``).
3. An allow rule without a condition, whose roles match, allows: nothing has to be computed.
4. Every allow rule with a condition, whose roles match, is evaluated. One whose condition cannot be computed denies
   (``error``), even if another holds: a decision is not made on a request that does not fit the policy. Otherwise one
   that holds allows.
5. The policy's ``default`` (``default``); a denial names the rules that nearly allowed.

Of several rules that decide alike, the first in the file is named. A caller's roles that the policy does not know grant
nothing. ``anyone`` is every caller, also nobody; ``authenticated`` is every caller but nobody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from ..errors import ConditionError
from ..model import ANONYMOUS, Cause, Decision, Effect, Level, Mode, Outcome, Resource, Severity, Subject
from ..persons import Personal
from .conditions import CompiledCondition, PredicateFunction, compile_condition, paths
from .needs import NOTHING, Needs, needs_of
from .personal import merged
from .requirements import read_by
from .routes import RouteEntry, find, table
from .schema import (
    ANYONE,
    AUTHENTICATED,
    ActionSpec,
    Channel,
    Guarantee,
    Limit,
    LogFailure,
    PolicySpec,
    Redaction,
    Requirements,
    RuleSpec,
)

__all__ = ["CompiledAction", "CompiledRule", "Needs", "Policy"]

MAX_NEAR_MISSES = 5
MAX_NEAR_MISS = 200  # characters; a record has to hold them all
Grant = tuple[int, Decision]


class CompiledRule(msgspec.Struct, frozen=True, eq=False):
    """One rule. ``grantees`` are the role names that bring one of ``roles``, by inheritance."""

    name: str
    effect: Effect
    roles: tuple[str, ...]
    grantees: frozenset[str]
    everyone: bool
    identified: bool
    condition: CompiledCondition | None
    decision: Decision
    needs: Needs = NOTHING
    reads: tuple[str, ...] = ()

    def applies(self, subject: Subject) -> bool:
        """Whether the caller's roles match the rule's."""
        return (
            self.everyone
            or (self.identified and subject.type != ANONYMOUS)
            or not self.grantees.isdisjoint(subject.roles)
        )

    def near_miss(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> str | None:
        """What kept an allow rule that did not hold from holding, if it was one of roles and condition, not both."""
        if self.condition is None:
            return None
        if self.applies(subject):
            return f"{self.name}: {self.condition.failing(subject, resource, context)}"[:MAX_NEAR_MISS]
        # Foreign code is not run for the sake of an explanation, for a caller who lacks the role anyway.
        if self.condition.foreign:
            return None
        try:
            held = self.condition.test(subject, resource, context)
        except ConditionError:
            return None
        return f"{self.name}: roles {', '.join(self.roles)}"[:MAX_NEAR_MISS] if held else None


class CompiledAction(msgspec.Struct, frozen=True, eq=False):
    """One action, ready to decide. The fields up to ``stated`` are those of the file, with defaults filled in;
    ``stated`` names those of ``event`` and ``severity`` that are no defaults."""

    name: str
    event: str
    severity: Severity
    record: Level
    mode: Mode
    guarantee: Guarantee
    on_log_failure: LogFailure
    require: Requirements | None
    limit: Limit | None
    notify: tuple[str, ...]
    notify_outcomes: tuple[Outcome, ...]
    stated: frozenset[str]
    allow: tuple[CompiledRule, ...]
    deny: tuple[CompiledRule, ...]
    digest: str
    _default: Decision
    # Allow rules without conditions, as what they grant to whom: the position in the file picks among several.
    _grants: Mapping[str, Grant]
    _everyone: Grant | None
    _identified: Grant | None
    _conditional: tuple[CompiledRule, ...]
    needing: tuple[CompiledRule, ...] = ()
    """The rules that read a property of the resource or the body, so that most actions need not ask `needs`."""
    reading: tuple[CompiledRule, ...] = ()
    """The rules that read an attribute at all, deny rules first."""
    required: tuple[str, ...] = ()
    """What the requirements read, by name."""
    by_role: bool = False
    """Does nothing count but the caller's roles: no condition, no deny rule, no requirement, no limit?"""

    def needs(self, subject: Subject) -> Needs:
        """What a decision about this caller may read: only rules that are evaluated for it count."""
        found = NOTHING
        granted = self._grant(subject) is not None
        for rule in self.needing:
            if rule.applies(subject) and (rule.effect == "deny" or not granted):
                found |= rule.needs
        return found

    def reads(self, subject: Subject) -> tuple[str, ...]:
        """The attributes that a decision about this caller may read: those of the rules that are evaluated for it, and
        what the requirements ask for. Which rules apply is told by the caller's roles and type."""
        granted = self._grant(subject) is not None
        found = [
            rule.reads for rule in self.reading if (not granted or rule.effect == "deny") and rule.applies(subject)
        ]
        if self.required:
            found.append(self.required)
        if len(found) < 2:
            return found[0] if found else ()
        return tuple(dict.fromkeys(name for names in found for name in names))

    def decide(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Decision:
        """The decision of this action's rules; see the module's text for the order. Never raises for a request."""
        try:
            grant = self._grant(subject)
        except TypeError:  # unhashable or not iterable: an identity that does not keep the type's promise
            return self._failed(None, "subject.roles is not a sequence of names")
        if self.deny:
            refusal = self._refusal(subject, resource, context)
            if refusal is not None:
                return refusal
        if grant is not None:
            return grant
        if self._conditional:
            decision = self._by_condition(subject, resource, context)
            if decision is not None:
                return decision
        if self._default.effect == "allow":
            return self._default
        return self._denied_by_default(subject, resource, context)

    def _grant(self, subject: Subject) -> Decision | None:
        best = self._everyone
        if self._identified is not None and subject.type != ANONYMOUS:
            best = self._identified if best is None or self._identified[0] < best[0] else best
        roles = subject.roles
        if isinstance(roles, str):  # its letters would be taken for roles
            raise TypeError
        grants = self._grants
        for role in roles:
            grant = grants.get(role)
            if grant is not None and (best is None or grant[0] < best[0]):
                best = grant
        return best[1] if best is not None else None

    def _refusal(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Decision | None:
        failed: Decision | None = None
        for rule in self.deny:
            if rule.applies(subject):
                try:
                    if rule.condition is None or rule.condition.test(subject, resource, context):
                        return rule.decision
                except ConditionError as error:
                    failed = failed or self._failed(rule.name, str(error))
        return failed

    def _by_condition(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Decision | None:
        granted: Decision | None = None
        for rule in self._conditional:
            if rule.condition is not None and rule.applies(subject):
                try:
                    if rule.condition.test(subject, resource, context):
                        granted = granted or rule.decision
                except ConditionError as error:
                    return self._failed(rule.name, str(error))
        return granted

    def _denied_by_default(self, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Decision:
        near: list[str] = []
        for rule in self._conditional:
            miss = rule.near_miss(subject, resource, context)
            if miss is not None and len(near) < MAX_NEAR_MISSES:
                near.append(miss)
        if not near:
            return self._default
        return Decision("deny", "default", None, tuple(near), self.digest, self.mode)

    def _failed(self, rule: str | None, problem: str) -> Decision:
        detail = f"{rule}: {problem}" if rule is not None else problem
        return Decision("deny", "error", rule, (), self.digest, self.mode, detail)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A loaded policy. Safe to share between threads and to swap while running.

    ``roles`` maps each role to everything it brings, itself included. ``digest`` is ``sha256:<hex>`` over
    ``canonical``, which is the file's meaning as JSON, without its formatting, comments and key order; `loads` reads
    it again. ``profile`` is the one that ``personal`` starts from, where the file names one; no part of the digest.
    """

    name: str
    version: int
    digest: str
    mode: Mode
    default: Effect
    roles: Mapping[str, frozenset[str]]
    actions: Mapping[str, CompiledAction]
    routes: tuple[RouteEntry, ...]
    templates: frozenset[str]
    redact: Redaction
    channels: Mapping[str, Channel]
    personal: Personal
    profile: str | None
    canonical: bytes = field(repr=False)
    no_route: Decision = field(repr=False)
    """The decision where no route of the application's is asked for."""
    _unknown: Decision = field(repr=False)
    _table: Mapping[tuple[str, str], RouteEntry] = field(repr=False)
    _personal: Mapping[str | None, Personal] = field(repr=False)

    @classmethod
    def build(cls, spec: PolicySpec, predicates: Mapping[str, PredicateFunction]) -> Policy:
        """Compiles a spec that was found right."""
        canonical = json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        digest = f"sha256:{hashlib.sha256(canonical).hexdigest()}"
        roles = _closure(spec.roles)
        compiler = _Compiler(spec, digest, roles, predicates)
        return cls(
            name=spec.name,
            version=1,
            digest=digest,
            mode=spec.mode,
            default=spec.default,
            roles=MappingProxyType(roles),
            actions=MappingProxyType({name: compiler.action(action) for name, action in spec.actions.items()}),
            routes=spec.routes,
            templates=frozenset(entry.template for entry in spec.routes),
            redact=spec.redact,
            channels=spec.channels,
            personal=spec.personal,
            profile=spec.profile,
            canonical=canonical,
            no_route=Decision("not_applicable", "no_route", policy_digest=digest, mode=spec.mode),
            _unknown=Decision("deny", "unknown_action", policy_digest=digest, mode=spec.mode),
            _table=MappingProxyType(dict(table(spec.routes))),
            _personal={name: merged(spec.personal, one.personal) for name, one in spec.actions.items()},
        )

    def evaluate(self, action: str, subject: Subject, resource: Resource, context: Mapping[str, Any]) -> Decision:
        """Decides one request.

        Args:
            action: the action's name.
            subject: who asks, with roles as the identity says them.
            resource: what is acted on.
            context: JSON values about the request by key, such as ``ip`` (text), ``method``, ``route`` and ``time`` (an
                aware datetime, RFC 3339 text, or seconds since the epoch).
        """
        compiled = self.actions.get(action)
        return self._unknown if compiled is None else compiled.decide(subject, resource, context)

    def personal_of(self, action: str | None) -> Personal:
        """What is done with personal data in records of an action; the policy's own for one that it does not know.
        Members come before what they lie in. The same object each time."""
        return self._personal.get(action, self.personal)

    def route(self, template: str, method: str) -> RouteEntry | None:
        """The ``routes:`` entry for a route, by its whole path template and method (``WS`` for a WebSocket)."""
        return find(self._table, template, method)


def _closure(roles: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Each role with everything it inherits, itself included."""
    closed: dict[str, frozenset[str]] = {}
    for role in roles:
        found = {role}
        queue = [role]
        while queue:
            for inherited in roles[queue.pop()]:
                if inherited not in found:
                    found.add(inherited)
                    queue.append(inherited)
        closed[role] = frozenset(found)
    return closed


class _Compiler:
    """Compiles the actions of one spec."""

    def __init__(
        self,
        spec: PolicySpec,
        digest: str,
        roles: Mapping[str, frozenset[str]],
        predicates: Mapping[str, PredicateFunction],
    ) -> None:
        self._spec = spec
        self._digest = digest
        self._roles = roles
        self._predicates = predicates

    def action(self, spec: ActionSpec) -> CompiledAction:
        mode: Mode = "monitor" if "monitor" in (self._spec.mode, spec.mode) else "enforce"
        allow = tuple(self._rule(rule, "allow", spec.name, mode) for rule in spec.allow)
        deny = tuple(self._rule(rule, "deny", spec.name, mode) for rule in spec.deny)
        grants, everyone, identified = _grants(allow)
        return CompiledAction(
            name=spec.name,
            event=spec.event,
            severity=spec.severity,
            record=spec.record,
            mode=mode,
            guarantee=spec.guarantee,
            on_log_failure=spec.on_log_failure,
            require=spec.require,
            limit=spec.limit,
            notify=spec.notify,
            notify_outcomes=spec.notify_outcomes,
            stated=spec.stated,
            allow=allow,
            deny=deny,
            digest=self._digest,
            _default=self._decision(self._spec.default, "default", None, mode),
            _grants=grants,
            _everyone=everyone,
            _identified=identified,
            _conditional=tuple(rule for rule in allow if rule.condition is not None),
            needing=tuple(rule for rule in (*deny, *allow) if rule.needs),
            reading=tuple(rule for rule in (*deny, *allow) if rule.reads),
            required=read_by(spec.require) if spec.require is not None else (),
            by_role=spec.require is None
            and spec.limit is None
            and not deny
            and all(rule.condition is None for rule in allow),
        )

    def _rule(self, spec: RuleSpec, effect: Effect, action: str, mode: Mode) -> CompiledRule:
        wanted = frozenset(spec.roles)
        return CompiledRule(
            name=spec.name,
            effect=effect,
            roles=spec.roles,
            grantees=frozenset(role for role, brings in self._roles.items() if not brings.isdisjoint(wanted)),
            everyone=not wanted or ANYONE in wanted,
            identified=AUTHENTICATED in wanted,
            condition=compile_condition(spec.when, action, self._predicates) if spec.when is not None else None,
            decision=self._decision(effect, "rule", spec.name, mode),
            needs=NOTHING if spec.when is None else needs_of(spec.when),
            reads=() if spec.when is None else tuple(sorted(paths(spec.when))),
        )

    def _decision(self, effect: Effect, cause: Cause, rule: str | None, mode: Mode) -> Decision:
        return Decision(effect, cause, rule, policy_digest=self._digest, mode=mode)


def _grants(allow: tuple[CompiledRule, ...]) -> tuple[Mapping[str, Grant], Grant | None, Grant | None]:
    """Who is allowed without a condition: by role, everyone, every identified caller. The file's first rule wins."""
    by_role: dict[str, Grant] = {}
    everyone: Grant | None = None
    identified: Grant | None = None
    for index, rule in enumerate(allow):
        if rule.condition is not None:
            continue
        grant = (index, rule.decision)
        everyone = everyone or (grant if rule.everyone else None)
        identified = identified or (grant if rule.identified else None)
        for role in rule.grantees:
            by_role.setdefault(role, grant)
    return MappingProxyType(by_role), everyone, identified
