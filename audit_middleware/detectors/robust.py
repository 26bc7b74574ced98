"""Median and median absolute deviation, in whole numbers: the same on every machine, to the last bit.

A count x is too high if ``0.6745 * (x - median) / MAD > 3.5`` (Iglewicz and Hoaglin, How to Detect and Handle
Outliers, 1993). A MAD of less than 1, or of less than a tenth of the median, counts as that: counts that hardly ever
differ would otherwise make an alarm of every difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bound", "bound"]


@dataclass(frozen=True, slots=True)
class Bound:
    """The highest count that is not too high; median and MAD (as it was counted) as decimal text."""

    limit: int
    median: str
    mad: str


def bound(counts: Sequence[int]) -> Bound:
    """Of at least one count."""
    twice = _twice_median(counts)
    # Four times the MAD; forty times, so that a tenth of the median is whole, too.
    forty = 10 * _twice_median([abs(2 * count - twice) for count in counts])
    forty = max(forty, 40, 2 * twice)
    # 0.6745 * (x - twice / 2) > 3.5 * forty / 40, times 400,000, solved for x.
    limit = (134_900 * twice + 35_000 * forty) // (2 * 134_900)
    return Bound(limit, _decimal(twice * 20), _decimal(forty))


def _twice_median(counts: Sequence[int]) -> int:
    ordered = sorted(counts)
    middle = len(ordered) // 2
    return 2 * ordered[middle] if len(ordered) % 2 else ordered[middle - 1] + ordered[middle]


def _decimal(fortieth: int) -> str:
    """A number of fortieths as text without needless zeros: 50 is 1.25."""
    whole, rest = divmod(fortieth * 25, 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".")
