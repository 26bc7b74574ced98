"""What a verification of an archive found: the verdict, its objects and their locks, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ..ledger.report import Finding
from ..model import Stored


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What is in an archive of one log.

    Attributes:
        place: The archive.
        origin: The log.
        holds: The verdict.
        checkpoints: How many checkpoints there are of this log.
        newest: Size of the largest one.
        newest_at: When the archive says it got that, seconds since the epoch.
        entries: How many entries the bundles hold, from the first on.
        covered: Size of the largest checkpoint that they lead to.
        objects: How many objects count.
        locked: How many of them the archive itself keeps now.
        ended: How many of them had a lock that is over.
        until: When the first lock that is in force ends; ``None``: no lock is, or none has an end.
        findings: What is wrong (errors) or worth knowing (notes).
        more: How many findings were left out.
        claims: What this proves, in words.
        not_checked: What it says nothing about.
    """

    place: str
    origin: str
    holds: bool
    checkpoints: int
    newest: int
    newest_at: float | None
    entries: int
    covered: int
    objects: int
    locked: int
    ended: int
    until: float | None
    findings: tuple[Finding, ...]
    more: int
    claims: tuple[str, ...]
    not_checked: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(slots=True)
class LocksSeen:
    """Which of the objects that count are locked now.

    One that is not, beside others that are, is an error: somebody put it there without a lock, or it never got one. One
    whose lock is over was kept as long as it had to be.
    """

    now: float
    objects: int = 0
    locked: int = 0
    ended: int = 0
    until: float | None = None

    def is_over(self, stored: Stored) -> bool:
        """True if an object was locked until some time ago."""
        return stored.until is not None and stored.until <= self.now

    def take(self, stored: Stored) -> str | None:
        """Takes an object; what is wrong with its lock, if anything is."""
        self.objects += 1
        if self.is_over(stored):
            self.ended += 1
            return None
        if not stored.locked:
            return "has no lock" if stored.until is None else "has a lock that some accounts may take away"
        self.locked += 1
        if stored.until is not None:
            self.until = stored.until if self.until is None else min(self.until, stored.until)
        return None


def claims_of(locks: LocksSeen, agreed: int, covered: int) -> Iterator[str]:
    """What a verification without errors proves."""
    if agreed:
        each = "the signed checkpoint says" if agreed == 1 else f"each of {agreed} signed checkpoints says"
        extends = "" if agreed == 1 else ", and each of these extends the one before it"
        yield f"the first {covered} entries are what {each}{extends}"
    if locks.locked and locks.locked + locks.ended == locks.objects:
        until = "without an end" if locks.until is None else f"the first of them until {moment_of(locks.until)}"
        yield f"{locks.locked} of {locks.objects} objects are locked, {until}"


def left_open(place: str, locks: LocksSeen, left: int, covered: int) -> Iterator[str]:
    """What was not checked; ``left``: checkpoints that the entries do not reach."""
    if left:
        count = "1 checkpoint" if left == 1 else f"{left} checkpoints"
        yield (
            f"whether the log leads to {count} of more than {covered} entries: the last, partial bundle is not "
            "archived; give the log (--log), or verify the log with --archive"
        )
    if locks.locked:
        yield f"whether {place} keeps its locks: audit-middleware archive check tries to break some"
    else:
        yield f"whether {place} is immutable, as an archive has to be: no lock is in force there"
    if locks.ended:
        yield f"{locks.ended} objects: their locks are over, so they may have been put there again"


def lock_words(report: ArchiveReport) -> str:
    """What an archive's locks are worth, to follow "archived in ..."."""
    if not report.locked or report.locked + report.ended < report.objects:
        return " (not locked)"
    return " with its locks verified" + ("" if report.until is None else f", the first until {moment_of(report.until)}")


def moment_of(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339; beyond the year 9999 as the number itself."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"POSIX time {int(seconds)}"
