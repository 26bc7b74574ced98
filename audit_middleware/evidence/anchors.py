"""What others said about a log, kept beside it: cosigned checkpoints and time stamps.

``<log>/cosigned.jsonl`` holds one line ``{"note": <checkpoint note with its cosignatures>}`` for each checkpoint that
witnesses cosigned, oldest first, kept for ever. ``<log>/timestamps/<size, 20 digits>.checkpoint`` holds a checkpoint
note, and the file of the same name that ends in ``.tsr`` an RFC 3161 time stamp response over the bytes of that note.

Nothing here is trusted: a note counts for the signatures that verify, a time stamp for the authority that signed it.

*Atomicity*: a line counts once its newline is there; a time stamp once its ``.tsr`` has its name. *Durability*: what
`keep_cosigned` and `keep_stamp` return from is on disk. *Concurrency*: any number of writers, one at a time under
``.state/anchors.lock``; readers need no lock. *Retry*: a line may be there twice; a stamp is kept once per size.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..errors import LogUnavailable
from ..stores.filesystem import make_directory, sync_directory, write_all, write_new_file
from ..stores.lock import ProcessLock
from ..stores.opening import Place, folder_of, state_of

COSIGNED = "cosigned.jsonl"
TIMESTAMPS = "timestamps"

_PATIENCE = 10.0  # seconds to wait for another writer
_BLOCK = 2**16  # bytes read at a time from the end


class Stamped(msgspec.Struct, frozen=True):
    """A checkpoint note and the DER bytes of a time stamp response (RFC 3161) over it."""

    note: bytes
    response: bytes
    where: str


def cosigned_notes(log: Place) -> Iterator[bytes]:
    """The cosigned checkpoint notes kept beside a log, oldest first; a line that is not one is passed over."""
    try:
        with (folder_of(log) / COSIGNED).open("rb") as lines:
            for line in lines:
                note = _note_in(line)
                if note is not None:
                    yield note
    except FileNotFoundError:
        return


def newest_cosigned(log: Place) -> bytes | None:
    """The cosigned checkpoint note kept last, read from the end of the file; ``None`` if there is none."""
    try:
        with (folder_of(log) / COSIGNED).open("rb") as file:
            end, rest = file.seek(0, os.SEEK_END), b""
            while end:
                start = max(0, end - _BLOCK)
                file.seek(start)
                first, *lines = (file.read(end - start) + rest).split(b"\n")
                for line in reversed(lines):
                    note = _note_in(line)
                    if note is not None:
                        return note
                end, rest = start, first  # this line may begin further to the left
            return _note_in(rest)
    except FileNotFoundError:
        return None


def _note_in(line: bytes) -> bytes | None:
    try:
        note: bytes = json.loads(line)["note"].encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # a write that was cut short; it counted for nothing yet
    return note


def keep_cosigned(log: Place, note: bytes) -> None:
    """Adds a cosigned checkpoint note, durably. The caller has verified it.

    If we die here: a line without an end, which readers pass over and the next writer closes.

    Raises:
        LogBusy: Others held the lock all the time.
        LogUnavailable: It cannot be written; what was there is as it was.
    """
    line = json.dumps({"note": note.decode()}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    path = folder_of(log) / COSIGNED
    with _writing(log, path):
        made = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            write_all(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if made:
            sync_directory(folder_of(log))


def stamped_notes(log: Place) -> Iterator[Stamped]:
    """The time-stamped checkpoint notes kept beside a log, oldest first."""
    for response in sorted((folder_of(log) / TIMESTAMPS).glob("*.tsr")):
        note = response.with_suffix(".checkpoint")
        if note.is_file():
            yield Stamped(note.read_bytes(), response.read_bytes(), str(response))


def stamp_path(log: Place, size: int) -> Path:
    """Where the time stamp of the checkpoint of this size is kept."""
    return folder_of(log) / TIMESTAMPS / f"{size:020}.tsr"


def keep_stamp(log: Place, size: int, note: bytes, response: bytes) -> bool:
    """Keeps a time stamp durably; False if there is one of this size already, which then stays.

    If we die here: a checkpoint without a time stamp, which nobody reads and the next attempt replaces.

    Raises:
        LogBusy, LogUnavailable: As `keep_cosigned`.
    """
    path = stamp_path(log, size)
    with _writing(log, path):
        make_directory(path.parent)
        if path.exists():
            return False
        stamped = path.with_suffix(".checkpoint")
        stamped.unlink(missing_ok=True)
        write_new_file(stamped, note)
        write_new_file(path, response)  # last: only this name makes it count
        return True


@contextlib.contextmanager
def _writing(log: Place, path: Path) -> Iterator[None]:
    lock = ProcessLock(state_of(log) / "anchors.lock")
    try:
        with lock.held(_PATIENCE):
            yield
    except OSError as error:
        raise LogUnavailable(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        lock.forget()
