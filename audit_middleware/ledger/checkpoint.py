"""Checkpoints: the signed statement of a log's size and root.

C2SP tlog-checkpoint v1.0.0. The text of a signed note (`note`), at least three lines, each ending with newline::

    <origin>                  not empty; for our logs a schema-less URL without spaces or "+", also the key's name
    <size>                    decimal without leading zeros, at most 2^63-1
    <base64 of the root>      32 bytes, RFC 6962; at size 0 the root of the empty tree
    <extension line>...       none in our logs: nobody can audit them, and ML-DSA cosignatures do not cover them

A log must never sign two checkpoints of which neither extends the other. One key line of type 0x01 (Ed25519) is always
there; a second line of type 0x06 (ML-DSA-44 cosignature) and witnesses' cosignatures may follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ..errors import FormatError
from . import tree
from .lines import LARGEST, check_text, from_base64, from_decimal, is_name, to_base64
from .note import Note, Signer, Verifier, open_note, sign

CHECKPOINT = "checkpoint"
"""The name under which a published log shows its newest one (C2SP tlog-tiles)."""


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: the log, its size in entries, its root of 32 bytes."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text that is signed."""
        lines = (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        return "\n".join(lines) + "\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Returns what the text of a note says; raises `FormatError` unless it is exactly a checkpoint.

    The signatures are not looked at: see `open_checkpoint`.
    """
    check_text(text, "checkpoint", FormatError)
    lines = text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise FormatError("checkpoint: needs three or more lines, none of them empty")
    size = from_decimal(lines[1], "checkpoint: tree size")
    root = from_base64(lines[2], "checkpoint: root hash")
    _check_root(size, root)
    return Checkpoint(lines[0], size, root, tuple(lines[3:]))


def sign_checkpoint(origin: str, size: int, peaks: Sequence[bytes], signers: Iterable[Signer]) -> bytes:
    """Returns the signed note for a log of this size with these peaks (`tree.append`), one Ed25519 line per signer.

    On the path of every group commit: besides the signatures it costs the folding of the peaks and some text.
    """
    if not is_name(origin):
        raise FormatError(f'checkpoint: origin {origin!r} must not be empty nor hold spaces, control characters or "+"')
    if not 0 <= size <= LARGEST or len(peaks) != size.bit_count():
        raise FormatError(f"checkpoint: a log of size {size} does not have {len(peaks)} peaks")
    return sign(Checkpoint(origin, size, tree.root(peaks)).text(), signers)


def open_checkpoint(note: bytes, origin: str, verifiers: Iterable[Verifier]) -> tuple[Checkpoint, Note]:
    """Returns the checkpoint and the opened note, after checking signatures, form and origin.

    ``verifiers`` are the keys trusted to speak for this log. Witnesses' keys may be among them only if the caller then
    checks who signed (`trust.Policy.open` does): a note that only a witness signed would open too.

    Raises `NoteError` if the note does not open, `FormatError` if it is no checkpoint of this origin.
    """
    opened = open_note(note, verifiers)
    checkpoint = parse_checkpoint(opened.text)
    if checkpoint.origin != origin:
        raise FormatError(f"checkpoint: origin is {checkpoint.origin!r}, not {origin!r}")
    return checkpoint, opened


def _check_root(size: int, root: bytes) -> None:
    if len(root) != tree.HASH_SIZE:
        raise FormatError(f"checkpoint: root hash has {len(root)} bytes, not {tree.HASH_SIZE}")
    if size == 0 and root != tree.EMPTY_ROOT:
        raise FormatError("checkpoint: size 0 with a root other than that of the empty tree")
