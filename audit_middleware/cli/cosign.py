"""``cosign``: the log's checkpoints to its witnesses, and their cosignatures back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import LogDamaged, LogForked
from ..evidence.cosign import Round, Submitter
from ..ledger.lines import to_base64
from ..ledger.trust import parse_policy
from ..stores.opening import folder_of, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, HOLDS, err, fail, out, print_json, shown
from .proofs import TILES, published_folder
from .signals import stop_on_signals


def cosign(
    log: LOG,
    trust: Annotated[Path, typer.Option(help="A trust file with the log's key, witnesses and their URLs, the quorum.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until SIGTERM or Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks with --follow.")] = 10.0,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds that a witness has in one round.")] = 30.0,
    tiles: TILES = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line for each round.")] = False,
) -> None:
    """Have witnesses cosign the newest checkpoint. Exit 1 without a quorum, or when one shows a rollback or fork."""
    store = open_log(log)
    policy = parse_policy(trust.read_bytes())
    submitter = Submitter(store, log, policy, published_folder(tiles or folder_of(log)), patience=patience)
    try:
        if follow:
            submitter.follow(stop_on_signals(), interval, lambda result: _print(result, as_json))
            return
        result = submitter.round()
    except (LogDamaged, LogForked) as alarm:
        fail(alarm, DOES_NOT_HOLD)
    if result is None:
        fail(f"{log} has no entry yet, so there is no checkpoint", DOES_NOT_HOLD)
    _print(result, as_json)
    raise SystemExit(DOES_NOT_HOLD if result.note is None else HOLDS)


def _print(result: Round, as_json: bool) -> None:
    found = result.checkpoint
    failed = {shown(one.name): shown(one.problem) for one in result.outcomes if one.problem is not None}
    witnesses = [shown(name) for name in result.witnesses]
    if as_json:
        said = {"origin": found.origin, "size": found.size, "root": to_base64(found.root)}
        print_json(
            {**said, "reached": result.note is not None, "witnesses": witnesses, "failed": failed},
            lines=True,
        )
        sys.stdout.flush()  # whoever follows through a pipe reads line by line
        return
    for name, problem in failed.items():
        err.print(f"witness {name}: {problem}", style="yellow")
    by = ", ".join(witnesses) or "nobody"
    kept = "kept beside the log" if result.note is not None else "the quorum is not reached, nothing was kept"
    out.print(f"{found.origin}: size {found.size} cosigned by {by}; {kept}", soft_wrap=True)
