"""Making a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..evidence.keys import create_log
from .output import out

LOG = Annotated[Path, typer.Argument(help="The log's directory.", show_default=False)]


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
    out.print(f"signing key  {key or Path(f'{log}.key')}  (keep it secret, back it up apart from the log)")
    out.print(f"verifier key {vkey}", soft_wrap=True)
    out.print("Give the verifier key to whoever shall be able to check the log without trusting you.")
