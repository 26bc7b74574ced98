"""Assertions about every request at once: `never: {roles: [support], reach: 'iam.*'}` in a test file.

They hold when it is proven that no request of a caller with that role (and what it inherits, but no other role) is
allowed, whatever its attributes. Where the proof fails, a request that is allowed is shown if one can be made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .evaluate import CompiledAction, Policy
from .logic import solve
from .matrix import cell
from .reach import Caller, allowed, callers, request_of

__all__ = ["Never", "violations"]


@dataclass(frozen=True, slots=True)
class Never:
    """Callers with one of these ``roles`` never reach an action that one of the globs ``reach`` matches."""

    roles: tuple[str, ...]
    reach: tuple[str, ...]

    def __str__(self) -> str:
        return f"never: {', '.join(self.roles)} reach {', '.join(self.reach)}"

    def actions(self, policy: Policy) -> tuple[CompiledAction, ...]:
        """The actions that the globs match."""
        return tuple(
            action for name, action in policy.actions.items() if any(fnmatchcase(name, glob) for glob in self.reach)
        )


def violations(policy: Policy, never: Never) -> tuple[str, ...]:
    """One line for each role and action of which it is not proven; none when the assertion holds."""
    known = {caller.name: caller for caller in callers(policy)}
    return tuple(
        line for role in never.roles for action in never.actions(policy) for line in _ways(policy, action, known[role])
    )


def _ways(policy: Policy, action: CompiledAction, caller: Caller) -> Iterator[str]:
    model = solve(allowed(action, caller.applies, policy.default))
    if model is None:
        return
    request = request_of(model, caller)
    decision = policy.evaluate(action.name, request.subject, request.resource, request.context)
    if decision.effect == "allow":
        by = f"rule {decision.rule}" if decision.rule else "default: allow"
        yield f"{caller.name} reaches {action.name} by {by}: {cell(policy, action, caller)}"
    else:
        yield f"{caller.name} may reach {action.name}, it cannot be excluded: {cell(policy, action, caller)}"
