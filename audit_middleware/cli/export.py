"""``export``: the records of a log in the format of another system, as a file or a stream.

One record at a time: memory does not grow with the log. The file appears under its name when it is whole; if we die
before, what was there stays, and a hidden file beside it (``.NAME.part``) is left, which the next run replaces.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer

from ..errors import AuditError, ConfigError
from ..formats import FORMATS, Encode, Format, format_named
from ..ledger.canonical import decode
from ..model import SCHEMA_VERSION
from ..privacy.outgoing import outgoing
from ..protocols import LogStore
from ..stores.filesystem import sync_directory
from ..stores.index import Filters
from ..stores.opening import Place, Store, open_log, origin_of
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, USAGE, fail, out, progress
from .persons import BECAUSE, MASTER, OPEN, PLACE, Persons
from .query import moment, search_index
from .reading import reading

Found = tuple[int, dict[str, Any]]

_TITLES = ", ".join(f"{form.name} ({form.title})" for form in FORMATS.values())
_STEP = 500  # records between two looks at the progress bar


def export(
    log: LOG,
    form: Annotated[str, typer.Option("--format", help=f"One of: {_TITLES}.", metavar="NAME", show_default=False)],
    target: Annotated[Path | None, typer.Option("--out", help="The file to write. Default: standard output.")] = None,
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
    zipped: Annotated[bool, typer.Option("--gzip", help="Compress.")] = False,
    opened: OPEN = False,
    because: BECAUSE = None,
    place: PLACE = None,
    master: MASTER = None,
    account: Annotated[str | None, typer.Option("--aws-account", help="cloudtrail: the account that receives.")] = None,
    enterprise: Annotated[
        int | None, typer.Option("--enterprise-number", help="rfc5424: your private enterprise number.")
    ] = None,
) -> None:
    """Write records in the format of another system, oldest first. Exit 1 when nothing matches.

    Of personal data only tokens are written, unless it is opened; jsonl writes what the log holds.
    """
    persons = Persons(log, opened, because, place, master)
    filters = Filters(
        user=user, action=action, decision=decision, outcome=outcome, severity=severity, kind=kind,
        resource=resource, trace=trace, since=moment(since), until=moment(until),
    )  # fmt: skip
    try:
        wanted = format_named(form)
        encode = wanted.encoder(account=account, enterprise=enterprise)
    except ConfigError as problem:
        fail(problem, USAGE)
    if target is None and zipped and sys.stdout.isatty():
        fail("--gzip writes binary data: give a file with --out, or redirect the output", USAGE)
    everything = filters == Filters()
    filters = persons.filters(filters, origin_of(log))
    asked = {**persons.told(filters), "format": form, "out": None if target is None else str(target), "gzip": zipped}
    told = reading("audit.log_exported", log, "export", asked)
    store = open_log(log)
    first, size = store.base.size, store.head().size
    found = _all(store, first, size) if everything else _matching(log, store, filters)
    if opened or form != "jsonl":
        found = _shown(found, persons, store)
    quiet = target is None and sys.stdout.isatty()  # a bar would stand among the records
    bar = nullcontext(_nothing) if quiet else progress(f"exporting {form}", size - first)
    with _output(target, zipped) as file, bar as advance:
        count = write(told.count(_watched(found, first, advance)), wanted, encode, file)
    if target is not None:
        out.print(f"{count} records written to {target}", soft_wrap=True)
    raise SystemExit(HOLDS if count else DOES_NOT_HOLD)


def write(found: Iterator[Found], form: Format, encode: Encode, file: IO[bytes]) -> int:
    """Writes records as lines, or as one JSON array with a record on each line; returns how many.

    Raises:
        AuditError: An entry is no record that this version knows.
    """
    array, count = form.framing == "array", 0
    for index, record in found:
        line = _encoded(index, record, encode)
        if array:
            file.write(b"[\n" if count == 0 else b",\n")
            file.write(line)
        else:
            file.write(line + b"\n")
        count += 1
    if array:
        file.write(b"[]\n" if count == 0 else b"\n]\n")
    return count


def _encoded(index: int, record: dict[str, Any], encode: Encode) -> bytes:
    try:
        return encode(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AuditError(
            f"entry {index} is not a record of schema version {SCHEMA_VERSION} ({type(error).__name__}): "
            "--format jsonl exports any entry"
        ) from error


def _all(store: LogStore, start: int, stop: int) -> Iterator[Found]:
    for frame in store.frames(start, stop) if start < stop else ():
        for index, entry in enumerate(frame.entries, frame.first):
            if start <= index < stop:
                yield index, decode(entry)


def _matching(log: Place, store: Store, filters: Filters) -> Iterator[Found]:
    """The records that the index names, in the log's order."""
    index = search_index(store)
    index.catch_up()
    for at, entry in index.read(index.find(filters, newest_first=False)):
        yield at, decode(entry)


def _shown(found: Iterator[Found], persons: Persons, store: Store) -> Iterator[Found]:
    """Records as they go out: opened, or with tokens in the place of persons."""
    if not persons.opened:
        yield from ((at, outgoing(record)) for at, record in found)
        return
    index = search_index(store)
    index.catch_up()
    view = persons.view(index, store.origin)
    yield from ((at, view.record(record)) for at, record in found)


def _watched(found: Iterator[Found], first: int, advance: Callable[[int], object]) -> Iterator[Found]:
    for count, (index, record) in enumerate(found):
        if count % _STEP == 0:
            advance(index - first)
        yield index, record


def _nothing(_: int) -> None:
    return None


@contextmanager
def _output(target: Path | None, zipped: bool) -> Iterator[IO[bytes]]:
    """Where to write to; a file is put in place, for its owner alone, when the block has ended well."""
    if target is None:
        try:
            with _maybe_zipped(sys.stdout.buffer, zipped) as file:
                yield file
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # `| head`: the reader has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(HOLDS) from None
        return
    target = target.resolve()  # behind a link: the link stays one
    if target.exists() and not target.is_file():  # a pipe or device takes the data, and is not to be replaced
        with target.open("wb") as raw, _maybe_zipped(raw, zipped) as file:
            yield file
        return
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with _maybe_zipped(raw, zipped) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


@contextmanager
def _maybe_zipped(file: IO[bytes], zipped: bool) -> Iterator[IO[bytes]]:
    if not zipped:
        yield file
        return
    # Without name and time: the same records make the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as inner:
        yield cast("IO[bytes]", inner)
