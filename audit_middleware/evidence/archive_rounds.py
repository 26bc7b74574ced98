"""Archiving again and again: one round, what is remembered of the archive beside the log, and what the log is told.

``<log>/.state/archives/<first 32 hex digits of the SHA-256 of the place>.json`` remembers when the archive was examined
and what came of it (see `archives.canary`), and when the log was last told. Nothing depends on it but words: what an
archive holds is read from the archive. Beside it stands the lock of whoever archives.

The log is told (``audit.archived``) after the first round, when more of it than that record is archived and it was not
told for `TELL_S`, and when the archive has become, or is no longer, one that was shown to be immutable.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from ..errors import AuditError, LogUnavailable
from ..ledger.note import parse_vkey
from ..model import Json, Severity
from ..protocols import Archive, Clock, Signer
from ..stores.filesystem import make_directory, replace_file
from ..stores.lock import ProcessLock
from ..stores.opening import Place, Store, state_of
from .archive_locks import DAY_S, Locks
from .archive_report import moment_of
from .archiving import Archiver, Archiving
from .control import ControlWriter, as_owner, statement, write_control

TELL_S = 3600.0
CHECK_DAYS = 90
"""For so long an examination that an archive passed is good."""

Signers = Callable[[], Sequence[Signer]]
"""The log's keys. Raises `ConfigError` where this process has none."""


class Memory(msgspec.Struct, omit_defaults=False):
    """What is remembered of one archive of one log; times in seconds since the epoch, 0: never.

    ``immutable`` is the verdict of the examination ``checked``; ``told``, ``told_size`` and ``told_shown`` are of the
    last record, ``objects`` were put since then; ``extended``: when the locks of held objects were looked at.
    """

    place: str
    checked: float = 0.0
    immutable: str = ""
    told: float = 0.0
    told_size: int = 0
    told_shown: bool = False
    objects: int = 0
    extended: float = 0.0

    def shown(self, now: float, days: int = CHECK_DAYS) -> bool:
        """True if the archive was shown to be immutable not longer than so many days ago."""
        return self.immutable == "yes" and now - self.checked <= days * DAY_S


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """Where that is kept; root keeps it as the log's owner, so that it does not keep the service out."""

    log: Place
    path: Path
    place: str

    @classmethod
    def of(cls, log: Place, place: str) -> MemoryFile:
        """Beside the log."""
        name = f"{sha256(place.encode()).hexdigest()[:32]}.json"
        return cls(log, state_of(log) / "archives" / name, place)

    @property
    def lock(self) -> ProcessLock:
        """Who holds it archives this log there. Makes the file."""
        with self._keeping():
            path = self.path.with_suffix(".lock")
            path.touch(mode=0o600)
        return ProcessLock(path, f"another process archives {self.log} there: a service, or archive put --follow")

    def read(self) -> Memory:
        """Returns what is remembered; nothing, if the file is not there or cannot be used."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Memory)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return Memory(self.place)

    def write(self, memory: Memory) -> None:
        """Keeps it durably. Raises `LogUnavailable`."""
        with self._keeping():
            replace_file(self.path, msgspec.json.encode(memory))

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            with as_owner(self.log):
                make_directory(self.path.parent)
                yield
        except OSError as error:
            raise LogUnavailable(f"{self.path}: cannot be written: {error.strerror}") from error


class Teller:
    """Writes control records of one process about archives into a log, if the log's keys are here."""

    def __init__(self, log: Place, signers: Signers, problem: Callable[[str], None]) -> None:
        """``problem`` is told, once, why no record could be written."""
        self._log = log
        self._signers = signers
        self._problem = problem
        self._writer: ControlWriter | None = None
        self._said = False

    def tell(self, action: str, severity: Severity, extra: dict[str, Json]) -> bool:
        """Writes one; False if it could not be written."""
        try:
            self._writer = self._writer or ControlWriter(self._signers())
            write_control(self._log, self._writer, [statement(action, severity, extra)])
        except (AuditError, OSError) as problem:
            if not self._said:
                self._problem(str(problem))
            self._said = True
            return False
        return True


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a log is archived.

    ``retain``: see `archive_locks.parse_retain`; ``partial``: also the partial bundle at the end of each round;
    ``check_days``: for how long an examination is good.
    """

    retain: str | None = None
    partial: bool = False
    check_days: int = CHECK_DAYS


class Rounds:
    """Archives one log in one place; the caller holds `MemoryFile.lock`."""

    def __init__(
        self, store: Store, archive: Archive, log: Place, wanted: Wanted, teller: Teller,
        *, clock: Clock = time.time_ns,
    ) -> None:  # fmt: skip
        """Reads nothing yet. Raises `ConfigError` for a malformed ``retain``."""
        self._archive = archive
        self._wanted = wanted
        self._teller = teller
        self._clock = clock
        self._file = MemoryFile.of(log, archive.place)
        self._locks = Locks(store, wanted.retain, clock=clock)
        keys = [parse_vkey(text) for text in store.vkeys]
        self._archiver = Archiver(store, archive, keys, self._locks.until, log=log)
        self.shown = False

    @property
    def pending(self) -> bool:
        """True if a bundle has filled up since the last look."""
        return self._archiver.pending

    def round(self, progress: Callable[[int], None] | None = None) -> Archiving:
        """Archives all that is committed, looks after the locks of what is held, and tells the log.

        Raises:
            ConfigError: Nobody says how long to lock.
            ArchiveError, StoreError: As `Archiver.catch_up`.
        """
        self._locks.refresh()
        done = self._archiver.catch_up(partial=self._wanted.partial, progress=progress)
        memory, now = self._file.read(), self._clock() / 1e9
        if self._locks.holds and now - memory.extended >= DAY_S:
            self._locks.extend(self._archive, done.checkpoint.size)
            memory.extended = now
            self._file.write(memory)
        self._tell(memory, done, now)
        return done

    def put_full(self) -> None:
        """Archives the full bundles and tiles there are; raises as `round`."""
        self._locks.refresh()
        self._archiver.put_full()

    def _tell(self, memory: Memory, done: Archiving, now: float) -> None:
        before = (memory.objects, memory.told_shown)
        memory.objects += done.objects
        self.shown = memory.shown(now, self._wanted.check_days)
        grown = done.checkpoint.size - memory.told_size - (memory.told > 0)  # the record of the last time is no news
        longer = grown > 0 and not 0 <= now - memory.told < TELL_S
        if longer or (memory.told and self.shown != memory.told_shown):
            until = self._locks.until()
            extra: dict[str, Json] = {
                "place": self._archive.place,
                "size": done.checkpoint.size,
                "objects": memory.objects,
                "until": None if until is None else moment_of(until),
                "shown_immutable": self.shown,
                "checked_at": moment_of(memory.checked) if memory.checked else None,
            }
            if self._teller.tell("audit.archived", "info", extra):
                memory.told, memory.told_size = now, done.checkpoint.size
                memory.told_shown, memory.objects = self.shown, 0
        if done.objects or before != (memory.objects, memory.told_shown):
            self._file.write(memory)


def remember_check(
    log: Place, place: str, at: float, immutable: str, attempts: Mapping[str, str], teller: Teller
) -> None:
    """Remembers an examination of an archive, and tells the log. Raises `LogUnavailable`."""
    file = MemoryFile.of(log, place)
    memory = file.read()
    memory.checked, memory.immutable = at, immutable
    file.write(memory)
    severity: Severity = "info" if immutable == "yes" else "high"
    extra: dict[str, Json] = {
        "place": place, "immutable": immutable, "at": moment_of(at),
        "failed": [name for name, shows in attempts.items() if shows != "yes"],
    }  # fmt: skip
    teller.tell("audit.archive_checked", severity, extra)
