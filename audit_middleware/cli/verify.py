"""``verify``: every entry hashed, every signature checked, and a report of what holds and what was not looked at."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..errors import ConfigError, FormatError, LogDamaged, StoreError
from ..evidence.examining import examined
from ..evidence.keywatch import KeyWatch
from ..evidence.outside import (
    archived_outside,
    cosigned_outside,
    is_archive,
    locked_outside,
    stamped_outside,
    tiles_outside,
)
from ..evidence.standing import carried_keys
from ..evidence.wellformed import check_record
from ..ledger.anchors import Outside
from ..ledger.note import Verifier, parse_vkey
from ..ledger.report import Finding, Report
from ..ledger.state import State, format_state, is_state, parse_state
from ..ledger.trust import Policy, parse_policy
from ..ledger.verify import CheckIndex, fold_examined
from ..model import Head
from ..stores.filesystem import sync_directory, write_side_file
from ..stores.journal import JournalStore
from ..stores.opening import Place, Store, folder_of, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, USAGE, err, fail, out, print_json, progress, row, shown, table
from .query import search_index
from .reading import Reading, reading

__all__ = ["check_record", "verify"]


def verify(
    log: LOG,
    vkey: Annotated[
        list[str] | None,
        typer.Option(help="A verifier key you trust for this log. Default: the keys that the log itself names."),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="A C2SP tlog-policy file: the keys and witnesses you trust, and the quorum.")
    ] = None,
    cosigned: Annotated[
        list[Path] | None, typer.Option(help="With --trust: a cosigned checkpoint from elsewhere. Repeatable.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(help="A checkpoint that you kept: shows truncation and rewriting. Or what --remember wrote."),
    ] = None,
    remember: Annotated[
        Path | None, typer.Option(help="If the log holds, write here what --since needs to read only what is new.")
    ] = None,
    archive: Annotated[
        list[str] | None,
        typer.Option(help="Where the log is archived or published: s3://bucket/prefix or a folder. Repeatable."),
    ] = None,
    tsa_roots: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) of the time stamp authorities you trust.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="How many processes share the work; 1 for none but this. Default: one per processor."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Verify a log. Exit 0 if it holds, 1 if it does not."""
    told = reading("audit.log_verified", log, "verify", {"vkey": vkey or None, "since": since, "trust": trust})
    store = open_log(log)
    policy = _policy(trust, vkey, cosigned)
    verifiers = _keys(store, policy, trust, vkey)
    note, resume = _kept(since, store.origin, verifiers)
    outside = Outside(findings=_other_keys(store, verifiers) if policy else ())
    if policy is not None:
        outside += cosigned_outside(log, cosigned or (), policy, store.origin)
    try:
        for place in archive or ():
            outside += _archived(place, store.origin, verifiers)
    except ConfigError as problem:
        fail(problem, USAGE)
    if resume is None:  # what is only gone on with has had its tiles looked at
        for folder in (folder_of(log), *(Path(place) for place in archive or () if not is_archive(place))):
            outside += tiles_outside(folder, store.origin, verifiers)
    if tsa_roots is not None:
        outside += _stamps(log, store.origin, verifiers, tsa_roots)
    report = _verify(log, store, verifiers, note, resume, outside, processes)
    _tell(told, report)
    if remember is not None:
        _remember(remember, report)
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report, given=bool(vkey or policy))
    raise SystemExit(HOLDS if report.holds else DOES_NOT_HOLD)


def _tell(told: Reading, report: Report) -> None:
    """What the log's record of this verification says."""
    told.records = report.entries
    told.verdict = {"holds": report.holds, "size": report.size, "findings": len(report.findings) + report.more}
    if not report.holds:
        told.doubt()


# --- what was given --------------------------------------------------------------------------------------------------


def _policy(trust: Path | None, vkey: list[str] | None, cosigned: list[Path] | None) -> Policy | None:
    if trust is None:
        if cosigned:
            fail("--cosigned needs --trust: without it nobody's cosignature counts", USAGE)
        return None
    if vkey:
        fail("give the log's keys with --vkey or with --trust, not with both", USAGE)
    try:
        return parse_policy(trust.read_bytes())
    except FormatError as problem:
        fail(f"{trust}: {problem}", USAGE)


def _keys(store: Store, policy: Policy | None, trust: Path | None, vkey: list[str] | None) -> tuple[Verifier, ...]:
    if policy is None:
        return tuple(parse_vkey(text) for text in vkey or store.vkeys)
    keys = policy.log_keys(store.origin)
    if not keys:
        fail(f"{trust}: names no log {store.origin!r}, which this one is; add a line: log <its verifier key>", USAGE)
    return keys


def _other_keys(store: Store, verifiers: Sequence[Verifier]) -> tuple[Finding, ...]:
    trusted = {verifier.vkey for verifier in verifiers}
    where = store.place
    return tuple(
        Finding(5, "wrong key", None, f"names the key {vkey}, which the trust file does not", where, "note")
        for vkey in store.vkeys
        if vkey not in trusted
    )


def _kept(since: Path | None, origin: str, verifiers: Sequence[Verifier]) -> tuple[bytes | None, State | None]:
    """What --since holds: a checkpoint note, or what an earlier verification remembers."""
    data = since.read_bytes() if since else None
    if data is None or not is_state(data):
        return data, None
    try:
        state = parse_state(data)
        state.open(origin, verifiers)
    except FormatError as problem:
        fail(f"{since}: {problem}", USAGE)
    return None, state


def _archived(place: str, origin: str, verifiers: Sequence[Verifier]) -> Outside:
    if is_archive(place):
        return locked_outside(place, origin, verifiers)
    return archived_outside(Path(place), origin, verifiers)


def _stamps(log: Place, origin: str, verifiers: Sequence[Verifier], roots: Path) -> Outside:
    """What time stamp authorities said; what reads them is loaded only when it is asked for."""
    from ..evidence.timestamps import check_stamp, read_roots

    return stamped_outside(log, origin, verifiers, read_roots(roots.read_bytes()), check_stamp)


# --- the verification ------------------------------------------------------------------------------------------------


def _verify(
    log: Place,
    store: Store,
    verifiers: Sequence[Verifier],
    since: bytes | None,
    resume: State | None,
    outside: Outside,
    processes: int | None,
) -> Report:
    base = _base(store)
    start = resume.size if resume is not None and resume.size >= base.size else 0
    watch = KeyWatch(resume.keys, start) if resume and start else KeyWatch(carried_keys(store))
    with progress("verifying", _expected_entries(store, start or base.size)) as advance:
        report = fold_examined(
            examined(store, verifiers, watch=watch, processes=processes, start=max(0, start - 1)),
            store.origin,
            verifiers,
            entries_checked=True,
            check_index=_index_check(log, store),
            since=since,
            outside=outside,
            base=base,
            resume=resume,
            progress=advance,
        )
    report = watch.amend(report)
    if report.state is None:
        return report
    return replace(report, state=msgspec.structs.replace(report.state, keys=watch.remember()))


def _base(store: Store) -> Head:
    try:
        return store.base
    except LogDamaged as problem:
        fail(problem, DOES_NOT_HOLD)


def _expected_entries(store: Store, start: int) -> int | None:
    try:
        return max(0, store.head().size - start)
    except LogDamaged:
        return None  # the report will say where


def _index_check(log: Place, store: Store) -> CheckIndex | None:
    """The comparison with the search index where there is one that can be brought up to date."""
    if isinstance(store, JournalStore) and not store.layout.index.exists():
        return None
    index = search_index(store)
    try:
        index.catch_up()
    except StoreError:
        return None  # the log is damaged, which the report will say; nothing could be compared with it
    return index.check


def _remember(path: Path, report: Report) -> None:
    """Writes the state beside its place and moves it there: an interrupted run leaves the old one."""
    if report.state is None:
        why = "the log is empty" if report.holds else "the log does not hold"
        err.print(f"{shown(str(path))}: not written, because {why}")
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    write_side_file(temporary, format_state(report.state))
    temporary.replace(path)
    sync_directory(path.parent)


# --- the report ------------------------------------------------------------------------------------------------------


def _print(report: Report, *, given: bool) -> None:
    style = "bold green" if report.holds else "bold red"
    out.print(f"{report.origin}: {report.verdict}", style=style)
    out.print(f"{report.entries} entries read; checkpoint of size {report.size} checked")
    if report.counts.gaps:
        gaps = "1 gap" if report.counts.gaps == 1 else f"{report.counts.gaps} gaps"
        out.print(f"the log admits {gaps}: {report.counts.lost} records could not be kept")
    if report.persons.words is not None:
        out.print(shown(report.persons.words), soft_wrap=True)
    if report.findings:
        listing = table(None, "entry", "cause", "what", "where")
        for finding in report.findings:
            style = "red" if finding.level == "error" else "yellow"
            row(listing, finding.index, finding.cause, finding.text, finding.where, style=style)
        out.print(listing)
    if report.more:
        out.print(f"and {report.more} more findings")
    claims = [claim.text for claim in report.claims]
    for text in claims if report.holds else [report.claim, *claims]:
        out.print(f"This proves: {shown(text)}", soft_wrap=True)
    named = "that the keys which the log itself names are the operator's: give yours with --trust or --vkey"
    keys = () if given else (named,)
    for text in (*report.not_checked, *keys):
        out.print(f"not checked: {shown(text)}", soft_wrap=True)
