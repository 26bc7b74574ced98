"""The record itself, one canonical entry a line: the bytes that the log's tree is made of.

A line ends with U+000A and with nothing else; text in a record may hold other line separators (U+2028), which the
canonical form does not escape.
"""

from __future__ import annotations

from .facts import Record
from .text import canonical


def encode(record: Record) -> bytes:
    """The entry."""
    return canonical(dict(record))
