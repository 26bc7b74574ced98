"""What a new policy lets people do that the old one did not, and the other way round: by meaning, not by text.

Per action and caller (one role with what it inherits, someone signed in, nobody) three answers are possible: nothing
gained, which is proven; something gained, shown by a request that was denied and is allowed now; or neither could be
shown, and then it counts as a widening. If no single role gains anything, combinations of roles are compared as well.
So "no widening" is a proof: no request is allowed by the new policy that the old one denied, and nothing else that
guards a request (requirements, limits, modes, exemptions) became weaker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .diff_settings import Change, setting_changes
from .evaluate import CompiledAction, Policy
from .logic import both, negated, solve
from .matrix import Cell, cell
from .reach import Applies, Caller, Request, allowed, anybody, callers, request_of

__all__ = ["Change", "Difference", "diff"]


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from one policy to another."""

    old: str
    new: str
    changes: tuple[Change, ...]

    @property
    def widened(self) -> bool:
        """Something is allowed that was not, or it could not be shown that nothing is."""
        return any(change.kind == "widening" for change in self.changes)

    @property
    def weakened(self) -> bool:
        """The log promises less: a lower guarantee, no record, an action that runs while it is away, or personal data
        that is treated less strictly."""
        return any(change.kind == "weakening" for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """The changes as JSON; ``old`` and ``new`` are digests."""
        changes = [change.to_dict() for change in self.changes]
        body = {"old": self.old, "new": self.new, "widened": self.widened, "weakened": self.weakened}
        return {**body, "changes": changes}


def diff(old: Policy, new: Policy) -> Difference:
    """Compares two policies."""
    found = [*setting_changes(old, new)]
    for name in dict.fromkeys((*new.actions, *old.actions)):
        found.extend(_Comparison(old, new, name).changes())
    return Difference(old.digest, new.digest, tuple(found))


class _Comparison:
    """One action under both policies."""

    def __init__(self, old: Policy, new: Policy, name: str) -> None:
        self._old, self._new, self._name = old, new, name
        self._before: CompiledAction | None = old.actions.get(name)
        self._after: CompiledAction | None = new.actions.get(name)

    def changes(self) -> Iterator[Change]:
        found: dict[tuple[str, str, bool], list[tuple[str, dict[str, Any] | None]]] = {}
        for caller in callers(self._old, self._new):
            for gained in (True, False):
                change = self._change(caller, gained)
                if change is not None:
                    text, proven, example = change
                    kind = "widening" if gained else "narrowing"
                    found.setdefault((kind, text, proven), []).append((caller.name, example))
        for (kind, text, proven), several in found.items():
            names = tuple(name for name, _ in several)
            verb = _verb(names, "gain" if kind == "widening" else "lose")
            sentence = f"{', '.join(names)} {verb} {text}"
            yield Change(
                "widening" if kind == "widening" else "narrowing", self._name, names, sentence, proven, several[0][1]
            )
        if not any(kind == "widening" for kind, _, _ in found):
            yield from self._combined()

    def _change(self, caller: Caller, gained: bool) -> tuple[str, bool, dict[str, Any] | None] | None:
        before, after = self._reached(caller.applies)
        if before == after:
            return None
        more = both((after, negated(before))) if gained else both((before, negated(after)))
        model = solve(more)
        if model is None:
            return None
        old, new = self._cell(self._old, self._before, caller), self._cell(self._new, self._after, caller)
        request = request_of(model, caller)
        shown = self._shows(request, gained)
        example = self._example(request, gained) if shown else None
        text = self._text(old, new) if gained else self._text(new, old)
        was = f" (was: {old})" if gained else f" (now: {new})"
        text += was if old.effect != "deny" and new.effect != "deny" else ""
        if not shown:
            note = "treated as widening" if gained else "or nothing"
            text += f", cannot be compared: {note}"
        return text, shown, example

    def _reached(self, applies: Applies) -> tuple[Any, Any]:
        return (
            allowed(self._before, applies, self._old.default),
            allowed(self._after, applies, self._new.default),
        )

    def _cell(self, policy: Policy, action: CompiledAction | None, caller: Caller) -> Cell:
        return Cell("deny") if action is None else cell(policy, action, caller)

    def _text(self, less: Cell, more: Cell) -> str:
        """What is had with ``more``, ``refund.create when resource.amount lte 500``."""
        if more.effect == "allow":
            return self._name + ("" if less.effect == "deny" else " in every case")
        condition = str(more)
        if condition.startswith("if "):
            return f"{self._name} when {condition.removeprefix('if ')}"
        return f"{self._name}{condition.removeprefix('allow')}"

    def _combined(self) -> Iterator[Change]:
        """Callers with several roles: one role's rules may have refused or failed what another's allow."""
        rules = [rule for action in (self._before, self._after) if action for rule in (*action.allow, *action.deny)]
        before, after = self._reached(anybody(rules))
        if before == after:
            return
        model = solve(both((after, negated(before))))
        if model is None:
            return
        request = request_of(model, None)
        shown = self._shows(request, gained=True)
        names = request.subject.roles if shown else ()
        who = f"callers with {' and '.join(names)}" if names else "callers with several roles"
        note = "" if shown else ", cannot be compared: treated as widening"
        text = f"{who} gain {self._name} where another rule refused or failed before{note}"
        yield Change("widening", self._name, names, text, shown, self._example(request, gained=True) if shown else None)

    def _shows(self, request: Request, gained: bool) -> bool:
        """Whether the request is decided differently, as claimed: what a model suggests is tried."""
        asked = (request.subject, request.resource, request.context)
        effects = [policy.evaluate(self._name, *asked).effect for policy in (self._old, self._new)]
        return effects == (["deny", "allow"] if gained else ["allow", "deny"])

    def _example(self, request: Request, gained: bool) -> dict[str, Any] | None:
        """The request, where it shows the same once its times are text, as JSON has them."""
        subject = replace(request.subject, properties=_jsonable(dict(request.subject.properties)))
        resource = replace(request.resource, properties=_jsonable(dict(request.resource.properties)))
        told = Request(subject, resource, request.context)
        return _plain(request) if self._shows(told, gained) else None


def _verb(names: tuple[str, ...], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def _plain(request: Request) -> dict[str, Any]:
    """The request in AuthZEN's shape, without what is unknown."""
    subject, resource = request.subject, request.resource
    own = {"roles": list(subject.roles), "tenant": subject.tenant, "session": subject.session}
    properties = {**subject.properties, **{key: value for key, value in own.items() if value}}
    return {
        "subject": {"type": subject.type, "id": subject.id, "properties": _jsonable(properties)},
        "resource": {"type": resource.type, "id": resource.id, "properties": _jsonable(dict(resource.properties))},
        "context": _jsonable(dict(request.context)),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value
