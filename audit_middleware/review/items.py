"""The periodic review: every item, with the numbers of the period."""

from __future__ import annotations

from . import access, log
from .checklist import Basis, Item


def review(basis: Basis) -> list[Item]:
    """All items, in the order in which one goes through them: who did what, by which rules, and the log itself."""
    return [*access.items(basis), *log.items(basis)]
