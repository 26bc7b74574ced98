"""``keys``: making, showing, rotating and retiring a log's signing keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import KeyFileError, NoteError
from ..evidence.keys import KeyChange, key_history, new_key, retire, rotate
from ..evidence.signers import signers_of, vkey_of
from ..evidence.witness_keys import cosigners_of, new_cosigner_key
from ..ledger.note import parse_vkey
from ..signing import read_key_file
from ..stores.opening import key_of, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, fail, out, print_json, row, table
from .reading import reading

JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KEY = Annotated[Path | None, typer.Option(help="The log's key file. Default: LOG.key")]

app = typer.Typer(help="Make, show, rotate and retire signing keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command("new")
def new(
    name: Annotated[str, typer.Option(help="The origin of the log that it will sign, or the witness's name.")],
    output: Annotated[Path, typer.Option("--out", help="The key file to make (0600). Never overwritten.")],
    cosigner: Annotated[bool, typer.Option("--cosigner", help="Make a witness's key, not a log's.")] = False,
    ml_dsa: Annotated[
        bool, typer.Option("--ml-dsa", help="With --cosigner: a post-quantum key (ML-DSA-44) beside the Ed25519 key.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Make a signing key and print its verifier key."""
    if ml_dsa and not cosigner:
        fail("--ml-dsa is for a witness's key: give --cosigner too", USAGE)
    vkeys = new_cosigner_key(name, output, ml_dsa=ml_dsa) if cosigner else (new_key(name, output),)
    if as_json:
        print_json({"file": str(output), "vkey": vkeys[0], "vkeys": list(vkeys)})
        return
    out.print(f"signing key  {output}  (keep it secret, back it up apart from the log)")
    for vkey in vkeys:
        out.print(f"verifier key {vkey}", soft_wrap=True)


@app.command("show")
def show(file: Annotated[Path, typer.Argument(help="A key file.", show_default=False)], as_json: JSON = False) -> None:
    """Print the verifier key of each key in a file; never a secret."""
    vkeys = _vkeys_in(read_key_file(file), str(file))
    if as_json:
        print_json({"vkeys": vkeys})
    for vkey in () if as_json else vkeys:
        out.print(vkey, soft_wrap=True)


@app.command("list")
def list_keys(log: LOG, as_json: JSON = False) -> None:
    """Read the log and list its keys with their times. Exit 1 if a key signed out of its time."""
    reading("audit.log_read", log, "keys list")
    store = open_log(log)
    watch = key_history(log)
    rows = [(vkey, watch.since.get(vkey), watch.retired.get(vkey)) for vkey in store.vkeys]
    if as_json:
        keys = [{"vkey": vkey, "rotated_in": since, "retired_in": until} for vkey, since, until in rows]
        print_json({"keys": keys, "findings": [{"index": one.index, "text": one.text} for one in watch.findings]})
    else:
        listing = table(None, "key id", "from entry", "until entry", "verifier key")
        for vkey, since, until in rows:
            row(listing, parse_vkey(vkey).key_id.hex(), 0 if since is None else since, until, vkey)
        out.print(listing)
        for one in watch.findings:
            out.print(f"entry {one.index}: {one.text}", style="red", soft_wrap=True)
    raise SystemExit(DOES_NOT_HOLD if watch.findings else 0)


@app.command("rotate")
def rotate_key(
    log: LOG,
    new: Annotated[Path, typer.Option(help="The new key's file, made by `keys new`.")],
    key: KEY = None,
    as_json: JSON = False,
) -> None:
    """Let a new key sign beside the old ones; services do so from their next start on."""
    change = rotate(log, key or key_of(log), new)
    _print(
        change, as_json, "Restart the services that write this log. Give the new verifier key to whoever verifies it."
    )


@app.command("retire")
def retire_key(
    log: LOG,
    old: Annotated[str, typer.Argument(help="The key to retire: its verifier key or key ID.", show_default=False)],
    key: KEY = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only take it out of the key file; restart services, then retire it.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """End the use of a key: what it signs from here on is reported."""
    change = retire(log, key or key_of(log), old, prepare=prepare)
    then = "then run this again without --prepare." if prepare else "what they sign with the old key is reported."
    _print(change, as_json, f"Restart the services that write this log; {then}")


def _vkeys_in(text: str, where: str) -> list[str]:
    """The verifier keys of a log's key file, or of a witness's."""
    try:
        return [vkey_of(signer) for signer in signers_of(text)]
    except NoteError as problem:
        try:
            return [one.verifier.vkey for one in cosigners_of(text, where)]
        except KeyFileError:
            raise problem from None


def _print(change: KeyChange, as_json: bool, advice: str) -> None:
    if as_json:
        print_json({"active": list(change.active), "size": change.size})
        return
    for vkey in change.active:
        out.print(f"signs: {vkey}", soft_wrap=True)
    if change.size is not None:
        out.print(f"recorded in the log, which has {change.size} entries now")
    out.print(advice, soft_wrap=True)
