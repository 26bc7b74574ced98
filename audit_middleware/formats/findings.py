"""What a detector found: the records ``audit.finding``, whose ``extra`` holds a finding.

Any member of it may be missing or be something else than it should: what cannot be used is left out here, and stands
in ``extra`` as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from .text import shortened

ACTION: Final = "audit.finding"
_SEVERITIES: Final[Mapping[str, str]] = {
    "informational": "info", "low": "low", "medium": "medium", "high": "high", "critical": "critical",
}  # fmt: skip
_LONGEST, _MOST = 1024, 64  # bytes of a text; members of a group, and indexes of evidence
_LARGEST = 2**53 - 1
_LATEST = 253_402_300_799_999  # the end of the year 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        id: Its own; where it has none, the record's.
        severity: Its level in the words of records; ``None`` where it has none that is known.
        group: What it is about, name and value.
        observed: As text, and so is ``baseline``: what was usual.
        first: Of the evidence, and ``last``: milliseconds since 1970.
        evidence: Indexes in the log, 64 at most; ``count`` says how many there were.
        user: Whom it is about.
    """

    id: str
    rule: str | None
    title: str | None
    severity: str | None
    dimension: str | None
    group: tuple[tuple[str, str], ...]
    observed: str | None
    baseline: str | None
    window_s: int | None
    first: int | None
    last: int | None
    evidence: tuple[int, ...]
    count: int | None
    user: str | None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.title or self.rule or "finding"

    @property
    def about(self) -> str | None:
        """Whom or what it is about: the user, else the group."""
        return self.user or ", ".join(f"{name} {value}" for name, value in self.group) or None


def finding(record: Mapping[str, Any]) -> Finding | None:
    """What a record tells of a finding; ``None`` for every other record."""
    if record["action"] != ACTION or record["kind"] != "control":
        return None
    extra = record["extra"]
    group, evidence = extra.get("group"), extra.get("evidence")
    found = [one for one in evidence if _number(one) is not None] if isinstance(evidence, list) else []
    named = group.items() if isinstance(group, Mapping) else ()
    level = _text(extra.get("level"))
    count = _number(extra.get("evidence_count"))
    return Finding(
        id=_text(extra.get("finding_id")) or str(record["action_id"]),
        rule=_text(extra.get("rule")),
        title=_text(extra.get("title")),
        severity=None if level is None else _SEVERITIES.get(level),
        dimension=_text(extra.get("dimension")),
        group=tuple((name, value) for name, one in named if name and (value := _text(one)) is not None)[:_MOST],
        observed=_text(extra.get("observed")),
        baseline=_text(extra.get("baseline")),
        window_s=_number(extra.get("window_s")),
        first=_millis(extra.get("first")),
        last=_millis(extra.get("last")),
        evidence=tuple(found[:_MOST]),
        count=len(found) or None if count is None else count,
        user=_text(extra.get("user_id")),
    )


def _text(value: Any) -> str | None:
    """Text that is not empty; a number as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return shortened(value, _LONGEST) if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST else None


def _millis(value: Any) -> int | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        passed = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):
        return None
    millis = (passed.days * 86_400 + passed.seconds) * 1000 + passed.microseconds // 1000
    return millis if 0 <= millis <= _LATEST else None
