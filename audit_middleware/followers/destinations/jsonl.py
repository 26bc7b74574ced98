"""Rotated files of lines, for a log shipper to read, by default ``{"log": origin, "index": n, "record": {...}}``; any
format of lines that says log and index will do, because the files themselves say how far they go.

Lines go to ``audit.jsonl``, or ``audit.log`` where they are no JSON. When it has become large or old enough it is
renamed to ``audit-<index of its first line, 20 digits>.jsonl``, and nothing ever changes it again; a shipper that knows
files by their inode loses nothing. A batch is one write and one fdatasync. *If we die in it*: a torn last line is cut
off at the next start, before anything is added. *If we die after it*: the cursor is behind; lines that stand there
already are not written again, so each index stands in the files once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import FollowerError
from ...formats import FORMATS
from ...stores.filesystem import sync_directory, write_all
from ..config import Options
from ..deadletters import cut_torn_line
from ..shape import Shapes, lines
from ..sink import Item, Sent, Way

KEYS = ("directory", "format", "max_bytes", "max_age", "keep")
STEM = "audit"


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Files as configured. ``max_age`` is in seconds, 0 for any; ``keep`` is how many old files stay, 0 for all."""

    directory: Path
    max_bytes: int = 100 * 2**20
    max_age: int = 0
    keep: int = 0
    format: str = "jsonl"

    def open(self, way: Way) -> JsonLinesSink:
        """See `Destination`. Raises `FollowerError` for a replay: the files have the log's order."""
        if way.replay:
            raise FollowerError(
                f"{self.directory}: files have the log's order, so dead letters cannot be added at their end: let the "
                "follower begin again, with another directory"
            )
        return JsonLinesSink(self, way.origin)


def read_jsonl(options: Options) -> JsonLines:
    """The settings of files."""
    return JsonLines(
        directory=options.path("directory", required=True) or Path("/"),
        max_bytes=options.integer("max_bytes", 100 * 2**20, 1_024, 2**40),
        max_age=options.integer("max_age", 0, 0, 366 * 86_400),
        keep=options.integer("keep", 0, 0, 1_000_000),
        format=options.choice("format", lines(), "jsonl"),
    )


class JsonLinesSink:
    """Writes the files. One at a time for one directory: the follower's lock sees to that."""

    def __init__(self, settings: JsonLines, origin: str, clock: Callable[[], float] = time.time) -> None:
        """Opens ``audit.jsonl``. Raises `OSError`, and `FollowerError` for a file of another log."""
        self._settings, self._origin, self._clock = settings, origin, clock
        self._shapes, self._form = Shapes(settings.format, origin), FORMATS[settings.format]
        self._suffix = ".jsonl" if self._form.is_json else ".log"
        self._path = settings.directory / f"{STEM}{self._suffix}"
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = -1
        self._first: int | None = None
        self._last: tuple[int, bytes] | None = None  # the newest index in the files, and its line
        self._begun = 0.0
        self._begin()

    def send(self, items: Sequence[Item]) -> Sent:
        """See `Sink`."""
        made, unshown = self._shapes.shapes(items)
        rows = [(item.index, text + b"\n") for item, text in made]
        if self._last is not None:
            newest, line = self._last
            # What another release made of a record may differ, and what is shown of a person; the record may not.
            own = {item.index for item in items if item.show is None} if self._settings.format == "jsonl" else ()
            if any(index == newest and text != line and index in own for index, text in rows):
                raise FollowerError(f"{self._path}: entry {newest} in it is not the log's: give another directory")
            rows = [pair for pair in rows if pair[0] > newest]
        if rows:
            self._rotate_if_due()
            if self._first is None:
                self._first, self._begun = rows[0][0], self._clock()
            try:
                write_all(self._descriptor, b"".join(text for _, text in rows))
                os.fdatasync(self._descriptor)
            except OSError:
                self._begin()  # what the file holds now is looked at anew; half a batch is no batch
                raise
            self._last = rows[-1]
        return Sent(len(items), unshown)

    def idle(self) -> None:
        """See `Sink`: nothing."""

    def close(self) -> None:
        """See `Sink`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _begin(self) -> None:
        """Opens the current file and finds out what is in it."""
        self.close()
        new = not self._path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)
        cut_torn_line(self._descriptor)
        if new:
            sync_directory(self._settings.directory)
        self._first = self._index(_first_line(self._path), self._path)
        self._begun = os.fstat(self._descriptor).st_mtime
        newest = self._path if self._first is not None else max(self._old(), default=None)
        if newest is not None:
            line = _last_line(newest)
            index = self._index(line, newest)
            self._last = (index, line) if index is not None else None

    def _old(self) -> list[Path]:
        return sorted(self._settings.directory.glob(f"{STEM}-{'[0-9]' * 20}{self._suffix}"))

    def _rotate_if_due(self) -> None:
        size = os.fstat(self._descriptor).st_size
        old = self._settings.max_age and self._clock() - self._begun >= self._settings.max_age
        if self._first is None or not (size >= self._settings.max_bytes or old):
            return
        name = self._settings.directory / f"{STEM}-{self._first:020}{self._suffix}"
        if name.exists():
            raise FollowerError(f"{name}: is there already, and not ours to replace: move it away")
        os.rename(self._path, name)
        last = self._last
        self._first = None
        self._begin()
        self._last = last
        if self._settings.keep:
            for path in self._old()[: -self._settings.keep]:
                path.unlink(missing_ok=True)

    def _index(self, line: bytes, path: Path) -> int | None:
        if not line:
            return None
        assert self._form.locate is not None
        try:
            found = self._form.locate(line.removesuffix(b"\n"))
        except ValueError as error:
            raise FollowerError(f"{path}: holds lines of something else: give another directory") from error
        if found.origin != self._origin:
            raise FollowerError(f"{path}: holds lines of the log {found.origin!r}: give another directory")
        return found.index


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 20)))  # escaped, an entry of 64 KiB is a few times as long
        found = file.read()
    return found[found.rfind(b"\n", 0, len(found) - 1) + 1 :]
