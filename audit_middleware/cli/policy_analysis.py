"""The policy as a whole: ``policy lint``, ``matrix``, ``diff`` and ``mutate``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..frameworks.inventory import list_routes
from ..pipeline.inventory import Row, examine
from ..policy.diff import Difference
from ..policy.diff import diff as compare
from ..policy.lint import Finding, Lint, sarif
from ..policy.lint import lint as examine_policy
from ..policy.matrix import Cell, Matrix
from ..policy.matrix import matrix as table_of
from ..policy.mutate import mutate as break_policy
from ..version import __version__
from .imports import PREDICATES, load_policy, load_predicates, load_router
from .output import DOES_NOT_HOLD, HOLDS, USAGE, fail, out, print_json, progress, row, shown, table

POLICY = Annotated[Path, typer.Argument(help="The policy file.", show_default=False)]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COLOURS = {"error": "red", "warning": "yellow", "note": None}
_SIGNS = {"widening": "+", "weakening": "!", "narrowing": "-", "recording": "~"}


class Layout(StrEnum):
    """How a matrix is printed."""

    table = "table"
    csv = "csv"
    html = "html"
    json = "json"


# --- lint --------------------------------------------------------------------------------------------------------


def lint(
    policy: POLICY,
    app: Annotated[str | None, typer.Option(help="Also compare with an application's routes: MODULE:APP.")] = None,
    as_json: JSON = False,
    sarif_file: Annotated[Path | None, typer.Option("--sarif", help="Also write SARIF 2.1.0 to this file.")] = None,
    predicates: PREDICATES = None,
) -> None:
    """Find what a policy says in vain: useless rules, impossible conditions, roles and routes that do not fit.

    Exit codes: 0 nothing found but notes, 1 findings, 3 the policy or the application could not be loaded.
    """
    today = datetime.now(UTC).date()
    found = examine_policy(policy, today, predicates=load_predicates(predicates))
    findings = list(found.findings)
    if app is not None:
        inventory = examine(list_routes(load_router(app)), found.policy, today)
        findings += _routes(found, inventory.rows, inventory.problems)
        findings += _unsourced(found, inventory.rows)
    if sarif_file is not None:
        text = json.dumps(sarif(tuple(findings), __version__), indent=2, ensure_ascii=False)
        sarif_file.write_text(text + "\n", encoding="utf-8")
    holds = all(finding.level == "note" for finding in findings)
    if as_json:
        print_json({"holds": holds, "findings": [finding.to_dict() for finding in findings]})
    else:
        for finding in findings:
            out.print(shown(str(finding)), style=_COLOURS[finding.level], soft_wrap=True)
        out.print(f"{policy}: {len(findings)} finding{'' if len(findings) == 1 else 's'}")
    raise SystemExit(HOLDS if holds else DOES_NOT_HOLD)


def _routes(found: Lint, rows: tuple[Row, ...], problems: tuple[str, ...]) -> Iterator[Finding]:
    """What of the application does not fit the policy, as the inventory has it."""
    explained = 0
    for one in rows:
        if one.problem is not None:
            explained += 1
            file, line = _source(one.route.endpoint) or (found.file, 1)
            where = f"{one.route.method} {one.route.template} ({one.route.endpoint})"
            yield Finding("route-without-action", file, line, where, one.problem)
    for problem in problems[explained:]:
        entry = re.fullmatch(r"routes: line (\d+): (.*)", problem)
        line, text = (int(entry[1]), entry[2]) if entry else (1, problem)
        yield Finding("entry-without-route", found.file, line, "routes", text)
    performed = {one.action for one in rows}
    for name, line in found.places.actions.items():
        if name not in performed:
            text = "no route of the application performs it"
            yield Finding("action-without-route", found.file, line, f"actions.{name}", text)


def _unsourced(found: Lint, rows: tuple[Row, ...]) -> Iterator[Finding]:
    """Properties of the resource that a rule reads, and that no path parameter and no loader of a route gives."""
    lacking: dict[tuple[str, str, str, str], list[str]] = {}
    for one in rows:
        action = found.policy.actions.get(one.action or "")
        mark = one.route.action
        if action is None or (mark is not None and mark.name == action.name and mark.loader is not None):
            continue
        given = set(re.findall(r"{(\w+)", one.route.template))
        for rule in action.needing:
            for name in sorted(rule.needs.properties - given):
                key = (action.name, rule.effect, rule.name, name)
                lacking.setdefault(key, []).append(f"{one.route.method} {one.route.template}")
    for (action_name, effect, rule_name, name), routes in lacking.items():
        line = found.places.rule(action_name, rule_name)
        text = (
            f"resource.{name} is always missing on {', '.join(routes)}: no path parameter, and no resource_properties="
        )
        yield Finding(
            "attribute-without-source", found.file, line, f"actions.{action_name}.{effect}: {rule_name}", text
        )


def _source(endpoint: str) -> tuple[str, int] | None:
    """File and line of ``module:qualname``, where it is a function that was imported."""
    module, _, name = endpoint.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    code = getattr(found, "__code__", None)
    if code is None:
        return None
    file = Path(code.co_filename)
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file), code.co_firstlineno


# --- matrix ------------------------------------------------------------------------------------------------------


def matrix(
    policy: POLICY,
    role: Annotated[list[str] | None, typer.Option(help="Only this role; may be given several times.")] = None,
    action: Annotated[str, typer.Option(help="Only actions that match this, such as invoice.*")] = "*",
    form: Annotated[Layout, typer.Option("--format", help="How to print it.")] = Layout.table,
    target: Annotated[Path | None, typer.Option("--out", help="A file to write to. Default: standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
    predicates: PREDICATES = None,
) -> None:
    """Show who may do what: a row for each action, a column for each role, and the condition in the cell."""
    loaded = load_policy(policy, predicates)
    known = (*loaded.roles, "anyone", "authenticated")
    for name in role or ():
        if name not in known:
            fail(f"--role {name}: the policy has no such role: {', '.join(known)}", USAGE)
    found = table_of(loaded, roles=tuple(role or ()), actions=action)
    if not found.rows:
        fail(f"--action {action}: no action matches", USAGE)
    form = Layout.json if as_json else form
    if form is Layout.table and target is None:
        _show(found)
        return
    text = _written(found, form)
    if target is None:
        sys.stdout.write(text)
    else:
        target.write_text(text, encoding="utf-8")


def _written(found: Matrix, form: Layout) -> str:
    if form is Layout.table:
        fail("--out writes csv, html or json: choose a --format", USAGE)
    if form is Layout.json:
        return json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n"
    return found.to_csv() if form is Layout.csv else found.to_html()


def _show(found: Matrix) -> None:
    """A table where the terminal is wide enough for one, else each action with who may do it."""
    out.print(f"{found.name}  {found.digest}", style="bold", soft_wrap=True)
    widths = (max(len(one.action) for one in found.rows), *(max(len(name), _CELL) for name in found.callers), _CELL)
    if sum(widths) + 2 * len(widths) > out.width:
        for line in _by_action(found):
            out.print(shown(line), soft_wrap=True)
        return
    footnotes: dict[str, int] = {}
    listing = table(None, "action", *found.callers, "notes")
    for one in found.rows:
        cells = (_marked(cell, footnotes) for cell in one.cells)
        row(listing, one.action, *cells, " ".join(f"[{_numbered(note, footnotes)}]" for note in one.notes))
    out.print(listing)
    for text, number in footnotes.items():
        out.print(shown(f"[{number}] {text}"), soft_wrap=True)


_CELL = len("notes")


def _marked(cell: Cell, footnotes: dict[str, int]) -> str:
    """What fits into a cell: a condition is a footnote."""
    if cell.effect == "conditional":
        return f"[{_numbered(str(cell), footnotes)}]"
    return "-" if cell.effect == "deny" else "allow"


def _numbered(text: str, footnotes: dict[str, int]) -> int:
    return footnotes.setdefault(text, len(footnotes) + 1)


def _by_action(found: Matrix) -> Iterator[str]:
    """Each action and who may do it, callers with the same cell together; who is not named may not."""
    for one in found.rows:
        groups: dict[str, list[str]] = {}
        for name, cell in zip(found.callers, one.cells, strict=True):
            if cell.effect != "deny":
                groups.setdefault(str(cell), []).append(name)
        yield one.action
        for text, names in groups.items():
            who = "everybody" if len(names) == len(found.callers) > 1 else ", ".join(names)
            yield f"  {who}: {text}"
        if not groups:
            yield "  nobody"
        for note in one.notes:
            yield f"  note: {note}"


# --- diff and mutate ---------------------------------------------------------------------------------------------


def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it was.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="The policy as it shall be.", show_default=False)],
    fail_on_widening: Annotated[
        bool, typer.Option(help="Exit 1 if more is or may be allowed, or less promised.")
    ] = False,
    as_json: JSON = False,
    predicates: PREDICATES = None,
) -> None:
    """Show who gains and who loses what: by meaning, not by text.

    Exit codes: 0 compared, 1 with --fail-on-widening if more is or may be allowed or the log promises less, 3 a policy
    could not be loaded.
    """
    found = compare(load_policy(old, predicates), load_policy(new, predicates))
    if as_json:
        print_json(found.to_dict())
    else:
        _tell(found)
    raise SystemExit(DOES_NOT_HOLD if fail_on_widening and (found.widened or found.weakened) else HOLDS)


def _tell(found: Difference) -> None:
    colours = {"widening": "red", "weakening": "red", "narrowing": "green", "recording": None}
    for change in sorted(found.changes, key=lambda change: list(_SIGNS).index(change.kind)):
        out.print(shown(f"{_SIGNS[change.kind]} {change.text}"), style=colours[change.kind], soft_wrap=True)
    counts = {kind: sum(change.kind == kind for change in found.changes) for kind in _SIGNS}
    if not found.changes:
        out.print("the policies decide and record alike")
    else:
        out.print(", ".join(f"{count} {kind}" for kind, count in counts.items()))


def mutate(
    policy: POLICY,
    as_json: JSON = False,
    predicates: PREDICATES = None,
) -> None:
    """Break a policy in one place at a time, and show what its tests do not notice.

    Exit codes: 0 every change was noticed, 1 some were not, or a test fails already, 3 no tests found,
    5 a test file is broken.
    """
    with progress("mutants", None) as advance:
        result = break_policy(policy, predicates=load_predicates(predicates), advance=advance)
    if result.problem is not None:
        fail(result.problem, result.exit_code)
    if as_json:
        print_json(result.to_dict())
    else:
        if result.survivors:
            listing = table(None, "action", "rule", "change that no test notices")
            for mutant in result.survivors:
                row(listing, mutant.action, mutant.rule, mutant.change)
            out.print(listing)
        noticed = len(result.mutants) - len(result.survivors)
        alike = f"; {result.alike} more change no decision" if result.alike else ""
        out.print(f"{noticed} of {len(result.mutants)} changes noticed{alike}")
    raise SystemExit(result.exit_code)
