"""Logs with records of many days, to be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from audit_middleware.archives.local import Folder
from audit_middleware.evidence.prune import Done, prune
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.retention import set_retention
from audit_middleware.evidence.signers import signers_of
from audit_middleware.ledger import tree
from audit_middleware.ledger.checkpoint import open_checkpoint
from audit_middleware.ledger.note import Verifier, parse_vkey
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.protocols import Sealer
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log
from tests.stores.samples import entry

START = datetime(2025, 1, 1, tzinfo=UTC)
PER_DAY = 10
DAY_90 = 90.0
"""Of a log of 70 days: with one month kept, entries up to day 59 may go."""


def moment(day: float) -> datetime:
    return START + timedelta(days=day)


def text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def clock(day: float) -> int:
    """Nanoseconds at this day after the start."""
    return int(moment(day).timestamp()) * 10**9


def dated(number: int) -> bytes:
    """A record: ten a day from the start on."""
    when = text(moment(number / PER_DAY))
    return entry(number, timestamp=when, recorded_at=when)


def key_of(log: Log) -> Path:
    return Path(f"{log.path}.key")


def sealer(log: Log) -> Sealer:
    return make_sealer(ORIGIN, signers_of(read_key_file(key_of(log))))


def verifiers(log: Log) -> list[Verifier]:
    return [parse_vkey(log.vkey)]


def fill(log: Log, start: int, stop: int, step: int = 7, segment_bytes: int = 2**26) -> JournalStore:
    """Appends records in commits of ``step``; returns a store that is open for writing."""
    store = JournalStore.open(log.path, segment_bytes=segment_bytes)
    seal = sealer(log)
    for first in range(start, stop, step):
        store.append([dated(number) for number in range(first, min(first + step, stop))], seal)
    return store


def aged(log: Log, count: int = 700, months: int = 1, segment_bytes: int = 2**26) -> JournalStore:
    """A log of so many records, ten a day, whose retention is set in the entry after them."""
    store = fill(log, 0, count, segment_bytes=segment_bytes)
    set_retention(log.path, key_of(log), months, "tester", clock=lambda: clock(count / PER_DAY))
    return store


def prune_at(log: Log, day: float, *published: Folder, before: str | None = None) -> Done:
    return prune(log.path, key_of(log), "tester", published=published, before=before, clock=lambda: clock(day))


def assert_holds_from_base(store: JournalStore, keys: Log | Sequence[Verifier], origin: str = ORIGIN) -> int:
    """Every commit that is left leads from the base's peaks to its signed root; returns the size."""
    known = verifiers(keys) if isinstance(keys, Log) else keys
    base = store.base
    size, peaks = base.size, base.peaks
    if base.size:
        checkpoint, _ = open_checkpoint(base.checkpoint, origin, known)
        assert (checkpoint.size, checkpoint.root) == (base.size, tree.root(base.peaks))
    for raw in store.raw_frames():
        if raw.torn:
            break  # of a writer that was killed: not part of the log
        assert raw.problem is None, raw
        assert raw.commit is not None
        assert raw.commit.first == size
        size, peaks = tree.append(size, peaks, map(tree.leaf_hash, raw.entries))
        checkpoint, _ = open_checkpoint(raw.commit.checkpoint, origin, known)
        assert (checkpoint.size, checkpoint.root, raw.commit.peaks) == (size, tree.root(peaks), peaks)
    assert size == store.head().size
    return size


def publish_log(log: Log, store: JournalStore, root: Path) -> None:
    folder = Folder(root)
    with folder.exclusive():
        Publisher(store, folder, verifiers(log)).catch_up()
