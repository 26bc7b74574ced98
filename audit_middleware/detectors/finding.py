"""What a rule found: a frozen value that says what was measured, against what, and which entries of the log show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from ..formats.text import canonical
from ..model import Json, Severity

__all__ = ["LEVELS", "MAX_EVIDENCE", "Finding", "Level", "Respond", "finding_id"]

Level = Literal["informational", "low", "medium", "high", "critical"]

LEVELS: Final[Mapping[Level, Severity]] = {
    "informational": "info",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "critical": "critical",
}
"""Sigma's levels, mildest first, each with the severity of a record that tells of such a finding."""

MAX_EVIDENCE: Final = 64


@dataclass(frozen=True, slots=True)
class Respond:
    """What a rule asks the service to do with the user; ``seconds`` from when the finding is known."""

    action: Literal["block"]
    seconds: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. The same records and rules give the same findings, byte for byte, live and over history.

    Attributes:
        finding_id: 32 hex digits, made from rule, group, and the first and last evidence: see `finding_id`.
        rule: The rule's id, a UUID.
        title: The rule's title.
        level: How grave the rule says that it is.
        dimension: What was measured, in words: ``event_count by user.id``.
        group: For whom it was measured: the values of the rule's group-by fields.
        observed: The measured number; 1 of a rule that one record satisfies.
        baseline: What it was measured against: ``limit``, and of a baseline ``median``, ``mad`` (as text: they may be
            halves) and ``buckets``; empty where one record suffices.
        window_s: In how many seconds; 0 of a rule that one record satisfies.
        first, last: ``recorded_at`` of the first and last entry of the evidence, RFC 3339.
        evidence: Indexes of entries in the log, at most `MAX_EVIDENCE`: the first one, and the last ones.
        evidence_count: How many there are, also those that are not listed.
        user_id: Who did it, where it is one user; ``None`` for nobody, for several, and for the log itself.
        respond: What is asked for.
    """

    finding_id: str
    rule: str
    title: str
    level: Level
    dimension: str
    group: Mapping[str, str]
    observed: int
    baseline: Mapping[str, Json]
    window_s: int
    first: str
    last: str
    evidence: tuple[int, ...]
    evidence_count: int
    user_id: str | None
    respond: Respond | None = None

    @property
    def severity(self) -> Severity:
        """The level, as records say it."""
        return LEVELS[self.level]

    def extra(self) -> dict[str, Json]:
        """The finding as it stands in a record: integers and text only."""
        respond = self.respond
        return {
            "finding_id": self.finding_id,
            "rule": self.rule,
            "title": self.title,
            "level": self.level,
            "dimension": self.dimension,
            "group": dict(self.group),
            "observed": self.observed,
            "baseline": dict(self.baseline),
            "window_s": self.window_s,
            "first": self.first,
            "last": self.last,
            "evidence": list(self.evidence),
            "evidence_count": self.evidence_count,
            "user_id": self.user_id,
            "respond": None if respond is None else {"action": respond.action, "seconds": respond.seconds},
        }


def finding_id(rule: str, group: Mapping[str, str], first: int, last: int) -> str:
    """Half of the SHA-256 of the canonical JSON of ``[rule, [[field, value], ...], first, last]``, in hex."""
    pairs = [[name, group[name]] for name in sorted(group)]
    return sha256(canonical([rule, pairs, first, last])).hexdigest()[:32]
