"""Witnesses, a trust file that names them, and checkpoints that they cosigned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from audit_middleware.ledger import note
from audit_middleware.ledger.anchors import Outside
from audit_middleware.ledger.trust import parse_policy
from audit_middleware.ledger.witnessed import weigh
from audit_middleware.model import Head
from audit_middleware.signing import Ed25519Signer
from tests.stores.samples import ORIGIN, SEAL, VKEY

WITNESSES = {name: Ed25519Signer(f"witness.example/{name}", bytes([seed]) * 32) for seed, name in enumerate("abc", 7)}
STRANGER = Ed25519Signer("witness.example/stranger", bytes([99]) * 32)
TIME = 1_800_000_000
WHEN = "2027-01-15T08:00:00Z"


def trust_text(quorum: str = "any a b c", log: str = VKEY) -> str:
    """A trust file with the three witnesses; ``quorum``: a threshold and members, or ``none``."""
    lines = [f"log {log}"]
    for name, signer in WITNESSES.items():
        vkey = note.format_vkey(signer.name, signer.public_key, note.COSIGNATURE_ED25519)
        lines.append(f"witness {name} {vkey}")
    lines += ["quorum none"] if quorum == "none" else [f"group q {quorum}", "quorum q"]
    return "\n".join(lines) + "\n"


def cosign(checkpoint: bytes, *names: str, time: int = TIME) -> bytes:
    """The checkpoint note with these witnesses' lines; ``stranger`` is one that no trust file names."""
    text = checkpoint.rpartition(b"\n\n")[0].decode() + "\n"
    signers = [WITNESSES.get(name, STRANGER) for name in names]
    lines = [note.cosignature_line(text, one, note.COSIGNATURE_ED25519, time) for one in signers]
    return checkpoint + b"".join(lines)


def outside(quorum: str, *notes: bytes) -> Outside:
    """What these notes say under a trust file with this quorum."""
    named = [(f"note {number}", data) for number, data in enumerate(notes)]
    return weigh(named, parse_policy(trust_text(quorum).encode()), ORIGIN)


def heads_of(groups: Iterable[Sequence[bytes]]) -> list[Head]:
    """The heads after each of these batches."""
    heads, head = [], Head()
    for group in groups:
        head = SEAL(head, group)
        heads.append(head)
    return heads


def keep_cosigned(log: Path, *notes: bytes) -> None:
    """Adds notes to what is kept beside a log."""
    with (log / "cosigned.jsonl").open("ab") as file:
        for data in notes:
            file.write(json.dumps({"note": data.decode()}).encode() + b"\n")
