"""The bytes of a frame: one spelling, every byte covered, torn told from damaged."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import FormatError
from audit_middleware.model import Head
from audit_middleware.stores import frames, segments
from tests.stores.samples import SEAL, batches, small

ENTRIES = [small(1), small(2), small(3)]
HEAD = SEAL(Head(), ENTRIES)
FRAME = frames.encode_frame(0, ENTRIES, HEAD)
LINE = FRAME.split(b"\n")[-2]


def test_a_frame_by_hand() -> None:
    """As a stranger would read it, with nothing but json and hashlib."""
    lines = FRAME.split(b"\n")
    assert lines[:3] == ENTRIES
    assert lines[4] == b""
    commit = json.loads(lines[3])
    assert list(commit) == ["commit", "sha256"]
    assert list(commit["commit"]) == ["checkpoint", "count", "first", "leaves", "peaks", "size"]
    sums = base64.b64decode(commit["commit"]["leaves"])
    assert sums == b"".join(hashlib.sha256(b"\0" + line).digest()[:4] for line in lines[:3])
    assert commit["commit"]["checkpoint"].encode() == HEAD.checkpoint
    assert commit["sha256"] == hashlib.sha256(FRAME[:-78]).hexdigest()
    assert FRAME[-78:] == b',"sha256":"%b"}\n' % commit["sha256"].encode()


TOKENS = st.sampled_from([b"\n", b'{"commit":', b'{"commit"', b"{", b"x", b"}" * 30, LINE, b"y" * 200])


@given(st.lists(TOKENS, max_size=30).map(b"".join), st.integers(1, 400), st.integers(0, 2))
def test_pieces_end_where_commit_lines_do(data: bytes, chunk: int, beyond: int) -> None:
    """However little is read at once; what follows the last one is the rest."""
    expected, run = list[tuple[int, bytes, bool]](), b""
    for line in data.splitlines(keepends=True):
        run += line
        if line.startswith(frames.COMMIT) and line.endswith(b"\n"):
            expected.append((sum(len(one) for _, one, _ in expected), run, True))
            run = b""
    if run:
        expected.append((len(data) - len(run), run, False))
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patched:
        patched.setattr(segments, "_FIRST_CHUNK", chunk)
        file.write(data)
        file.flush()
        assert list(segments.pieces(file.fileno(), 0, len(data) + beyond)) == expected


@given(st.lists(TOKENS, max_size=12).map(b"".join))
def test_lines_are_those_of_split(data: bytes) -> None:
    cut = data.rfind(frames.MARK, 0, len(data) - 1)
    if cut >= 0:
        assert frames.read_raw(data, "x").entries == data[:cut].split(b"\n")


def test_the_commit_line_is_canonical_json() -> None:
    from audit_middleware.ledger import canonical

    assert canonical.encode(canonical.decode(LINE)) == LINE


def test_round_trip() -> None:
    raw = frames.read_raw(FRAME, "here")
    assert raw.problem is None
    assert not raw.torn
    frame = frames.to_frame(raw)
    assert (frame.first, list(frame.entries), frame.head, frame.where) == (0, ENTRIES, HEAD, "here")


@given(st.lists(st.binary(min_size=0, max_size=40), min_size=1, max_size=20), st.integers(0, 2**40), st.binary())
def test_any_frame_round_trips(bodies: list[bytes], first: int, note: bytes) -> None:
    entries = [b"{" + body.replace(b"\n", b"") for body in bodies]
    entries = [one for one in entries if not one.startswith(frames.COMMIT)] or [b"{"]
    size = first + len(entries)
    peaks = tuple(hashlib.sha256(bytes([n])).digest() for n in range(size.bit_count()))
    head = Head(size, peaks, note.hex().encode(), b"".join(hashlib.sha256(one).digest()[:4] for one in entries))
    data = frames.encode_frame(first, entries, head)
    raw = frames.read_raw(data, "")
    assert raw.problem is None
    assert list(raw.entries) == entries
    assert raw.commit is not None
    assert (raw.commit.head, raw.commit.sums) == (head, head.sums)


@pytest.mark.parametrize(
    "spelling",
    [
        LINE.replace(b'"count":3', b'"count": 3'),
        LINE.replace(b'"count":3', b'"count":3.0'),
        LINE.replace(b'"count":3', b'"count":true'),
        LINE.replace(b'"count":3', b'"count":"3"'),
        LINE.replace(b'"count":3', b'"count":4'),
        LINE.replace(b'"count":3,"first":0', b'"first":0,"count":3'),
        LINE.replace(b'"first":0', b'"first":-1'),
        LINE.replace(b'"first":0', b'"first":0,"more":1'),
        LINE.replace(b'"size":3', b'"size":2'),
        LINE.replace(b'"peaks":["', b'"peaks":["AAAA","'),
        LINE.replace(b'"leaves":"', b'"leaves":"AAAA'),
        re.sub(rb'"leaves":"[^"]*"', b'"leaves":""', LINE),
        re.sub(rb'"leaves":"[^"]*",', b"", LINE),
        LINE.replace(b'"leaves":"', b'"leaves":"\\u0041'),
        re.sub(rb'"leaves":("[^"]*")', rb'"leaves":[\1]', LINE),
        LINE.replace(b'="]', b'"]'),
        LINE.replace(b'"peaks":[', b'"peaks":[[],'),
        LINE.replace("—".encode(), b"\\u2014"),
        LINE.replace(b'"checkpoint":"', b'"checkpoint":null,"x":"'),
        LINE[:-66] + LINE[-66:].upper(),
        LINE + b" ",
        LINE[:-1],
        b'{"commit":{}}',
        b'{"commit":[]}',
        b"{}",
        b"",
        b"\xff" + LINE,
        b'{"commit":' + b"[" * 100_000,
    ],
)
def test_a_commit_line_has_one_spelling(spelling: bytes) -> None:
    assert spelling != LINE
    with pytest.raises(FormatError):
        frames.parse_commit(spelling)


def test_every_byte_of_a_frame_is_covered() -> None:
    for offset in range(len(FRAME)):
        for bit in (1, 0x20, 0x80):
            damaged = bytearray(FRAME)
            damaged[offset] ^= bit
            assert frames.read_raw(bytes(damaged), "").problem is not None, (offset, bit)


def test_every_beginning_is_torn() -> None:
    for length in range(1, len(FRAME)):
        assert frames.is_torn(FRAME[:length]), length


def test_a_finished_frame_that_changed_is_not_torn() -> None:
    for offset in range(len(FRAME)):
        for bit in (1, 0x20, 0x80):
            damaged = bytearray(FRAME)
            damaged[offset] ^= bit
            assert not frames.is_torn(bytes(damaged)), (offset, bit)


def test_a_block_that_never_reached_the_disk_is_torn() -> None:
    assert frames.is_torn(FRAME[:4] + bytes(20) + FRAME[24:])
    assert frames.is_torn(FRAME + bytes(600))
    assert not frames.is_torn(FRAME[:10] + b"\0" + FRAME[11:])


def test_content_that_looks_like_a_commit_is_torn_all_the_same() -> None:
    from tests.stores.samples import entry

    hostile = entry(0, extra={"checkpoint": "x", "peaks": ["y"], "sha256": "0" * 64})
    assert b'"sha256":"' + b"0" * 64 + b'"}' in hostile
    data = frames.encode_frame(0, [hostile, *batches(2)[0]], HEAD)
    for length in range(1, data.index(frames.MARK) + 1, 5):
        assert frames.is_torn(data[:length]) or b'{"checkpoint":"x' in data[:length]


def test_a_frame_without_a_commit_is_no_frame() -> None:
    with pytest.raises(FormatError):
        frames.to_frame(frames.read_rest(b'{"n":1}\n', "x", last=True))
