"""Transparency log proofs: one file that shows that an entry is in the log, checkable without the log.

C2SP tlog-proof (December 2025), file extension ``.tlog-proof``::

    c2sp.org/tlog-proof@v1
    extra <base64>                  optional, opaque, not authenticated by anything: never trust it
    index <decimal>                 of the entry in the log, from 0
    <base64 of a hash>              inclusion proof, 0 to 63 lines, from the leaf's sibling up (`tree`)
    ...
                                    an empty line
    <checkpoint>                    the signed note, verbatim, with all its signature lines

The proof does not hold the entry: its leaf hash comes from whoever checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ProofError
from .checkpoint import Checkpoint, open_checkpoint
from .lines import from_base64, from_decimal, has_control, to_base64
from .note import Verifier
from .tree import HASH_SIZE, verify_inclusion
from .trust import Policy

HEADER = "c2sp.org/tlog-proof@v1"

MAX_HASHES = 63
"""Longest inclusion proof: that of a log of 2^63-1 entries."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The content of a proof file. ``extra`` empty means that there is no such line."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint_note: bytes
    extra: bytes = b""


def format_proof(proof: Proof) -> bytes:
    """Returns the bytes of the proof file."""
    extra = [f"extra {to_base64(proof.extra)}"] if proof.extra else []
    lines = [HEADER, *extra, f"index {proof.index}", *map(to_base64, proof.hashes), "", ""]
    return "\n".join(lines).encode() + proof.checkpoint_note


def parse_proof(data: bytes) -> Proof:
    """Returns the content of a proof file; raises `ProofError` unless it is exactly one. Nothing is verified yet."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ProofError(f"proof: not UTF-8 at byte {error.start}") from error
    head, separator, note = text.partition("\n\n")
    header, *lines = head.split("\n")
    if header != HEADER:
        raise ProofError(f"proof: does not start with the line {HEADER!r}")
    if not separator or not note.endswith("\n") or has_control(text):
        raise ProofError("proof: no empty line followed by a checkpoint")
    extra = _take_extra(lines)
    if not lines or not lines[0].startswith("index "):
        raise ProofError("proof: no line 'index <number>' where it belongs")
    index = from_decimal(lines[0].removeprefix("index "), "proof: index", ProofError)
    hashes = tuple(_hash(line, number) for number, line in enumerate(lines[1:], 1))
    if len(hashes) > MAX_HASHES:
        raise ProofError(f"proof: {len(hashes)} hashes, at most {MAX_HASHES} are possible")
    return Proof(index, hashes, note.encode(), extra)


def verify_proof(
    proof: Proof, leaf: bytes, origin: str, verifiers: Iterable[Verifier], quorum: Policy | None = None
) -> Checkpoint:
    """Returns the checkpoint under which the entry with this leaf hash (`tree.leaf_hash`) is shown to be in the log.

    1. A key of ``verifiers`` signed the checkpoint, and it is one of this origin.
    2. If ``quorum`` is given: that policy accepts the checkpoint too (log key and witnesses).
    3. The inclusion proof leads from the leaf hash at the index to the checkpoint's root.

    Raises `NoteError`, `FormatError` or `ProofError` for the first that does not hold.
    """
    checkpoint, _ = open_checkpoint(proof.checkpoint_note, origin, verifiers)
    if quorum is not None:
        quorum.open(proof.checkpoint_note, origin)
    verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return checkpoint


def _take_extra(lines: list[str]) -> bytes:
    if not lines or not lines[0].startswith("extra "):
        return b""
    extra = from_base64(lines.pop(0).removeprefix("extra "), "proof: extra", ProofError)
    if not extra:
        raise ProofError("proof: an empty extra line is to be left out")
    return extra


def _hash(line: str, number: int) -> bytes:
    data = from_base64(line, f"proof: hash {number}", ProofError)
    if len(data) != HASH_SIZE:
        raise ProofError(f"proof: hash {number} has {len(data)} bytes, not {HASH_SIZE}")
    return data
