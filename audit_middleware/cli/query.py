"""Reading the trail: ``query``, ``tail`` and ``show``.

The search index only says where to look; every record shown is read from the log itself.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ..errors import EntriesPruned
from ..evidence.erasures import erased_by
from ..ledger.canonical import decode
from ..protocols import LogStore
from ..schema import Record
from ..stores.index import Filters
from ..stores.opening import Index, Store, open_index, open_log, open_watch, origin_of
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, WIDE, fail, out, print_json, row, table
from .persons import BECAUSE, MASTER, OPEN, PLACE, Persons, View
from .reading import reading

JSON = Annotated[bool, typer.Option("--json", help="Print JSON, one record a line.")]
Found = tuple[int, dict[str, Any]]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS = ("index", "time", "user", "action", "resource", "decision", "status")


def query(
    log: LOG,
    user: Annotated[str | None, typer.Option(help="The user id.")] = None,
    action: Annotated[str | None, typer.Option(help="The action; may end in *, as in invoice.*")] = None,
    decision: Annotated[str | None, typer.Option(help="allow, deny or not_applicable.")] = None,
    outcome: Annotated[str | None, typer.Option(help="success, failure, denied, error or aborted.")] = None,
    severity: Annotated[str | None, typer.Option(help="info, low, medium, high or critical.")] = None,
    kind: Annotated[str | None, typer.Option(help="outcome, control or intent.")] = None,
    resource: Annotated[str | None, typer.Option(help="type/id, or a type.")] = None,
    trace: Annotated[str | None, typer.Option(help="A trace id or a correlation id.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339 time, or how long ago: 90m, 24h, 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="As --since; exclusive.")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only intents without an outcome: still running, or killed.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Most records to show, 0 for all.")] = 50,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin at the oldest.")] = False,
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Search the trail. Exit 1 when nothing matches."""
    persons = Persons(log, opened, because, place, master)
    filters = Filters(
        user=user, action=action, decision=decision, outcome=outcome, severity=severity, kind=kind,
        resource=resource, trace=trace, since=moment(since), until=moment(until), unfinished=unfinished,
    )  # fmt: skip
    filters = persons.filters(filters, origin_of(log))
    asked = {**persons.told(filters), "limit": limit, "oldest_first": oldest_first}
    told = reading("audit.log_read", log, "query", asked)
    store = open_log(log)
    index = search_index(store)
    count = index.catch_up()
    view = persons.view(index, store.origin)
    matches = index.find(filters, newest_first=not oldest_first, limit=limit or None)
    found = told.count((at, decode(entry)) for at, entry in index.read(matches))
    shown = _print_lines(found, view) if as_json else _print_table(found, view, count - store.base.size)
    raise SystemExit(0 if shown else DOES_NOT_HOLD)


def tail(
    log: LOG,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Begin with so many of the last records.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records are committed.")] = False,
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Show the last records; with -f also those to come."""
    persons = Persons(log, opened, because, place, master)
    asked = {"lines": lines, "follow": follow, **persons.asked}
    told = reading("audit.log_read", log, "tail", asked, follow=follow)
    store = open_log(log)
    index = search_index(store)
    index.catch_up()
    view = persons.view(index, store.origin)
    at = max(store.base.size, store.head().size - lines)
    watch, never = open_watch(store), threading.Event()
    try:
        if follow:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # both end it in the same way, recorded
        while True:
            size = store.head().size
            for index_at, record in told.count(_between(store, at, size)):
                view.told.erased.update(erased_by(record))
                print_json(view.line(index_at, record), lines=True) if as_json else _print_line(
                    index_at, view.record(record)
                )
            at = size
            if not follow:
                return
            watch.wait(never, 0.2)
    except KeyboardInterrupt:
        return


def show(
    log: LOG,
    id: Annotated[str, typer.Argument(help="An Audit-ID, or an index in the log.", show_default=False)],
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record alone, as JSON.")] = False,
) -> None:
    """Show one record in full, with where it stands in the log and what amends it. Exit 1 when there is none."""
    persons = Persons(log, opened, because, place, master)
    told = reading("audit.log_read", log, "show", {"id": id, **persons.asked})
    store = open_log(log)
    index = search_index(store)
    index.catch_up()
    found = [int(id)] if id.isdigit() else index.with_action_id(id)
    if not found or found[0] >= store.head().size:
        fail(f"{log} has no record {id}", DOES_NOT_HOLD)
    try:
        record = read_record(index, found[0])
    except EntriesPruned as problem:
        fail(problem, DOES_NOT_HOLD)
    amended = index.find(Filters(action="audit.amended"), newest_first=False)
    said = ((at, decode(entry)) for at, entry in index.read(amended))
    amendments = [pair for pair in said if pair[1]["extra"].get("amends") == record["action_id"]]
    told.records = 1 + len(amendments)
    view = persons.view(index, store.origin)
    if as_json:
        lines = [view.line(at, amendment) for at, amendment in amendments]
        print_json({**view.line(found[0], record), "amendments": [line["record"] for line in lines]})
        return
    record = view.record(record)
    out.print(f"entry {found[0]} of {store.origin}", style="bold")
    print_json({name: record[name] for name in Record.model_fields if name in record})
    for at, amendment in ((at, view.record(said)) for at, said in amendments):
        out.print(f"amended by entry {at}", style="bold")
        print_json({key: amendment[key] for key in ("timestamp", "reason", "impact", "extra")})
    for at in found[1:]:
        out.print(f"the same record stands again at entry {at}: it was sent twice after a failure", style="yellow")


# --- reading -----------------------------------------------------------------------------------------------------


def search_index(store: Store) -> Index:
    """The log's search index."""
    return open_index(store)


def read_record(index: Index, at: int) -> dict[str, Any]:
    """One record, from the log."""
    ((_, entry),) = index.read([at])
    return decode(entry)


def _between(store: LogStore, start: int, stop: int) -> Iterator[Found]:
    for frame in store.frames(start, stop) if start < stop else ():
        for index, entry in enumerate(frame.entries, frame.first):
            if start <= index < stop:
                yield index, decode(entry)


def moment(text: str | None) -> str | None:
    """A point in time as records write it: RFC 3339, a date, or how long ago."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+)([smhdw])", text)
    try:
        when = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        fail(f"{text!r} is neither a time such as 2026-11-22T10:00:00Z nor how long ago, such as 24h", USAGE)
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# --- printing ----------------------------------------------------------------------------------------------------


def _print_lines(found: Iterator[Found], view: View) -> int:
    count = 0
    for index, record in found:
        print_json(view.line(index, record), lines=True)
        count += 1
    return count


def _print_table(found: Iterator[Found], view: View, total: int) -> int:
    listing = table(None, *_columns())
    for index, record in ((at, view.record(said)) for at, said in found):
        row(listing, *_cells(index, record), style=_style(record))
    if listing.row_count:
        out.print(listing)
    out.print(f"{listing.row_count} of {total} records")
    return listing.row_count


def _print_line(index: int, record: dict[str, Any]) -> None:
    line = table(None, *_columns())
    line.show_header = False
    row(line, *_cells(index, record), style=_style(record))
    out.print(line)


def _cells(index: int, record: dict[str, Any]) -> tuple[object, ...]:
    decision, kind, name = record["decision"], record["resource"]["type"], record["resource"]["id"]
    why = decision["rule"] or decision["cause"]
    verdict = "-" if decision["effect"] == "not_applicable" else f"{decision['effect']} ({why})"
    if decision["mode"] == "monitor" and decision["effect"] == "deny":
        verdict += " only noted"
    cells: tuple[object, ...] = (
        index,
        record["timestamp"][:19].replace("T", " "),
        record["user_id"],
        record["action"] or f"{record['request']['method']} {record['request']['path']}",
        None if kind is None else f"{kind}/{name}" if name is not None else kind,
        verdict,
        "intent" if record["kind"] == "intent" else record["response"]["status"],
    )
    return (*cells, record["action_id"]) if out.width >= WIDE else cells


def _columns() -> tuple[str, ...]:
    # The Audit-ID alone takes 36 columns; on a narrower terminal `show INDEX` has it.
    return (*_COLUMNS, "audit id") if out.width >= WIDE else _COLUMNS


def _style(record: dict[str, Any]) -> str | None:
    if record["kind"] == "control":
        return "dim"
    return {"denied": "red", "error": "bold red", "aborted": "yellow", "failure": "yellow"}.get(record["outcome"])
