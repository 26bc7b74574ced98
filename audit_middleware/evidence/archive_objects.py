"""What an archive of a log holds, by name, and how an object is found below what was put on top of it.

::

    tile/entries/<N>                  full entry bundles      as in C2SP tlog-tiles
    tile/entries/<N>.p/<W>            partial ones, where they are wanted
    tile/<L>/<N>                      full hash tiles
    checkpoints/<size, 20 digits>     a signed checkpoint; with cosignatures if it had some by then
    cosigned/<size, 20 digits>        the same with cosignatures, where they came later
    timestamps/<size, 20 digits>.checkpoint, .tsr    a checkpoint and the RFC 3161 time stamp over it
    trust/<SHA-256, hex>.json         the log's config.json as it was, with its verifier keys

A checkpoint is put after the bundles and tiles of its size, so what it stands for is there. Nothing is replaced.

A lock does not stop anybody from putting a newer version or a delete marker on top, so an object is never just what its
name shows now: it is the first version whose content is what it must be.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ArchiveError, FormatError
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Verifier
from ..model import Stored
from ..protocols import Archive

CHECKPOINTS, COSIGNED, STAMPS, TRUST, TILES = "checkpoints", "cosigned", "timestamps", "trust", "tile"

_SIZE = re.compile(r"(?:checkpoints|cosigned)/([0-9]{20})")
_TRIES = 1000
"""Newest checkpoint objects that are looked at until one is the log's: others may have put what only looks newer."""

Accept = Callable[[bytes], bool]


def checkpoint_name(size: int) -> str:
    """``checkpoints/00000000000000000256``."""
    return f"{CHECKPOINTS}/{size:020}"


def cosigned_name(size: int) -> str:
    """``cosigned/00000000000000000256``."""
    return f"{COSIGNED}/{size:020}"


def size_in(name: str) -> int | None:
    """The size that the name of a checkpoint says; ``None`` for other names."""
    match = _SIZE.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Picked:
    """The version of an object that counts, its bytes, and in words what lies on top of it, if anything does."""

    stored: Stored
    data: bytes
    hidden: str | None = None


def pick(archive: Archive, name: str, accept: Accept) -> Picked | None:
    """Returns the first version of an object whose content is accepted; ``None`` if there is none.

    Raises:
        ArchiveError: The archive cannot be read.
    """
    current = archive.get(name)
    versions = archive.versions(name)
    for stored in versions:
        only = len(versions) == 1 and current is not None
        data = current if only else archive.get(name, stored.version)
        if data is not None and accept(data):
            return Picked(stored, data, _hidden(current, data, versions))
    return None


def _hidden(current: bytes | None, data: bytes, versions: Sequence[Stored]) -> str | None:
    if current is None:
        return "a delete marker lies on top of it"
    if current != data:
        return f"a version with other bytes lies on top of it ({versions[-1].version})"
    return None


@dataclass(frozen=True, slots=True)
class Archived:
    """A checkpoint of a log in an archive."""

    checkpoint: Checkpoint
    note: bytes
    picked: Picked


def open_archived(archive: Archive, name: str, origin: str, verifiers: Sequence[Verifier]) -> Archived | None:
    """The checkpoint under a name, if a version of it is one of this size that a key of this log signed."""
    size = size_in(name)
    found: list[Checkpoint] = []

    def accept(data: bytes) -> bool:
        try:
            checkpoint = open_checkpoint(data, origin, verifiers)[0]
        except FormatError:
            return False
        found.append(checkpoint)
        return checkpoint.size == size

    picked = pick(archive, name, accept)
    return Archived(found[-1], picked.data, picked) if picked is not None else None


def newest_archived(archive: Archive, origin: str, verifiers: Sequence[Verifier]) -> Archived | None:
    """The largest checkpoint in an archive that this log's key signed; ``None`` if the archive holds none at all.

    Raises:
        ArchiveError: It cannot be read, or holds checkpoints of which none is this log's.
    """
    names = deque((name for name in archive.names(CHECKPOINTS) if size_in(name) is not None), _TRIES)
    for name in reversed(names):
        found = open_archived(archive, name, origin, verifiers)
        if found is not None:
            return found
    if names:
        raise ArchiveError(
            f"{archive.place}: holds checkpoints, but none of the newest {len(names)} is one that a key of {origin} "
            "signed: it is another log's archive, or the log's keys are not given"
        )
    return None
