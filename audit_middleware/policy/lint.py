"""Finds what a policy says in vain: rules that decide nothing, conditions that cannot hold, roles that grant nothing.

Every finding is proven (see `logic`): a rule that is reported can be removed without a decision changing. The reverse
does not hold: what depends on patterns, predicates or on how attributes compare with one another may go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from .conditions import AnyOf, Condition, Not, PredicateFunction, describe
from .document import decode
from .domain import TRUE
from .evaluate import CompiledAction, CompiledRule, Policy
from .findings import Findings
from .lint_personal import personal_findings
from .load import loads, read_bytes
from .logic import both, negated, outcome, solve
from .places import Places
from .reach import Applies, allowed, anybody, fires
from .schema import OUTCOMES

__all__ = ["CODES", "Finding", "Lint", "lint", "sarif"]

Level = Literal["error", "warning", "note"]
CODES: Mapping[str, tuple[Level, str]] = MappingProxyType(
    {
        "condition-never-holds": ("error", "The rule's condition contradicts itself."),
        "part-never-holds": ("warning", "One alternative of an `any` contradicts itself."),
        "unreachable-rule": ("error", "Deny rules refuse every request that the rule would allow."),
        "shadowed-rule": ("warning", "Without the rule every decision would be the same: others cover it."),
        "unused-role": ("warning", "No rule names the role or what it inherits: it grants nothing."),
        "unreachable-action": ("warning", "No request is ever allowed."),
        "severe-unrecorded": ("warning", "An action of high severity leaves no record when it is allowed."),
        "unused-channel": ("warning", "No action notifies the channel."),
        "notify-unrecorded": ("warning", "A channel is to hear of what leaves no record."),
        "personal-undeclared": (
            "note",
            "The policy does not say what is personal data: all of it is recorded in clear.",
        ),
        "profile-weakened": ("note", "The policy takes a field out of its profile, or treats it less strictly."),
        "body-in-clear": ("warning", "An action records bodies in clear, although the policy knows personal data."),
        "person-in-clear": (
            "warning",
            "What is treated can still be told to be of whom: another field names the person.",
        ),
        "expired-exemption": ("error", "The exemption's last day is over: the route is refused."),
        "route-without-action": ("error", "A route of the application does not fit the policy."),
        "entry-without-route": ("error", "An entry under `routes` matches no route of the application."),
        "action-without-route": ("warning", "No route of the application performs the action."),
        "attribute-without-source": ("error", "A rule reads a property of the resource that a route cannot know."),
    }
)
"""Each kind of finding: how bad it is, and what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``where`` is the path in the file: ``actions.invoice.delete: owner``."""

    code: str
    file: str
    line: int
    where: str
    message: str

    @property
    def level(self) -> Level:
        """How bad it is."""
        return CODES[self.code][0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.level}: {self.where}: {self.message} [{self.code}]"

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "code": self.code,
            "level": self.level,
            "file": self.file,
            "line": self.line,
            "where": self.where,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Lint:
    """A policy with its findings, in the order of the file."""

    policy: Policy
    places: Places
    file: str
    findings: tuple[Finding, ...]


_NO_PREDICATES: Mapping[str, PredicateFunction] = MappingProxyType({})


def lint(path: str | Path, today: date, *, predicates: Mapping[str, PredicateFunction] = _NO_PREDICATES) -> Lint:
    """Loads a policy file and looks for what it says in vain. ``today`` (UTC) is for exemptions that have ended.

    Raises:
        PolicyError: the policy does not load.
    """
    text = decode(read_bytes(path), Findings(str(path)))
    policy = loads(text, str(path), predicates=predicates)
    places = Places(text, str(path))
    made = _Linter(policy, places, str(path))
    found = [*made.roles(), *made.channels(), *made.routes(today), *made.personal()]
    for action in policy.actions.values():
        found.extend(made.action(action))
    return Lint(policy, places, str(path), tuple(sorted(found, key=lambda finding: finding.line)))


class _Linter:
    def __init__(self, policy: Policy, places: Places, file: str) -> None:
        self._policy = policy
        self._places = places
        self._file = file

    def _finding(self, code: str, line: int, where: str, message: str) -> Finding:
        return Finding(code, self._file, line, where, message)

    def roles(self) -> Iterator[Finding]:
        rules = [rule for action in self._policy.actions.values() for rule in (*action.allow, *action.deny)]
        for role in self._policy.roles:
            if not any(role in rule.grantees for rule in rules):
                text = f"role {role} grants nothing: no rule names it or what it inherits"
                yield self._finding("unused-role", self._places.roles.get(role, 1), f"roles.{role}", text)

    def channels(self) -> Iterator[Finding]:
        used = {name for action in self._policy.actions.values() for name in action.notify}
        for name in self._policy.channels:
            if name not in used:
                text = f"no action notifies channel {name}: only rules of a followers' configuration can use it"
                yield self._finding("unused-channel", self._places.channels.get(name, 1), f"channels.{name}", text)

    def routes(self, today: date) -> Iterator[Finding]:
        for entry in self._policy.routes:
            if entry.expired(today):
                text = f"the exemption ended on {entry.until}: the route is refused"
                yield self._finding("expired-exemption", entry.line, f"routes: {entry.match}", text)

    def personal(self) -> Iterator[Finding]:
        for code, line, where, text in personal_findings(self._policy, self._places):
            yield self._finding(code, line, where, text)

    def action(self, action: CompiledAction) -> Iterator[Finding]:
        applies = anybody([*action.allow, *action.deny])
        if action.record == "none" and action.severity in ("high", "critical"):
            where = f"actions.{action.name}"
            text = f"severity {action.severity}, and record: none: who was allowed leaves no trace"
            yield self._finding("severe-unrecorded", self._places.actions.get(action.name, 1), where, text)
        if action.notify and action.record == "none" and "success" in (action.notify_outcomes or OUTCOMES):
            where = f"actions.{action.name}"
            text = "notifies of success, and record: none: what succeeds leaves no record, so nobody hears of it"
            yield self._finding("notify-unrecorded", self._places.actions.get(action.name, 1), where, text)
        impossible = []
        for rule in (*action.deny, *action.allow):
            for finding in self._conditions(action, rule):
                yield finding
                if finding.code == "condition-never-holds":
                    impossible.append(rule)
        if solve(allowed(action, applies, self._policy.default)) is None:
            where = f"actions.{action.name}"
            text = "no request is ever allowed" + ("" if action.allow else ": it has no allow rule")
            yield self._finding("unreachable-action", self._places.actions.get(action.name, 1), where, text)
            return
        yield from self._useless(action, applies, impossible)

    def _rule(self, code: str, action: CompiledAction, rule: CompiledRule, message: str) -> Finding:
        line = self._places.rule(action.name, rule.name)
        return self._finding(code, line, f"actions.{action.name}.{rule.effect}: {rule.name}", message)

    def _conditions(self, action: CompiledAction, rule: CompiledRule) -> Iterator[Finding]:
        if rule.condition is None:
            return
        condition = rule.condition.condition
        if solve(outcome(condition, TRUE)) is None:
            yield self._rule("condition-never-holds", action, rule, f"can never hold: {rule.condition.text}")
            return
        for part in _alternatives(condition):
            if solve(outcome(part, TRUE)) is None:
                yield self._rule("part-never-holds", action, rule, f"an alternative can never hold: {describe(part)}")

    def _useless(self, action: CompiledAction, applies: Applies, gone: list[CompiledRule]) -> Iterator[Finding]:
        """Rules without which nothing would change; the later of two that cover each other."""
        default = self._policy.default
        for rule in reversed((*action.allow, *action.deny)):
            if rule in gone:
                continue
            with_it = allowed(action, applies, default, gone)
            without = allowed(action, applies, default, [*gone, rule])
            if solve(both((with_it, negated(without)))) or solve(both((without, negated(with_it)))):
                continue
            gone.append(rule)
            if rule.effect == "allow" and solve(both((fires(rule, applies), with_it))) is None:
                yield self._rule("unreachable-rule", action, rule, "deny rules refuse all that it would allow")
                continue
            cover = self._cover(action, rule, applies, gone)
            text = f"{cover} covers it" if cover else "others cover it"
            yield self._rule("shadowed-rule", action, rule, f"changes no decision: {text}")

    def _cover(
        self, action: CompiledAction, rule: CompiledRule, applies: Applies, gone: list[CompiledRule]
    ) -> str | None:
        """The one rule that does all that this one does, if there is one."""
        for other in action.allow if rule.effect == "allow" else action.deny:
            if other not in gone and solve(both((fires(rule, applies), negated(fires(other, applies))))) is None:
                return f"rule {other.name}"
        return None


def _alternatives(condition: Condition) -> Iterator[Condition]:
    """The parts of every `any` that is not below a `not`."""
    if isinstance(condition, AnyOf):
        yield from condition.parts
    if not isinstance(condition, Not):
        for part in getattr(condition, "parts", ()):
            yield from _alternatives(part)


# --- SARIF -------------------------------------------------------------------------------------------------------


def sarif(findings: tuple[Finding, ...], version: str) -> dict[str, Any]:
    """The findings as a SARIF 2.1.0 log (OASIS), for code scanning."""
    rules = [
        {
            "id": code,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": level},
        }
        for code, (level, text) in CODES.items()
    ]
    driver = {"name": "audit-middleware policy lint", "version": version, "rules": rules}
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": list(CODES).index(finding.code),
            "level": finding.level,
            "message": {"text": f"{finding.where}: {finding.message}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": Path(finding.file).as_posix()},
                        "region": {"startLine": finding.line},
                    }
                }
            ],
        }
        for finding in findings
    ]
    schema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    return {"$schema": schema, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
