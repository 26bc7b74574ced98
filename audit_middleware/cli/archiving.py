"""``archive put``, ``verify`` and ``restore``: a log in its archive."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from ..archives.canary import examine
from ..archives.opening import open_archive
from ..archives.s3 import S3Archive
from ..errors import ArchiveConflict, ArchiveError, FormatError, LogForked
from ..evidence.archive_objects import Picked, newest_archived
from ..evidence.archive_report import ArchiveReport, moment_of
from ..evidence.archive_rounds import CHECK_DAYS, MemoryFile, Rounds, Teller, Wanted
from ..evidence.archived import ArchiveReader
from ..evidence.archiving import Archiving
from ..evidence.restore import archived_origins, restore
from ..ledger.note import Verifier, parse_vkey
from ..ledger.trust import parse_policy
from ..protocols import Archive
from ..stores.opening import Place, Store, elected, open_log
from .archive import remember
from .log import LOG, Log, log_argument
from .output import DOES_NOT_HOLD, HOLDS, USAGE, err, fail, out, print_json, progress, row, shown, table
from .reading import log_signers
from .signals import stop_on_signals

PLACE = Annotated[str, typer.Argument(metavar="DEST", help="s3://bucket/prefix or a folder.", show_default=False)]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VKEY = Annotated[list[str] | None, typer.Option(help="A verifier key you trust for this log. Repeatable.")]
TRUST = Annotated[Path | None, typer.Option(help="A trust file (C2SP tlog-policy) with the log's keys.")]

_CLEAR = (
    "what the policy's `personal:` does not seal stands in the records in clear, and what is locked there nobody can "
    "erase before its lock ends: see docs/archiving.md"
)


def put(
    log: LOG,
    place: PLACE,
    retain: Annotated[
        str | None, typer.Option(help="Lock for so long: 400d; or none. Default: as the log's retention says.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Archive the partial bundle at the end, too: for short logs.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Archive also where nothing shows that the archive is immutable.")
    ] = False,
    checked_within: Annotated[
        int, typer.Option(min=1, max=3650, help="Days for which an examination of the archive is good.")
    ] = CHECK_DAYS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until SIGTERM or Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two rounds with --follow.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each round.")] = False,
) -> None:
    """Archive a log, or bring its archive up to date. Exit 1 if log and archive are two histories."""
    store = open_log(log)
    stop = stop_on_signals() if follow else Event()
    teller = Teller(log, lambda: log_signers(log), lambda why: err.print(f"not recorded in the log: {shown(why)}"))
    archive = open_archive(place)
    with ExitStack() as stack:
        memory = MemoryFile.of(log, place.partition("?")[0])
        stack.enter_context(elected(log, memory.lock, f"archive {memory.path.stem}"))
        if not no_check:
            _demand_check(log, archive, checked_within)
        if MemoryFile.of(log, archive.place).read().told_size == 0:
            err.print(f"note: {_CLEAR}", style="yellow")
        rounds = Rounds(store, archive, log, Wanted(retain, partial, checked_within), teller)
        while True:
            done = _round(rounds, store, follow)
            if done is not None and (done.objects or not follow):
                _print_round(done, archive, rounds.shown, as_json)
            if not follow or stop.wait(interval):
                return


def _round(rounds: Rounds, store: Store, follow: bool) -> Archiving | None:
    """One round; ``None`` where the archive was away and the next round will tell."""
    try:
        with progress("archiving", store.head().size) as advance:
            return rounds.round(advance)
    except (LogForked, ArchiveConflict) as alarm:
        fail(alarm, DOES_NOT_HOLD)
    except ArchiveError as problem:
        if not follow:
            raise
        err.print(f"will be tried again: {shown(str(problem))}", style="yellow")
        return None


def _demand_check(log: Place, archive: Archive, days: int) -> None:
    """An examination that was passed and is not too old, or a new one."""
    if MemoryFile.of(log, archive.place).read().shown(time.time(), days):
        return
    advice = "to archive all the same: --no-check"
    if not isinstance(archive, S3Archive):
        fail(
            f"{archive.place}: a folder holds nothing against the administrator of its machine; {advice}", DOES_NOT_HOLD
        )
    report = examine(archive)
    remember(log, report)
    if report.immutable != "yes":
        fail(
            f"{archive.place}: was not shown to be immutable ({report.immutable}): see audit-middleware archive check; "
            f"with other permissions, archive check --log {log} remembers what it found; {advice}",
            DOES_NOT_HOLD,
        )


def _print_round(done: Archiving, archive: Archive, immutable: bool, as_json: bool) -> None:
    if as_json:
        said = {"place": archive.place, "size": done.checkpoint.size, "objects": done.objects}
        print_json({**said, "shown_immutable": immutable}, lines=True)
        sys.stdout.flush()  # whoever follows through a pipe reads line by line
        return
    word = "" if immutable else "; not shown to be immutable"
    size = done.checkpoint.size
    out.print(f"{archive.place}: {size} entries archived, {done.objects} objects put{word}", soft_wrap=True)


# --- verify ----------------------------------------------------------------------------------------------------------


def verify(
    place: PLACE,
    trust: TRUST = None,
    vkey: VKEY = None,
    log: Annotated[
        Log | None,
        typer.Option(help="The log, for the entries after the last full bundle.", parser=log_argument),
    ] = None,
    require_lock: Annotated[
        bool, typer.Option("--require-lock", help="Without a lock an object is an error also if no other has one.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Write here each object's name, version, SHA-256 and lock, as JSON lines.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Read back all of an archive and verify it by itself. Exit 1 if it does not hold."""
    archive = open_archive(place, writable=False)
    store = open_log(log) if log is not None else None
    origin, keys = _whose(archive, trust, vkey, store)
    with ExitStack() as stack:
        seen = _manifest(stack, manifest) if manifest is not None else None
        newest = newest_archived(archive, origin, keys)
        advance = stack.enter_context(progress("verifying", newest.checkpoint.size if newest is not None else None))
        reader = ArchiveReader(archive, origin, keys, log=store, require_lock=require_lock, seen=seen)
        report = reader.run(advance)
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report, given=bool(trust or vkey or store))
    raise SystemExit(HOLDS if report.holds else DOES_NOT_HOLD)


def _whose(
    archive: Archive, trust: Path | None, vkey: Sequence[str] | None, store: Store | None
) -> tuple[str, list[Verifier]]:
    """The log, and the keys to trust for it: those given, else the log's, else those that the archive itself names."""
    if trust is not None:
        try:
            keys = [log.verifier for log in parse_policy(trust.read_bytes()).logs]
        except FormatError as problem:
            fail(f"{trust}: {problem}", USAGE)
    else:
        keys = [parse_vkey(text) for text in vkey or (store.vkeys if store is not None else ())]
    named = archived_origins(archive)
    names = {store.origin} if store is not None else {key.name for key in keys} or set(named)
    if len(names) != 1:
        found = ", ".join(sorted(names)) or "none"
        fail(f"{archive.place}: say whose archive this is, with --vkey, --trust or --log; known: {found}", USAGE)
    origin = names.pop()
    trusted = [key for key in keys if key.name == origin]
    if not keys:
        trusted = [parse_vkey(text) for text in named[origin]]
    if not trusted:
        fail(f"no key is given for {origin}, whose archive this is", USAGE)
    return origin, trusted


def _manifest(stack: ExitStack, path: Path) -> Callable[[Picked], None]:
    file = stack.enter_context(path.open("x", encoding="utf-8"))

    def seen(found: Picked) -> None:
        one = found.stored
        listed = asdict(one) | {"sha256": sha256(found.data).hexdigest()}
        file.write(json.dumps(listed, separators=(",", ":")) + "\n")

    return seen


def _print(report: ArchiveReport, *, given: bool) -> None:
    style = "bold green" if report.holds else "bold red"
    out.print(f"{report.origin} in {report.place}: {'holds' if report.holds else 'does not hold'}", style=style)
    listing = table(
        None, "checkpoints", "newest size", "stored at", "entries", "objects", "locked", "lock over", "first until"
    )
    at = None if report.newest_at is None else moment_of(report.newest_at)
    until = None if report.until is None else moment_of(report.until)
    row(
        listing, report.checkpoints, report.newest, at, report.entries, report.objects, report.locked, report.ended,
        until,
    )  # fmt: skip
    out.print(listing)
    if report.findings:
        found = table(None, "entry", "cause", "what", "where")
        for one in report.findings:
            row(found, one.index, one.cause, one.text, one.where, style="red" if one.level == "error" else "yellow")
        out.print(found)
    if report.more:
        out.print(f"and {report.more} more findings")
    for text in report.claims:
        out.print(f"This proves: {shown(text)}", soft_wrap=True)
    keys = (
        () if given else ("that the keys that the archive names are the operator's: give yours with --trust or --vkey",)
    )
    for text in (*report.not_checked, *keys):
        out.print(f"not checked: {shown(text)}", soft_wrap=True)


# --- restore ---------------------------------------------------------------------------------------------------------


def restore_log(
    place: PLACE,
    log: Annotated[Path, typer.Argument(metavar="NEWLOG", help="Where to make it.", show_default=False)],
    trust: TRUST = None,
    vkey: VKEY = None,
    as_json: JSON = False,
) -> None:
    """Make a log to read and verify from an archive; it has no key, and must not be written to.

    Exit 1 if a bundle that is missing or damaged ends it early.
    """
    archive = open_archive(place, writable=False)
    origin, keys = _whose(archive, trust, vkey, None)
    with progress("restoring", None) as advance:
        done = restore(archive, origin, keys, log, advance)
    if as_json:
        print_json({"place": archive.place, "log": str(log), **asdict(done)})
    else:
        out.print(
            f"{log}: {done.size} entries of {origin} restored, to read and verify: audit-middleware verify {log}",
            soft_wrap=True,
        )
    if not done.whole:
        fail(
            f"{archive.place}: {done.missing} is not there as it was archived, so the entries from {done.size} up to "
            f"the newest checkpoint (size {done.newest}) are not restored; audit-middleware archive verify names all "
            "that is wrong",
            DOES_NOT_HOLD,
        )
    if done.size < done.newest:
        err.print(
            f"note: not restored: entries {done.size} to {done.newest - 1}. No checkpoint is archived at the end of "
            "the bundles; only with --partial an archive has the last entries of each",
            style="yellow",
        )
