"""Making a log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..evidence.keys import create_log
from ..stores.opening import Place, key_of, place_of
from .output import out

if TYPE_CHECKING:
    Log = Place
else:
    Log = Path  # Typer takes no union; `log_argument` says which it is


def log_argument(text: str) -> Place:
    """Reads the argument or option that names a log."""
    return place_of(text)


LOG_HELP = "The log: its directory, or postgresql://user@host/database."
LOG = Annotated[Log, typer.Argument(help=LOG_HELP, show_default=False, parser=log_argument, metavar="LOG")]


def init(
    log: LOG,
    origin: Annotated[
        str, typer.Option(help="The log's name for ever: a URL without scheme, such as example.com/billing.")
    ],
    key: Annotated[Path | None, typer.Option(help="Where the signing key is or will be. Default: LOG.key")] = None,
) -> None:
    """Make an empty log and its signing key."""
    vkey = create_log(log, origin, key)
    out.print(f"log          {log}")
    out.print(f"signing key  {key or key_of(log)}  (keep it secret, back it up apart from the log)")
    out.print(f"verifier key {vkey}", soft_wrap=True)
    out.print("Give the verifier key to whoever shall be able to check the log without trusting you.")
