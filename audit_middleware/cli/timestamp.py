"""``timestamp``: a third party's word on when the newest checkpoint existed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TimestampError
from ..evidence.stamping import check_stamps, stamp_newest
from ..evidence.timestamps import read_roots, request_stamp
from ..ledger.note import parse_vkey
from ..stores.opening import Place, Store, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, USAGE, fail, out, print_json, row, table


def timestamp(
    log: LOG,
    tsa: Annotated[str | None, typer.Option(help="The URL of a time stamp authority (RFC 3161).")] = None,
    tsa_roots: Annotated[
        Path | None, typer.Option(help="Certificates of the authorities that you trust, PEM. --check needs them.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="List and check the time stamps that are kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the newest checkpoint time-stamped, once per size; or check what was. Exit 1 if one does not hold."""
    store = open_log(log)
    roots = read_roots(tsa_roots.read_bytes()) if tsa_roots is not None else []
    if check == (tsa is not None):
        fail("give --tsa URL to get a time stamp, or --check", USAGE)
    if tsa is not None:
        _stamp(store, log, tsa, roots, as_json)
    elif not roots:
        fail("--check needs --tsa-roots: without a trusted authority no time stamp shows anything", USAGE)
    else:
        _check(store, log, roots, as_json)


def _stamp(store: Store, log: Place, url: str, roots: list[bytes], as_json: bool) -> None:
    try:
        done = stamp_newest(store, log, lambda note: request_stamp(note, url), roots)
    except TimestampError as problem:
        fail(problem, DOES_NOT_HOLD)
    if done is None:
        fail(f"{log} has no entry yet, so there is no checkpoint", DOES_NOT_HOLD)
    found, fresh = done
    if as_json:
        print_json({"origin": found.origin, "size": found.size, "new": fresh, "checked": bool(roots) and fresh})
        return
    out.print(f"{found.origin}: size {found.size} {'is time-stamped' if fresh else 'was time-stamped before'}")
    if not roots:
        out.print("not checked: whether an authority that you trust signed it; see --tsa-roots", soft_wrap=True)


def _check(store: Store, log: Place, roots: list[bytes], as_json: bool) -> None:
    stamps = list(check_stamps(store, log, [parse_vkey(text) for text in store.vkeys], roots))
    if as_json:
        listed = [
            {
                "file": one.where,
                "size": one.size,
                "time": one.time.isoformat() if one.time else None,
                "problem": one.problem,
            }
            for one in stamps
        ]
        print_json({"holds": not any(one.problem for one in stamps), "stamps": listed})
    else:
        listing = table(None, "size", "time", "problem")
        for one in stamps:
            row(listing, one.size, one.time, one.problem or "", style="red" if one.problem else None)
        out.print(listing)
        count = "1 time stamp" if len(stamps) == 1 else f"{len(stamps)} time stamps"
        out.print(f"{count}, {sum(one.problem is not None for one in stamps)} that do not hold")
    raise SystemExit(DOES_NOT_HOLD if any(one.problem for one in stamps) else HOLDS)
