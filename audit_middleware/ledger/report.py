"""What a verification found: the verdict, where and why, and what it cannot say."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .state import State

Cause = Literal[
    "altered",  # bytes are not what was signed
    "missing",  # entries, a commit line or a record of a process are not there
    "duplicated",  # entries stand in the log more often than was signed
    "reordered",  # the right entries in another order
    "truncated",  # the log ends before a checkpoint that was kept elsewhere
    "unsigned",  # a commit without a signature, or entries without a commit
    "wrong key",  # signed, but by no key that is trusted for this log
    "forked",  # another history than that of a checkpoint that was kept elsewhere
    "other log",  # signed by a trusted key, but for another origin
    "malformed",  # signed as it stands, but no valid record
    "index column differs",  # the search index says something else than the log
    "not witnessed",  # the witnesses that the trust file demands cosigned no checkpoint that this log leads to
    "unexplained",  # entries were pruned, and no earlier record sets the rule for that
    "not locked",  # an object of an archive that its lock does not cover, beside others that it does
    "hidden",  # note: something was put on top of an object of an archive; the one below it counts
    "torn",  # note: the beginning of a commit that a crash cut short; never acknowledged
    "repeated",  # note: one record sent twice after an ambiguous failure
    "gap",  # note: the log itself says that records could not be kept
    "silent",  # note: a process did not give the sign of life that it had promised
    "clock",  # note: a clock jumped, or two processes' clocks disagree
    "not counted",  # note: something offered as evidence is none, and counts for nothing
]

Level = Literal["error", "note"]

ClaimKind = Literal["locally consistent", "kept elsewhere", "archived", "time-stamped", "witnessed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (``error``) or worth knowing (``note``).

    ``check`` is the number of the check in `verify`; ``index`` is the log index of the first entry concerned, ``None``
    if no entry is.
    """

    check: int
    cause: Cause
    index: int | None
    text: str
    where: str = ""
    level: Level = "error"


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the verification proves.

    ``size``: it speaks of the entries below this index. ``by``: the witnesses, for ``witnessed``. ``time``: RFC 3339,
    when somebody else said so.
    """

    kind: ClaimKind
    size: int
    text: str
    by: tuple[str, ...] = ()
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What the log's records say of the log itself, added up over what was read.

    ``gaps``: gap records; ``lost``: records that these stand for; ``silences``: of processes that should have given a
    sign of life; ``jumps``: of clocks.
    """

    gaps: int = 0
    lost: int = 0
    silences: int = 0
    jumps: int = 0


@dataclass(frozen=True, slots=True)
class Persons:
    """What the log's records tell of the keys of persons, over what was read.

    ``keys``: how many were told; a key that is told again after a crash counts again. ``erased``: how many persons'
    keys were to be destroyed; ``erasures``: by how many records; ``told_in``: the log indexes of the first ten of them.
    """

    keys: int = 0
    erased: int = 0
    erasures: int = 0
    told_in: tuple[int, ...] = ()

    @property
    def words(self) -> str | None:
        """Why values of a log cannot be read; ``None`` if nobody was erased."""
        if not self.erasures:
            return None
        listed = ", ".join(map(str, self.told_in)) + (", ..." if self.erasures > len(self.told_in) else "")
        persons = "1 person was" if self.erased == 1 else f"{self.erased} persons were"
        return (
            f"{persons} erased, says the log ({'entry' if self.erasures == 1 else 'entries'} {listed}): what was "
            "sealed for them stays in its place as it was hashed, and cannot be read by anybody who has no copy of "
            "their keys from before"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a verification.

    Attributes:
        origin: The log.
        holds: The verdict.
        entries: How many entries were read and checked.
        size: Size of the newest checkpoint that holds.
        root: Its root.
        index: Log index of the first bad entry, ``None`` if there is none.
        cause: What is wrong there.
        findings: Everything found, errors and notes, in the order of the log; at most as many as were asked for.
        more: How many findings were left out.
        claim: What the verdict proves, in words: the strongest of the claims.
        not_checked: What it says nothing about.
        claims: All that was proved, the weakest first.
        counts: What the log's records say of the log itself.
        persons: What they tell of the keys of persons.
        start: Log index of the first entry that was to be read: not 0 after a pruning, or an earlier verification.
        pruned: How many entries at the beginning of the log were pruned.
        state: What to remember, to go on from here another time; ``None`` unless the log holds. Not part of the JSON.
    """

    origin: str
    holds: bool
    entries: int
    size: int
    root: bytes
    index: int | None
    cause: Cause | None
    findings: tuple[Finding, ...]
    more: int
    claim: str
    not_checked: tuple[str, ...]
    claims: tuple[Claim, ...] = ()
    counts: Counts = Counts()
    persons: Persons = Persons()
    start: int = 0
    pruned: int = 0
    state: State | None = None

    @property
    def verdict(self) -> str:
        """``holds`` or ``does not hold``."""
        return "holds" if self.holds else "does not hold"

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types; the root as base64, like in a checkpoint."""
        values = asdict(replace(self, state=None))
        del values["state"]
        values["verdict"] = self.verdict
        values["root"] = b64encode(self.root).decode("ascii")
        return values


class Findings:
    """Collects findings; keeps the first ``limit`` errors and as many notes, and counts the rest in ``more``.

    ``errors`` counts all errors, kept or not: the verdict.
    """

    def __init__(self, limit: int) -> None:
        """``limit`` bounds memory: a log can be wrong in every entry."""
        self._limit = limit
        self._kept: dict[Level, list[Finding]] = {"error": [], "note": []}
        self._first: Finding | None = None
        self.errors = 0
        self.more = 0

    def add(self, finding: Finding) -> None:
        """Takes a finding."""
        if finding.level == "error":
            self.errors += 1
            if self._first is None or _is_before(finding, self._first):
                self._first = finding
        kept = self._kept[finding.level]
        if len(kept) < self._limit:
            kept.append(finding)
        else:
            self.more += 1

    @property
    def full(self) -> bool:
        """True if no further error is kept: looking for its cause is not worth the time."""
        return len(self._kept["error"]) >= self._limit

    @property
    def first(self) -> Finding | None:
        """The error with the smallest index; an error without index only if no other has one."""
        return self._first

    def all(self) -> tuple[Finding, ...]:
        """What was kept, by log index."""
        both = self._kept["error"] + self._kept["note"]
        return tuple(sorted(both, key=lambda finding: -1 if finding.index is None else finding.index))


def _is_before(one: Finding, other: Finding) -> bool:
    if one.index is None or other.index is None:
        return one.index is not None
    return one.index < other.index
