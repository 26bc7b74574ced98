"""The parts of the periodic review: what a person has to look at and sign, with the numbers of the period from the log.

Each `Item` names the controls that it is evidence *for*; that a control is met is a judgement that no program makes.
Control numbers: SOC 2 (AICPA trust services criteria), HIPAA (45 CFR), GDPR (articles), PCI DSS 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from ..ledger.report import Report
from ..pipeline.inventory import Inventory
from ..policy.evaluate import Policy
from ..policy.suite import SuiteResult
from .activity import Activity
from .tally import Tally

TOP = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One statement with its number; ``attention`` where it asks for a look."""

    text: str
    attention: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to review."""

    title: str
    controls: tuple[str, ...]
    question: str
    lines: tuple[Line, ...]
    tables: tuple[Table, ...] = ()

    @property
    def attention(self) -> bool:
        """Does any number ask for a look?"""
        return any(line.attention for line in self.lines)


@dataclass(frozen=True, slots=True)
class Basis:
    """What the review is made of. ``size`` and ``oldest`` are of the whole log, the rest is of the period.

    ``unfinished`` counts intents without an outcome; ``verified`` is the time of the newest verification on record.
    """

    policy: Policy
    activity: Activity
    today: date
    size: int
    oldest: str | None
    unfinished: int = 0
    verified: str | None = None
    tests: SuiteResult | None = None
    inventory: Inventory | None = None
    report: Report | None = field(default=None)
    top: int = TOP


def ranked(tally: Tally[Any], columns: tuple[str, ...], top: int) -> Table:
    """The most frequent keys with their counts; a key may be a tuple, one cell each."""
    rows = [(*(key if isinstance(key, tuple) else (key,)), str(count)) for key, count in tally.top(top)]
    if len(tally) > top:
        rows.append((f"and {len(tally) - top} more", *[""] * (len(columns) - 2), ""))
    if tally.rest:
        rows.append(("at most so many more of each", *[""] * (len(columns) - 2), str(tally.rest)))
    return Table(columns, tuple(rows))


def to_dict(items: list[Item]) -> list[dict[str, Any]]:
    """The items as JSON."""
    return [
        {
            "title": item.title,
            "controls": list(item.controls),
            "question": item.question,
            "attention": item.attention,
            "lines": [{"text": line.text, "attention": line.attention} for line in item.lines],
            "tables": [{"columns": list(one.columns), "rows": [list(row) for row in one.rows]} for one in item.tables],
        }
        for item in items
    ]


def listed(lines: Iterator[Line], otherwise: str) -> tuple[Line, ...]:
    """The lines, or one that says that there are none."""
    return tuple(lines) or (Line(otherwise),)
