"""What a destination will never take: one JSON line a record, kept until somebody looks.

::

    {"at": RFC 3339, "index": n, "why": text, "record": {...}}

When some are sent again (`replay`), the file is replaced as a whole by one without them; the caller holds the lock that
who adds lines holds, too.

A line is on disk before the cursor moves past its record. *If we die between*: the line stands there twice. A torn last
line, as a crash leaves it, is cut off when the next one is added.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..errors import FollowerError
from ..stores.filesystem import replace_file, sync_directory, write_all
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


class Letter(msgspec.Struct, frozen=True):
    """One dead letter; ``record`` has the entry's own bytes."""

    at: str
    index: int
    why: str
    record: msgspec.Raw

    @property
    def item(self) -> Item:
        """What is sent again."""
        return Item(self.index, bytes(self.record))


_DECODER = msgspec.json.Decoder(Letter)


def _line(letter: Letter) -> bytes:
    said = json.dumps(letter.at).encode(), letter.index, json.dumps(letter.why).encode(), bytes(letter.record)
    return b'{"at":%b,"index":%d,"why":%b,"record":%b}\n' % said


class DeadLetters:
    """The dead letters of one follower."""

    def __init__(self, path: Path) -> None:
        """Touches nothing."""
        self.path = path

    def add(self, items: Sequence[Item], why: Mapping[int, str], now_ns: int) -> None:
        """Appends records durably. Raises `OSError`."""
        at = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines = [_line(Letter(at, item.index, why[item.index], msgspec.Raw(item.entry))) for item in items]
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

    def read(self) -> list[Letter]:
        """All there are, in order; a torn last line is none. Raises `FollowerError` for what is no dead letter."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(data.split(b"\n")[:-1], 1):
            try:
                letter = _DECODER.decode(line)
                if not bytes(letter.record).startswith(b"{"):
                    raise ValueError("no record")
                found.append(letter)
            except ValueError:
                raise FollowerError(f"{self.path}:{number}: is no dead letter: repair or remove the line") from None
        return found

    def keep(self, letters: Sequence[Letter]) -> None:
        """Makes these all there are, durably. *If we die here*: what there was, or these. Raises `OSError`."""
        replace_file(self.path, b"".join(map(_line, letters)))

    def count(self) -> int:
        """How many there are."""
        try:
            with self.path.open("rb") as file:
                return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        except FileNotFoundError:
            return 0
