"""``detect``: what rules find in a log's history. The log is read from its beginning, and nothing is written to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from ..detectors.engine import Engine
from ..detectors.finding import LEVELS, Finding
from ..detectors.load import load_rules
from ..detectors.model import Rules
from ..errors import ConfigError
from ..stores.opening import Store, open_log
from .log import LOG_HELP, Log, log_argument
from .output import DOES_NOT_HOLD, HOLDS, USAGE, err, fail, out, print_json, progress, row, shown, table
from .query import moment
from .reading import reading

_STEP = 1_000  # records between two looks at the progress bar
_ORDER = tuple(LEVELS)
_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow"}


class Level(StrEnum):
    """Sigma's levels, mildest first."""

    informational = "informational"
    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


def detect(
    log: Annotated[
        Log | None, typer.Argument(help=LOG_HELP, show_default=False, parser=log_argument, metavar="[LOG]")
    ] = None,
    rules: Annotated[
        list[Path] | None, typer.Option("--rules", help="A folder of rules, or one; may be given several times.")
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped/--no-shipped", help="With the rules that are shipped.")] = True,
    since: Annotated[
        str | None, typer.Option(help="Only findings from then on: RFC 3339, or how long ago, as in 24h.")
    ] = None,
    level: Annotated[Level, typer.Option(help="Only findings of at least this level.")] = Level.low,
    check: Annotated[bool, typer.Option("--check", help="Read the rules, and no log.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one finding a line.")] = False,
) -> None:
    """Evaluate rules over a log's history. Exit 1 when they find something."""
    if check:
        if log is not None:
            fail("--check reads rules and no log: give folders with --rules", USAGE)
        _check(rules or [], shipped=shipped, as_json=as_json)
        return
    if log is None:
        fail("which log? Give its directory, or --check", USAGE)
    start = moment(since)
    asked = {
        "rules": [str(path) for path in rules or []] or None, "no_shipped": not shipped, "since": since,
        "level": level.value,
    }  # fmt: skip
    known = load_rules(rules or [], shipped=shipped)
    told = reading("audit.log_read", log, "detect", asked)
    store = open_log(log)
    engine = Engine(known)
    found = told.count(_wanted(engine, store, start, level.value))
    count = _print_lines(found) if as_json else _print_table(found, known)
    _remarks(engine, known)
    raise SystemExit(DOES_NOT_HOLD if count else HOLDS)


def _wanted(engine: Engine, store: Store, since: str | None, level: str) -> Iterator[Finding]:
    """Findings of all records, as far as they are asked for; what came before ``since`` fills windows and baselines."""
    first, size = store.base.size, store.head().size
    with progress("detecting", size - first) as advance:
        for frame in store.frames(first, size) if first < size else ():
            for index, entry in enumerate(frame.entries, frame.first):
                if index % _STEP == 0:
                    advance(index - first)
                if index < size:
                    record = _record(entry)
                    for finding in engine.feed(index, record):
                        late = since is None or record["recorded_at"] >= since
                        if late and _ORDER.index(finding.level) >= _ORDER.index(level):
                            yield finding


def _record(entry: bytes) -> dict[str, Any]:
    """The entry's JSON; of one that is none, nothing, which the engine counts."""
    try:
        found = msgspec.json.decode(entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _print_lines(found: Iterator[Finding]) -> int:
    count = 0
    for finding in found:
        print_json(finding.extra(), lines=True)
        count += 1
    return count


def _print_table(found: Iterator[Finding], known: Rules) -> int:
    listing = table(None, "level", "time", "finding", "of", "observed", "limit", "within", "entries")
    for one in found:
        row(
            listing, one.level, one.last[:19].replace("T", " "), one.title, _said(one.group), one.observed,
            one.baseline.get("limit"), _span(one.window_s) if one.window_s else None, _ranges(one),
            style=_STYLES.get(one.level),
        )  # fmt: skip
    if listing.row_count:
        out.print(listing)
    alone = sum(rule.alone for rule in known.rules)
    out.print(f"{listing.row_count} finding{'' if listing.row_count == 1 else 's'} by {alone} rules")
    return listing.row_count


def _remarks(engine: Engine, known: Rules) -> None:
    """What the findings do not say themselves."""
    if engine.unread:
        err.print(
            f"{engine.unread} entries are no records that this version knows: they were passed over", style="yellow"
        )
    titles = {rule.id: rule.title for rule in known.rules}
    for rule, count in engine.forgotten.items():
        text = f"{shown(titles[rule])}: {count} groups were forgotten for want of room; their counting began again"
        err.print(text, style="yellow")


def _said(group: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in group.items()) or "-"


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _ranges(finding: Finding) -> str:
    """Indexes with neighbours drawn together: ``3, 7-12``."""
    parts: list[list[int]] = []
    for index in finding.evidence:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    more = finding.evidence_count - len(finding.evidence)
    return f"{text} and {more} more" if more else text


# --- rules alone -----------------------------------------------------------------------------------------------------


def _check(paths: Sequence[Path], *, shipped: bool, as_json: bool) -> None:
    try:
        known = load_rules(paths, shipped=shipped)
    except ConfigError as problem:
        if as_json:
            print_json({"holds": False, "findings": str(problem).splitlines()})
        else:
            err.print(shown(str(problem), newlines=True))
        raise SystemExit(DOES_NOT_HOLD) from None
    listed = sorted(
        (rule for rule in known.rules if rule.alone), key=lambda rule: (-_ORDER.index(rule.level), rule.name)
    )
    if as_json:
        said = [
            {"id": rule.id, "name": rule.name, "title": rule.title, "level": rule.level,
             "group_by": list(rule.group_by), "file": known.sources[rule.id]}
            for rule in listed
        ]  # fmt: skip
        print_json({"holds": True, "digest": known.digest, "rules": said})
        return
    listing = table(None, "level", "name", "finding", "by", "file")
    for rule in listed:
        row(listing, rule.level, rule.name, rule.title, ", ".join(rule.group_by), Path(known.sources[rule.id]).name)
    if listing.row_count:
        out.print(listing)
    feeding = len(known.rules) - len(listed)
    out.print(f"{len(listed)} rules, and {feeding} that only feed others")
