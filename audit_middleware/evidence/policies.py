"""Policies in the log: each policy that decided is there by its digest, so that its decisions can be made again.

``audit.policy_archived`` holds a policy's canonical form (its meaning as JSON, without comments), of which the digest
is the SHA-256: in several records where one is too small, ``part`` i of ``parts``. A process writes it at its start
unless it is there; ``.state/policy-<16 hex digits>`` remembers where, as a hint that is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ..errors import RecordError, StoreError
from ..ledger.canonical import decode
from ..model import Json
from ..protocols import Clock
from ..signing import Ed25519Signer
from ..stores.journal import JournalStore
from ..stores.layout import Layout
from ..stores.opening import Store, open_index
from .control import ControlWriter, statement

ARCHIVED, LOADED = "audit.policy_archived", "audit.policy_loaded"
PART = 24_576
"""Bytes of a policy in one record: in the worst case every one of them takes two in JSON."""

_MARK = b'"action":"audit.policy_'
_DECIDED = re.compile(rb'"policy_digest":"(sha256:[0-9a-f]{64})"')


def parts_of(digest: str, canonical: bytes) -> Iterator[dict[str, Json]]:
    """The ``extra`` of each record that a policy takes."""
    text = canonical.decode()
    pieces: list[str] = []
    at = 0
    while at < len(text):
        piece = text[at : at + PART]
        while len(piece.encode()) > PART:
            piece = piece[: len(piece) * 3 // 4]
        pieces.append(piece)
        at += len(piece)
    for number, piece in enumerate(pieces, 1):
        yield {"digest": digest, "part": number, "parts": len(pieces), "document": piece}


def is_archived(store: Store, digest: str) -> bool:
    """Does the log hold this policy, as far as the hint knows?"""
    with contextlib.suppress(OSError, ValueError, KeyError, StoreError, RecordError):
        index = int(_hint(store, digest).read_text())
        frame = next(iter(store.frames(index, index + 1)), None)
        if frame is not None:
            record = decode(frame.entries[index - frame.first])
            extra = record["extra"]
            if record["action"] == ARCHIVED and extra["digest"] == digest and extra["part"] == extra["parts"]:
                return True
    # Written by another host, perhaps: an index that needs no catching up knows.
    return not isinstance(store, JournalStore) and _by_index(store, digest)


def _by_index(store: Store, digest: str) -> bool:
    from ..stores.columns import Filters  # here: a journal is not asked by its index

    archive = Archive(store)
    for index in open_index(store).find(Filters(action=ARCHIVED), newest_first=False):
        archive.note(index)
    return archive.document(digest) is not None


def remember(store: Store, digest: str, index: int) -> None:
    """Leaves the hint: the index of the last part. If we die here: the policy is written again at the next start."""
    path = _hint(store, digest)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(f"{index}\n")
        os.replace(temporary, path)


def _hint(store: Store, digest: str) -> Path:
    return Layout(store.folder).state / f"policy-{hashlib.sha256(digest.encode()).hexdigest()[:16]}"


class Collector:
    """Puts archived policies together while a log is read in order."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._parts: dict[tuple[str, str], list[str]] = {}
        self.documents: dict[str, bytes] = {}

    def add(self, record: Mapping[str, Any]) -> str | None:
        """Takes a record; returns the digest of the policy that is complete with it, if it is what its digest says."""
        if record.get("action") != ARCHIVED or record.get("kind") != "control":
            return None
        extra = record["extra"]
        digest, number, document = extra.get("digest"), extra.get("part"), extra.get("document")
        if not (isinstance(digest, str) and isinstance(number, int) and isinstance(document, str)):
            return None
        key = (record["service"]["instance"], digest)  # two processes may write the same policy at the same time
        parts = self._parts.setdefault(key, [])
        if number != len(parts) + 1:
            self._parts[key] = parts = []
            if number != 1:
                return None
        parts.append(document)
        if number != extra.get("parts"):
            return None
        canonical = "".join(self._parts.pop(key)).encode()
        if "sha256:" + hashlib.sha256(canonical).hexdigest() != digest:
            return None
        self.documents[digest] = canonical
        return digest


class Archive:
    """The policies of a log, found by digest and read only when they are asked for."""

    def __init__(self, store: Store, indexes: Iterable[int] = ()) -> None:
        """``indexes`` are those of ``audit.policy_archived`` records, oldest first; others are passed over."""
        self._store = store
        self._parts: dict[str, dict[int, int]] = {}
        self._counts: dict[str, int] = {}
        for index in indexes:
            self.note(index)

    def note(self, index: int) -> None:
        """As `add`, of a record that is read for it."""
        self.add(index, self._record(index))

    def add(self, index: int, record: Mapping[str, Any]) -> None:
        """Notes where a part of a policy is; of several copies the last counts, which a prune keeps longest."""
        extra = record.get("extra")
        if record.get("action") != ARCHIVED or record.get("kind") != "control" or not isinstance(extra, dict):
            return
        digest, number, count = extra.get("digest"), extra.get("part"), extra.get("parts")
        if isinstance(digest, str) and isinstance(number, int) and isinstance(count, int):
            self._parts.setdefault(digest, {})[number] = index
            self._counts[digest] = count

    def reaches_below(self, digest: str, base: int) -> bool:
        """Is a part of this policy only below an index?"""
        return any(index < base for index in self._parts.get(digest, {}).values())

    def document(self, digest: str) -> bytes | None:
        """A policy's canonical form; ``None`` unless the log holds all of it and it is what its digest says."""
        parts = self._parts.get(digest, {})
        numbers = range(1, self._counts.get(digest, 0) + 1)
        if not numbers or not parts.keys() >= set(numbers):
            return None
        pieces = [self._record(parts[number]).get("extra", {}).get("document") for number in numbers]
        canonical = "".join(piece for piece in pieces if isinstance(piece, str)).encode("utf-8", "surrogatepass")
        return canonical if "sha256:" + hashlib.sha256(canonical).hexdigest() == digest else None

    def _record(self, index: int) -> dict[str, Any]:
        frame = next(iter(self._store.frames(index, index + 1)), None)
        try:
            return {} if frame is None else decode(frame.entries[index - frame.first])
        except RecordError:
            return {}  # a verifier says so


def restate(
    store: Store, signers: Sequence[Ed25519Signer], base: int, in_force: Iterable[str], clock: Clock
) -> list[str]:
    """Writes the policies again that a prune to this base would take away from decisions that stay.

    Those are the policies that a decision at or after the base names, that were loaded there, or that are ``in_force``.
    Returns their digests.

    If we die here: what was written again is found by the next run, and not written a third time.

    Raises:
        StoreError: The log cannot be read or written.
    """
    archive, wanted = Archive(store), set(in_force)
    for frame in store.frames():
        for index, entry in enumerate(frame.entries, frame.first):
            if _MARK in entry:
                with contextlib.suppress(RecordError):  # the verifier says so
                    record = decode(entry)
                    archive.add(index, record)
                    extra = record.get("extra")
                    if index >= base and record.get("action") == LOADED and isinstance(extra, dict):
                        wanted.add(str(extra.get("digest")))
            elif index >= base:
                wanted.update(digest.decode() for digest in _DECIDED.findall(entry))
    lost = sorted(digest for digest in wanted if archive.reaches_below(digest, base))
    writer, written = ControlWriter(signers, clock), []
    for digest in lost:
        canonical = archive.document(digest)
        if canonical is not None:
            told = [replace(statement(ARCHIVED, clock=clock), verbatim=part) for part in parts_of(digest, canonical)]
            remember(store, digest, writer.write(store, told).size - 1)
            written.append(digest)
    return written
