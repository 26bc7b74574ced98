"""``retention``, ``hold`` and ``prune``: how long entries are kept, what is held longer, and letting go of the rest."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..archives.local import Folder
from ..archives.opening import open_archive
from ..evidence.outside import is_archive
from ..evidence.prune import Done, Plan, plan_prune, published_with
from ..evidence.prune import prune as prune_log
from ..evidence.retention import Hold, Retention, place_hold, read_retention, release_hold, set_retention
from ..protocols import Archive
from ..stores.opening import Place, key_of, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, out, print_json, row, table
from .query import moment

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KEY = Annotated[Path | None, typer.Option(help="The log's key file. Default: LOG.key")]
NAME = Annotated[str, typer.Argument(help="The hold's name.", show_default=False)]
REASON = Annotated[str, typer.Option(help="Why: a case number. Goes into the log.")]

retention = typer.Typer(help="How long entries are kept.", no_args_is_help=True, rich_markup_mode=None)
hold = typer.Typer(help="Legal holds: entries that stay.", no_args_is_help=True, rich_markup_mode=None)


@retention.command("set")
def set_months(
    log: LOG,
    months: Annotated[int, typer.Option(help="Entries are kept for so many months, 1 to 1200.")],
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Record how long entries are kept. Nothing is removed: see prune."""
    size = set_retention(log, _key(log, key), months, account())
    if as_json:
        print_json({"months": months, "size": size})
    else:
        out.print(f"entries of {log} are kept for {months} months; recorded in entry {size - 1}", soft_wrap=True)


@retention.command("show")
def show(log: LOG, as_json: JSON = False) -> None:
    """Read the log and show its retention. Exit 1 if entries are missing that no record of a prune explains."""
    found = read_retention(log)
    if as_json:
        print_json(asdict(found))
    else:
        _print_retention(found)
    raise SystemExit(DOES_NOT_HOLD if found.base and found.explained is None else HOLDS)


def _print_retention(found: Retention) -> None:
    if found.months is None:
        out.print("every entry is kept: no retention was set")
    else:
        out.print(f"entries are kept for {found.months} months, says entry {found.record}")
    if found.explained is not None:
        out.print(f"the log begins at entry {found.base}: the rest was pruned, says entry {found.explained}")
    elif found.base:
        out.print(f"the log begins at entry {found.base}, and no record says why: entries are missing", style="red")
    else:
        out.print("nothing was pruned")
    _print_holds(found.holds)


@hold.command("place")
def place(
    log: LOG,
    name: NAME,
    first: Annotated[str, typer.Option("--from", help="The first entry held: its index, or a time as for query.")],
    reason: REASON,
    last: Annotated[
        str | None, typer.Option("--to", help="The last one: its index, or a time, exclusive. Default: no end.")
    ] = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Record a legal hold: nothing is pruned from its first entry on until it is released."""
    placed = place_hold(
        log, _key(log, key), name, _place(first), None if last is None else _place(last), reason, account()
    )
    if as_json:
        print_json(asdict(placed))
    else:
        out.print(f"hold {placed.name}: {_range(placed)} stay; recorded in entry {placed.record}", soft_wrap=True)


@hold.command("release")
def release(log: LOG, name: NAME, reason: REASON, key: KEY = None, as_json: JSON = False) -> None:
    """Record the end of a legal hold."""
    size = release_hold(log, _key(log, key), name, reason, account())
    if as_json:
        print_json({"name": name, "size": size})
    else:
        out.print(f"hold {name}: released; recorded in entry {size - 1}", soft_wrap=True)


@hold.command("list")
def list_holds(log: LOG, as_json: JSON = False) -> None:
    """List the legal holds that were not released."""
    found = read_retention(log)
    if as_json:
        print_json({"holds": [asdict(one) for one in found.holds]})
    else:
        _print_holds(found.holds)


def prune(
    log: LOG,
    published: Annotated[
        list[Path] | None, typer.Option(help="A folder the log is published in: pruned with it, to what it holds.")
    ] = None,
    archived: Annotated[
        list[str] | None, typer.Option(help="A folder or archive that must hold what is removed, and stays as it is.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="Remove only what is older than this time or date, or than 18w.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Remove the entries whose retention ended, and record that. Run again, it completes what was cut short."""
    folders, copies = _folders(published), _copies(archived)
    limit = moment(before)
    if dry_run:
        store = open_log(log)
        _print_plan(plan_prune(store, [*published_with(log, folders), *copies], before=limit), None, as_json)
        return
    done = prune_log(log, _key(log, key), account(), published=folders, archived=copies, before=limit)
    _print_plan(done.plan, done, as_json)


def _print_plan(plan: Plan, done: Done | None, as_json: bool) -> None:
    if as_json:
        said = {
            "limit": plan.limit, "previous": plan.previous, "minimum": plan.minimum, "base": plan.base.size,
            "entries": plan.entries, "stopped_by": plan.stopped_by, "dry_run": done is None,
        }  # fmt: skip
        print_json(said if done is None else {**said, "record": done.record, "bytes": done.freed, "files": done.files})
        return
    verb = "would be removed" if done is None else "removed"
    out.print(f"{plan.entries} entries {verb}: those older than {plan.limit}, in whole commits, below {plan.minimum}")
    out.print(f"not more, because {plan.stopped_by}", soft_wrap=True)
    if plan.entries:
        out.print(f"the log {'would begin' if done is None else 'begins'} at entry {plan.base.size}")
    if done is not None and done.record is not None:
        out.print(f"recorded in entry {done.record}; {done.freed} bytes and {done.files} published files removed")


# --- inside ----------------------------------------------------------------------------------------------------------


def _key(log: Place, key: Path | None) -> Path:
    return key or key_of(log)


def account() -> str:
    """Who runs this command, on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as containers have
        return "unknown"


def _place(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else str(moment(text))


def _folders(paths: list[Path] | None) -> list[Folder]:
    return [Folder(path) for path in paths or ()]


def _copies(places: list[str] | None) -> list[Folder | Archive]:
    return [open_archive(place, writable=False) if is_archive(place) else Folder(place) for place in places or ()]


def _range(one: Hold) -> str:
    return f"entries {one.first} to {one.last}" if one.last is not None else f"all entries from {one.first} on"


def _print_holds(holds: tuple[Hold, ...]) -> None:
    if not holds:
        out.print("no legal holds")
        return
    listing = table(None, "hold", "entries", "reason", "entry")
    for one in holds:
        row(listing, one.name, _range(one), one.reason, one.record)
    out.print(listing)
