"""What one process does of a verification: examines a piece of the journal and sums it up.

Run by `examining` as a program of its own, with two pipes. On stdin it gets an `Assignment` and then one `Task` after
the other; for each it answers on stdout with one `Answer`. Messages are MessagePack behind a length of 4 bytes; nothing
in them is executed. It ends when stdin does, so it never outlives who started it.

The answer holds no entries, only what the checks across frames need: leaf hashes, what the records tell of themselves,
and whether the tree grew from the frame before as it should. Whoever wants the entries reads them from the file.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from ..errors import FormatError
from ..ledger import tree
from ..ledger.controls import Control
from ..ledger.examine import Examined, examine
from ..ledger.note import Verifier, parse_vkey
from ..ledger.report import Cause
from ..stores.frames import RawFrame, parse_commit
from ..stores.segments import last_commit_line, pieces, read_at, read_piece
from .keywatch import MENTION, may_mention
from .wellformed import check_record, read_records

_LENGTH = 4


class Assignment(msgspec.Struct, array_like=True, frozen=True):
    """What holds for all tasks of a process."""

    origin: str
    vkeys: list[str]
    check_records: bool


class Task(msgspec.Struct, array_like=True, frozen=True):
    """The bytes [begin, end) of one segment; they hold whole frames, or the end of the segment."""

    path: bytes
    first: int
    begin: int
    end: int
    last: bool


class Commit(msgspec.Struct, array_like=True, frozen=True):
    """A commit line; has the members of `stores.frames.Commit`."""

    first: int
    count: int
    size: int
    peaks: tuple[bytes, ...]
    checkpoint: bytes
    sums: bytes


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """One frame. ``ids`` are 8 bytes for each entry, ``leaves`` 32; ``run`` is a `told.Run`.

    ``digest`` is the frame's hash if it holds, so that who reads the frame again knows that it is the same.
    """

    offset: int
    length: int
    whole: bool
    entries: int
    problem: str | None
    torn: bool
    digest: bytes
    commit: Commit | None
    checkpoint: tuple[int, bytes] | None
    signature: tuple[int, Cause, int | None, str] | None
    malformed: list[tuple[int, str]]
    controls: list[Control]
    leaves: bytes
    ids: bytes
    run: tuple[str, int, str, str] | None
    grown: bool
    mentions_keys: bool


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The frames of a task in their order, or why the file could not be read.

    ``before`` is size and peaks of the tree from which the first of them was found to have ``grown``.
    """

    frames: list[Summary]
    error: str | None = None
    before: tuple[int, tuple[bytes, ...]] | None = None


def send(stream: BinaryIO, message: msgspec.Struct) -> None:
    """Writes one message."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(_LENGTH, "big") + data)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Returns the bytes of one message; ``None`` where the stream ends, even in the middle of one."""
    head = _read(stream, _LENGTH)
    size = int.from_bytes(head, "big")
    data = _read(stream, size) if len(head) == _LENGTH else b""
    return data if len(head) == _LENGTH and len(data) == size else None


def _read(stream: BinaryIO, size: int) -> bytes:
    """Reads so many bytes, less only where the stream ends; one without a buffer gives what is there."""
    data = stream.read(size)
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data


def examine_task(task: Task, assignment: Assignment, verifiers: Sequence[Verifier]) -> Answer:
    """Examines one piece of the journal."""
    try:
        descriptor = os.open(os.fsdecode(task.path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = _tree_before(descriptor, task.begin)
            return Answer(list(_summaries(descriptor, task, before, assignment, verifiers)), before=before)
        finally:
            os.close(descriptor)
    except OSError as error:
        return Answer([], error.strerror or str(error))


def _tree_before(descriptor: int, begin: int) -> tuple[int, tuple[bytes, ...]] | None:
    """What the commit line says that ends at this offset. Nobody trusts it: it is compared with what is known there."""
    line = last_commit_line(descriptor, begin) if begin else None
    if line is None or line[1] != begin:
        return None
    try:
        commit = parse_commit(read_at(descriptor, line[0], line[1] - line[0]))
    except FormatError:
        return None
    return commit.size, commit.peaks


def _summaries(
    descriptor: int,
    task: Task,
    before: tuple[int, tuple[bytes, ...]] | None,
    assignment: Assignment,
    verifiers: Sequence[Verifier],
) -> Iterator[Summary]:
    how = (check_record, read_records) if assignment.check_records else ()
    path = Path(os.fsdecode(task.path))
    for offset, data, whole in pieces(descriptor, task.begin, task.end):
        raw = read_piece(path, task.first, offset, data, whole, task.last)
        one = examine(raw, assignment.origin, verifiers, *how)
        after = (raw.commit.size, tuple(raw.commit.peaks)) if raw.commit is not None else None
        grown = before is not None and after is not None and tree.append(*before, one.leaves) == after
        yield _summary(raw, one, offset, data, whole, grown)
        before = after
        del data, raw, one  # before the next ones are read


def _summary(raw: RawFrame, one: Examined, offset: int, data: bytes, whole: bool, grown: bool) -> Summary:
    commit, checkpoint, found = raw.commit, one.checkpoint, one.signature
    ids: array[int] = getattr(one.facts, "ids", array("Q"))
    return Summary(
        offset=offset,
        length=len(data),
        whole=whole,
        entries=len(raw.entries),
        problem=raw.problem,
        torn=raw.torn,
        digest=digest_of(data) if raw.problem is None else b"",
        commit=None if commit is None else Commit(*(getattr(commit, name) for name in Commit.__struct_fields__)),
        checkpoint=None if checkpoint is None else (checkpoint.size, checkpoint.root),
        signature=None if found is None else (found.check, found.cause, found.index, found.text),
        malformed=list(one.malformed),
        controls=list(one.controls),
        leaves=b"".join(one.leaves),
        ids=ids.tobytes(),
        run=getattr(one.facts, "run", None),
        grown=grown,
        mentions_keys=may_mention(one) and MENTION in data,
    )


def digest_of(frame: bytes) -> bytes:
    """Returns the 64 digits of the hash at the end of a frame."""
    return frame[-67:-3]


def main() -> None:
    """Answers tasks until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us, and ends us by closing the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library might print is no answer
    gc.freeze()
    gc.set_threshold(100_000)  # what is decoded lives for one entry and holds no cycles
    tasks = sys.stdin.buffer
    first = receive(tasks)
    if first is None:
        return
    assignment = msgspec.msgpack.decode(first, type=Assignment)
    verifiers = [parse_vkey(text) for text in assignment.vkeys]
    try:
        while (data := receive(tasks)) is not None:
            send(answers, examine_task(msgspec.msgpack.decode(data, type=Task), assignment, verifiers))
    except BrokenPipeError:
        os._exit(1)  # nobody is there to be told


if __name__ == "__main__":
    main()
