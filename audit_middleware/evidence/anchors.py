"""What others said about a log, kept beside it: cosigned checkpoints and time stamps.

``<log>/cosigned.jsonl`` holds one line ``{"note": <checkpoint note with its cosignatures>}`` for each checkpoint that
witnesses cosigned, oldest first, kept for ever. ``<log>/timestamps/<size, 20 digits>.checkpoint`` holds a checkpoint
note, and the file of the same name that ends in ``.tsr`` an RFC 3161 time stamp response over the bytes of that note.

Nothing here is trusted: a note counts for the signatures that verify, a time stamp for the authority that signed it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COSIGNED = "cosigned.jsonl"
TIMESTAMPS = "timestamps"


@dataclass(frozen=True, slots=True)
class Stamped:
    """A checkpoint note and the DER bytes of a time stamp response (RFC 3161) over it."""

    note: bytes
    response: bytes
    where: str


def cosigned_notes(log: Path) -> Iterator[bytes]:
    """The cosigned checkpoint notes kept beside a log, oldest first; a line that is not one is passed over."""
    try:
        with (log / COSIGNED).open("rb") as lines:
            for line in lines:
                try:
                    note = json.loads(line)["note"]
                except (ValueError, TypeError, KeyError):
                    continue  # a write that was cut short; it counted for nothing yet
                if isinstance(note, str):
                    yield note.encode()
    except FileNotFoundError:
        return


def stamped_notes(log: Path) -> Iterator[Stamped]:
    """The time-stamped checkpoint notes kept beside a log, oldest first."""
    for response in sorted((log / TIMESTAMPS).glob("*.tsr")):
        note = response.with_suffix(".checkpoint")
        if note.is_file():
            yield Stamped(note.read_bytes(), response.read_bytes(), str(response))
