"""An archive with versions, delete markers, locks and a clock of its own in memory, and logs to archive."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audit_middleware.errors import ArchiveConflict
from audit_middleware.evidence.archive_report import ArchiveReport
from audit_middleware.evidence.archived import ArchiveReader
from audit_middleware.evidence.archiving import Archiver, Archiving
from audit_middleware.model import Stored
from audit_middleware.protocols import Archive
from audit_middleware.stores.journal import JournalStore
from tests.publish.support import numbered
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, new_journal

NOW = 1_800_000_000.0
END = NOW + 400 * 86_400


@dataclass
class Version:
    """Bytes and their lock."""

    data: bytes
    until: float | None
    locked: bool
    stored_at: float


@dataclass
class Bucket:
    """As S3 with Object Lock; ``fails`` is asked before each put, and may raise."""

    locks: bool = True
    now: float = NOW
    objects: dict[str, list[Version | None]] = field(default_factory=dict)  # None: a delete marker
    fails: Callable[[str], None] = lambda name: None
    puts: list[str] = field(default_factory=list)
    place: str = "memory://bucket"
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, data: bytes, until: float | None) -> Stored:
        self.fails(name)
        with self._mutex:
            known = self.objects.setdefault(name, [])
            first = next((one for one in known if one is not None), None)
            if first is None:
                known.append(Version(data, until if self.locks else None, self.locks and until is not None, self.now))
            elif first.data != data:
                raise ArchiveConflict(f"{self.place}: {name} is there with other bytes")
            elif until is not None and first.until is not None:
                first.until = max(first.until, until)
            self.puts.append(name)
        return self.versions(name)[0]

    def get(self, name: str, version: str | None = None) -> bytes | None:
        known = self.objects.get(name, [])
        one = (known[-1] if known else None) if version is None else known[int(version)]
        return None if one is None else one.data

    def versions(self, name: str) -> Sequence[Stored]:
        return [
            Stored(name, len(one.data), str(number), one.stored_at, one.until, one.locked)
            for number, one in enumerate(self.objects.get(name, []))
            if one is not None
        ]

    def names(self, prefix: str) -> Iterator[str]:
        yield from sorted(
            name for name, known in self.objects.items() if known and (not prefix or name.startswith(f"{prefix}/"))
        )

    # --- what an attacker can do ---------------------------------------------------------------------------------

    def hide(self, name: str) -> None:
        """A delete marker on top."""
        self.objects[name].append(None)

    def cover(self, name: str, data: bytes) -> None:
        """A newer version on top."""
        self.objects.setdefault(name, []).append(Version(data, None, False, self.now + 1))

    def first(self) -> dict[str, bytes]:
        """The first version of everything."""
        return {name: one.data for name, known in self.objects.items() for one in known[:1] if one is not None}


def log_of(path: Path, size: int, per_commit: int = 100) -> JournalStore:
    """A log of so many small entries."""
    entries = numbered(0, size)
    return new_journal(path, *(entries[at : at + per_commit] for at in range(0, size, per_commit)))


def grow(store: JournalStore, count: int) -> None:
    """Adds entries in one commit."""
    size = store.head().size
    store.append(numbered(size, size + count), SEAL)


def archiver(store: JournalStore, archive: Archive, until: float | None = END) -> Archiver:
    """One that begins anew."""
    return Archiver(store, archive, VERIFIERS, lambda: until, log=store.path)


def archive_log(store: JournalStore, archive: Archive, *, partial: bool = False) -> Archiving:
    """One run, as a process of its own would do it."""
    return archiver(store, archive).catch_up(partial=partial)


def read_back(archive: Archive, log: JournalStore | None = None, now: float = NOW, **options: bool) -> ArchiveReport:
    """The verification of all of it."""
    return ArchiveReader(archive, ORIGIN, VERIFIERS, log=log, now=now, **options).run()  # type: ignore[arg-type]


def found(report: ArchiveReport) -> list[tuple[str, str, str]]:
    """Level, cause and object of each finding."""
    return [(one.level, one.cause, one.where.split(": ", 1)[1]) for one in report.findings]


def copy_of(store: JournalStore, path: Path) -> Path:
    """A backup."""
    shutil.copytree(store.path, path)
    return path
