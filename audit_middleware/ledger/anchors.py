"""Checkpoints that others hold: the only evidence against whoever can write the log anew and sign it again.

An anchor says: at this size the log had this root. The verifier meets the anchors in the order of their sizes, in one
pass over the log, and keeps of each kind only what the report needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from . import tree
from .checkpoint import Checkpoint
from .report import Finding

AnchorKind = Literal[
    "kept elsewhere",  # by the auditor
    "witnessed",  # cosigned by a quorum, or by anybody where the trust file demands none
    "cosigned",  # cosigned, but by no quorum
    "archived",
    "time-stamped",
    "beside the log",  # signed by the log alone, and in the operator's hands: good for comparing, proves nothing more
]


@dataclass(frozen=True, slots=True)
class Anchor:
    """One checkpoint from outside.

    Attributes:
        size: Tree size.
        root: Root hash.
        label: Completes "the checkpoint ..." and "a checkpoint was ...": "kept elsewhere", "cosigned by site-b".
        kind: What agreement with it proves.
        by: Names of the witnesses.
        time: POSIX seconds: of the newest cosignature, the time stamp, or when an archive says it got it.
    """

    size: int
    root: bytes
    label: str
    kind: AnchorKind = "kept elsewhere"
    by: tuple[str, ...] = ()
    time: int | None = None


def anchor_of(checkpoint: Checkpoint, label: str, kind: AnchorKind = "kept elsewhere") -> Anchor:
    """Returns the anchor that a checkpoint is."""
    return Anchor(checkpoint.size, checkpoint.root, label, kind)


@dataclass(frozen=True, slots=True)
class Outside:
    """What is known of a log from elsewhere.

    Attributes:
        anchors: In any order.
        findings: What was offered and counts for nothing, or should be there and is not.
        quorum: Name of the quorum that is demanded; ``None`` if none is.
        cosigned: In words, what was found of cosigned checkpoints.
        limits: What this evidence leaves open, for the report.
    """

    anchors: tuple[Anchor, ...] = ()
    findings: tuple[Finding, ...] = ()
    quorum: str | None = None
    cosigned: str = ""
    limits: tuple[str, ...] = ()

    def __add__(self, other: Outside) -> Outside:
        """Both together."""
        return Outside(
            self.anchors + other.anchors,
            self.findings + other.findings,
            self.quorum or other.quorum,
            self.cosigned or other.cosigned,
            self.limits + other.limits,
        )


@dataclass(slots=True)
class Agreed:
    """How many anchors of one kind and label the log leads to, and the one of the largest size."""

    count: int
    newest: Anchor


@dataclass(slots=True)
class Unmet:
    """Anchors that were not compared: how many, and the one of the largest size."""

    count: int = 0
    newest: Anchor | None = None

    def add(self, anchor: Anchor) -> None:
        """Takes the next one, of the same size or a larger one."""
        self.count += 1
        self.newest = anchor


@dataclass(slots=True)
class Anchors:
    """Compares a growing log with its anchors, the smallest first.

    Attributes:
        agreed: What the log led to, by kind and, for archives, place.
        below: Anchors of sizes below the first entry that was read.
        passed: Anchors among damaged entries.
    """

    due: list[Anchor]
    agreed: dict[tuple[str, str], Agreed] = field(default_factory=dict)
    below: Unmet = field(default_factory=Unmet)
    passed: Unmet = field(default_factory=Unmet)

    @classmethod
    def of(cls, anchors: Iterable[Anchor]) -> Anchors:
        """Sorts them; those of size 0, which every log leads to, are left out."""
        return cls(sorted((one for one in anchors if one.size > 0), key=attrgetter("size"), reverse=True))

    def begin(self, size: int, root: bytes) -> Iterator[Anchor]:
        """The log is read from this size on. Yields anchors that contradict it."""
        while self.due and self.due[-1].size < size:
            self.below.add(self.due.pop())
        yield from self._compare(size, root)

    def meet(self, size: int, peaks: tuple[bytes, ...], leaves: Sequence[bytes]) -> Iterator[Anchor]:
        """The log goes on from this size with these leaf hashes. Yields the anchors it does not lead to."""
        end, done = size + len(leaves), size
        while self.due and self.due[-1].size <= end:
            if self.due[-1].size <= size:
                self.passed.add(self.due.pop())
                continue
            wanted = self.due[-1].size
            done, peaks = tree.append(done, peaks, leaves[done - size : wanted - size])
            yield from self._compare(wanted, tree.root(peaks))

    def pass_over(self, size: int) -> None:
        """What the log holds up to this size is damaged: nothing below it can be compared."""
        while self.due and self.due[-1].size <= size:
            self.passed.add(self.due.pop())

    def _compare(self, size: int, root: bytes) -> Iterator[Anchor]:
        while self.due and self.due[-1].size == size:
            anchor = self.due.pop()
            if anchor.root != root:
                yield anchor
                continue
            key = (anchor.kind, anchor.label if anchor.kind == "archived" else "")
            known = self.agreed.setdefault(key, Agreed(0, anchor))
            known.count += 1
            known.newest = anchor

    def newest(self, kind: AnchorKind) -> Agreed | None:
        """What was agreed on of this kind."""
        return self.agreed.get((kind, ""))
