"""Somebody with write access to the log's files, who knows exactly what they are doing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .errors import Surprise


@dataclass(frozen=True, slots=True)
class Damage:
    """One byte that was changed: ``offset`` is its place in ``file``; the texts show it in its surroundings."""

    file: Path
    offset: int
    before: str
    after: str


def copy_log(log: Path, to: Path) -> Path:
    """A copy of a whole log. The key is not in it, and whoever tampers is not assumed to have it."""
    shutil.copytree(log, to)
    return to


def change_one_byte(log: Path, action_id: str, near: str, old: str, new: str) -> Damage:
    """In the record with this ID, replaces the character ``old`` right after the text ``near`` with ``new``.

    The length stays, no line is added or lost, and the result is still a well-formed record.
    """
    for file in sorted((log / "journal").iterdir()):
        data = file.read_bytes()
        start = data.find(f'"action_id":"{action_id}"'.encode())
        if start < 0:
            continue
        end = data.index(b"\n", start)
        at = data.find((near + old).encode(), start, end)
        if at < 0:
            break
        at += len(near)
        rest = data[at + 1 : at + 4].decode()
        file.write_bytes(data[:at] + new.encode() + data[at + 1 :])
        return Damage(file, at, near + old + rest, near + new + rest)
    raise Surprise(f"the copy of the log holds no {near}{old} in record {action_id}")
