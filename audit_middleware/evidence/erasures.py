"""What a log tells of persons' keys: their commitments, and which of them were destroyed.

An erasure is in the log before the key is gone, so whatever happens to the store of keys afterwards (a crash in
between, an old backup brought back), carrying out what the log tells makes it right again.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..protocols import LogStore, SubjectKeys
from ..stores.columns import Filters
from ..stores.opening import Index as Search

__all__ = [
    "ERASED", "KEYS", "Told", "commitment_in", "erased_by", "erasures_of", "replay_erasures", "told_by", "told_of",
]  # fmt: skip

ERASED = "audit.subject_erased"
KEYS = "audit.subject_keys"

# Entries are canonical JSON, whose first member is the action; `kind` tells them from a request that only says so.
_BEGINNINGS = tuple(b'{"action":"%b",' % action.encode() for action in (ERASED, KEYS))

_log = logging.getLogger(__name__)


class _Control(msgspec.Struct, frozen=True):
    action: str
    kind: str
    extra: dict[str, Any]


_read = msgspec.json.Decoder(_Control).decode


@dataclass(slots=True)
class Told:
    """What a range of a log tells: by token the commitment of its key in hex, and the tokens that were erased."""

    commitments: dict[str, str] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)

    def add(self, action: str, extra: Mapping[str, Any]) -> None:
        """Takes one of the two control records."""
        if action == ERASED:
            self.erased.update(_tokens(extra))
            return
        for row in extra.get("keys", ()):
            match row:
                case [str(token), str(commitment)]:
                    self.commitments.setdefault(token, commitment)  # the first one binds


def told_of(store: LogStore, start: int = 0, stop: int | None = None) -> Told:
    """Reads the control records in ``[start, stop)``. Raises `StoreError`."""
    told = Told()
    for _, action, extra in _controls(store, start, stop):
        told.add(action, extra)
    return told


def erasures_of(store: LogStore, tokens: Container[str]) -> dict[str, int]:
    """By token the first entry that tells of its erasure, of those whose erasure the log tells. Raises `StoreError`."""
    found: dict[str, int] = {}
    for index, action, extra in _controls(store, 0, None) if tokens else ():
        for token in _tokens(extra) if action == ERASED else ():
            if token in tokens:
                found.setdefault(token, index)
    return found


def commitment_in(store: LogStore, token: str) -> tuple[int, str] | None:
    """The first entry that tells the commitment of a key, and that in hex. Raises `StoreError`."""
    for index, action, extra in _controls(store, 0, None):
        for row in extra.get("keys", ()) if action == KEYS else ():
            match row:
                case [str(named), str(commitment)] if named == token:
                    return index, commitment
    return None


def told_by(index: Search, *, commitments: bool = True) -> Told:
    """As `told_of`, of a whole log by its search index, caught up: only the entries in question are read."""
    told = Told()
    for action in (ERASED, KEYS) if commitments else (ERASED,):
        for _, entry in index.read(index.find(Filters(action=action, kind="control"), newest_first=False)):
            told.add(action, _read(entry).extra)
    return told


def erased_by(record: Mapping[str, Any]) -> list[str]:
    """The tokens whose erasure this record tells of; none, if it is another."""
    return _tokens(record["extra"]) if (record["action"], record["kind"]) == (ERASED, "control") else []


def replay_erasures(store: LogStore, keys: SubjectKeys) -> int:
    """Carries out the erasures that the log tells of and the store of keys may not know; returns how many keys went.

    Held keys go, too: the log tells that their erasure was decided after they were held.

    Raises:
        StoreError: The log cannot be read.
        SubjectKeysError: The keys cannot be erased.
    """
    size, done = store.head().size, keys.erased_to()
    if done >= size:
        return 0
    if 0 < done < store.base.size:
        _log.warning(
            "the store of persons' keys was last compared with the log at size %d, and entries below %d were pruned: "
            "erasures in between are not carried out again", done, store.base.size,
        )  # fmt: skip
    told = told_of(store, done, size)
    gone = 0
    if told.erased:
        for token in told.erased:
            if (found := keys.named(token)) is not None and found[1].restricted:
                keys.restrict(token, False)
        gone = keys.erase(sorted(told.erased))
    if gone:
        _log.warning("%d keys of persons were there although the log tells of their erasure: they are erased", gone)
    keys.erased_to(size)
    return gone


def _controls(store: LogStore, start: int, stop: int | None) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for frame in store.frames(max(start, store.base.size), stop):
        for index, entry in enumerate(frame.entries, frame.first):
            if entry.startswith(_BEGINNINGS) and index >= start and (stop is None or index < stop):
                try:
                    record = _read(entry)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue  # no record of ours
                if record.kind == "control":
                    yield index, record.action, record.extra


def _tokens(extra: Mapping[str, Any]) -> list[str]:
    """``token`` or ``tokens`` of an `audit.subject_erased`."""
    found = extra.get("tokens", extra.get("token"))
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str)]
