"""The policy and the log: ``policy reperform`` and ``policy backtest``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evidence.backtest import Backtest
from ..evidence.backtest import backtest as decide_under
from ..evidence.blocking import Orders, orders_in
from ..evidence.policies import ARCHIVED, Archive
from ..evidence.recorded import Open, Recorded, decisions
from ..evidence.reperform import Archived, Policies, Reperformance, load_archived
from ..evidence.reperform import reperform as make_again
from ..model import Frame
from ..persons import pseudonym
from ..policy.document import decode
from ..policy.findings import Findings
from ..policy.load import read_bytes
from ..stores.index import Filters
from ..stores.opening import Store, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, out, print_json, progress, row, shown, table
from .persons import BECAUSE, MASTER, OPEN, PLACE, Persons
from .query import moment, search_index
from .reading import Reading, reading
from .review import span

SINCE = Annotated[str | None, typer.Option(help="RFC 3339 time, a date, or how long ago: 90d.")]
UNTIL = Annotated[str | None, typer.Option(help="As --since; exclusive.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Records = Iterator[tuple[int, Recorded | None]]
_LONGEST = 20  # rows of differences


def reperform(
    log: LOG,
    since: SINCE = None,
    until: UNTIL = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="A policy file for a digest that the log lacks; may be given several times."),
    ] = None,
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Make every recorded decision again, with the policy archived under its digest. Exit 1 if one differs.

    Exit codes: 0 none differs, 1 at least one differs, 2 wrong usage, 3 the log or a policy cannot be read.
    """
    persons = Persons(log, opened, because, place, master)
    given = {"since": since, "until": until, "policy": [str(one) for one in policy or ()] or None, **persons.asked}
    told = reading("audit.log_read", log, "policy reperform", given)
    store = open_log(log)
    records, archive, show = _open(store, told, moment(since), moment(until), persons)
    ordered = orders_in(store) if show is None else ((index, show(dict(one))) for index, one in orders_in(store))
    orders = Orders.of(ordered, store.base.size)
    result = make_again(records, Policies(archive.document, map(_from_file, policy or ())), orders)
    if as_json:
        print_json(result.to_json())
    else:
        _tell_reperformance(result)
    raise SystemExit(HOLDS if result.holds else DOES_NOT_HOLD)


def backtest(
    log: LOG,
    new: Annotated[Path, typer.Argument(help="The policy as it shall be.", show_default=False)],
    since: SINCE = None,
    until: UNTIL = None,
    fail_on_change: Annotated[bool, typer.Option(help="Exit 1 if any decision would change.")] = False,
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Show which recorded decisions would change under another policy.

    Exit codes: 0 compared, 1 with --fail-on-change if a decision would change, 2 wrong usage, 3 the log or the policy
    cannot be read.
    """
    persons = Persons(log, opened, because, place, master)
    given = {"new": str(new), "since": since, "until": until, **persons.asked}
    told = reading("audit.log_read", log, "policy backtest", given)
    policy = _from_file(new)
    store = open_log(log)
    records, archive, _ = _open(store, told, moment(since), moment(until), persons)
    result = decide_under(records, Policies(archive.document), policy)
    if as_json:
        print_json({"policy": policy.policy.name, "digest": policy.policy.digest, **result.to_json()})
    else:
        _tell_backtest(result)
    raise SystemExit(DOES_NOT_HOLD if fail_on_change and result.changed else HOLDS)


def _from_file(path: Path) -> Archived:
    findings = Findings(str(path))
    text = decode(read_bytes(path), findings)
    findings.close()
    return load_archived(text, str(path))


def _open(
    store: Store, told: Reading, since: str | None, until: str | None, persons: Persons
) -> tuple[Records, Archive, Open | None]:
    index = search_index(store)
    size = index.catch_up()
    start, stop = span(index, since, until, size)
    start = max(start, store.base.size)
    archive = Archive(store, index.find(Filters(action=ARCHIVED), newest_first=False))
    opener = persons.view(index, store.origin).opener if persons.opened else None
    show = None if opener is None else partial(opener.opened, keep=True)
    return told.count(_read(store, start, stop, since, until, show)), archive, show


def _read(store: Store, start: int, stop: int, since: str | None, until: str | None, show: Open | None) -> Records:
    if start < stop:
        with progress("decisions", stop - start) as advance:
            yield from decisions(_told(store.frames(start, stop), start, advance), start, stop, since, until, show)


def _told(frames: Iterator[Frame], start: int, advance: Any) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        advance(frame.head.size - start)


# --- printing --------------------------------------------------------------------------------------------------------


def _tell_reperformance(result: Reperformance) -> None:
    if result.differences:
        listing = table(None, "index", "time", "user", "action", "recorded", "made again")
        for one in result.differences[:_LONGEST]:
            record = one.record
            if record is None:
                continue
            said, again = record.decision, one.verdict.again
            row(
                listing, one.index, record.timestamp[:19].replace("T", " "), pseudonym(record.user_id), record.action,
                _verdict(said.effect, said.cause, said.rule, said.mode),
                one.verdict.why or (_verdict(again.effect, again.cause, again.rule, again.mode) if again else None),
                style="bold red",
            )  # fmt: skip
        out.print(listing)
        if result.differing > _LONGEST:
            out.print(f"and {result.differing - _LONGEST} more: see --json")
    unmade = sum(result.not_performable.values())
    counts = table(None, "decisions", "")
    row(counts, "same", result.same)
    for why, count in sorted(result.blocked.items()):
        row(counts, f"  {why}", count)
    row(counts, "differs", result.differing, style="bold red" if result.differing else None)
    row(counts, "not re-performable", unmade)
    for why, count in sorted(result.not_performable.items()):
        row(counts, f"  {why}", count)
    row(counts, "nothing to decide", result.nothing)
    out.print(counts)
    for digest, count in result.missing_policies.items():
        out.print(shown(f"not in the log: {digest}, {count} decisions: give its file with --policy"), soft_wrap=True)
    if result.holds:
        noted = f"; {unmade} could not be made again" if unmade else ""
        out.print(f"every decision that was made again is the same{noted}")
    else:
        out.print(f"{result.differing} decisions are not what their policy says", style="bold red")


def _verdict(effect: str, cause: str, rule: str | None, mode: str) -> str:
    why = f"{cause} {rule}" if rule is not None else cause
    return f"{effect} ({why})" + (", monitor" if mode == "monitor" else "")


def _tell_backtest(result: Backtest) -> None:
    colours = {"allow": "red", "deny": "green"}
    for change, of in result.listed():
        becomes = "allowed" if change.becomes == "allow" else "denied"
        roles = f" ({', '.join(change.roles)})" if change.roles else ""
        examples = ", ".join(f"{index} {user}" for index, user in change.examples)
        text = f"{change.action}{roles}: {change.count} of {of} would be {becomes}: {change.why}; entries {examples}"
        out.print(shown(text), style=colours.get(change.becomes), soft_wrap=True)
    for why, count in sorted(result.untold.items()):
        out.print(shown(f"? {count} cannot be told: {why}"), style="yellow", soft_wrap=True)
    untold = sum(result.untold.values())
    same = result.decisions - result.changed - untold
    out.print(f"{result.decisions} decisions: {result.changed} would change, {same} would not, {untold} cannot be told")
