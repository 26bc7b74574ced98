"""What a destination will never take: one JSON line a record, kept until somebody looks.

::

    {"at": RFC 3339, "index": n, "why": text, "record": {...}}

A line is on disk before the cursor moves past its record. *If we die between*: the line stands there twice. A torn last
line, as a crash leaves it, is cut off when the next one is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..stores.filesystem import sync_directory, write_all
from .sink import Item


def cut_torn_line(descriptor: int) -> None:
    """Makes a file of lines end with a line."""
    end = size = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65_536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


class DeadLetters:
    """The dead letters of one follower."""

    def __init__(self, path: Path) -> None:
        """Touches nothing."""
        self.path = path

    def add(self, items: Sequence[Item], why: Mapping[int, str], now_ns: int) -> None:
        """Appends records durably. Raises `OSError`."""
        at = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines = [
            b'{"at":"%b","index":%d,"why":%b,"record":%b}\n'
            % (at.encode(), item.index, json.dumps(why[item.index]).encode(), item.entry)
            for item in items
        ]
        new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            cut_torn_line(descriptor)
            write_all(descriptor, b"".join(lines))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_directory(self.path.parent)

    def count(self) -> int:
        """How many there are."""
        try:
            with self.path.open("rb") as file:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        except FileNotFoundError:
            return 0
