"""Policy test files, ``*_test.yaml``: read as strictly as policies, into the checks that they stand for.

A test is a matrix of subjects x actions x resources. ``expect`` lists what should happen; a combination that it does
not list is expected to be denied. Everything is checked against the policy: roles, actions, rules and causes by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from ..model import NOBODY, Cause, Decision, Resource, Subject
from .document import ListNode, MapNode, Node, Pair, ScalarNode, compose, decode
from .evaluate import Policy
from .findings import Findings, join, nearest
from .load import read_bytes
from .never import Never
from .pinned import Pinned, read_pinned
from .reader import Reader
from .requirements import NOTHING_OFFERED, Offer
from .schema import BUILT_IN_ROLES

__all__ = ["Case", "CaseFile", "Check", "Expectation", "read_case_file"]

MAX_CHECKS = 100_000  # in one test; a matrix grows faster than it looks
FILE_KEYS = ("policy", "now", "subjects", "resources", "tests", "never", "personal")
NEVER_KEYS = ("roles", "reach")
CASE_KEYS = ("name", "subjects", "actions", "resources", "context", "reason", "confirm", "now", "skip", "expect")
EXPECT_KEYS = ("subject", "resource", "actions")
SUBJECT_KEYS = ("id", "type", "roles", "tenant", "session", "mfa", "acr", "auth_time", "properties")
NO_RESOURCE = ""  # the only column of a test that names no resources


@dataclass(frozen=True, slots=True)
class Expectation:
    """What should happen; where the file cares, ``by`` is the rule or the cause, ``missing`` all unmet requirements."""

    effect: str = "deny"
    by: str | None = None
    missing: frozenset[str] | None = None

    def met(self, decision: Decision) -> bool:
        """Whether the decision is the one expected."""
        # What a requirement refuses, a rule had allowed: the rule did not deny it.
        rule = decision.rule if decision.cause != "requirement" else None
        if decision.effect != self.effect or self.by not in (None, rule, decision.cause):
            return False
        return self.missing is None or self.missing == frozenset(decision.missing)

    def __str__(self) -> str:
        if self.missing is not None:
            return f"{self.effect} (missing: {', '.join(sorted(self.missing))})"
        return f"{self.effect} ({self.by})" if self.by else self.effect


@dataclass(frozen=True, slots=True)
class Check:
    """One cell of a test's matrix; ``line`` is the expectation's, or the test's for an unlisted cell."""

    subject: str
    action: str
    resource: str
    expected: Expectation
    line: int


@dataclass(frozen=True, slots=True)
class Case:
    """One test: a matrix of checks, or an assertion. ``skip`` is the reason why it does not run, ``offer`` what its
    requests bring."""

    name: str
    line: int
    checks: tuple[Check, ...]
    context: Mapping[str, Any]
    skip: str | None = None
    never: Never | None = None
    pinned: Pinned | None = None
    offer: Offer = NOTHING_OFFERED


@dataclass(frozen=True, slots=True)
class CaseFile:
    """One file's tests, and the subjects and resources they name."""

    path: Path
    subjects: Mapping[str, Subject]
    resources: Mapping[str, Resource]
    cases: tuple[Case, ...] = field(default=())


def read_case_file(path: Path, policy: Policy, policy_path: Path, *, found: bool) -> CaseFile | None:
    """Reads a test file; ``None`` when it was merely found beside the policy and says that it is for another one.

    Raises:
        PolicyError: with every finding, as for a policy.
    """
    findings = Findings(str(path))
    node = compose(decode(read_bytes(path), findings), findings)
    reader = _CaseReader(findings, policy)
    pairs = reader.table(node, "", FILE_KEYS)
    if not {"tests", "never", "personal"} & set(pairs):
        findings.add(node.line, "tests", "missing")
    if "policy" in pairs and not _same_policy(reader, pairs["policy"].value, path, policy_path, found=found):
        return None
    result = reader.file(path, pairs)
    findings.close()
    return result


def _same_policy(reader: Reader, node: Node, path: Path, policy_path: Path, *, found: bool) -> bool:
    name = reader.text(node, "policy", policy_path.name)
    named = path.parent / name
    if named.resolve() == policy_path.resolve():
        return True
    if found and named.is_file():
        return False
    text = f"'{name}' is not the policy under test" if named.is_file() else f"there is no file '{name}'"
    reader.findings.add(node.line, "policy", text)
    return True


class _CaseReader(Reader):
    """Reads test files against one policy."""

    def __init__(self, findings: Findings, policy: Policy) -> None:
        super().__init__(findings)
        self._policy = policy
        self._subjects: dict[str, Subject] = {}
        self._resources: dict[str, Resource] = {}

    def file(self, path: Path, pairs: Mapping[str, Pair]) -> CaseFile:
        self._subjects = self._all_subjects(pairs)
        self._resources = self._all_resources(pairs)
        now = self._moment(pairs["now"].value, "now") if "now" in pairs else None
        cases: list[Case] = []
        taken: dict[str, int] = {}
        if "tests" in pairs:
            for where, node in self.items(pairs["tests"].value, "tests"):
                cases.append(self._case(node, where, now, taken))
            if isinstance(pairs["tests"].value, ListNode) and not cases:
                self.findings.add(pairs["tests"].line, "tests", "there are no tests: an empty file proves nothing")
        if "never" in pairs:
            cases.extend(self._nevers(pairs["never"].value))
        if "personal" in pairs:
            for pinned, line in read_pinned(self, pairs["personal"].value, self._policy):
                cases.append(Case(str(pinned), line, (), MappingProxyType({}), pinned=pinned))
        return CaseFile(path, MappingProxyType(self._subjects), MappingProxyType(self._resources), tuple(cases))

    # --- subjects and resources ---

    def _all_subjects(self, pairs: Mapping[str, Pair]) -> dict[str, Subject]:
        subjects = {"nobody": NOBODY}
        for name, pair in self.table(pairs["subjects"].value, "subjects").items() if "subjects" in pairs else ():
            path = join("subjects", name)
            if name == "nobody":
                self.findings.add(pair.line, path, "'nobody' is built in and cannot be defined")
            subjects[name] = self._subject(pair.value, path)
        return subjects

    def _subject(self, node: Node, path: str) -> Subject:
        pairs = self.table(node, path, SUBJECT_KEYS, required=("id",))
        roles = self.texts(pairs["roles"].value, join(path, "roles")) if "roles" in pairs else {}
        for role, (line, where) in roles.items():
            # Such a role grants nothing; in a test it is a misspelt one, and every "deny" would hold for nothing.
            if role not in self._policy.roles:
                self.findings.add(line, where, f"unknown role '{role}'", nearest(role, self._policy.roles))
        return Subject(
            id=self._text(pairs, path, "id") or "",
            type=self._text(pairs, path, "type") or "user",
            roles=tuple(roles),
            tenant=self._text(pairs, path, "tenant"),
            session=self._text(pairs, path, "session"),
            properties=self._known_of(pairs, path),
        )

    def _known_of(self, pairs: Mapping[str, Pair], path: str) -> Mapping[str, Any]:
        """A subject's properties, those that requirements read among them. ``auth_time`` is written as a time."""
        known = dict(self._properties(pairs, path))
        for key in set(known) & set(pairs) & {"mfa", "acr", "auth_time"}:
            self.findings.add(pairs[key].line, join(path, key), f"there is properties.{key} as well: say it once")
        if "mfa" in pairs:
            known["mfa"] = self.flag(pairs["mfa"].value, join(path, "mfa"))
        if "acr" in pairs:
            known["acr"] = self._text(pairs, path, "acr")
        if "auth_time" in pairs:
            moment = self._moment(pairs["auth_time"].value, join(path, "auth_time"))
            known["auth_time"] = moment.timestamp() if moment is not None else None
        return MappingProxyType(known)

    def _all_resources(self, pairs: Mapping[str, Pair]) -> dict[str, Resource]:
        resources: dict[str, Resource] = {}
        for name, pair in self.table(pairs["resources"].value, "resources").items() if "resources" in pairs else ():
            path = join("resources", name)
            body = self.table(pair.value, path, ("type", "id", "properties"))
            kind, identity = self._text(body, path, "type"), self._text(body, path, "id")
            resources[name] = Resource(kind, identity, self._properties(body, path))
        return resources

    def _text(self, pairs: Mapping[str, Pair], path: str, key: str) -> str | None:
        return self.text(pairs[key].value, join(path, key)) if key in pairs else None

    def _properties(self, pairs: Mapping[str, Pair], path: str) -> Mapping[str, Any]:
        if "properties" not in pairs:
            return MappingProxyType({})
        return self.properties(pairs["properties"].value, join(path, "properties"))

    def _moment(self, node: Node, path: str) -> datetime | None:
        text = self.text(node, path)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.findings.add(node.line, path, f"'{text}' is not a time with a zone such as 2026-01-05T09:00:00Z")
            return None
        return moment

    # --- tests ---

    def _case(self, node: Node, path: str, now: datetime | None, taken: dict[str, int]) -> Case:
        pairs = self.table(node, path, CASE_KEYS, required=("name", "subjects", "actions", "expect"))
        name = self.text(pairs["name"].value, join(path, "name")) if "name" in pairs else ""
        if name in taken:
            self.findings.add(node.line, join(path, "name"), f"duplicate test '{name}', first on line {taken[name]}")
        taken.setdefault(name, node.line)
        axes = (
            self._axis(pairs, path, "subjects", self._subjects),
            self._axis(pairs, path, "actions", self._policy.actions),
            self._axis(pairs, path, "resources", self._resources) if "resources" in pairs else (NO_RESOURCE,),
        )
        size = len(axes[0]) * len(axes[1]) * len(axes[2])
        if size > MAX_CHECKS:
            self.findings.add(node.line, path, f"{size} combinations are more than {MAX_CHECKS}")
            axes = ((), (), ())
        expected = self._expected(pairs["expect"].value, join(path, "expect"), axes) if "expect" in pairs else {}
        unlisted = (Expectation(), node.line)
        cells = product(*axes)
        checks = tuple(Check(*cell, *expected.get(cell, unlisted)) for cell in cells)
        skip = self.text(pairs["skip"].value, join(path, "skip")) if "skip" in pairs else None
        return Case(name, node.line, checks, self._context(pairs, path, now), skip, offer=self._offer(pairs, path))

    def _axis(self, pairs: Mapping[str, Pair], path: str, key: str, valid: Mapping[str, Any]) -> tuple[str, ...]:
        if key not in pairs:
            return ()
        where = join(path, key)
        found = self.texts(pairs[key].value, where)
        if not found:
            self.findings.add(pairs[key].line, where, "nothing to test")
        return tuple(name for name, at in found.items() if self._is_known(name, at, key.removesuffix("s"), valid))

    def _is_known(self, name: str, at: tuple[int, str], noun: str, valid: Mapping[str, Any] | tuple[str, ...]) -> bool:
        if name not in valid:
            self.findings.add(*at, f"unknown {noun} '{name}'", nearest(name, valid))
        return name in valid

    def _context(self, pairs: Mapping[str, Pair], path: str, now: datetime | None) -> Mapping[str, Any]:
        """The case's context. Time comes from the file only: a test that reads the clock passes until it does not."""
        where = join(path, "context")
        context = dict(self.properties(pairs["context"].value, where)) if "context" in pairs else {}
        if "now" in pairs:
            now = self._moment(pairs["now"].value, join(path, "now"))
        if "time" in context:
            self.findings.add(pairs["context"].line, join(where, "time"), "write now: beside context instead")
        if now is not None:
            context["time"] = now
        return MappingProxyType(context)

    def _offer(self, pairs: Mapping[str, Pair], path: str) -> Offer:
        """What the test's requests bring: a reason, and a confirmation, right (``true``) or as the text says."""
        confirm: str | bool = False
        if "confirm" in pairs:
            node, where = pairs["confirm"].value, join(path, "confirm")
            plain = isinstance(node, ScalarNode) and node.plain and node.text in ("true", "false")
            confirm = self.flag(node, where) if plain else self.text(node, where)
        return Offer(self._text(pairs, path, "reason"), confirm)

    # --- assertions ---

    def _nevers(self, node: Node) -> Iterator[Case]:
        """The assertions of ``never:``, one mapping or a list of them."""
        if isinstance(node, ListNode) and not node.items:
            self.findings.add(node.line, "never", "an empty list says nothing")
        for where, item in self.items(node, "never") if isinstance(node, ListNode) else (("never", node),):
            pairs = self.table(item, where, NEVER_KEYS, required=NEVER_KEYS)
            roles = self._several(pairs, where, "roles")
            known = (*self._policy.roles, *BUILT_IN_ROLES)
            for role, (line, at) in roles.items():
                if role not in known:
                    self.findings.add(line, at, f"unknown role '{role}'", nearest(role, known))
            globs = self._several(pairs, where, "reach")
            for glob, (line, at) in globs.items():
                if not Never((), (glob,)).actions(self._policy):
                    self.findings.add(line, at, f"'{glob}' matches no action", nearest(glob, self._policy.actions))
            never = Never(tuple(roles), tuple(globs))
            yield Case(str(never), item.line, (), MappingProxyType({}), never=never)

    def _several(self, pairs: Mapping[str, Pair], path: str, key: str) -> dict[str, tuple[int, str]]:
        """One text or a list of texts."""
        if key not in pairs:
            return {}
        node, where = pairs[key].value, join(path, key)
        if isinstance(node, ScalarNode):
            return {self.text(node, where): (node.line, where)}
        found = self.texts(node, where)
        if isinstance(node, ListNode) and not found:
            self.findings.add(node.line, where, "an empty list says nothing")
        return found

    # --- expectations ---

    def _expected(
        self, node: Node, path: str, axes: tuple[tuple[str, ...], ...]
    ) -> dict[tuple[str, ...], tuple[Expectation, int]]:
        found: dict[tuple[str, ...], tuple[Expectation, int]] = {}
        for where, item in self.items(node, path):
            pairs = self.table(item, where, EXPECT_KEYS, required=("actions",))
            subjects = self._among(pairs, where, "subject", axes[0])
            resources = self._among(pairs, where, "resource", axes[2])
            actions = self.table(pairs["actions"].value, join(where, "actions")) if "actions" in pairs else {}
            for action, pair in actions.items():
                at = join(join(where, "actions"), action)
                if not self._is_known(action, (pair.line, at), "action of this test", axes[1]):
                    continue
                expectation = self._expectation(pair.value, at, action)
                for subject, resource in product(subjects, resources):
                    cell = (subject, action, resource)
                    if cell in found:
                        name = " ".join(filter(None, cell))
                        text = f"'{name}' is expected already on line {found[cell][1]}"
                        self.findings.add(pair.line, at, text)
                    found[cell] = (expectation, pair.line)
        return found

    def _among(self, pairs: Mapping[str, Pair], path: str, key: str, axis: tuple[str, ...]) -> tuple[str, ...]:
        """One name or a list of names of the test's own; left out, it is all of them."""
        if key not in pairs:
            return axis
        node, where = pairs[key].value, join(path, key)
        if isinstance(node, ScalarNode):
            names = {self.text(node, where): (node.line, where)}
        else:
            names = self.texts(node, where)
        return tuple(name for name, at in names.items() if self._is_known(name, at, f"{key} of this test", axis))

    def _expectation(self, node: Node, path: str, action: str) -> Expectation:
        if isinstance(node, ScalarNode):
            return Expectation(self.choice(node, path, ("allow", "deny"), "deny"))
        pairs = self.table(node, path, ("allow", "deny"))
        if isinstance(node, MapNode) and len(pairs) != 1:
            text = "expected allow, deny, {allow: rule}, {deny: rule or cause} or {deny: {missing: requirements}}"
            self.findings.add(node.line, path, text)
        for effect, pair in pairs.items():
            if effect == "deny" and isinstance(pair.value, MapNode):
                return Expectation(effect, "requirement", self._missing(pair.value, join(path, effect), action))
            by = self.text(pair.value, join(path, effect))
            compiled = self._policy.actions[action]
            rules = compiled.allow if effect == "allow" else (*compiled.deny, *compiled.allow)
            valid = (*(rule.name for rule in rules), *get_args(Cause))
            self._is_known(by, (pair.value.line, join(path, effect)), "rule or cause", valid)
            return Expectation(effect, by)
        return Expectation()

    def _missing(self, node: Node, path: str, action: str) -> frozenset[str]:
        """The requirements that a request is expected to lack: all of them, so that one too many is noticed."""
        pairs = self.table(node, path, ("missing",), required=("missing",))
        names = self._several(pairs, path, "missing")
        require = self._policy.actions[action].require
        known = tuple(require.to_json()) if require is not None else ()
        for name, (line, where) in names.items():
            if name not in known:
                self.findings.add(line, where, f"{action} does not require '{name}'", nearest(name, known))
        return frozenset(names)
