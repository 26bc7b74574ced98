"""``checkpoint``, ``prove``, ``verify-proof`` and ``consistency``: what one can keep of a log, and check without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..archives.local import Folder
from ..errors import EntriesPruned, FormatError, LogDamaged, LogForked, NoteError, RecordError
from ..evidence.anchors import newest_cosigned
from ..evidence.prove import Prover
from ..evidence.receipts import leaf_in, proof_of
from ..ledger import canonical, tree
from ..ledger.checkpoint import CHECKPOINT, Checkpoint, open_checkpoint, parse_checkpoint
from ..ledger.lines import to_base64
from ..ledger.note import Verifier, parse_vkey, read_note
from ..ledger.proof import Proof, format_proof, parse_proof, verify_proof
from ..ledger.trust import NONE, Policy, parse_policy
from ..stores.opening import Place, Store, folder_of, open_log
from .log import LOG
from .output import DOES_NOT_HOLD, USAGE, err, fail, out, print_json, shown
from .query import search_index
from .reading import reading

VKEY = Annotated[
    list[str] | None,
    typer.Option(help="A verifier key you trust for this log. Default: the keys that the log itself names."),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TILES = Annotated[
    Path | None, typer.Option(help="Where the log is published; saves work. Default: the log's own directory.")
]


TRUST = Annotated[
    Path | None, typer.Option(help="A trust file: the log's keys, and the quorum of witnesses that is demanded.")
]


def checkpoint(
    log: LOG,
    cosigned: Annotated[
        bool, typer.Option("--cosigned", help="The newest that witnesses cosigned, with their lines.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Print the newest signed checkpoint, to be kept elsewhere. Exit 1 while there is none."""
    reading("audit.log_exported", log, "checkpoint", {"cosigned": cosigned or None})
    store = open_log(log)
    note = _cosigned(log) if cosigned else store.head().checkpoint
    if not note:
        fail(f"{log} has no entry yet, so there is no checkpoint", DOES_NOT_HOLD)
    if as_json:
        found, _ = open_checkpoint(note, store.origin, _keys(store, None))
        print_json({**_said(found), "checkpoint": note.decode()})
    else:
        sys.stdout.write(note.decode())


def prove(
    log: LOG,
    id: Annotated[str, typer.Argument(help="An Audit-ID, or an index in the log.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option(help="Prove it under this checkpoint, which you kept. Default: see --cosigned.")
    ] = None,
    cosigned: Annotated[
        bool | None,
        typer.Option(
            "--cosigned/--no-cosigned",
            help="Prove it under the newest checkpoint that witnesses cosigned, or under the newest of all. "
            "Default: a cosigned one if one covers it.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="Where to write the .tlog-proof. Default: standard output.")
    ] = None,
    entry: Annotated[
        bool, typer.Option("--entry/--no-entry", help="Put the record itself into the proof, or only its hash.")
    ] = True,
    tiles: TILES = None,
    as_json: JSON = False,
) -> None:
    """Prove that a record is in the log: a file that verify-proof checks without the log. Exit 1 if there is none."""
    told = reading("audit.log_exported", log, "prove", {"id": id, "to": to, "entry": entry, "out": output})
    store = open_log(log)
    prover = Prover(store, _keys(store, None), published_folder(tiles or folder_of(log)))
    index = _index_of(log, store, id)
    try:
        note = to.read_bytes() if to else _note_for(log, prover, index, cosigned)
        proof = proof_of(prover, index, note, entry=entry)
    except (FormatError, LogForked, LogDamaged, EntriesPruned) as problem:
        if not isinstance(problem, EntriesPruned):
            told.doubt()
        fail(problem, DOES_NOT_HOLD)
    data = format_proof(proof)
    told.records = 1 if entry else 0
    if output is not None:
        output.write_bytes(data)
    if as_json:
        found, _ = open_checkpoint(proof.checkpoint_note, store.origin, prover.verifiers)
        print_json({**_said(found), "index": index, "proof": data.decode()})
    elif output is None:
        sys.stdout.write(data.decode())
    else:
        out.print(f"entry {index} of {store.origin} proved in {output}")


def verify_proof_file(
    file: Annotated[Path, typer.Argument(help="A .tlog-proof.", show_default=False)],
    vkey: Annotated[
        list[str] | None, typer.Option(help="A verifier key you trust for the log. This or --trust is needed.")
    ] = None,
    trust: TRUST = None,
    entry: Annotated[
        str | None, typer.Option(help="The record: a file, or - for standard input. Default: what the proof holds.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Check a proof offline, with nothing but the log's verifier key. Exit 0 if it holds, 1 if it does not."""
    policy = _policy(trust)
    if not vkey and policy is None:
        fail("give the log's verifier key with --vkey, or a trust file with --trust", USAGE)
    given = _parse_keys(vkey) if vkey else None
    try:
        proof = parse_proof(file.read_bytes())
        leaf, content = _leaf(proof, entry)
        verifiers = given if given else _listed(policy, proof)
        found = verify_proof(proof, leaf, verifiers[0].name, verifiers, policy)
        witnesses = _witnesses(policy, proof.checkpoint_note)
    except FormatError as problem:
        if as_json:
            print_json({"holds": False, "problem": str(problem)})
            raise SystemExit(DOES_NOT_HOLD) from None
        fail(problem, DOES_NOT_HOLD)
    if as_json:
        record = _record(content)
        said = {"holds": True, **_said(found), "index": proof.index, "leaf": leaf.hex(), "witnesses": witnesses}
        print_json({**said, "record": record})
    else:
        _print_proved(proof, found, leaf, content)
        _print_witnesses(policy, witnesses)


def consistency(
    log: LOG,
    old: Annotated[Path, typer.Argument(help="A checkpoint that you kept.", show_default=False)],
    new: Annotated[
        Path | None, typer.Argument(help="A later one. Default: the log's newest; with --trust the newest cosigned.")
    ] = None,
    vkey: VKEY = None,
    trust: TRUST = None,
    tiles: TILES = None,
    as_json: JSON = False,
) -> None:
    """Check that one checkpoint extends another, and print the proof. Exit 1 if it does not."""
    told = reading("audit.log_verified", log, "consistency", {"old": old, "new": new, "vkey": vkey or None})
    store = open_log(log)
    policy = _policy(trust)
    verifiers = list(policy.log_keys(store.origin)) if policy and not vkey else _keys(store, vkey)
    try:
        note = new.read_bytes() if new else _cosigned(log) if policy else store.head().checkpoint
        before, _ = open_checkpoint(old.read_bytes(), store.origin, verifiers)
        after, _ = open_checkpoint(note, store.origin, verifiers)
        witnesses = _witnesses(policy, note, store.origin)
        hashes = Prover(store, verifiers, published_folder(tiles or folder_of(log))).consistency(before, after)
    except (FormatError, LogForked, LogDamaged, EntriesPruned) as problem:
        if not isinstance(problem, EntriesPruned):
            told.doubt()
        told.verdict = {"holds": False}
        if as_json:
            print_json({"holds": False, "problem": str(problem)})
            raise SystemExit(DOES_NOT_HOLD) from None
        fail(problem, DOES_NOT_HOLD)
    told.verdict = {"holds": True, "size": after.size, "findings": 0}
    listed = [to_base64(one) for one in hashes]
    if as_json:
        said = {"holds": True, "old": _said(before), "new": _said(after), "witnesses": witnesses}
        print_json({**said, "proof": listed})
        return
    err.print(f"{store.origin}: the first {before.size} of {after.size} entries are those of the old checkpoint")
    _print_witnesses(policy, witnesses, err)
    for line in listed:
        out.print(line, soft_wrap=True)


# --- inside ----------------------------------------------------------------------------------------------------------


def _keys(store: Store, given: list[str] | None) -> list[Verifier]:
    return _parse_keys(given) if given else [parse_vkey(text) for text in store.vkeys]


def _parse_keys(texts: list[str]) -> list[Verifier]:
    try:
        verifiers = [parse_vkey(text) for text in texts]
    except NoteError as problem:
        fail(problem, USAGE)
    if len({verifier.name for verifier in verifiers}) > 1:
        fail("the verifier keys are of several logs; give the keys of one", USAGE)
    return verifiers


def _policy(trust: Path | None) -> Policy | None:
    return parse_policy(trust.read_bytes()) if trust is not None else None


def _listed(policy: Policy | None, proof: Proof) -> list[Verifier]:
    """The keys that a trust file lists for the log a proof says it is of."""
    origin = parse_checkpoint(read_note(proof.checkpoint_note)[0]).origin
    found = list(policy.log_keys(origin)) if policy is not None else []
    if not found:
        raise NoteError(f"the proof is of the log {origin!r}, for which the trust file has no key")
    return found


def _witnesses(policy: Policy | None, note: bytes, origin: str | None = None) -> list[str] | None:
    """Who cosigned, of the witnesses that a trust file lists. Raises `NoteError` if they are not the quorum."""
    return None if policy is None else [shown(name) for name in sorted(policy.open(note, origin).witnesses)]


def _print_witnesses(policy: Policy | None, witnesses: list[str] | None, to: Console = out) -> None:
    if policy is None or witnesses is None:
        to.print("not checked: whether witnesses saw that checkpoint; see --trust", soft_wrap=True)
    elif witnesses:
        to.print(f"witnessed by {len(witnesses)}: {', '.join(witnesses)}", style="bold green", soft_wrap=True)
    else:
        to.print(f"witnessed by 0: the trust file asks for none (quorum {NONE})", style="yellow", soft_wrap=True)


def _cosigned(log: Place) -> bytes:
    note = newest_cosigned(log)
    if note is None:
        fail(f"{log} has no cosigned checkpoint; have one cosigned: audit-middleware cosign {log}", DOES_NOT_HOLD)
    return note


def _note_for(log: Place, prover: Prover, index: int, cosigned: bool | None) -> bytes:
    """The checkpoint to prove an entry under: the newest cosigned one if it covers the entry, else the newest.

    A cosigned one that the log does not lead to is used all the same: then there is no proof, and the reason is told.
    """
    newest = prover.store.head().checkpoint
    note = _cosigned(log) if cosigned else newest_cosigned(log) if cosigned is None else None
    if note is None:
        return newest
    found, _ = open_checkpoint(note, prover.store.origin, prover.verifiers)
    return newest if index >= found.size and not cosigned else note


def published_folder(place: Path) -> Folder | None:
    folder = Folder(place)
    return folder if folder.has(CHECKPOINT) else None


def _index_of(log: Place, store: Store, id: str) -> int:
    if id.isdigit():
        found = [int(id)]
    else:
        index = search_index(store)
        index.catch_up()
        found = index.with_action_id(id)
    if not found or found[0] >= store.head().size:
        fail(f"{log} has no record {id}", DOES_NOT_HOLD)
    return found[0]


def _leaf(proof: Proof, entry: str | None) -> tuple[bytes, bytes | None]:
    """The leaf hash to look for, and the entry if it is known."""
    if entry is not None:
        content = _canonical(sys.stdin.buffer.read() if entry == "-" else Path(entry).read_bytes())
        return tree.leaf_hash(content), content
    found = leaf_in(proof)
    if found is None:
        fail("the proof does not hold what it is about: give the record with --entry FILE", USAGE)
    return found


def _canonical(data: bytes) -> bytes:
    """The entry that a file holds: its bytes, or the canonical form of JSON that was only laid out anew."""
    data = data.removesuffix(b"\n")
    try:
        return canonical.encode(json.loads(data, object_pairs_hook=_no_repetition))
    except (ValueError, TypeError, RecordError, RecursionError):
        return data


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two members with one name a reader may see the one and we hash the other.
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a member stands there twice")
    return dict(pairs)


def _record(content: bytes | None) -> dict[str, Any] | None:
    try:
        return None if content is None else canonical.decode(content)
    except RecordError:
        return None


def _said(found: Checkpoint) -> dict[str, Any]:
    return {"origin": found.origin, "size": found.size, "root": to_base64(found.root)}


def _print_proved(proof: Proof, found: Checkpoint, leaf: bytes, content: bytes | None) -> None:
    record = _record(content)
    out.print(f"holds: entry {proof.index} of {found.origin}", style="bold green")
    what = f"an entry whose leaf hash is {leaf.hex()}" if content is None else "this record, byte for byte,"
    out.print(
        f"This proves: {what} is in the log {shown(found.origin)} at index {proof.index}, under the checkpoint of size "
        f"{found.size} that the given key signed.",
        soft_wrap=True,
    )
    if record is not None:
        print_json(record)
    else:
        out.print("not checked: what the entry says; give it with --entry", soft_wrap=True)
    out.print(
        "not checked: whether the log was consistent before and after; see consistency and verify", soft_wrap=True
    )
