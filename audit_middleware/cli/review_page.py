"""The periodic review as Markdown. Names from records came from outside: nothing in them is markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..review.checklist import Item, Table
from .output import shown

MARK = "**(!)**"
_LONGEST = 200
_MARKUP = re.compile(r"([\\`*\[\]<>|#&~$]|(?<!\w)_|_(?!\w))")
_LINKS = (("://", ":\\//"), ("www.", "www\\."), ("@", "\\@"))  # what GitHub makes links of by itself

_INTRODUCTION = f"""\
This page was written by `audit-middleware review` from the log itself. For each item: read the numbers, follow up what
is marked {MARK}, then tick the box with your name and the day. Keep the signed page with the log's checkpoint of then
(`audit-middleware checkpoint`): together they are evidence *for* the controls named; whether these are met is for each
reviewer to judge. Nothing here says that a law or standard is complied with.

A mark is no fault: it says that a number is one to explain. What the policy leaves out of the log (successes of actions
with `record: none`, exempt routes) is in no number."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the page is about."""

    origin: str
    log: str
    since: str | None
    until: str | None
    made: str
    size: int
    policy: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def page(head: Head, items: list[Item]) -> str:
    """The whole page."""
    return "\n".join(_lines(head, items)) + "\n"


def _lines(head: Head, items: list[Item]) -> Iterator[str]:
    marked = sum(item.attention for item in items)
    period = f"{head.since or 'the first entry'} to {head.until or 'the newest entry'}"
    yield f"# Periodic review of {plain(head.origin)}"
    yield f"\n{_INTRODUCTION}\n"
    facts = (
        ("log", head.log), ("entries in the log", str(head.size)), ("period", period), ("made", head.made),
        ("policy", head.policy), ("digest", head.digest), ("items", f"{len(items)}, of which {marked} are marked"),
    )  # fmt: skip
    yield from _table(Table(("what", "value"), facts))
    for number, item in enumerate(items, 1):
        yield from _item(number, item)


def _item(number: int, item: Item) -> Iterator[str]:
    yield f"\n## {number}. {item.title}\n"
    yield f"Evidence for: {' · '.join(item.controls)}\n"
    yield f"{item.question}\n"
    for line in item.lines:
        yield f"- {MARK + ' ' if line.attention else ''}{plain(line.text)}"
    for table in item.tables:
        yield ""
        yield from _table(table)
    yield "\n- [ ] reviewed by ____________________ on ____________, follow-up: ____________________"


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'---|' * len(table.columns)}"
    for row in table.rows:
        yield f"| {' | '.join(plain(cell) for cell in row)} |"


def plain(text: str) -> str:
    """Text that Markdown shows as it is: on one line, bounded, without markup, links or HTML."""
    clean = shown(text)
    clean = clean if len(clean) <= _LONGEST else clean[: _LONGEST - 1] + "…"
    clean = _MARKUP.sub(r"\\\1", clean)
    for link, escaped in _LINKS:
        clean = clean.replace(link, escaped)
    return clean
