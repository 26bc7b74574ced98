"""What a condition can come to, as formulas, and whether a formula can hold: the base of lint, diff and `never`.

A condition is true, false, or an error. Each comparison in it is one unknown with these three outcomes, so "this rule
is true", "that one is no error" and every combination of them become formulas over `Lit`: "this comparison's outcome is
among those". The meaning of the comparisons is asked of a theory (`domain`), attribute by attribute.

The answer "it cannot hold" is a proof: no request whatever makes it hold. The other answer is not, because the theory
knows less than all (it does not look into patterns and predicates), and because a search that takes too long is given
up. Everything built on this is therefore careful on one side: lint reports only what is proven, diff treats what is not
proven harmless as a widening.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .conditions import AllOf, Call, Compare, Condition, Not, to_json
from .domain import ANY_OUTCOME, ERROR, FALSE, TRUE, Known, value_for

__all__ = ["ALWAYS", "NEVER", "And", "Formula", "Lit", "Model", "Or", "both", "either", "negated", "outcome", "solve"]

MAX_STEPS = 4_000
MAX_DEPTH = 300


@dataclass(frozen=True, slots=True)
class Lit:
    """The outcome of ``leaf`` is among ``mask``; without ``leaf`` an unknown of no theory, such as a role."""

    key: str
    mask: int
    leaf: Compare | Call | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class And:
    """Every part holds."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part holds."""

    parts: tuple[Formula, ...]


Formula = Lit | And | Or
ALWAYS: Formula = And(())
NEVER: Formula = Or(())


def both(parts: Iterable[Formula]) -> Formula:
    """All of these, without what always holds."""
    kept: list[Formula] = []
    for part in parts:
        if part == NEVER:
            return NEVER
        kept.extend(part.parts if isinstance(part, And) else (part,))
    return kept[0] if len(kept) == 1 else And(tuple(kept))


def either(parts: Iterable[Formula]) -> Formula:
    """One of these, without what never holds."""
    kept: list[Formula] = []
    for part in parts:
        if part == ALWAYS:
            return ALWAYS
        kept.extend(part.parts if isinstance(part, Or) else (part,))
    return kept[0] if len(kept) == 1 else Or(tuple(kept))


def negated(formula: Formula) -> Formula:
    """The opposite; an unknown without a theory is true or false, never an error."""
    if isinstance(formula, Lit):
        whole = ANY_OUTCOME if formula.leaf is not None else TRUE | FALSE
        return Lit(formula.key, whole & ~formula.mask, formula.leaf)
    parts = [negated(part) for part in formula.parts]
    return either(parts) if isinstance(formula, And) else both(parts)


def outcome(condition: Condition, mask: int) -> Formula:
    """That the condition's outcome is among ``mask``; ``all``, ``any`` and ``not`` as in `conditions`."""
    if mask in (0, ANY_OUTCOME):
        return ALWAYS if mask else NEVER
    if isinstance(condition, Compare | Call):
        return Lit(json.dumps(to_json(condition), sort_keys=True), mask, condition)
    if isinstance(condition, Not):
        return outcome(condition.part, _swapped(mask))
    # `any` is `all` with true and false exchanged.
    one, zero = (TRUE, FALSE) if isinstance(condition, AllOf) else (FALSE, TRUE)
    parts = condition.parts
    if mask in (one, one | ERROR):
        return both(outcome(part, mask) for part in parts)
    if mask in (zero, zero | ERROR):
        return either(outcome(part, mask) for part in parts)
    if mask == ERROR:
        return both((outcome(condition, one | ERROR), outcome(condition, zero | ERROR)))
    return either((outcome(condition, one), outcome(condition, zero)))


def _swapped(mask: int) -> int:
    return mask & ERROR | (FALSE if mask & TRUE else 0) | (TRUE if mask & FALSE else 0)


@dataclass(frozen=True, slots=True)
class Model:
    """What was found to make a formula hold: outcomes by key. ``complete`` is false when the search was given up."""

    masks: Mapping[str, int]
    leaves: Mapping[str, Compare | Call]
    complete: bool = True


class _GivenUp(Exception):
    """The search takes too long. Never leaves this module."""


def solve(formula: Formula) -> Model | None:
    """How the formula can hold, or ``None``: it is proven that it cannot."""
    search = _Search()
    try:
        masks = search.run([formula], {}, 0)
    except _GivenUp:
        return Model({}, search.leaves, complete=False)
    return Model(masks, search.leaves) if masks is not None else None


class _Search:
    """Backtracking over the alternatives; each step narrows outcomes and asks the theory about the attribute."""

    def __init__(self) -> None:
        self.leaves: dict[str, Compare | Call] = {}
        self._by_path: dict[str, list[str]] = {}
        self._steps = 0
        self._asked: dict[tuple[str, tuple[tuple[str, int], ...]], bool] = {}

    def run(self, todo: list[Formula], masks: dict[str, int], depth: int) -> dict[str, int] | None:
        """Outcomes that satisfy all of ``todo`` beside ``masks`` (which is consumed), or ``None``."""
        self._steps += 1
        if self._steps > MAX_STEPS or depth > MAX_DEPTH:
            raise _GivenUp
        choices: list[Or] = []
        if not self._assume(todo, masks, choices):
            return None
        # Alternatives that are impossible already go first: often one is left, and nothing is to be chosen.
        open_choices: list[list[Formula]] = []
        for choice in choices:
            left = [part for part in choice.parts if not (isinstance(part, Lit) and not self._fits(part, masks))]
            if any(isinstance(part, Lit) and masks.get(part.key, ANY_OUTCOME) & ~part.mask == 0 for part in left):
                continue
            if not left:
                return None
            open_choices.append(left)
        if not open_choices:
            return masks
        open_choices.sort(key=len)
        first, rest = open_choices[0], [Or(tuple(parts)) for parts in open_choices[1:]]
        for part in first:
            found = self.run([part, *rest], dict(masks), depth + 1)
            if found is not None:
                return found
        return None

    def _assume(self, todo: list[Formula], masks: dict[str, int], choices: list[Or]) -> bool:
        pending = list(todo)
        while pending:
            formula = pending.pop()
            if isinstance(formula, And):
                pending.extend(formula.parts)
            elif isinstance(formula, Or):
                choices.append(formula)
            elif not self._narrow(formula, masks):
                return False
        return True

    def _fits(self, lit: Lit, masks: Mapping[str, int]) -> bool:
        return masks.get(lit.key, ANY_OUTCOME) & lit.mask != 0

    def _narrow(self, lit: Lit, masks: dict[str, int]) -> bool:
        before = masks.get(lit.key, ANY_OUTCOME)
        masks[lit.key] = before & lit.mask
        if not masks[lit.key]:
            return False
        if lit.leaf is None or masks[lit.key] == before:
            return True
        if lit.key not in self.leaves:
            self.leaves[lit.key] = lit.leaf
            for path in paths_of(lit.leaf):
                self._by_path.setdefault(path, []).append(lit.key)
        return all(self._possible(path, masks) for path in paths_of(lit.leaf))

    def _possible(self, path: str, masks: Mapping[str, int]) -> bool:
        asked = tuple((key, masks[key]) for key in self._by_path[path] if key in masks)
        known = (path, asked)
        if known not in self._asked:
            self._asked[known] = value_for(path, constraints(asked, self.leaves)) is not None
        return self._asked[known]


def paths_of(leaf: Compare | Call) -> tuple[str, ...]:
    """The attributes a comparison reads."""
    if isinstance(leaf, Call):
        return ()
    return (leaf.path, leaf.operand) if leaf.operator == "same_as" and leaf.operand != leaf.path else (leaf.path,)


def constraints(asked: Iterable[tuple[str, int]], leaves: Mapping[str, Compare | Call]) -> tuple[Known, ...]:
    """What is known about the attribute that these comparisons read."""
    return tuple(Known(leaf, mask) for key, mask in asked for leaf in (leaves[key],) if isinstance(leaf, Compare))
