"""``blocks``: who is blocked or flagged now; adding, lifting, and making the list anew."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from ..detectors.orders import said
from ..evidence.blocking import add_block, lift_blocks, read_blocks, rebuild
from ..model import Json
from ..pipeline.blocks import Entry, Kind
from .log import LOG
from .output import USAGE, fail, out, print_json, row, shown, table
from .reading import log_signers

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WHO = Annotated[str, typer.Argument(metavar="SUBJECT", help="The user_id, as records write it.", show_default=False)]
ADDRESS = Annotated[
    bool, typer.Option("--address", help="SUBJECT is an address: requests that nobody signed in for come from it.")
]
REASON = Annotated[str, typer.Option(help="Why: a case number. Goes into the log.")]
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(help="Callers that are refused for a while.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_command(log: LOG, as_json: JSON = False) -> None:
    """List who is blocked or flagged now, why and until when."""
    _print(read_blocks(log), as_json)


@app.command("add")
def add_command(
    log: LOG,
    who: WHO,
    length: Annotated[str, typer.Option("--for", help="For how long: 90s, 15m, 2h or 3d; 30d at most.")],
    reason: REASON,
    address: ADDRESS = False,
    as_json: JSON = False,
) -> None:
    """Block a caller now. Recorded in the log, which needs its signing key."""
    given = re.fullmatch(r"([0-9]{1,9})([smhd])", length)
    if given is None:
        fail(f"--for {length!r} is no length of time: write 90s, 15m, 2h or 3d", USAGE)
    entry = add_block(
        log, log_signers(log), _kind(address), who, int(given[1]) * _SECONDS[given[2]], reason, _account()
    )
    if as_json:
        print_json(_told(entry))
    else:
        out.print(shown(f"{entry.kind} {entry.who}: blocked until {_time(entry)}"), soft_wrap=True)


@app.command("lift")
def lift_command(log: LOG, who: WHO, reason: REASON, address: ADDRESS = False, as_json: JSON = False) -> None:
    """Let a caller in again: lift every block, close every finding held against it. Recorded in the log."""
    lifted = lift_blocks(log, log_signers(log), _kind(address), who, reason, _account())
    if as_json:
        print_json({"lifted": [_told(one) for one in lifted]})
    else:
        blocks = sum(one.block for one in lifted)
        out.print(
            shown(f"{lifted[0].kind} {lifted[0].who}: {blocks} blocks and {len(lifted) - blocks} flags lifted"),
            soft_wrap=True,
        )


@app.command("rebuild")
def rebuild_command(log: LOG, as_json: JSON = False) -> None:
    """Make the list anew from the records of the log, in place of one that is damaged or gone."""
    _print(rebuild(log).entries, as_json)


def _print(entries: tuple[Entry, ...], as_json: bool) -> None:
    if as_json:
        print_json({"entries": [_told(one) for one in entries]})
        return
    if not entries:
        out.print("nobody is blocked or flagged")
        return
    listing = table(None, "caller", "kind", "is", "until", "rule", "finding")
    for one in entries:
        row(listing, one.who, one.kind, "blocked" if one.block else "flagged", _time(one), one.rule, one.finding_id)
    out.print(listing)


def _told(entry: Entry) -> dict[str, Json]:
    return {**said(entry), "rule": entry.rule, "finding_id": entry.finding_id}


def _time(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.until_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kind(address: bool) -> Kind:
    return "address" if address else "user"


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as containers have
        return "unknown"
