"""The record itself, one canonical entry a line: the bytes that the log's tree is made of.

A line ends with U+000A and with nothing else; text in a record may hold other line separators (U+2028), which the
canonical form does not escape.
"""

from __future__ import annotations

import json

from .facts import Record
from .place import Place
from .text import canonical


def encode(record: Record, place: Place | None = None) -> bytes:
    """The entry; with its place: what `placed` makes of it."""
    entry = canonical(dict(record))
    return entry if place is None else placed(entry, place)


def placed(entry: bytes, place: Place) -> bytes:
    """``{"log": origin, "index": n, "record": entry}``, in which the entry has its own bytes."""
    return b'{"log":%b,"index":%d,"record":%b}' % (json.dumps(place.origin).encode(), place.index, entry)
