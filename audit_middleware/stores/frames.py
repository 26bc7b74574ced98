"""One group commit as bytes: the frame of the journal.

::

    frame  = 1*(entry LF) commit LF
    commit = '{"commit":{"checkpoint":' string ',"count":' n ',"first":' n ',"leaves":' string ',"peaks":[' *string
             '],"size":' n '},"sha256":"' 64 lowercase hex digits '"}'

* entry: 1 to 65,535 bytes that start with ``{``, hold no LF, and do not start with ``{"commit":``. The store knows
  nothing else about entries.
* first: log index of the frame's first entry; count: number of its entries; size: first + count.
* leaves: base64 of 4 bytes per entry, the first of its leaf hash (RFC 6962), so that a verifier can say which entry of
  a damaged frame is not what it was. A hint: who alters entries can alter it too, and only the signed root decides.
* peaks: base64 of the Merkle peaks of the tree of that size, largest first; checkpoint: the signed note over it.
* sha256: over every byte of the frame but its last 78, which are ``,"sha256":"``, the digits and ``"}`` LF. So each
  byte of a frame is either hashed or fixed, and no byte can change without the frame being refused.
* The commit line is its own canonical form (RFC 8785): it is encoded again and compared when it is read.

A torn write leaves a beginning of a frame. Since only a commit line starts with ``{"commit":`` and it is written last,
a file that ends with a whole commit line ends with a whole frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO

import msgspec

from ..errors import FormatError, RecordError
from ..model import Frame, Head
from ..protocols import Sealer, SealsAhead

MAX_ENTRY = 65_535
"""Most bytes of an entry (the length field of a tlog-tiles entry bundle has 16 bits)."""

SUM_SIZE = 4
"""Bytes of each entry's leaf hash in the commit line."""

MAX_FRAME = 64 * 2**20
"""Most bytes of a batch's entries; bounds what a reader must hold."""

COMMIT = b'{"commit":'
MARK = b"\n" + COMMIT
TRAILER = 78
"""Bytes at the end of a frame that its hash does not cover: ``,"sha256":"``, 64 digits, ``"}`` and a newline."""

_NEWLINE = 0x0A  # a byte is found sooner as a number than as bytes
_UNWRITTEN = bytes(16)  # canonical JSON never holds a zero byte; a block that was never written holds many

_TRAILER = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n')
_COMMIT_LINE = re.compile(rb'^\{"commit":[^\n]*\n', re.MULTILINE)
_FINISHED = re.compile(rb',"sha256":"[0-9a-f]{64}"\}')
_NOT_TORN_AT_END = re.compile(rb'\n\{"commit":[^\n]*,"sha256":"[0-9a-f]{64}"\}\Z')


class Commit(msgspec.Struct, frozen=True):
    """What a commit line says; not yet compared with anything."""

    first: int
    count: int
    size: int
    peaks: tuple[bytes, ...]
    checkpoint: bytes
    sums: bytes = b""

    @property
    def head(self) -> Head:
        """The head after this commit."""
        return Head(self.size, self.peaks, self.checkpoint, self.sums)


class _Values(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The members of a commit line in the order in which they are written; bytes are base64 there."""

    checkpoint: str
    count: int
    first: int
    leaves: bytes
    peaks: tuple[bytes, ...]
    size: int


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    commit: _Values
    sha256: str


_write_line = msgspec.json.Encoder().encode
_read_line = msgspec.json.Decoder(_Line).decode


class RawFrame(msgspec.Struct, frozen=True):
    """What stands at one place of a log, damaged or not; for verifiers.

    ``problem`` is ``None`` for a frame whose bytes are what was written. ``torn`` marks a beginning of a frame at the
    very end of the log, as a crash leaves it: those entries were never acknowledged and are not part of the log.
    """

    where: str
    entries: Sequence[bytes]
    commit: Commit | None
    problem: str | None = None
    torn: bool = False


def check_entry(entry: bytes) -> None:
    """Raises `RecordError` unless a store takes these bytes as an entry."""
    if not 0 < len(entry) <= MAX_ENTRY:
        raise RecordError(f"entry has {len(entry)} bytes, not 1 to {MAX_ENTRY}")
    if entry[0] != 0x7B:
        raise RecordError("entry is not a JSON object: it does not start with {")
    if _NEWLINE in entry:
        raise RecordError("entry holds a newline: it must be one line of canonical JSON")
    if entry.startswith(COMMIT):
        raise RecordError('entry starts with {"commit": like a commit line')


def check_batch(entries: Sequence[bytes]) -> None:
    """Raises `RecordError` unless a store takes this batch; names the first entry it refuses."""
    if not entries:
        raise RecordError("a batch holds at least one entry")
    for position, entry in enumerate(entries):
        try:
            check_entry(entry)
        except RecordError as error:
            raise RecordError(f"entry {position} of the batch: {error}") from None
    if sum(map(len, entries)) > MAX_FRAME:
        raise RecordError(f"the batch has more than {MAX_FRAME} bytes: split it")


def check_sealed(before: Head, count: int, after: Head) -> None:
    """Raises `RecordError` if a sealer's answer cannot be the head after ``count`` entries: nothing is written then."""
    if after.size != before.size + count or len(after.peaks) != after.size.bit_count():
        raise RecordError(f"the sealer answered size {after.size} after {before.size} + {count} entries")
    if len(after.sums) != count * SUM_SIZE:
        raise RecordError(
            f"the sealer answered {len(after.sums)} bytes of sums for {count} entries, not {SUM_SIZE} each"
        )


class Body:
    """The entries of a frame, joined and hashed: all of it that is known before the log's lock is held."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.count = len(entries)
        self._data = b"\n".join((*entries, b""))
        self._hash = sha256(self._data)

    def frame(self, first: int, head: Head) -> bytes:
        """Returns the bytes of the frame that adds the entries, ready to be written in one piece."""
        line = _hashed_line(Commit(first, self.count, head.size, head.peaks, head.checkpoint, head.sums))
        return b'%b%b,"sha256":"%b"}\n' % (self._data, line, self._digest(line).hex().encode())

    def digest(self, commit: Commit) -> bytes:
        """Returns the 32 bytes of the hash at the end of a frame; `FormatError` for a checkpoint that is no text."""
        try:
            return self._digest(_hashed_line(commit))
        except UnicodeDecodeError as error:
            raise FormatError("commit: the checkpoint is no text") from error

    def _digest(self, line: bytes) -> bytes:
        whole = self._hash.copy()
        whole.update(line)
        return whole.digest()


def encode_frame(first: int, entries: Sequence[bytes], head: Head) -> bytes:
    """Returns the bytes of the frame that adds these entries."""
    return Body(entries).frame(first, head)


def sealer_for(seal: Sealer, entries: Sequence[bytes]) -> Sealer:
    """The same sealer, having done for this batch what needs no head. To be called before the lock is asked for."""
    return seal.ahead(entries) if isinstance(seal, SealsAhead) else seal


def _hashed_line(commit: Commit) -> bytes:
    """Returns what a frame's hash covers of its commit line."""
    return _encode_commit(commit)[: -TRAILER + 1]


def _encode_commit(commit: Commit) -> bytes:
    """Returns the commit line without its newline, with a hash of zeros."""
    checkpoint = commit.checkpoint.decode()
    values = _Values(checkpoint, commit.count, commit.first, commit.sums, tuple(commit.peaks), commit.size)
    return _write_line(_Line(values, "0" * 64))


def parse_commit(line: bytes) -> Commit:
    """Reads a commit line (with or without its newline). Its hash is not compared; `frame_problem` does that.

    Raises `FormatError` for every spelling but the canonical one.
    """
    line = line.removesuffix(b"\n")
    try:
        said = _read_line(line).commit
        commit = Commit(said.first, said.count, said.size, said.peaks, said.checkpoint.encode(), said.leaves)
        again = _encode_commit(commit)
    except (ValueError, OverflowError, RecursionError) as error:
        raise FormatError(f"commit line: {type(error).__name__}") from error
    if again[: -TRAILER + 1] != line[: -TRAILER + 1] or not _TRAILER.fullmatch(line[-TRAILER + 1 :] + b"\n"):
        raise FormatError("commit line: not in canonical form")
    check_commit(commit)
    return commit


def check_commit(commit: Commit) -> None:
    """Raises `FormatError` for numbers and peaks that do not fit together."""
    if not all(isinstance(number, int) and 0 <= number < 2**63 for number in (commit.first, commit.count, commit.size)):
        raise FormatError("commit line: first, count and size must be whole numbers")
    if commit.count < 1 or commit.first + commit.count != commit.size:
        raise FormatError("commit line: size is not first + count")
    if len(commit.sums) != commit.count * SUM_SIZE:
        raise FormatError(f"commit line: leaves are not {SUM_SIZE} bytes for each entry")
    if len(commit.peaks) != commit.size.bit_count() or any(len(peak) != 32 for peak in commit.peaks):
        raise FormatError("commit line: peaks do not fit the size")


def hash_holds(data: bytes) -> bool:
    """True when these bytes end with the trailer that belongs to them."""
    trailer = _TRAILER.fullmatch(data[-TRAILER:])
    return trailer is not None and sha256(memoryview(data)[:-TRAILER]).hexdigest().encode() == trailer[1]


def read_raw(data: bytes, where: str) -> RawFrame:
    """Reads the bytes of one frame (they end with a commit line) and says what is wrong with them, if anything."""
    cut = data.rfind(MARK, 0, len(data) - 1)
    entries, line = (_lines(data, cut), data[cut + 1 :]) if cut >= 0 else ([], data)
    try:
        commit = parse_commit(line)
    except FormatError as error:
        return RawFrame(where, entries, None, str(error))
    if not hash_holds(data):
        return RawFrame(where, entries, commit, "the frame's bytes do not match its sha256")
    if len(entries) != commit.count:
        return RawFrame(where, entries, commit, f"{len(entries)} entries, but the commit line counts {commit.count}")
    return RawFrame(where, entries, commit)


def _lines(data: bytes, end: int) -> list[bytes]:
    """Returns what ``data[:end].split(b"\\n")`` does, in a third of the time; a newline stands at ``end``."""
    lines = [line[:-1] for line in BytesIO(data)]
    after = data.count(b"\n", end + 1) + (not data.endswith(b"\n"))
    return lines[: len(lines) - after]


def read_rest(data: bytes, where: str, last: bool) -> RawFrame:
    """Reads bytes that no commit line follows; ``last``: at the end of the log, where a crash may leave such bytes."""
    entries = [line for line in data.split(b"\n") if line]
    torn = last and is_torn(data)
    problem = f"{len(data)} bytes of an unfinished frame" if torn else "no commit line, yet not what a crash leaves"
    return RawFrame(where, entries, None, problem, torn)


def is_torn(data: bytes) -> bool:
    """True when bytes at the end of a log, not ending in a valid frame, are what a crash during a write leaves.

    That is a beginning of a frame, or a frame with blocks that never reached the disk and read as zeros. Anything that
    was finished and is invalid now has been damaged later, may have been acknowledged, and must never be cut.
    """
    if _UNWRITTEN in data:
        return True
    if _COMMIT_LINE.search(data):
        return False
    if _NOT_TORN_AT_END.search(data):
        return True  # all but the final newline was written
    return not any(_was_finished(line) for line in data.split(b"\n"))


def _was_finished(line: bytes) -> bool:
    """True when a line holds the end of a commit line, although it does not start or end like one.

    An entry could hold the trailer as part of its content, but not together with the other two: in a JSON string their
    quotes would be escaped.
    """
    return _FINISHED.search(line) is not None and b'"peaks":[' in line and b'{"checkpoint":"' in line


def to_frame(raw: RawFrame) -> Frame:
    """Returns a frame without problems as the value that readers get; it must have a commit."""
    if raw.commit is None:
        raise FormatError(f"{raw.where}: no commit line")
    return Frame(raw.commit.first, tuple(raw.entries), raw.commit.head, raw.where)
