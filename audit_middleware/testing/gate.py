"""The coverage gate: which routes, actions and rules of a policy did the requests of a test session exercise?

Counted are requests that went through an `AuditMiddleware` of this process under the policy in question (told by its
digest), also those that leave no record, and the records in the logs of ``audit_log``, which other processes may have
written. Routes are known of applications that ran in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..middleware import Admission
from ..policy.evaluate import Policy
from ..policy.load import load
from ..policy.routes import template_of

Exercised = dict[str, list[list[str]]]
"""What a worker of a distributed run tells: ``routes``, ``known``, ``actions``, ``rules``, each as rows of names."""

_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of thing: how many of how many, and those that are missing."""

    name: str
    covered: int
    total: int
    missing: tuple[str, ...]

    @property
    def percent(self) -> float:
        """100 for a kind of which there is none."""
        return 100 * self.covered / self.total if self.total else 100.0


class _EveryName(dict[str, Any]):
    """Every predicate that a policy may name: nothing is evaluated here, and a digest does not depend on their code."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return bool

    def get(self, name: str, default: Any = None) -> Any:
        return self[name]


def load_to_count(path: Path) -> Policy:
    """A policy of which only names and digest are needed, so that its predicates need not be there.

    Raises:
        PolicyError: as `load`.
    """
    return load(path, predicates=_EveryName())


class Gate:
    """Gathers over a session."""

    def __init__(self, policy: Policy) -> None:
        """Nothing was exercised yet."""
        self.policy = policy
        self.requests = 0
        self.foreign = 0
        self._routes: set[tuple[str, ...]] = set()  # method, template
        self._known: set[tuple[str, ...]] = set()  # method, template, action
        self._actions: set[tuple[str, ...]] = set()
        self._rules: set[tuple[str, ...]] = set()  # action, rule
        self._inventories: set[int] = set()

    def note_request(self, admission: Admission) -> None:
        """A request that this process answered."""
        parts, facts = admission.parts, admission.facts
        if parts.policy.digest != self.policy.digest:
            self.foreign += 1
            return
        if parts.inventory is not None and id(parts.inventory) not in self._inventories:
            self._inventories.add(id(parts.inventory))
            rows = [(row.route.method, row.route.template, row.action) for row in parts.inventory.rows if row.action]
            self._known |= {(method, template_of(template), action) for method, template, action in rows}
        if facts.action is not None and facts.found is not None:
            rule = facts.decision.rule if facts.decision.cause == "rule" else None
            self._note(facts.found.method, facts.found.template, facts.action.name, rule)

    def note_record(self, record: Mapping[str, Any]) -> None:
        """A record of a request or of other work, wherever it was done."""
        decision, request = record["decision"], record["request"]
        if record["kind"] != "outcome" or record["action"] is None:
            return
        if request["protocol"] is not None and decision["policy_digest"] != self.policy.digest:
            return
        method = "WS" if request["protocol"] == "websocket" else request["method"]
        self._note(
            method, request["route"], record["action"], decision["rule"] if decision["cause"] == "rule" else None
        )

    def _note(self, method: str | None, template: str | None, action: str, rule: str | None) -> None:
        self.requests += 1
        if template is not None and method is not None:
            self._routes.add((method, template_of(template)))
        self._actions.add((action,))
        if rule is not None:
            self._rules.add((action, rule))

    # --- runs over several processes -----------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """What was gathered, as lists and numbers."""
        sets = {"routes": self._routes, "known": self._known, "actions": self._actions, "rules": self._rules}
        return {
            "requests": self.requests,
            "foreign": self.foreign,
            "exercised": {name: [list(row) for row in sorted(rows)] for name, rows in sets.items()},
        }

    def merge(self, plain: Mapping[str, Any]) -> None:
        """Adds what another process gathered."""
        self.requests += plain["requests"]
        self.foreign += plain["foreign"]
        exercised: Exercised = plain["exercised"]
        self._routes |= _rows(exercised["routes"])
        self._known |= _rows(exercised["known"])
        self._actions |= _rows(exercised["actions"])
        self._rules |= _rows(exercised["rules"])

    # --- what came out -------------------------------------------------------------------------------------------

    def parts(self) -> list[Part]:
        """Routes with an action, actions, and rules."""
        policy = self.policy
        rules = {(name, rule.name) for name, one in policy.actions.items() for rule in (*one.deny, *one.allow)}
        known = sorted(self._known)
        routes = [f"{row[0]} {row[1]} ({row[2]})" for row in known if not self._hit(row)]
        actions = [name for name in policy.actions if (name,) not in self._actions]
        missing = [f"{action}/{rule}" for action, rule in sorted(rules) if (action, rule) not in self._rules]
        return [
            _part("routes", len(known), routes),
            _part("actions", len(policy.actions), actions),
            _part("rules", len(rules), missing),
        ]

    def _hit(self, row: tuple[str, ...]) -> bool:
        """A route for any method is exercised by one of them, and GET's by HEAD, which runs the same handler."""
        method, template = row[0], row[1]
        if method == "*":
            return any(one[1] == template and one[0] != "WS" for one in self._routes)
        return (method, template) in self._routes or (method == "GET" and ("HEAD", template) in self._routes)

    @property
    def percent(self) -> float:
        """The smallest of the parts; 0 when no request was decided by this policy: that proves nothing."""
        return min(part.percent for part in self.parts()) if self.requests else 0.0

    def report(self, minimum: float) -> list[str]:
        """Lines for the terminal."""
        parts = self.parts()
        lines = [f"{part.name:<8} {part.covered} of {part.total}  {part.percent:.0f} %" for part in parts]
        for part in parts:
            lines += [f"  {part.name.removesuffix('s')} {name} was not exercised" for name in part.missing[:_SHOWN]]
            if len(part.missing) > _SHOWN:
                lines.append(f"  and {len(part.missing) - _SHOWN} more {part.name}")
        if not self._known:
            lines.append("routes are not known: no application ran in this process")
        if not self.requests:
            lines.append(f"no request was decided by this policy ({self.foreign} by others)")
        if self.percent < minimum:
            lines.append(f"audit coverage {self.percent:.0f} % is below the required {minimum:g} %")
        return lines


def _rows(rows: Iterable[Iterable[str]]) -> set[tuple[str, ...]]:
    return {tuple(row) for row in rows}


def _part(name: str, total: int, missing: list[str]) -> Part:
    return Part(name, total - len(missing), total, tuple(missing))
