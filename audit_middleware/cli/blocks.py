"""``blocks``: who is blocked or flagged now; adding, lifting, and making the list anew."""

from __future__ import annotations

import getpass
import re
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from ..detectors.orders import said
from ..errors import ConfigError, SubjectKeysError
from ..evidence.blocking import add_block, lift_blocks, read_blocks, rebuild
from ..evidence.control import as_owner
from ..model import Json
from ..persons import token_of
from ..pipeline.blocks import Entry, Kind
from ..privacy.keys import open_keys
from ..privacy.masters import open_master
from ..protocols import SubjectKeys
from ..stores.opening import Place, origin_of, subject_keys_of
from .log import LOG
from .output import USAGE, err, fail, out, print_json, row, shown, table
from .persons import MASTER, PLACE, default_master
from .reading import log_signers

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WHO = Annotated[
    str,
    typer.Argument(
        metavar="SUBJECT", help="The user_id as the service knows it, or a token of records.", show_default=False
    ),
]
ADDRESS = Annotated[
    bool, typer.Option("--address", help="SUBJECT is an address: requests that nobody signed in for come from it.")
]
REASON = Annotated[str, typer.Option(help="Why: a case number. Goes into the log.")]
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(help="Callers that are refused for a while.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_command(log: LOG, place: PLACE = None, master: MASTER = None, as_json: JSON = False) -> None:
    """List who is blocked or flagged now, why and until when."""
    entries = read_blocks(log)
    _print(entries, as_json, _unnamed(log, entries, place, master))


@app.command("add")
def add_command(
    log: LOG,
    who: WHO,
    length: Annotated[str, typer.Option("--for", help="For how long: 90s, 15m, 2h or 3d; 30d at most.")],
    reason: REASON,
    address: ADDRESS = False,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Block a caller now. Recorded in the log, which needs its signing key; where persons have keys, by a token."""
    given = re.fullmatch(r"([0-9]{1,9})([smhd])", length)
    if given is None:
        fail(f"--for {length!r} is no length of time: write 90s, 15m, 2h or 3d", USAGE)
    signers, seconds = log_signers(log), int(given[1]) * _SECONDS[given[2]]
    with _keys(log, place, master) as keys:
        entry = add_block(log, signers, _kind(address), who, seconds, reason, _account(), keys=keys)
    if as_json:
        print_json(_told(entry))
    else:
        out.print(shown(f"{entry.kind} {entry.who}: blocked until {_time(entry)}"), soft_wrap=True)


@app.command("lift")
def lift_command(
    log: LOG,
    who: WHO,
    reason: REASON,
    address: ADDRESS = False,
    place: PLACE = None,
    master: MASTER = None,
    as_json: JSON = False,
) -> None:
    """Let a caller in again: lift every block, close every finding held against it. Recorded in the log."""
    signers = log_signers(log)
    with _keys(log, place, master) as keys:
        lifted = lift_blocks(log, signers, _kind(address), who, reason, _account(), keys=keys)
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


@contextmanager
def _keys(log: Place, place: str | None, master: str | None) -> Iterator[SubjectKeys | None]:
    """The persons' keys, where the log has any: then nobody may be named in clear, so they must open."""
    if place is None and not subject_keys_of(log).exists():
        yield None
        return
    origin = origin_of(log)
    opened = open_master(master or default_master(log), origin)
    with as_owner(log), closing(open_keys(place or str(subject_keys_of(log)), origin, opened)) as keys:
        yield keys


def _unnamed(log: Place, entries: tuple[Entry, ...], place: str | None, master: str | None) -> set[str]:
    """The tokens of which the keys here do not say whom they stand for: a service with these keys blocks nobody."""
    tokens = {token for one in entries if (token := token_of(one.who)) is not None}
    if not tokens:
        return set()
    try:
        with _keys(log, place, master) as keys:
            return {token for token in tokens if keys is None or keys.named(token) is None}
    except (SubjectKeysError, ConfigError) as problem:
        err.print(f"not known here whom the tokens stand for: {shown(str(problem))}", style="yellow", soft_wrap=True)
        return set()


def _print(entries: tuple[Entry, ...], as_json: bool, unnamed: Collection[str] = ()) -> None:
    absent = [token_of(one.who) in unnamed for one in entries]
    if as_json:
        marks = [{"in_force_here": False} if away else {} for away in absent]
        print_json({"entries": [{**_told(one), **mark} for one, mark in zip(entries, marks, strict=True)]})
        return
    if not entries:
        out.print("nobody is blocked or flagged")
        return
    listing = table(None, "caller", "kind", "is", "until", "rule", "finding")
    for one, away in zip(entries, absent, strict=True):
        what = ("blocked" if one.block else "flagged") + (", not in force here" if away else "")
        row(listing, one.who, one.kind, what, _time(one), one.rule, one.finding_id)
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
