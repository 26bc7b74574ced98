"""Recorded decisions made again: with the policy that was in force, archived under its digest, and the inputs the
record tells. What comes out must be what the record says.

For each record that tells a decision:

1. Effect and cause must go together: only some causes allow, only some deny.
2. What no rule decided is not made again: the router selected something else, or what a rule needed could not be had.
3. The policy is that of the record's digest. ``exempt`` and ``unannotated`` are looked up in its ``routes:``.
4. Nothing that the rules read for this caller may be withheld, untold or sealed, and no predicate may be asked: it is
   Python, and no part of the policy. Sealed values can be opened with the persons' keys first.
5. Rules and requirements are evaluated. Effect, cause, rule, mode and the missing requirements must be the same; of a
   decision that a limit or an outage of the log turned into a denial, what went before must be an allow.
6. ``blocked`` is no answer of the policy: what is made again is the block. An earlier record of the log must order it,
   for this caller, by this rule, and not have ended. What the policy alone would have said is told beside it, where
   the record tells what that takes: a block is decided before attributes are fetched.

Near misses and details explain a decision and are not compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..context import clean
from ..errors import PolicyError
from ..model import Decision
from ..persons import pseudonym
from ..policy.evaluate import CompiledAction, Policy
from ..policy.load import loads
from ..policy.requirements import demanded
from .blocking import NO_ORDER, SEALED, Orders
from .recorded import Inputs, Recorded, inputs_of, is_hidden

__all__ = ["SEALED", "Policies", "Reperformance", "Verdict", "reperform"]

WITHHELD, UNTOLD, UNREADABLE = "withheld inputs", "inputs not recorded", "not a record"
NO_POLICY, BAD_POLICY, PREDICATE = "policy not in the log", "policy does not load here", "predicate in Python"
LIMIT, NO_LOG, MISMATCH, NO_RULE = "limit", "log unavailable", "route mismatch", "not decided by rules"
MAX_DIFFERENCES = 1000
"""So many differences are listed; all are counted."""

PRUNED = "pruned block"
ALWAYS = frozenset({"subject.roles", "subject.type", "*"})
"""What says which rules apply, whatever they read."""

_DENYING = frozenset(
    {"blocked", "requirement", "limit", "error", "unknown_action", "route_mismatch", "log_unavailable"}
)
_CACHED = 16


class _Predicates(dict[str, Any]):
    """Any predicate by name; notes that one was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Callable[[Mapping[str, Any]], bool]:
        return self._ask

    def _ask(self, question: Mapping[str, Any]) -> bool:
        self.asked = True
        return False


@dataclass(frozen=True, slots=True)
class Archived:
    """A policy with predicates that cannot be asked."""

    policy: Policy
    predicates: _Predicates

    def decide(self, action: str, inputs: Inputs) -> Decision | None:
        """Rules, then requirements; ``None`` if a predicate was asked."""
        self.predicates.asked = False
        request = (inputs.subject, inputs.resource, inputs.context)
        decision = self.policy.evaluate(action, *request)
        if self.predicates.asked:
            return None
        rule = self.policy.actions.get(action)
        if rule is not None and rule.require is not None and decision.effect == "allow":
            decision = demanded(
                decision,
                rule.require,
                inputs.subject,
                reason=inputs.reason,
                confirmed=inputs.confirmed,
                now=inputs.now.timestamp(),
            )
        return decision


def load_archived(text: str, name: str) -> Archived:
    """Loads a policy without the predicates that its service registers. Raises `PolicyError`."""
    predicates = _Predicates()
    return Archived(loads(text, name, predicates=predicates), predicates)


class Policies:
    """Policies by digest, the last few of them compiled."""

    def __init__(self, document: Callable[[str], bytes | None], given: Iterable[Archived] = ()) -> None:
        """``document`` looks a policy up in the log; ``given`` are those that the log lacks."""
        self._document = document
        self._given = {one.policy.digest: one for one in given}
        self._loaded: OrderedDict[str, Archived | str] = OrderedDict()

    def get(self, digest: str | None) -> Archived | str:
        """The policy of this digest, or why there is none."""
        if digest is None:
            return NO_POLICY
        if digest not in self._loaded:
            self._loaded[digest] = self._load(digest)
            if len(self._loaded) > _CACHED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(digest)
        return self._loaded[digest]

    def _load(self, digest: str) -> Archived | str:
        document = self._document(digest)
        if document is None:
            return self._given.get(digest, NO_POLICY)
        try:
            found = load_archived(document.decode(), digest)
        except (PolicyError, UnicodeDecodeError):
            return BAD_POLICY
        return found if found.policy.digest == digest else BAD_POLICY


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one decision: the same, another, or not re-performable and why."""

    state: Literal["same", "differs", "not re-performable"]
    why: str = ""
    again: Decision | None = None


SAME = Verdict("same")


def perform(
    record: Recorded, policies: Policies, orders: Orders | None = None, index: int | None = None
) -> Verdict | None:
    """Makes one decision again; ``None`` where there was nothing to decide. ``index`` is the record's in the log."""
    said = record.decision
    wrong = _incoherent(said.effect, said.cause)
    if wrong is not None:
        return Verdict("differs", wrong)
    if said.cause == "no_route":
        return None
    if said.cause == "blocked":
        return _blocked(record, policies, orders or Orders(), index)
    if said.cause == "route_mismatch":
        return _not(MISMATCH)
    if said.cause == "error" and said.rule is None:
        return _not(NO_RULE)
    found = policies.get(said.policy_digest)
    if isinstance(found, str):
        return _not(found)
    if said.cause in ("exempt", "unannotated") or record.action is None:
        return _by_routes(record, found.policy)
    try:
        inputs = inputs_of(record)
    except (ValueError, TypeError) as problem:
        return Verdict("differs", f"its inputs are not as they are written: {clean(str(problem), 100)}")
    if inputs.withheld:
        return _not(WITHHELD)
    if inputs.sealed & ALWAYS or is_hidden(said.detail):
        return _not(SEALED)
    rule = found.policy.actions.get(record.action)
    decision = found.decide(record.action, inputs)
    if decision is None:
        return _not(PREDICATE)
    if unread := unknown(rule, inputs, decision):
        return _not(SEALED if unread & inputs.sealed else UNTOLD)
    return _compared(record, decision, rule)


def _blocked(record: Recorded, policies: Policies, orders: Orders, index: int | None) -> Verdict:
    wrong = orders.wrong(index, record)
    if wrong == SEALED:
        return _not(SEALED)
    if wrong is not None:
        return _not(PRUNED) if orders.base and wrong == NO_ORDER else Verdict("differs", wrong)
    found = policies.get(record.decision.policy_digest)
    if isinstance(found, str):
        return Verdict("same", f"blocked, and the policy alone cannot be told: {found}")
    rule = found.policy.actions.get(record.action or "")
    if record.decision.mode != (found.policy.mode if rule is None else rule.mode):
        return Verdict("differs", "its mode is not the policy's")
    again = None
    if record.action is not None and (rule is None or not rule.needing):
        try:
            inputs = inputs_of(record)
            again = None if inputs.withheld or inputs.sealed & ALWAYS else found.decide(record.action, inputs)
        except (ValueError, TypeError) as problem:
            return Verdict("differs", f"its inputs are not as they are written: {clean(str(problem), 100)}")
        again = again if again is not None and not unknown(rule, inputs, again) else None
    alone = "cannot be told" if again is None else f"would say {again.effect}"
    return Verdict("same", f"blocked, and the policy alone {alone}", again)


def unknown(rule: CompiledAction | None, inputs: Inputs, decision: Decision) -> set[str]:
    """What was read for a decision and the record does not tell."""
    if rule is None:
        return set()
    names = set(rule.reads(inputs.subject))
    if decision.effect == "deny" and decision.cause != "requirement":
        names -= set(rule.required)  # only who may act is asked for them
    return names - inputs.known


def _not(why: str) -> Verdict:
    return Verdict("not re-performable", why)


def _incoherent(effect: str, cause: str) -> str | None:
    only = {"exempt": "allow", "no_route": "not_applicable"}.get(cause, "deny" if cause in _DENYING else None)
    if effect == only or (only is None and effect in ("allow", "deny")):
        return None
    return f"{effect} does not go with the cause {cause}"


def _by_routes(record: Recorded, policy: Policy) -> Verdict:
    said = record.decision
    entry = policy.route(record.request.route or "", record.method)
    exempt = entry is not None and entry.exempt is not None
    running = entry is not None and not all(entry.expired(day) for day in record.days)
    ended = entry is not None and any(entry.expired(day) for day in record.days)
    if said.cause == "exempt":
        right, again = exempt and running, Decision("allow", "exempt", mode=policy.mode)
    elif said.cause == "unannotated":
        right, again = entry is None or (exempt and ended), Decision(policy.default, "unannotated", mode=policy.mode)
    else:
        return Verdict("differs", f"the cause is {said.cause}, but the record names no action")
    if not right:
        return Verdict(
            "differs", f"the policy's routes do not make {record.method} {record.request.route} {said.cause}"
        )
    return SAME if (said.effect, said.mode) == (again.effect, again.mode) else Verdict("differs", "", again)


def _compared(record: Recorded, decision: Decision, rule: CompiledAction | None) -> Verdict:
    said = record.decision
    differs = Verdict("differs", "", decision)
    if said.mode != decision.mode:
        return differs
    if said.cause == "log_unavailable":
        return _not(NO_LOG) if decision.effect == "allow" else differs
    limited = rule is not None and rule.limit is not None
    if said.cause == "limit" or (said.cause == "error" and decision.effect == "allow" and limited):
        return _not(LIMIT) if limited and (decision.effect, decision.rule) == ("allow", said.rule) else differs
    if (said.effect, said.cause, said.rule) != (decision.effect, decision.cause, decision.rule):
        return differs
    if said.cause == "requirement" and said.detail != clean(decision.detail or "", 512):
        return differs
    return SAME


@dataclass(slots=True)
class Difference:
    """One decision that came out otherwise."""

    index: int
    record: Recorded | None
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        said, again = (self.record.decision if self.record else None), self.verdict.again
        return {
            "index": self.index,
            "action": self.record.action if self.record else None,
            "user": pseudonym(self.record.user_id) if self.record else None,
            "recorded": _told(said.effect, said.cause, said.rule, said.mode, said.detail) if said else None,
            "again": _told(again.effect, again.cause, again.rule, again.mode, again.detail) if again else None,
            "why": self.verdict.why or None,
        }


def _told(effect: str, cause: str, rule: str | None, mode: str, detail: str | None) -> dict[str, Any]:
    return {"effect": effect, "cause": cause, "rule": rule, "mode": mode, "detail": detail}


@dataclass(slots=True)
class Reperformance:
    """The result over a log."""

    same: int = 0
    differing: int = 0
    nothing: int = 0
    differences: list[Difference] = field(default_factory=list)
    not_performable: dict[str, int] = field(default_factory=dict)
    missing_policies: dict[str, int] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """True if no decision that was made again came out otherwise."""
        return not self.differing

    def take(self, index: int, record: Recorded | None, verdict: Verdict | None) -> None:
        """Counts one decision."""
        if verdict is None:
            self.nothing += 1
        elif verdict.state == "same":
            self.same += 1
            if verdict.why:
                self.blocked[verdict.why] = self.blocked.get(verdict.why, 0) + 1
        elif verdict.state == "differs":
            self.differing += 1
            if len(self.differences) < MAX_DIFFERENCES:
                self.differences.append(Difference(index, record, verdict))
        else:
            self.not_performable[verdict.why] = self.not_performable.get(verdict.why, 0) + 1
            digest = record.decision.policy_digest if record is not None else None
            if verdict.why == NO_POLICY and digest is not None and len(self.missing_policies) < MAX_DIFFERENCES:
                self.missing_policies[digest] = self.missing_policies.get(digest, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "holds": self.holds,
            "same": self.same,
            "blocked": dict(sorted(self.blocked.items())),
            "differs": self.differing,
            "not_reperformable": dict(sorted(self.not_performable.items())),
            "nothing_to_decide": self.nothing,
            "missing_policies": self.missing_policies,
            "differences": [one.to_json() for one in self.differences],
        }


def reperform(
    records: Iterable[tuple[int, Recorded | None]], policies: Policies, orders: Orders | None = None
) -> Reperformance:
    """Makes every decision again; memory does not grow with the log, only with the blocks that were ordered."""
    result = Reperformance()
    for index, record in records:
        result.take(index, record, _not(UNREADABLE) if record is None else perform(record, policies, orders, index))
    return result
