"""``verify``: every entry hashed, every signature checked, and a report of what holds and what was not looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from ..errors import LogDamaged, RecordError, StoreError
from ..evidence.keywatch import KeyWatch
from ..ledger.canonical import decode
from ..ledger.note import parse_vkey
from ..ledger.report import Report
from ..ledger.verify import CheckIndex
from ..ledger.verify import verify as verify_frames
from ..model import Record
from ..stores.journal import JournalStore
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, out, print_json, progress, row, shown, table
from .query import search_index


def verify(
    log: LOG,
    vkey: Annotated[
        list[str] | None,
        typer.Option(help="A verifier key you trust for this log. Default: the keys in its config.json."),
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="A checkpoint of this log that you kept: shows truncation and rewriting.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Verify a log from its first entry on. Exit 0 if it holds, 1 if it does not."""
    store = JournalStore.open(log, writable=False)
    verifiers = [parse_vkey(text) for text in vkey or store.config.vkeys]
    watch = KeyWatch()
    with progress("verifying", _expected_size(store)) as advance:
        report = verify_frames(
            watch.over(store.raw_frames()),
            store.origin,
            verifiers,
            check_entry=check_record,
            check_index=_index_check(log, store),
            since=since.read_bytes() if since else None,
            progress=advance,
        )
    report = watch.amend(report)
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report, given=bool(vkey))
    raise SystemExit(HOLDS if report.holds else DOES_NOT_HOLD)


def check_record(entry: bytes) -> None:
    """An entry is canonical and a record of the published schema.

    Raises:
        RecordError: with what is wrong, and nothing of what the entry says.
    """
    value = decode(entry)
    try:
        Record.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{where}: {first['msg']}") from None


def _expected_size(store: JournalStore) -> int | None:
    try:
        return store.head().size
    except LogDamaged:
        return None  # the report will say where


def _index_check(log: Path, store: JournalStore) -> CheckIndex | None:
    """The comparison with the search index where there is one that can be brought up to date."""
    if not (log / "index.sqlite").exists():
        return None
    index = search_index(log, store)
    try:
        index.catch_up()
    except StoreError:
        return None  # the log is damaged, which the report will say; nothing could be compared with it
    return index.check


def _print(report: Report, *, given: bool) -> None:
    style = "bold green" if report.holds else "bold red"
    out.print(f"{report.origin}: {report.verdict}", style=style)
    out.print(f"{report.entries} entries read; checkpoint of size {report.size} checked")
    if report.findings:
        listing = table(None, "entry", "cause", "what", "where")
        for finding in report.findings:
            style = "red" if finding.level == "error" else "yellow"
            row(listing, finding.index, finding.cause, finding.text, finding.where, style=style)
        out.print(listing)
    if report.more:
        out.print(f"and {report.more} more findings")
    out.print(f"This proves: {shown(report.claim)}", soft_wrap=True)
    keys = () if given else ("that the keys in config.json are the operator's: give yours with --vkey",)
    for text in (*report.not_checked, *keys):
        out.print(f"not checked: {shown(text)}", soft_wrap=True)
