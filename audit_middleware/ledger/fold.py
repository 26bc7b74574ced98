"""The checks that need a log's frames in order, and the report in the end. The numbers are those of `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from . import tree
from .checkpoint import Checkpoint
from .counters import ActionIds, Counters
from .diagnosis import diagnose
from .examine import CommitLine, Examined
from .report import Cause, Finding, Findings, Level, Report

CheckIndex = Callable[[int, Sequence[bytes]], Iterable[tuple[int, str]]]
"""Given the first log index and entries, yields (log index, words) for each that the search index has wrong.

Called a last time with the log's size and no entries: for what the search index has beyond the end.
"""

_RECENT = 256


@dataclass(frozen=True, slots=True)
class _Gap:
    """Entries [start, end) did not come where they should: they are missing, unless they come later."""

    start: int
    end: int
    where: str
    found_later: bool = False


class Fold:
    """Takes examined frames in order; knows the size and peaks up to which everything is what was signed."""

    def __init__(self, origin: str, anchor: Checkpoint | None, check_index: CheckIndex | None, limit: int) -> None:
        """Starts with the empty tree."""
        self.entries = 0
        self._ended = False
        self._origin = origin
        self._anchor = anchor
        self._anchored = anchor is None or anchor.size == 0
        self._check_index = check_index
        self._limit = limit
        self._findings = Findings(limit)
        self._size = 0
        self._peaks: tuple[bytes, ...] = ()
        self._certain = True  # False after a commit that could not be read: the peaks may not be what was signed
        self._unchecked: list[str] = []
        self._sound = Checkpoint(origin, 0, tree.EMPTY_ROOT)
        self._recent: dict[int, bytes] = {}
        self._gaps: list[_Gap] = []
        self._counters = Counters()
        self._ids = ActionIds()

    def add(self, examined: Examined) -> None:
        """Takes the next frame."""
        frame = examined.frame
        if self._ended:
            self._find(1, "altered", self._size, "more follows what is only allowed at the very end", frame.where)
        if frame.torn:
            self._ended = True
            self._find(1, "torn", None, f"{frame.problem}: not acknowledged, no part of the log", frame.where, "note")
            return
        self.entries += len(frame.entries)
        if examined.signature is not None:
            self._findings.add(examined.signature)
        if frame.problem is None and frame.commit is not None and self._extends(examined, frame.commit):
            return
        self._find_out(examined, frame.commit)

    # --- a frame that is what should come next -------------------------------------------------------------------

    def _extends(self, examined: Examined, commit: CommitLine) -> bool:
        """Checks 3, 4 and 6; True, and the state moves on, if the frame is exactly what should come next."""
        checkpoint = examined.checkpoint
        if commit.first != self._size or checkpoint is None or checkpoint.size != commit.size:
            return False
        size, peaks = tree.append(self._size, self._peaks, examined.leaves)
        if size != commit.size or tree.root(peaks) != checkpoint.root or tuple(commit.peaks) != peaks:
            return False
        self._take(commit.first, examined, peaks)
        self._trust(checkpoint)
        return True

    def _take(self, first: int, examined: Examined, peaks: tuple[bytes, ...]) -> None:
        """Moves on over entries that are what was signed, and does checks 2 and 7 to 11 on them."""
        self._compare_with_anchor(examined.leaves)
        self._size, self._peaks = first + len(examined.leaves), peaks
        for position, text in examined.malformed:
            self._find(2, "malformed", first + position, text, examined.frame.where)
        for finding in self._counters.add(first, examined.facts):
            self._findings.add(finding)
        self._ids.add(first, examined.facts)
        entries = examined.frame.entries
        if self._check_index is not None and len(entries) == len(examined.leaves):
            for index, text in self._check_index(first, entries):
                self._find(10, "index column differs", index, text)

    def _trust(self, checkpoint: Checkpoint) -> None:
        self._sound, self._certain = checkpoint, True
        self._recent[checkpoint.size] = checkpoint.root
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    def _compare_with_anchor(self, leaves: Sequence[bytes]) -> None:
        """Check 11, when the frame about to be taken reaches the anchor's size."""
        anchor = self._anchor
        if anchor is None or self._anchored or not self._size < anchor.size <= self._size + len(leaves):
            return
        self._anchored = True
        _, peaks = tree.append(self._size, self._peaks, leaves[: anchor.size - self._size])
        if tree.root(peaks) != anchor.root:
            text = f"the first {anchor.size} entries do not lead to the root of the checkpoint kept elsewhere"
            self._find(11, "forked", None, text)

    # --- a frame that is not -------------------------------------------------------------------------------------

    def _find_out(self, examined: Examined, commit: CommitLine | None) -> None:
        """Names what is wrong with a frame that is not what should come next, and finds a state to go on from."""
        if commit is None:
            self._unreadable(examined)
        elif commit.first > self._size:
            self._too_far(examined, commit)
        elif commit.first < self._size:
            self._too_early(examined, commit)
        else:
            self._wrong_tree(examined, commit)

    def _unreadable(self, examined: Examined) -> None:
        """The commit line cannot be read. Its entries may be good: then the next commit's root will say so."""
        frame = examined.frame
        text = f"the commit of the entries from here on cannot be read: {frame.problem}"
        self._find(1, "altered", self._size, text, frame.where)
        self._skip_counters(self._size, examined)
        self._size, self._peaks = tree.append(self._size, self._peaks, examined.leaves)
        self._certain = False

    def _wrong_tree(self, examined: Examined, commit: CommitLine) -> None:
        """The frame starts where it should, but its entries, commit line and checkpoint do not fit together."""
        frame, checkpoint = examined.frame, examined.checkpoint
        size, peaks = tree.append(self._size, self._peaks, examined.leaves)
        number = 4 if frame.problem is None else 1
        if self._leads_to(checkpoint, examined.leaves):
            text = f"the entries are what was signed, but their commit line is not: {frame.problem or 'wrong peaks'}"
            self._find(number, "altered", self._size, text, frame.where)
            self._take(self._size, examined, peaks)
            return
        fits = (size, peaks) == (commit.size, tuple(commit.peaks))
        if checkpoint is not None and checkpoint.size != commit.size:
            text = f"the checkpoint is one of size {checkpoint.size}, not {commit.size}"
            self._find(6, "altered", self._size, text, frame.where)
        elif checkpoint is not None and self._certain:
            self._blame(number, examined, commit.count)
        elif checkpoint is None and frame.problem is not None and not fits:
            self._find(1, "altered", self._size, frame.problem, frame.where)
        if checkpoint is None and fits:
            # Check 5 has spoken. The next signed checkpoint will cover these entries, too.
            self._take(self._size, examined, peaks)
        else:
            self._go_on_after(examined, commit)

    def _blame(self, number: int, examined: Examined, count: int) -> None:
        """Finds out what happened to entries that do not lead to their signed root."""
        frame = examined.frame
        if self._findings.full:
            self._find(number, "altered", self._size, "the entries are not what was signed", frame.where)
            return
        hint = examined.malformed[0][0] if examined.malformed else None
        cause, position, text = diagnose(
            frame.entries, examined.leaves, examined.facts, count, hint, partial(self._leads_to, examined.checkpoint)
        )
        self._find(number, cause, self._size + position, text, frame.where)

    def _too_far(self, examined: Examined, commit: CommitLine) -> None:
        """Entries should have come before this frame. Or are they in it, because their commit line is not?"""
        frame, checkpoint = examined.frame, examined.checkpoint
        due = commit.first - self._size
        extra = len(frame.entries) - commit.count
        until = f"entries {self._size} to {commit.first - 1}"
        without = _without(examined, due)
        if checkpoint is not None and extra == due and self._leads_to(checkpoint, examined.leaves):
            self._find(3, "unsigned", self._size, f"{until} have no commit line", frame.where)
            self._take(self._size, examined, tuple(commit.peaks))
            self._trust(checkpoint)
        elif checkpoint is not None and extra == due + 1 and self._leads_to(checkpoint, without.leaves):
            self._find(1, "altered", self._size, f"the commit line of {until} is damaged", frame.where)
            self._take(self._size, without, tuple(commit.peaks))
            self._trust(checkpoint)
        elif extra > 0:
            self._blame(1, examined, len(frame.entries))
            self._go_on_after(examined, commit)
        else:
            self._gaps = [*self._gaps, _Gap(self._size, commit.first, frame.where)][-self._limit :]
            self._go_on_after(examined, commit)

    def _too_early(self, examined: Examined, commit: CommitLine) -> None:
        """Entries of this frame's indexes were seen already, or were given up as missing."""
        frame = examined.frame
        for position, gap in enumerate(self._gaps):
            if gap.start <= commit.first and commit.size <= gap.end:
                self._gaps[position] = _Gap(gap.start, gap.end, gap.where, found_later=True)
                return
        entries = f"entries {commit.first} to {commit.size - 1}"
        root = self._recent.get(commit.size)
        checkpoint = examined.checkpoint
        if commit.size > self._size or (checkpoint is not None and root not in (None, checkpoint.root)):
            self._find(3, "forked", commit.first, f"{entries} stand there again, in another history", frame.where)
        else:
            self._find(3, "duplicated", commit.first, f"{entries} stand there again", frame.where)

    def _leads_to(self, checkpoint: Checkpoint | None, leaves: Sequence[bytes]) -> bool:
        if checkpoint is None or checkpoint.size != self._size + len(leaves):
            return False
        return tree.root(tree.append(self._size, self._peaks, leaves)[1]) == checkpoint.root

    def _go_on_after(self, examined: Examined, commit: CommitLine) -> None:
        """Goes on from the peaks of a bad frame if its own checkpoint signs them, else from what can be had."""
        checkpoint, peaks = examined.checkpoint, tuple(commit.peaks)
        first = max(self._size, commit.first)
        self._skip_counters(first, examined)
        if len(peaks) != commit.size.bit_count():
            peaks = (bytes(tree.HASH_SIZE),) * commit.size.bit_count()  # they lead nowhere; the state must have some
        self._size, self._peaks = commit.size, peaks
        if checkpoint is not None and checkpoint.size == commit.size and tree.root(peaks) == checkpoint.root:
            self._trust(checkpoint)
        else:
            self._certain = False
        if len(self._unchecked) < self._limit:
            last = commit.size - 1
            one = first == last
            which = f"entry {first} by itself: its" if one else f"entries {first} to {last} by themselves: their"
            self._unchecked.append(f"{which} commit is damaged")

    def _skip_counters(self, first: int, examined: Examined) -> None:
        """Moves the processes' counters over entries that are not trusted, so that later ones are not blamed."""
        for _ in self._counters.add(first, examined.facts):
            pass

    # --- the end -------------------------------------------------------------------------------------------------

    def report(self, entries_checked: bool) -> Report:
        """Does what is left when all frames were seen, and returns the report."""
        for gap in self._gaps:
            cause: Cause = "reordered" if gap.found_later else "missing"
            text = f"entries {gap.start} to {gap.end - 1} are {'further behind' if gap.found_later else 'not there'}"
            self._find(3, cause, gap.start, text, gap.where)
        self._finish_anchor()
        repeated = self._ids.repeated()
        for finding in self._counters.finish(repeated):
            self._findings.add(finding)
        for index, before in repeated.items():
            self._find(9, "repeated", index, f"the action_id of entry {before}", level="note")
        if self._check_index is not None:
            for index, text in self._check_index(self._size, ()):
                self._find(10, "index column differs", index, text)
        first, holds = self._findings.first, self._findings.errors == 0
        return Report(
            origin=self._origin,
            holds=holds,
            entries=self.entries,
            size=self._sound.size,
            root=self._sound.root,
            index=first.index if first else None,
            cause=first.cause if first else None,
            findings=self._findings.all(),
            more=self._findings.more,
            claim=self._claim(holds),
            not_checked=self._not_checked(entries_checked),
        )

    def _finish_anchor(self) -> None:
        anchor = self._anchor
        if anchor is None or self._anchored:
            return
        if self._size < anchor.size:
            text = f"the log ends at size {self._size}, but a checkpoint of size {anchor.size} was kept elsewhere"
            self._find(11, "truncated", self._size, text)
        else:
            self._unchecked.append(f"the checkpoint kept elsewhere (size {anchor.size}): entries below it are damaged")

    def _claim(self, holds: bool) -> str:
        if not holds:
            return "none: the log is not what was signed"
        if self._anchor is not None:
            return (
                f"consistent with the checkpoint kept elsewhere: none of the first {self._anchor.size} entries was "
                f"changed, removed, inserted or moved; all {self._sound.size} entries are what the log's key signed"
            )
        return f"locally consistent: all {self._sound.size} entries are what the log's key signed, in that order"

    def _not_checked(self, entries_checked: bool) -> tuple[str, ...]:
        left = list(self._unchecked)
        beyond = f" after entry {self._anchor.size - 1}" if self._anchor is not None and self._anchor.size else ""
        left.append(
            f"whether entries{beyond} were cut off at the end of a commit, or all written anew and signed again with "
            "the log's key: only a later checkpoint kept elsewhere can show that"
        )
        if not entries_checked:
            left.append("whether each entry is canonical and fits the record's schema")
        if self._check_index is None:
            left.append("whether the search index says what the entries say")
        return tuple(left)

    def _find(
        self, check: int, cause: Cause, index: int | None, text: str, where: str = "", level: Level = "error"
    ) -> None:
        self._findings.add(Finding(check, cause, index, text, where, level))


def _without(examined: Examined, position: int) -> Examined:
    """The same frame without one of its lines; check 10 then does not look at it."""
    leaves, facts = list(examined.leaves), list(examined.facts)
    malformed = [(at - (at > position), text) for at, text in examined.malformed if at != position]
    return replace(
        examined,
        leaves=leaves[:position] + leaves[position + 1 :],
        facts=facts[:position] + facts[position + 1 :],
        malformed=malformed,
    )
