"""``copy``: a log into another kind of store."""

from __future__ import annotations

from typing import Annotated

import typer

from ..evidence.copying import copy_log
from ..ledger.lines import to_base64
from .log import LOG, Log, log_argument
from .output import DOES_NOT_HOLD, HOLDS, out, print_json, progress, row, table


def copy(
    log: LOG,
    target: Annotated[
        Log,
        typer.Argument(
            metavar="TARGET", help="A new place, or an earlier copy.", show_default=False, parser=log_argument
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy a log, byte for byte, between a directory and PostgreSQL, and verify the copy. Exit 1 if it does not hold.

    Run again, it adds what is new. Leaves no record: in the log it would be an entry that the copy lacks.
    """
    with progress("copying", None) as advance:
        done = copy_log(log, target, advance)
    report = done.report
    if as_json:
        said = {"origin": done.origin, "size": done.size, "added": done.added, "root": to_base64(done.root)}
        print_json({**said, "holds": report.holds, "findings": len(report.findings) + report.more})
    else:
        out.print(f"{done.origin}: {done.added} entries added; {target} holds the same {done.size}. {report.verdict}")
        if report.findings:
            listing = table(None, "entry", "cause", "what")
            for finding in report.findings:
                row(listing, finding.index, finding.cause, finding.text)
            out.print(listing)
        out.print("Write to one of the two from now on, never to both.")
    raise SystemExit(HOLDS if report.holds else DOES_NOT_HOLD)
