"""What a log sends to a witness, and what it gets back.

C2SP tlog-witness v1.0.0, ``POST <prefix>/add-checkpoint``::

    old <size>                      the size the witness is thought to hold, 0 at first
    <base64 of a hash>              consistency proof from there, 0 to 63 lines; none if old is 0 or the new size
    ...
                                    an empty line
    <checkpoint>                    the signed note, verbatim

The answer with status 200 is one signature line or more, each of them a cosignature of that checkpoint; with 409 and
the content type ``text/x.tlog.size`` it is the size that the witness holds, decimal, and a newline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from ..errors import FormatError, NoteError
from .lines import from_base64, from_decimal, to_base64
from .note import Signature, Verifier, open_note
from .tree import HASH_SIZE

MAX_HASHES = 63
"""Longest consistency proof the specification allows."""

SIZE_TYPE = "text/x.tlog.size"
"""Content type of an answer that says which size a witness holds."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The content of an add-checkpoint request."""

    old: int
    hashes: tuple[bytes, ...]
    note: bytes


def format_submission(submission: Submission) -> bytes:
    """Returns the body of the request."""
    lines = [f"old {submission.old}", *map(to_base64, submission.hashes), "", ""]
    return "\n".join(lines).encode() + submission.note


def parse_submission(body: bytes) -> Submission:
    """Returns the content of a request; raises `FormatError` unless it is exactly one. The note is not looked at."""
    head, separator, note = body.partition(b"\n\n")
    if not separator:
        raise FormatError("add-checkpoint: no empty line before the checkpoint")
    try:
        first, *encoded = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"add-checkpoint: not ASCII at byte {error.start}") from error
    if not first.startswith("old "):
        raise FormatError("add-checkpoint: does not start with a line 'old <size>'")
    old = from_decimal(first.removeprefix("old "), "add-checkpoint: old size")
    if len(encoded) > MAX_HASHES:
        raise FormatError(f"add-checkpoint: {len(encoded)} hashes, at most {MAX_HASHES} are allowed")
    hashes = tuple(from_base64(one, f"add-checkpoint: hash {number}") for number, one in enumerate(encoded, 1))
    if any(len(one) != HASH_SIZE for one in hashes):
        raise FormatError(f"add-checkpoint: a hash is not {HASH_SIZE} bytes")
    return Submission(old, hashes, note)


def parse_size(content_type: str | None, body: bytes) -> int | None:
    """Returns the size that a witness says it holds; ``None`` if the answer to 409 is not of the specified form."""
    if (content_type or "").partition(";")[0].strip().lower() != SIZE_TYPE or not body.endswith(b"\n"):
        return None
    try:
        return from_decimal(body[:-1].decode("ascii"), "size")
    except (UnicodeDecodeError, FormatError):
        return None


def cosignatures_in(answer: bytes, text: str, verifiers: Iterable[Verifier]) -> tuple[Signature, ...]:
    """Returns the lines of an answer that hold under these keys for the checkpoint with this text.

    Lines of other keys are ignored. Raises `NoteError` if there is none that holds, one of a known key that does not,
    or the answer is not made of signature lines.
    """
    opened = open_note(text.encode() + b"\n" + answer, verifiers)
    if opened.text != text:
        raise NoteError("the answer holds more than signature lines")
    return opened.verified


def origin_hash(origin: str) -> str:
    """Returns the name under which a witness shows what it holds of a log: lowercase hex SHA-256 of the origin."""
    return sha256(origin.encode()).hexdigest()
