"""The checks that need a log's frames in order, and the report in the end. The numbers are those of `verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from . import tree
from .anchors import Anchors, Outside
from .checkpoint import Checkpoint
from .claims import claims_of, contradiction, open_questions
from .diagnosis import diagnose
from .examine import CommitLine, Examined
from .records import Records
from .report import Cause, Finding, Findings, Level, Report
from .start import Approach, Start
from .state import State

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

    def __init__(self, origin: str, start: Start, outside: Outside, check_index: CheckIndex | None, limit: int) -> None:
        """Starts with the tree before the first entry that is to be read."""
        self.entries = 0
        self._ended = False
        self._origin = origin
        self._start = start
        self._approach = Approach(start)
        self._outside = outside
        self._anchors = Anchors.of(outside.anchors)
        self._check_index = check_index
        self._limit = limit
        self._findings = Findings(limit)
        self._size = start.size
        self._peaks = start.peaks
        self._certain = start.finding is None  # False: the peaks may not be what was signed
        self._unchecked: list[str] = []
        self._sound = start.checkpoint
        self._note = start.note
        self._recent: dict[int, bytes] = {}
        self._gaps: list[_Gap] = []
        self._records = Records(start.resume, pruned=start.pruned > 0)
        for finding in (*outside.findings, *([start.finding] if start.finding else ())):
            self._findings.add(finding)
        for anchor in self._anchors.begin(start.size, start.checkpoint.root):
            self._find(11, "forked", None, contradiction(anchor))

    def add(self, examined: Examined) -> None:
        """Takes the next frame."""
        for admitted in self._approach.admit(examined):
            self._add(admitted)

    def _add(self, examined: Examined) -> None:
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
        if examined.grown_from == (self._size, self._peaks):
            size, peaks = commit.size, tuple(commit.peaks)
        else:
            size, peaks = tree.append(self._size, self._peaks, examined.leaves)
        if size != commit.size or tree.root(peaks) != checkpoint.root or tuple(commit.peaks) != peaks:
            return False
        self._take(commit.first, examined, peaks)
        self._trust(checkpoint)
        self._note = commit.checkpoint
        return True

    def _take(self, first: int, examined: Examined, peaks: tuple[bytes, ...]) -> None:
        """Moves on over entries that are what was signed, and does checks 2, 7 to 11 and 13 to 16 on them."""
        for anchor in self._anchors.meet(self._size, self._peaks, examined.leaves):
            self._find(11, "forked", None, contradiction(anchor))
        self._size, self._peaks = first + len(examined.leaves), peaks
        for position, text in examined.malformed:
            self._find(2, "malformed", first + position, text, examined.frame.where)
        for finding in self._records.add(first, examined):
            self._findings.add(finding)
        entries = examined.frame.entries
        if self._check_index is not None and len(entries) == len(examined.leaves):
            for index, text in self._check_index(first, entries):
                self._find(10, "index column differs", index, text)

    def _trust(self, checkpoint: Checkpoint) -> None:
        self._sound, self._certain = checkpoint, True
        self._recent[checkpoint.size] = checkpoint.root
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

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
        self._records.skip(self._size, examined)
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
        sums = frame.commit.sums if frame.commit is not None else b""
        leads = partial(self._leads_to, examined.checkpoint)
        for cause, position, text in diagnose(frame.entries, examined.leaves, examined.facts, count, hint, leads, sums):
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
        self._records.skip(first, examined)
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

    # --- the end -------------------------------------------------------------------------------------------------

    def report(self, entries_checked: bool) -> Report:
        """Does what is left when all frames were seen, and returns the report."""
        self._finish_start()
        for gap in self._gaps:
            cause: Cause = "reordered" if gap.found_later else "missing"
            text = f"entries {gap.start} to {gap.end - 1} are {'further behind' if gap.found_later else 'not there'}"
            self._find(3, cause, gap.start, text, gap.where)
        self._finish_anchors()
        for finding in self._records.finish():
            self._findings.add(finding)
        if self._check_index is not None:
            for index, text in self._check_index(self._size, ()):
                self._find(10, "index column differs", index, text)
        sound = self._findings.errors == 0
        claims = claims_of(self._anchors, self._start, self._sound.size) if sound else ()
        claim = claims[-1].text if claims else "none: the log is not what was signed"
        if not self._is_witnessed() and sound:
            claim = "none: the quorum that the trust file demands has not cosigned this log"
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
            claim=claim,
            not_checked=self._not_checked(entries_checked),
            claims=claims,
            counts=self._records.counts,
            persons=self._records.coherence.persons.total,
            start=self._start.size,
            pruned=self._start.pruned,
            state=self._remember() if holds and self._size else None,
        )

    def _finish_start(self) -> None:
        """Was the beginning reached, and does the log explain why the pruned part is gone?"""
        for examined in self._approach.rest():
            self._add(examined)
        start = self._start
        if self._approach.contradicted:
            text = f"the first {start.size} entries are not those that {start.words}: another root was signed there"
            self._find(11, "forked", None, text)
        if start.resume is not None and not self._approach.found:
            last = self._approach.last
            text = f"the log ends at size {last}, but a verification remembers {start.size} entries"
            self._find(11, "truncated", last, text)
        explained = self._records.coherence.pruned
        if start.pruned and (explained is None or explained[0] < start.pruned):
            text = f"entries 0 to {start.pruned - 1} are not there, and no record in the rest of the log explains it"
            self._find(15, "missing", 0, text)

    def _finish_anchors(self) -> None:
        self._anchors.pass_over(self._size)
        for anchor in reversed(self._anchors.due):
            text = f"the log ends at size {self._size}, but a checkpoint of size {anchor.size} was {anchor.label}"
            self._find(11, "truncated", self._size, text)

    def _is_witnessed(self) -> bool:
        """Check 12: a quorum, where one is demanded, has cosigned what this log leads to."""
        quorum, size, resume = self._outside.quorum, self._sound.size, self._start.resume
        if quorum is None or size == 0 or self._anchors.newest("witnessed") is not None:
            return True
        if resume is not None and resume.witnessed:
            self._unchecked.append(f"whether anybody cosigned more than the first {resume.witnessed} entries")
            return True
        text = f"quorum {quorum!r} of the trust file is not reached: {self._outside.cosigned}"
        self._find(12, "not witnessed", None, text)
        return False

    def _not_checked(self, entries_checked: bool) -> tuple[str, ...]:
        left = list(open_questions(self._anchors, self._start, self._records, self._outside, self._unchecked))
        if not entries_checked:
            left.append("whether each entry is canonical and fits the record's schema")
        if self._check_index is None:
            left.append("whether the search index says what the entries say")
        return tuple(left)

    def _remember(self) -> State:
        """What the next verification needs to go on from here."""
        seen, resume = self._anchors.newest("witnessed"), self._start.resume
        return State(
            origin=self._origin,
            size=self._size,
            root=self._sound.root,
            peaks=self._peaks,
            checkpoint=self._note.decode(),
            newest=self._records.counters.newest,
            processes=self._records.processes(),
            retention=self._records.coherence.retention,
            pruned=self._records.coherence.pruned,
            witnessed=seen.newest.size if seen is not None else resume.witnessed if resume is not None else 0,
            whole=self._start.size == 0 if resume is None else resume.whole,
        )

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
