"""The policy as a table: what each role may do, always, never, or under which conditions. For reviews and auditors.

A column is a caller with one role and what it inherits; ``anyone`` is nobody in particular, ``authenticated`` someone
signed in without a role. A caller with several roles may do what each of them may, except where a rule of one role
refuses or fails. The cells are computed, not copied from the rules: a rule that others make useless is not shown.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from html import escape
from typing import Any, Literal

from .domain import ERROR, TRUE
from .evaluate import CompiledAction, CompiledRule, Policy
from .logic import both, negated, solve
from .reach import Caller, allowed, callers, fires
from .wording import limit_in_words, requirements_in_words

__all__ = ["Cell", "Clause", "Matrix", "Row", "cell", "matrix"]


@dataclass(frozen=True, slots=True)
class Clause:
    """A rule that matters to a cell, and its condition in words; "" where it has none."""

    rule: str
    text: str

    def __str__(self) -> str:
        return self.text or "always"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one caller may do: ``when`` are the rules that allow (any suffices), ``unless`` those that still refuse.

    A rule under ``unless`` also refuses where its condition cannot be computed.
    """

    effect: Literal["allow", "deny", "conditional"]
    when: tuple[Clause, ...] = ()
    unless: tuple[Clause, ...] = ()

    def __str__(self) -> str:
        if self.effect != "conditional":
            return self.effect
        free = not self.when or any(not clause.text for clause in self.when)
        held = "allow" if free else f"if {_joined(self.when)}"
        refused = _joined(self.unless)
        return f"{held}, not if {refused}" if refused else held

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON."""
        when = [{"rule": clause.rule, "condition": clause.text or None} for clause in self.when]
        unless = [{"rule": clause.rule, "condition": clause.text or None} for clause in self.unless]
        return {"effect": self.effect, "when": when, "unless": unless}


def _joined(clauses: tuple[Clause, ...]) -> str:
    texts = [clause.text for clause in clauses if clause.text]
    several = len(texts) > 1
    return " or ".join(f"({text})" if several and (" and " in text or " or " in text) else text for text in texts)


@dataclass(frozen=True, slots=True)
class Row:
    """One action; ``notes`` say what else holds for it: monitoring, requirements, limits, guarantees."""

    action: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """A policy's table: ``cells`` of a row are in the order of ``callers``."""

    name: str
    digest: str
    callers: tuple[str, ...]
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        rows = [
            {
                "action": row.action,
                "notes": list(row.notes),
                "cells": {name: one.to_dict() for name, one in zip(self.callers, row.cells, strict=True)},
            }
            for row in self.rows
        ]
        return {"policy": self.name, "digest": self.digest, "callers": list(self.callers), "actions": rows}

    def to_csv(self) -> str:
        """The table as CSV, one row an action; a cell that a spreadsheet would compute is quoted."""
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(_inert(text) for text in ("action", *self.callers, "notes"))
        for row in self.rows:
            cells = (row.action, *map(str, row.cells), "; ".join(row.notes))
            writer.writerow(_inert(text) for text in cells)
        return target.getvalue()

    def to_html(self) -> str:
        """The table as one self-contained page, for screens and for black and white paper."""
        return "".join(_page(self))


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


# --- computing ---------------------------------------------------------------------------------------------------


def matrix(policy: Policy, *, roles: tuple[str, ...] = (), actions: str = "*") -> Matrix:
    """The table of a policy; ``roles`` limits the columns, the glob ``actions`` the rows."""
    columns = tuple(caller for caller in callers(policy) if not roles or caller.name in roles)
    rows = tuple(
        Row(name, _cells(policy, action, columns), _notes(action))
        for name, action in policy.actions.items()
        if fnmatchcase(name, actions)
    )
    return Matrix(policy.name, policy.digest, tuple(caller.name for caller in columns), rows)


def _cells(policy: Policy, action: CompiledAction, columns: tuple[Caller, ...]) -> tuple[Cell, ...]:
    """The cells of a row; callers for whom the same rules are have the same cell."""
    found: dict[tuple[str, ...], Cell] = {}
    row: list[Cell] = []
    for caller in columns:
        same = tuple(rule.name for rule in (*action.allow, *action.deny) if rule.applies(caller.subject))
        if same not in found:
            found[same] = cell(policy, action, caller)
        row.append(found[same])
    return tuple(row)


def cell(policy: Policy, action: CompiledAction, caller: Caller) -> Cell:
    """What one caller may do with one action."""
    reached = allowed(action, caller.applies, policy.default)
    if solve(reached) is None:
        return Cell("deny")
    if solve(negated(reached)) is None:
        return Cell("allow")
    when = [rule for rule in action.allow if solve(both((fires(rule, caller.applies), reached))) is not None]
    unrefused = {rule.name: allowed(action, caller.applies, policy.default, (rule,)) for rule in action.deny}
    unless = [
        rule
        for rule in action.deny
        if solve(both((fires(rule, caller.applies, TRUE | ERROR), unrefused[rule.name]))) is not None
    ]
    return Cell("conditional", tuple(map(_clause, when)), tuple(map(_clause, unless)))


def _clause(rule: CompiledRule) -> Clause:
    return Clause(rule.name, rule.condition.text if rule.condition is not None else "")


def _notes(action: CompiledAction) -> tuple[str, ...]:
    notes = ["monitored: requests pass whatever is decided"] if action.mode == "monitor" else []
    if action.require is not None:
        notes.append(f"requires {', '.join(requirements_in_words(action.require).values())}")
    if action.limit is not None:
        notes.append(f"limited to {limit_in_words(action.limit)}")
    if action.guarantee != "after":
        notes.append(_GUARANTEES[action.guarantee])
    if action.on_log_failure == "degrade":
        notes.append("on_log_failure degrade: runs while the log is away")
    return tuple(notes)


_GUARANTEES = {
    "sealed": "guarantee sealed: recorded before the response ends",
    "before": "guarantee before: announced in the log before it runs",
}


# --- HTML --------------------------------------------------------------------------------------------------------

# Signs as well as colours: the page is read on paper, and by people who do not tell red from green.
_SIGNS = {"allow": "●", "deny": "○", "conditional": "◐"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
caption { text-align: start; padding-bottom: .75rem; }
th, td { border: 1px solid #8888; padding: .3rem .4rem; text-align: start; vertical-align: top; }
thead th { position: sticky; top: 0; background: Canvas; }
tbody th { font-family: ui-monospace, monospace; font-weight: 600; white-space: nowrap; }
td.allow { background: #1a7f3726; } td.conditional { background: #bf870026; }
td.deny { color: color-mix(in srgb, CanvasText 65%, Canvas); }
td.conditional { font-size: .85em; min-width: 7.5rem; overflow-wrap: anywhere; }
tbody th { position: sticky; left: 0; background: Canvas; }
th small { display: block; max-width: 15rem; font: 400 .8rem/1.35 system-ui, sans-serif; white-space: normal; }
td .sign { margin-inline-end: .35rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem .75rem; }
dd { margin: 0; } code { overflow-wrap: anywhere; }
@page { size: landscape; margin: 1cm; }
@media print {
  body { margin: 0; font-size: 9pt; } thead { display: table-header-group; } tr { break-inside: avoid; }
  thead th, tbody th { position: static; } th small { font-size: 8pt; }
  td, th { background: none !important; color: black !important; border-color: black; }
}
"""


def _page(found: Matrix) -> Iterator[str]:
    title = f"Policy {escape(found.name)}: who may do what"
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<dl>\n"
    yield f"<dt>Digest</dt><dd><code>{escape(found.digest)}</code></dd>\n"
    for effect, text in (
        ("allow", "always; what stands below an action holds as well"),
        ("conditional", "under the condition given"),
        ("deny", "never"),
    ):
        yield f"<dt>{_SIGNS[effect]}</dt><dd>{text}</dd>\n"
    yield "</dl>\n<table>\n<caption>One role alone, with what it inherits. A condition after “not if” also refuses"
    yield ' where it cannot be computed.</caption>\n<thead>\n<tr><th scope="col">Action</th>'
    yield from (f'<th scope="col">{escape(name)}</th>' for name in found.callers)
    yield "</tr>\n</thead>\n<tbody>\n"
    for row in found.rows:
        notes = "".join(f"<small>{escape(note)}</small>" for note in row.notes)
        yield f'<tr><th scope="row">{escape(row.action)}{notes}</th>'
        yield from map(_td, row.cells)
        yield "</tr>\n"
    yield "</tbody>\n</table>\n</main>\n</body>\n</html>\n"


def _td(one: Cell) -> str:
    rules = ", ".join(clause.rule for clause in (*one.when, *one.unless))
    title = f' title="{escape(rules)}"' if rules else ""
    sign = f'<span class="sign" aria-hidden="true">{_SIGNS[one.effect]}</span>'
    return f'<td class="{one.effect}"{title}>{sign}{escape(str(one))}</td>'
