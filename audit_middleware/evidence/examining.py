"""Examines a journal in several processes, in the order of the log and in bounded memory.

The journal is cut into pieces of some megabytes, where frames end. This process examines the first ones while the
others (`examiner`) start, and later on whenever the answer that is due has not come yet. Each of the others has two
pieces at most; so however large the log is, the sums of a few pieces are in memory. The frames come out as
`ledger.examine.examine` would have given them, one after the other; their entries are read from the file again where
somebody asks for them.

The others are started as ``python -c`` and not forked, so it does not matter what threads, locks or event loops this
one has. They end when their pipe does: also when this process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, overload

import msgspec

from ..errors import LogDamaged, LogUnavailable, StoreError
from ..ledger.checkpoint import Checkpoint
from ..ledger.counters import Run
from ..ledger.examine import Examined, examine
from ..ledger.note import Verifier
from ..ledger.report import Finding
from ..ledger.told import Told
from ..stores.frames import Commit as CommitLine
from ..stores.frames import RawFrame
from ..stores.journal import JournalStore
from ..stores.opening import Store
from ..stores.segments import cut, list_segments, read_at, read_piece
from .examiner import Answer, Assignment, Summary, Task, digest_of, examine_task, receive, send
from .keywatch import KeyWatch, may_mention
from .wellformed import check_record, read_records

PIECE = 4 * 2**20
"""Bytes of the journal that one process examines at a time; more if one frame is larger."""

WORTH_IT = 64 * 2**20
"""A journal below this size is verified sooner than processes are started."""

_AHEAD = 2  # pieces that one of the other processes has
_LEAD = 4  # pieces that this process does first, and then at most before they are due
_PIPE = 2**20  # bytes of answers that wait while this process is at work
_HASH = 32
# An empty package stands in for ours: what its own __init__ loads (frameworks, policies) is half a process's start.
_PACKAGE, _, _ = __name__.partition(".")
_PROGRAM = f"""import json, sys, types
sys.path[:], folder = json.loads(sys.argv[1])
package = sys.modules["{_PACKAGE}"] = types.ModuleType("{_PACKAGE}")
package.__path__ = [folder]
from {_PACKAGE}.evidence.examiner import main
main()"""

_read_answer = msgspec.msgpack.Decoder(Answer).decode


def examined(
    store: Store,
    verifiers: Sequence[Verifier],
    *,
    watch: KeyWatch | None = None,
    check_records: bool = True,
    processes: int | None = None,
    start: int = 0,
    piece: int = PIECE,
) -> Iterator[Examined]:
    """Yields every frame of a journal with what can be said of it alone.

    Args:
        store: The log; only read. One that is no journal is examined in this process.
        verifiers: The keys trusted to sign for this log.
        watch: Is shown every frame, in order.
        check_records: Whether entries are compared with the schema (check 2 of `verify`).
        processes: How many processes work, this one included. Default: one for each processor this process may use,
            and for a small log this one alone.
        start: Frames that end at or before this index may be left out.
        piece: Bytes that one process examines at a time.

    Raises:
        LogUnavailable: The log cannot be read.
        StoreError: A process ended before its work was done.
    """
    if not isinstance(store, JournalStore):
        processes = 1  # the pieces are those of files
    elif processes is None:
        processes = len(os.sched_getaffinity(0)) if _size(store) >= WORTH_IT else 1
    if processes < 1:
        raise ValueError(f"processes is {processes}, not at least 1")
    watch = watch if watch is not None else KeyWatch()
    if processes == 1 or not sys.executable or not isinstance(store, JournalStore):
        how = (check_record, read_records) if check_records else ()
        for frame in store.raw_frames(start):
            one = examine(frame, store.origin, verifiers, *how)
            watch.look(frame, mentions_keys=may_mention(one))
            yield one
        return
    assignment = Assignment(store.origin, [one.vkey for one in verifiers], check_records)
    for task, answer in _answers(_tasks(store, start, piece), assignment, verifiers, processes):
        yield from _unpacked(task, answer, store.origin, watch)


def _size(store: JournalStore) -> int:
    try:
        return sum(one.stat().st_size for one in store.layout.journal.iterdir())
    except OSError as error:
        raise LogUnavailable(f"{store.place}: reading failed: {error.strerror}") from error


def _tasks(store: JournalStore, start: int, piece: int) -> Iterator[Task]:
    journal = store.layout.journal
    # What a prune that was cut short left below the base is no part of the log, even where its end was copied already.
    start = max(start, store.base.size)
    try:
        names = list_segments(journal)
        for first, beyond in zip(names, [*names[1:], None], strict=True):
            if beyond is not None and beyond <= start:
                continue
            path = journal / f"{first:020d}.jsonl"
            for begin, end in cut(journal, first, piece, start=start, beyond=beyond):
                yield Task(os.fsencode(path), first, begin, end, beyond is None)
    except OSError as error:
        raise LogUnavailable(f"{store.place}: reading failed: {error.strerror}") from error


# --- the processes ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Dealt:
    """A piece, who examines it (``None`` for this process), and the answer if this process has it."""

    task: Task
    examiner: _Examiner | None = None
    answer: Answer | None = None


def _answers(
    tasks: Iterator[Task], assignment: Assignment, verifiers: Sequence[Verifier], processes: int
) -> Iterator[tuple[Task, Answer]]:
    """Deals the tasks out and yields them with their answers, in order."""
    examiners: list[_Examiner] = []
    pending = deque(_Dealt(task) for task in islice(tasks, _LEAD))

    def answer_of(dealt: _Dealt) -> Answer:
        if dealt.examiner is None:
            return dealt.answer or examine_task(dealt.task, assignment, verifiers)
        while not dealt.examiner.has_answered():
            task = next(tasks, None) if sum(one.examiner is None for one in pending) < _LEAD else None
            if task is None:
                break
            pending.append(_Dealt(task, None, examine_task(task, assignment, verifiers)))
        answer = dealt.examiner.answer()
        if (task := next(tasks, None)) is not None:
            dealt.examiner.give(task)
            pending.append(_Dealt(task, dealt.examiner))
        return answer

    try:
        others = processes - 1
        for number, task in zip(range(others * _AHEAD), tasks, strict=False):
            if number < others:
                examiners.append(_Examiner(assignment))
            one = examiners[number % others]
            one.give(task)
            pending.append(_Dealt(task, one))
        while pending:
            dealt = pending.popleft()
            answer = answer_of(dealt)
            if answer.error is not None:
                raise LogUnavailable(f"{os.fsdecode(dealt.task.path)}: reading failed: {answer.error}")
            yield dealt.task, answer
    finally:
        for one in examiners:
            one.stop()


class _Examiner:
    """One process and its pipes."""

    def __init__(self, assignment: Assignment) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", _PROGRAM, json.dumps([_search_path(), str(Path(__file__).resolve().parents[1])])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that what has come can be seen at the pipe
            process_group=0,  # Ctrl-C in a terminal is for this process alone
            env={**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__"},  # they may load anything, and have no say here
        )
        with contextlib.suppress(OSError):  # more than this user may have: then it waits now and then
            fcntl.fcntl(_pipe(self._process.stdout), fcntl.F_SETPIPE_SZ, _PIPE)
        self._answers = select.poll()
        self._answers.register(_pipe(self._process.stdout), select.POLLIN)
        self._send(assignment)

    def give(self, task: Task) -> None:
        """Queues a task. Never waits: two of them are smaller than the pipe."""
        self._send(task)

    def has_answered(self) -> bool:
        """True if `answer` has something to read, be it that the process has ended."""
        return bool(self._answers.poll(0))

    def answer(self) -> Answer:
        """Waits for the answer to the oldest task."""
        data = receive(_pipe(self._process.stdout))
        if data is None:
            raise self._ended()
        return _read_answer(data)

    def stop(self) -> None:
        """Ends the process, whatever it does: it holds nothing that could be lost."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()
        self._process.wait()

    def _send(self, message: Assignment | Task) -> None:
        try:
            send(_pipe(self._process.stdin), message)
        except BrokenPipeError as error:
            raise self._ended() from error

    def _ended(self) -> StoreError:
        self._process.kill()
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return StoreError(
            f"process {self._process.pid}, which verified a part of the log, ended before it was done ({how}). "
            "Nothing can be said of the log; verify it again, with --processes 1 if this repeats"
        )


def _search_path() -> list[str]:
    return [str(Path(one).resolve()) for one in sys.path]  # an empty one is where this process is now


def _pipe(stream: object) -> BinaryIO:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream  # type: ignore[return-value] # both were asked for


# --- what they say ---------------------------------------------------------------------------------------------------


class _Hashes(Sequence[bytes]):
    """Leaf hashes that stand one behind the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // _HASH

    @overload
    def __getitem__(self, position: int) -> bytes: ...
    @overload
    def __getitem__(self, position: slice) -> list[bytes]: ...
    def __getitem__(self, position: int | slice) -> bytes | list[bytes]:
        if isinstance(position, slice):
            return [self._at(one) for one in range(*position.indices(len(self)))]
        return self._at(range(len(self))[position])

    def _at(self, position: int) -> bytes:
        return self._data[position * _HASH : (position + 1) * _HASH]


class _Entries(Sequence[bytes]):
    """The entries of a frame that another process examined; read from the file when one is asked for."""

    def __init__(self, task: Task, summary: Summary) -> None:
        self._task = task
        self._place = summary.offset, summary.length, summary.whole, summary.digest
        self._count = summary.entries
        self._entries: Sequence[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> bytes: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[bytes]: ...
    def __getitem__(self, position: int | slice) -> bytes | Sequence[bytes]:
        return self._read()[position]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read())

    def _read(self) -> Sequence[bytes]:
        if self._entries is None:
            self._entries = self._read_again()
        return self._entries

    def _read_again(self) -> Sequence[bytes]:
        offset, length, whole, digest = self._place
        path = Path(os.fsdecode(self._task.path))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = read_at(descriptor, offset, length)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LogUnavailable(f"{path}: reading failed: {error.strerror}") from error
        raw = read_piece(path, self._task.first, offset, data, whole, self._task.last)
        same = raw.problem is None and digest_of(data) == digest if digest else True
        if not same or len(raw.entries) != self._count:
            raise LogDamaged(f"{path}:{offset}: changed while it was verified; verify the log again")
        return raw.entries


def _unpacked(task: Task, answer: Answer, origin: str, watch: KeyWatch) -> Iterator[Examined]:
    before = answer.before
    for summary in answer.frames:
        one = _restored(summary, task, origin, before if summary.grown else None)
        watch.look(one.frame, mentions_keys=summary.mentions_keys)
        yield one
        before = (summary.commit.size, summary.commit.peaks) if summary.commit is not None else None


def _restored(summary: Summary, task: Task, origin: str, grown_from: tuple[int, tuple[bytes, ...]] | None) -> Examined:
    """Returns what the other process had in hands."""
    where = f"{os.fsdecode(task.path)}:{summary.offset}"
    said = summary.commit
    commit = None
    if said is not None:
        commit = CommitLine(said.first, said.count, said.size, said.peaks, said.checkpoint, said.sums)
    entries = _Entries(task, summary)
    frame = RawFrame(where, entries, commit, summary.problem, summary.torn)
    if summary.torn:
        return Examined(frame, (), (), None, None, ())
    ids = array("Q")
    ids.frombytes(summary.ids)
    told = Told(entries, Run(*summary.run) if summary.run is not None else None, ids)
    signature = Finding(*summary.signature, where) if summary.signature is not None else None
    checkpoint = Checkpoint(origin, *summary.checkpoint) if summary.checkpoint is not None else None
    return Examined(
        frame, _Hashes(summary.leaves), told, checkpoint, signature, summary.malformed, grown_from, summary.controls
    )
