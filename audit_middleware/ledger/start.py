"""Where reading begins: with the first entry, after a pruned part, or where an earlier verification ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import FormatError, NoteError
from ..model import Head
from . import tree
from .checkpoint import Checkpoint, open_checkpoint
from .examine import Examined
from .note import Verifier
from .report import Finding
from .state import State, leads_to

_HELD = 64


@dataclass(frozen=True, slots=True)
class Start:
    """The tree before the first entry that is read.

    Attributes:
        size: How many entries stand before it.
        peaks: Their peaks.
        checkpoint: What the log signed there.
        note: The same as a signed note; empty at size 0.
        pruned: How many entries were pruned.
        resume: The remembered verification, if that is where reading begins.
        finding: What is wrong with the beginning.
    """

    size: int
    peaks: tuple[bytes, ...]
    checkpoint: Checkpoint
    note: bytes = b""
    pruned: int = 0
    resume: State | None = None
    finding: Finding | None = None

    @property
    def words(self) -> str:
        """Completes "the entries that ..."."""
        return "were pruned" if self.resume is None else "an earlier verification accepted"


def find_start(origin: str, verifiers: Sequence[Verifier], base: Head, resume: State | None) -> Start:
    """Returns where to begin. Raises `FormatError` if ``resume`` does not belong to what this log signed."""
    checkpoint = resume.open(origin, verifiers) if resume is not None else None
    if resume is not None and checkpoint is not None and resume.size >= base.size:
        return Start(resume.size, resume.peaks, checkpoint, resume.head.checkpoint, base.size, resume)
    if base.size == 0:
        return Start(0, (), Checkpoint(origin, 0, tree.EMPTY_ROOT))
    peaks, finding = base.peaks, None
    try:
        signed = open_checkpoint(base.checkpoint, origin, verifiers)[0]
    except (NoteError, FormatError) as error:
        signed, finding = None, Finding(15, "unsigned", 0, f"the checkpoint at the pruned part's end: {error}")
    if signed is not None and leads_to(base, signed):
        return Start(base.size, peaks, signed, base.checkpoint, base.size)
    if finding is None:
        finding = Finding(15, "altered", 0, "the peaks at the pruned part's end do not lead to what the log signed")
    if len(peaks) != base.size.bit_count() or any(len(peak) != tree.HASH_SIZE for peak in peaks):
        peaks = (bytes(tree.HASH_SIZE),) * base.size.bit_count()  # they lead nowhere; the state must have some
    believed = Checkpoint(origin, base.size, tree.root(peaks))
    return Start(base.size, peaks, believed, base.checkpoint, base.size, finding=finding)


class Approach:
    """Lets frames pass from the start on. A store may hand out some that come before it.

    Those before it were pruned or verified another time, and are not looked at, but the one that ends there must be the
    one that is known. A frame that cannot be read is held back until the next one tells on which side it stands.

    Attributes:
        begun: The start was reached.
        found: The frame that ends at the start, or one that follows it, was seen.
        last: Size after the last frame before the start.
        contradicted: The frame that ends at the start has another root than the start.
    """

    def __init__(self, start: Start) -> None:
        """With nothing before the start, everything passes."""
        self.begun = start.size == 0
        self.found = self.begun
        self.contradicted = False
        self.last = 0
        self._start = start
        self._held: list[Examined] = []

    def admit(self, examined: Examined) -> list[Examined]:
        """Takes the next frame; returns those to verify now."""
        if self.begun:
            return [examined]
        commit, size = examined.frame.commit, self._start.size
        if commit is None and not examined.frame.torn and len(self._held) < _HELD:
            self._held.append(examined)
            return []
        if commit is not None and commit.size <= size:
            self._held.clear()
            self.last = commit.size
            if commit.size == size:
                self.found = True
                root = None if examined.checkpoint is None else examined.checkpoint.root
                self.contradicted = root not in (None, self._start.checkpoint.root)
            return []
        self.begun = True
        if commit is not None:
            self.found = True
            if commit.first == size:
                self._held.clear()
        return [*self.rest(), examined]

    def rest(self) -> list[Examined]:
        """What is still held back; nothing will tell any more where it stands."""
        held, self._held = self._held, []
        return held
