"""``subject init`` and ``subject rotate``: the keys of the persons in a log, and the master key over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evidence.masters import rotate, set_up
from ..stores.opening import Database, is_url, key_of, subject_keys_of
from ..urls import shown_url
from .log import LOG
from .output import USAGE, fail, out, print_json
from .persons import MASTER, PLACE, default_master
from .retention import account

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KEY = Annotated[Path | None, typer.Option(help="The log's key file. Default: LOG.key")]

app = typer.Typer(
    help="The persons in a log: their keys and their rights.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("init")
def init(log: LOG, place: PLACE = None, master: MASTER = None, as_json: JSON = False) -> None:
    """Make an empty store for the keys of the persons in a log, and its master key."""
    place, master = place or str(subject_keys_of(log)), master or default_master(log)
    made = set_up(log, place, master)
    if as_json:
        print_json({"subject_keys": _shown(place), "master_key": master, "made_master_key": made})
        return
    out.print(f"persons' keys  {_shown(place)}", soft_wrap=True)
    out.print(f"master key     {master}", soft_wrap=True)
    out.print(
        "Without the master key all sealed data is lost: back it up, apart from the store and from the log. Keep "
        "backups of the store 30 days at most: what is erased lives on in them.",
        soft_wrap=True,
    )
    if isinstance(log, Database) and "://" not in place:
        out.print(
            "The keys are in a folder of this host: for services on several hosts give --subject-keys postgresql://...",
            soft_wrap=True,
        )


@app.command("rotate")
def rotate_keys(
    log: LOG,
    new: Annotated[
        str | None,
        typer.Option("--new-master", help="The new one: file:PATH (made if it is not there), env:NAME or awskms:KEY."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Renew the store's own key as well, and encrypt every row anew.")
    ] = False,
    place: PLACE = None,
    master: MASTER = None,
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Put a new master key over the persons' keys, and record that. No record of the log changes."""
    if new is None and not deep:
        fail("nothing to do: give --new-master, --deep, or both", USAGE)
    change = rotate(
        log,
        key or key_of(log),
        place or str(subject_keys_of(log)),
        master or default_master(log),
        new,
        account(),
        deep=deep,
    )
    if as_json:
        print_json({"master_key": change.master, "renewed": change.renewed, "size": change.size})
        return
    out.print(f"master key     {change.master}", soft_wrap=True)
    if change.renewed is not None:
        out.print(f"the keys of {change.renewed} persons are encrypted under a new key of the store")
    if change.size is None:
        out.print("it was in force already, and its record is in the log")
    else:
        out.print(f"recorded in entry {change.size - 1}")
    if new is not None:
        out.print(
            f"Set master_key to {new} for the services and commands of this log: they need it at their next start. "
            "Destroy the old one once no backup of the store needs it.",
            soft_wrap=True,
        )


def _shown(place: str) -> str:
    return shown_url(place) if is_url(place) else place
