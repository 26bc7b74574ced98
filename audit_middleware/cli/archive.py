"""``archive``: immutable copies of a log outside of its machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ..archives.canary import SECONDS, CanaryReport, examine
from ..archives.opening import open_archive
from ..archives.s3 import S3Archive
from ..evidence.archive_rounds import Teller, remember_check
from ..stores.opening import Place
from .log import Log, log_argument
from .output import DOES_NOT_HOLD, err, fail, out, print_json, row, shown, table
from .reading import log_signers

app = typer.Typer(help="Immutable copies of a log.", no_args_is_help=True, rich_markup_mode=None)

_STYLES = {"no": "red", "not shown": "yellow"}
_VERDICTS = {
    "yes": ("every attempt shows that the lock holds", None),
    "no": ("NOT immutable: the lock gave way", "red"),
    "unclear": ("unclear: nothing gave way, but not every attempt shows something", "yellow"),
}


@app.callback()
def _group() -> None:
    """Immutable copies of a log."""


@app.command("check")
def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/prefix", show_default=False)],
    seconds: Annotated[int, typer.Option(min=60, max=86_400, help="How long the canaries are locked.")] = SECONDS,
    log: Annotated[
        Log | None,
        typer.Option(help="Remember the result beside this log, and record it there.", parser=log_argument),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try to break the lock of objects made for it. Exit 1 unless every attempt shows that the lock holds."""
    archive = open_archive(url)
    if not isinstance(archive, S3Archive):
        fail(f"{archive.place}: a folder holds nothing against the administrator of its machine", DOES_NOT_HOLD)
    report = examine(archive, seconds)
    if log is not None:
        remember(log, report)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)
    for setting in report.left:
        err.print(f"could not be put back: {shown(setting)}", style="red")
    if report.immutable != "yes":
        raise SystemExit(DOES_NOT_HOLD)


def remember(log: Place, report: CanaryReport) -> None:
    """Keeps the verdict of an examination beside a log, and records it there."""
    teller = Teller(log, lambda: log_signers(log), lambda why: err.print(f"not recorded in the log: {shown(why)}"))
    attempts = {one.name: one.shows for one in report.attempts}
    remember_check(log, report.place, report.at, report.immutable, attempts, teller)


def _print(report: CanaryReport) -> None:
    listing = table(None, "attempt", "answer", "code", "locked version", "lock holds", "why not")
    for one in report.attempts:
        kept = {True: "kept", False: "NOT kept", None: "not readable"}[one.kept]
        cells = (one.name, one.answer, one.code, kept, one.shows, one.why)
        row(listing, *cells, style=_STYLES.get(one.shows))
    out.print(listing)
    words, style = _VERDICTS[report.immutable]
    out.print(f"{report.place}: {words}", style=style)
