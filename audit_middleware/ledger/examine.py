"""What can be said of one frame alone: the part of a verification that can be spread over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import AuditError, FormatError, NoteError
from . import tree
from .checkpoint import Checkpoint, open_checkpoint
from .controls import Control
from .counters import Facts
from .note import Verifier
from .report import Cause, Finding
from .told import Collector, facts_of

CheckEntry = Callable[[bytes], object]
"""Raises an `AuditError` for an entry that is no valid record. What it returns, if it is not ``None``, has the members
of `counters.Facts` with the record's values, so that nothing is decoded twice."""


ReadRecords = Callable[[Sequence[bytes]], Sequence[Any] | None]
"""Returns what `CheckEntry` would return for each of these entries; ``None`` if it does not take all of them.

A quicker way to the same answer: the entries are then checked one by one, and the check has the last word."""

_TOGETHER = 16  # entries that are read at once; more of them take memory and are no quicker


class CommitLine(Protocol):
    """What a commit says."""

    @property
    def first(self) -> int:
        """Log index of its first entry."""
        ...

    @property
    def count(self) -> int:
        """Number of its entries."""
        ...

    @property
    def size(self) -> int:
        """Tree size after it."""
        ...

    @property
    def peaks(self) -> Sequence[bytes]:
        """Peaks of the tree of that size."""
        ...

    @property
    def checkpoint(self) -> bytes:
        """The signed note."""
        ...

    @property
    def sums(self) -> bytes:
        """The first 4 bytes of each entry's leaf hash; empty if the store keeps none."""
        ...


class RawFrame(Protocol):
    """What stands at one place of a log, damaged or not, as a store gives it to a verifier."""

    @property
    def where(self) -> str:
        """File and offset, table and row: for people."""
        ...

    @property
    def entries(self) -> Sequence[bytes]:
        """The entries found there."""
        ...

    @property
    def commit(self) -> CommitLine | None:
        """What the commit says, if it can be read."""
        ...

    @property
    def problem(self) -> str | None:
        """What the store finds wrong with it."""
        ...

    @property
    def torn(self) -> bool:
        """True for what a crash left at the very end: never acknowledged, not part of the log."""
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """A frame, and what can be said of it without knowing any other.

    Attributes:
        frame: The frame.
        leaves: Its leaf hashes.
        facts: What its records say of themselves; ``None`` for what is no JSON.
        checkpoint: Its checkpoint, if that opens.
        signature: Why it does not, otherwise.
        malformed: Positions and words for entries that ``check_entry`` refuses.
        grown_from: Size and peaks of a tree from which these leaves are known to lead to the commit's size and peaks;
            ``None`` if that was not tried. The fold then need not hash them again.
        controls: Its records about the log itself.
        all_records: Every entry is known to be a record, so there are no other ones about the log itself.
    """

    frame: RawFrame
    leaves: Sequence[bytes]
    facts: Sequence[Facts | None]
    checkpoint: Checkpoint | None
    signature: Finding | None
    malformed: Sequence[tuple[int, str]]
    grown_from: tuple[int, tuple[bytes, ...]] | None = None
    controls: Sequence[Control] = ()
    all_records: bool = False


def examine(
    frame: RawFrame,
    origin: str,
    verifiers: Sequence[Verifier],
    check_entry: CheckEntry | None = None,
    read_records: ReadRecords | None = None,
) -> Examined:
    """Does checks 1, 2 and 5 on one frame, and prepares the others."""
    if frame.torn:
        return Examined(frame, (), (), None, None, ())
    checkpoint, signature = _open(frame, origin, verifiers)
    entries, collector, malformed, all_records = frame.entries, Collector(), list[tuple[int, str]](), True
    leaves: list[bytes] = []
    for start in range(0, len(entries), _TOGETHER):
        some = entries[start : start + _TOGETHER]
        records = read_records(some) if read_records is not None else None
        if records is not None:
            collector.extend(records)
        else:
            all_records = False
            malformed += _look_at(some, start, check_entry, collector)
        leaves += tree.leaf_hashes(some)  # here, where the processor has them at hand still
    facts, controls = collector.told(entries), collector.controls(entries)
    return Examined(frame, leaves, facts, checkpoint, signature, malformed, controls=controls, all_records=all_records)


def _open(
    frame: RawFrame, origin: str, verifiers: Sequence[Verifier]
) -> tuple[Checkpoint, None] | tuple[None, Finding | None]:
    if frame.commit is None:
        return None, None
    try:
        return open_checkpoint(frame.commit.checkpoint, origin, verifiers)[0], None
    except (NoteError, FormatError) as error:
        cause, check = _signature_cause(error, frame.commit.checkpoint, verifiers)
        return None, Finding(check, cause, frame.commit.first, str(error), frame.where)


def _look_at(
    entries: Sequence[bytes], start: int, check_entry: CheckEntry | None, collector: Collector
) -> Iterator[tuple[int, str]]:
    """Check 2, one by one; the collector gets the facts, from the same decoding if the check hands them out."""
    for position, entry in enumerate(entries, start):
        found = None
        if check_entry is not None:
            try:
                found = check_entry(entry)
            except AuditError as error:
                yield position, str(error)
        collector.add(facts_of(entry) if found is None else found)


def _signature_cause(error: AuditError, note: bytes, verifiers: Sequence[Verifier]) -> tuple[Cause, int]:
    """The cause that a checkpoint which does not open stands for, and the number of the check."""
    if not isinstance(error, NoteError):
        return "other log", 6  # the note opened, so a trusted key signed it, but it is no checkpoint of this log
    lines = [line.split(b" ") for line in note.rpartition(b"\n\n")[2].splitlines()]
    names = {line[1] for line in lines if len(line) == 3}
    if not names:
        return "unsigned", 5
    known = any(verifier.name.encode() in names for verifier in verifiers)
    return ("altered" if known and "does not hold" in str(error) else "wrong key"), 5
