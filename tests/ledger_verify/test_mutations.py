"""A small log, damaged in every way we can think of: each must be reported, with the right name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from audit_middleware.ledger import checkpoint, note, tree
from audit_middleware.ledger.report import Report
from audit_middleware.model import Head
from audit_middleware.stores import frames
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.segments import read_segment
from tests.stores.samples import (
    ORIGIN,
    SEAL,
    SIGNER,
    VERIFIERS,
    assert_holds,
    batches,
    new_journal,
    report_on,
    segments_of,
    small,
)

SIZES = (2, 3, 1, 4)
FIRSTS = (0, 2, 5, 6)


class Patient:
    """A journal of one segment whose bytes can be changed at will."""

    def __init__(self, path: Path, groups: Sequence[Sequence[bytes]]) -> None:
        self.store = new_journal(path, *groups)
        self.file = segments_of(path)[0]
        self.healthy = self.file.read_bytes()
        self.frames = [self.healthy[a:b] for a, b in _bounds(self.healthy)]

    def report(self, data: bytes, since: bytes | None = None) -> Report:
        with self.file.open("r+b") as file:  # in place: truncating to nothing costs more than the verification
            file.write(data)
            if len(data) != os.fstat(file.fileno()).st_size:
                file.truncate(len(data))
        return report_on(self.store, since=since)

    def frame_of(self, offset: int) -> int:
        """The number of the frame that holds this byte."""
        for number, (_, end) in enumerate(_bounds(self.healthy)):
            if offset < end:
                return number
        raise IndexError(offset)


def _bounds(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(data):
        end = data.index(b"\n", data.index(frames.MARK, start) + 1) + 1
        yield start, end
        start = end


@pytest.fixture
def records(tmp_path: Path) -> Patient:
    """Real records, ten in four commits."""
    return Patient(tmp_path / "log", batches(*SIZES))


@pytest.fixture
def plain(tmp_path: Path) -> Patient:
    """Entries without counters, five in two commits."""
    return Patient(tmp_path / "log", [[small(n) for n in range(2)], [small(n) for n in range(2, 5)]])


def test_the_undamaged_log_holds(records: Patient) -> None:
    report = assert_holds(records.store)
    assert (report.entries, report.size, report.index, report.cause) == (10, 10, None, None)


@pytest.mark.parametrize(
    "bit", [0x01, pytest.param(0x80, marks=pytest.mark.slow), pytest.param(0x20, marks=pytest.mark.slow)]
)
def test_every_byte_counts(plain: Patient, bit: int) -> None:
    for offset in range(len(plain.healthy)):
        damaged = bytearray(plain.healthy)
        damaged[offset] ^= bit
        report = plain.report(bytes(damaged))
        assert not report.holds, f"byte {offset} ({plain.healthy[offset]:#x}) may be flipped"
        first = (0, 2)[plain.frame_of(offset)]
        assert report.index is not None
        assert first <= report.index < (2, 5)[plain.frame_of(offset)], (offset, report.findings)


@pytest.mark.slow
def test_every_byte_of_real_records_counts(records: Patient) -> None:
    for offset in range(0, len(records.healthy), 3):
        damaged = bytearray(records.healthy)
        damaged[offset] ^= 0x02
        number = records.frame_of(offset)
        report = records.report(bytes(damaged))
        assert not report.holds
        assert report.index is not None
        assert FIRSTS[number] <= report.index < FIRSTS[number] + SIZES[number], (offset, report.findings)


def test_every_byte_can_be_missed(plain: Patient) -> None:
    for offset in range(len(plain.healthy) - 1):
        report = plain.report(plain.healthy[:offset] + plain.healthy[offset + 1 :])
        assert not report.holds, offset


def test_a_cut_is_a_shorter_log_and_an_anchor_sees_it(plain: Patient) -> None:
    since = plain.store.head().checkpoint
    end = len(plain.frames[0])
    for length in range(len(plain.healthy)):
        report = plain.report(plain.healthy[:length])
        assert report.holds, length  # without an anchor: only the last commit can be torn, and it is not acknowledged
        assert report.size == (2 if length >= end else 0)
        torn = length not in (0, end)
        assert [finding.cause for finding in report.findings] == (["torn"] if torn else [])
        assert "cut off" in report.not_checked[0]
        if length % 5:
            continue
        anchored = plain.report(plain.healthy[:length], since)
        assert (anchored.holds, anchored.cause, anchored.index) == (False, "truncated", report.size)


def test_a_cut_in_the_middle_is_no_torn_write(records: Patient) -> None:
    first, second = records.frames[0], b"".join(records.frames[1:])
    for length in range(1, len(first), 7):
        report = records.report(first[:length] + second)
        assert not report.holds, length


# --- entries -----------------------------------------------------------------------------------------------------


def rebuilt(frame: bytes, entries: Sequence[bytes], *, rehash: bool) -> bytes:
    """The frame with other entries under the same commit; ``rehash`` as an attacker who can compute SHA-256."""
    raw = frames.read_raw(frame, "")
    assert raw.commit is not None
    if rehash:
        return _with_count(raw.commit, entries)
    return b"".join(one + b"\n" for one in entries) + frame[frame.rindex(frames.MARK) + 1 :]


def _with_count(commit: frames.Commit, entries: Sequence[bytes]) -> bytes:
    # The commit line keeps saying what it said: anything else would contradict the signed size.
    whole = frames.encode_frame(commit.first, [b"{}"] * commit.count, commit.head)
    line = whole[whole.rindex(frames.MARK) + 1 :]
    hashed = b"\n".join([*entries, line[: -frames.TRAILER]])
    return hashed + b',"sha256":"%b"}\n' % sha256(hashed).hexdigest().encode()


@pytest.mark.parametrize("rehash", [False, True])
@pytest.mark.parametrize("kind", ["records", "plain"])
def test_entries_swapped(request: pytest.FixtureRequest, kind: str, rehash: bool) -> None:
    patient: Patient = request.getfixturevalue(kind)
    frame = patient.frames[1]
    one, two, three = frames.read_raw(frame, "").entries
    for order, moved in (((two, one, three), 0), ((one, three, two), 1), ((three, two, one), 0)):
        report = patient.report(patient.frames[0] + rebuilt(frame, order, rehash=rehash) + b"".join(patient.frames[2:]))
        assert (report.holds, report.cause, report.index) == (False, "reordered", 2 + moved), report.findings


@pytest.mark.parametrize("rehash", [False, True])
@pytest.mark.parametrize("kind", ["records", "plain"])
def test_an_entry_twice(request: pytest.FixtureRequest, kind: str, rehash: bool) -> None:
    patient: Patient = request.getfixturevalue(kind)
    frame = patient.frames[1]
    one, two, three = frames.read_raw(frame, "").entries
    changed = rebuilt(frame, (one, two, two, three), rehash=rehash)
    report = patient.report(patient.frames[0] + changed + b"".join(patient.frames[2:]))
    assert (report.holds, report.cause, report.index) == (False, "duplicated", 4), report.findings


@pytest.mark.parametrize("rehash", [False, True])
def test_an_entry_dropped(records: Patient, rehash: bool) -> None:
    frame = records.frames[1]
    one, _, three = frames.read_raw(frame, "").entries
    report = records.report(
        records.frames[0] + rebuilt(frame, (one, three), rehash=rehash) + b"".join(records.frames[2:])
    )
    assert (report.holds, report.cause, report.index) == (False, "missing", 3), report.findings


def test_an_entry_dropped_without_counters(plain: Patient) -> None:
    frame = plain.frames[1]
    one, _, three = frames.read_raw(frame, "").entries
    report = plain.report(plain.frames[0] + rebuilt(frame, (one, three), rehash=True))
    assert (report.holds, report.cause, report.index) == (False, "missing", 3)


@pytest.mark.parametrize("rehash", [False, True])
def test_an_entry_inserted(records: Patient, rehash: bool) -> None:
    frame = records.frames[1]
    entries = list(frames.read_raw(frame, "").entries)
    changed = rebuilt(frame, [entries[0], small(1), *entries[1:]], rehash=rehash)
    report = records.report(records.frames[0] + changed + b"".join(records.frames[2:]))
    assert (report.holds, report.cause, report.index) == (False, "altered", 3), report.findings


@pytest.mark.parametrize("rehash", [False, True])
def test_an_entry_replaced(records: Patient, rehash: bool) -> None:
    frame = records.frames[3]
    entries = list(frames.read_raw(frame, "").entries)
    entries[2] = entries[2].replace(b"user-1", b"user-2")
    report = records.report(b"".join(records.frames[:3]) + rebuilt(frame, entries, rehash=rehash))
    assert (report.holds, report.cause) == (False, "altered")
    assert report.index is not None
    assert 6 <= report.index <= 8


def test_an_entry_made_unreadable_is_named(records: Patient) -> None:
    frame = records.frames[3]
    entries = list(frames.read_raw(frame, "").entries)
    entries[2] = entries[2][:-1]
    report = records.report(b"".join(records.frames[:3]) + rebuilt(frame, entries, rehash=True))
    assert (report.cause, report.index) == ("altered", 8)


def test_everything_recomputed_but_the_signature(records: Patient) -> None:
    """Who can write the files and compute hashes, but does not have the key: entry, peaks and frame hash all fit."""
    raw = [frames.read_raw(frame, "") for frame in records.frames]
    peaks: tuple[bytes, ...] = ()
    size, changed = 0, []
    for number, one in enumerate(raw):
        entries = [entry.replace(b"user-3", b"user-9") for entry in one.entries] if number == 1 else list(one.entries)
        assert one.commit is not None
        size, peaks = tree.append(size, peaks, map(tree.leaf_hash, entries))
        sums = tree.sums(map(tree.leaf_hash, entries))
        changed.append(frames.encode_frame(one.commit.first, entries, Head(size, peaks, one.commit.checkpoint, sums)))
    report = records.report(b"".join(changed))
    assert (report.holds, report.cause) == (False, "altered")
    assert report.index is not None
    assert 2 <= report.index <= 3
    assert {finding.index for finding in report.findings if finding.level == "error"} >= {report.index}


def test_a_size_that_is_signed_but_wrong(records: Patient) -> None:
    """A log that signs nonsense: the right root under another size."""
    raw = frames.read_raw(records.frames[1], "")
    assert raw.commit is not None
    text = checkpoint.Checkpoint(ORIGIN, 6, tree.root(raw.commit.peaks)).text()
    changed = forged(raw, note.sign(text, [SIGNER]))
    report = records.report(b"".join([records.frames[0], changed, *records.frames[2:]]))
    assert (report.holds, report.cause, report.index) == (False, "altered", 2)
    assert report.findings[0].check == 6


# --- commits -----------------------------------------------------------------------------------------------------


def test_a_commit_dropped(records: Patient) -> None:
    for number in range(3):
        kept = [frame for other, frame in enumerate(records.frames) if other != number]
        report = records.report(b"".join(kept))
        assert (report.cause, report.index) == ("missing", FIRSTS[number]), report.findings


def test_a_commit_twice(records: Patient) -> None:
    for number in range(4):
        changed = [*records.frames[: number + 1], *records.frames[number:]]
        report = records.report(b"".join(changed))
        assert (report.cause, report.index) == ("duplicated", FIRSTS[number]), report.findings


def test_commits_swapped(records: Patient) -> None:
    one, two, three, four = records.frames
    for changed, first in (((two, one, three, four), 0), ((one, three, two, four), 2), ((one, two, four, three), 5)):
        report = records.report(b"".join(changed))
        assert (report.cause, report.index) == ("reordered", first), report.findings


def test_a_commit_line_dropped(records: Patient) -> None:
    for number in range(3):
        frame = records.frames[number]
        bare = frame[: frame.rindex(frames.MARK) + 1]
        report = records.report(b"".join([*records.frames[:number], bare, *records.frames[number + 1 :]]))
        assert (report.cause, report.index) == ("unsigned", FIRSTS[number]), report.findings


def test_a_commit_line_of_another_commit(records: Patient) -> None:
    lines = [frame[frame.rindex(frames.MARK) + 1 :] for frame in records.frames]
    bodies = [frame[: frame.rindex(frames.MARK) + 1] for frame in records.frames]
    for number in range(4):
        for other in range(4):
            if other == number:
                continue
            changed = [body + line for body, line in zip(bodies, lines, strict=True)]
            changed[number] = bodies[number] + lines[other]
            report = records.report(b"".join(changed))
            assert not report.holds
            assert report.index is not None
            assert report.index <= FIRSTS[number] + SIZES[number], (number, other, report.findings)


def forged(raw: frames.RawFrame, note: bytes) -> bytes:
    """The frame with another checkpoint, and a hash that fits."""
    commit = raw.commit
    assert commit is not None
    return frames.encode_frame(commit.first, raw.entries, Head(commit.size, commit.peaks, note, commit.sums))


def test_a_checkpoint_replaced(records: Patient) -> None:
    raw = [frames.read_raw(frame, "") for frame in records.frames]
    notes = [one.commit.checkpoint for one in raw if one.commit]
    for changed, cause in (
        (forged(raw[1], notes[0]), "altered"),
        (forged(raw[1], notes[2]), "altered"),
        (forged(raw[1], b""), "unsigned"),
        (forged(raw[1], notes[1].split(b"\n\n")[0] + b"\n"), "unsigned"),
        (forged(raw[1], notes[1].replace(b"\n5\n", b"\n6\n")), "altered"),
    ):
        report = records.report(b"".join([records.frames[0], changed, *records.frames[2:]]))
        assert (report.holds, report.cause, report.index) == (False, cause, 2), report.findings
        assert len([one for one in report.findings if one.level == "error"]) == 1


def test_another_key(records: Patient, tmp_path: Path) -> None:
    from audit_middleware.signing import Ed25519Signer

    raw = frames.read_raw(records.frames[1], "")
    assert raw.commit is not None
    for name in (ORIGIN, "somebody.example"):
        thief = Ed25519Signer(name, bytes(32))
        note = checkpoint.sign_checkpoint(ORIGIN, raw.commit.size, raw.commit.peaks, [thief])
        report = records.report(b"".join([records.frames[0], forged(raw, note), *records.frames[2:]]))
        assert (report.holds, report.cause, report.index) == (False, "wrong key", 2), report.findings


def test_a_checkpoint_of_another_log(records: Patient) -> None:
    raw = frames.read_raw(records.frames[1], "")
    assert raw.commit is not None
    note = checkpoint.sign_checkpoint("other.example/log", raw.commit.size, raw.commit.peaks, [SIGNER])
    report = records.report(b"".join([records.frames[0], forged(raw, note), *records.frames[2:]]))
    assert (report.cause, report.index) == ("other log", 2)


def test_wrong_peaks_under_a_right_checkpoint(records: Patient) -> None:
    raw = frames.read_raw(records.frames[1], "")
    assert raw.commit is not None
    head = Head(5, raw.commit.peaks[::-1], raw.commit.checkpoint, raw.commit.sums)
    changed = frames.encode_frame(2, raw.entries, head)
    report = records.report(b"".join([records.frames[0], changed, *records.frames[2:]]))
    assert (report.cause, report.index, len(report.findings)) == ("altered", 2, 1)


def test_damage_in_two_places_is_two_findings(records: Patient) -> None:
    damaged = bytearray(records.healthy)
    damaged[10] ^= 1
    damaged[-400 - len(records.frames[3]) // 2] ^= 1
    report = records.report(bytes(damaged))
    assert [finding.level for finding in report.findings] == ["error", "error"]
    assert report.index == 0


# --- histories ---------------------------------------------------------------------------------------------------


def test_an_older_copy_put_back(records: Patient) -> None:
    since = records.store.head().checkpoint
    for number in range(4):
        older = b"".join(records.frames[:number])
        assert records.report(older).holds
        report = records.report(older, since)
        assert (report.cause, report.index) == ("truncated", (0, 2, 5, 6)[number])


def test_an_older_copy_put_back_and_continued(tmp_path: Path) -> None:
    groups = batches(2, 3, 1, 4)
    original = new_journal(tmp_path / "a", *groups)
    since = original.head().checkpoint
    other = new_journal(tmp_path / "b", *groups[:2])
    other.append([small(1), small(2), small(3)], SEAL)
    shorter = report_on(other, since=since)
    assert (shorter.holds, shorter.cause) == (False, "truncated")
    other.append([small(n) for n in range(4, 9)], SEAL)
    report = report_on(other, since=since)
    assert (report.holds, report.cause) == (False, "forked")
    assert assert_holds(other).not_checked
    assert assert_holds(other, since=next(iter(other.frames())).head.checkpoint)


def test_two_histories_in_one_file(records: Patient, tmp_path: Path) -> None:
    other = Patient(tmp_path / "other", [*batches(2), [small(n) for n in range(3)]])
    report = records.report(b"".join([records.frames[0], records.frames[1], other.frames[1], *records.frames[2:]]))
    assert (report.cause, report.index) == ("forked", 2)


def test_an_anchor_inside_a_commit(records: Patient) -> None:
    """A witness or proof may hold a checkpoint of a size at which this copy has no commit."""
    head = Head()
    for group in (batches(8)[0],):
        head = SEAL(head, group)
    report = records.report(records.healthy, head.checkpoint)
    assert report.holds
    bad = SEAL(Head(), [small(n) for n in range(8)])
    assert records.report(records.healthy, bad.checkpoint).cause == "forked"


def test_a_segment_lost(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 3, 1, 4), segment_bytes=1)
    files = segments_of(tmp_path / "log")
    assert len(files) == 4
    for number in range(3):
        content = files[number].read_bytes()
        files[number].unlink()
        report = report_on(store)
        assert (report.cause, report.index) == ("missing", FIRSTS[number])
        files[number].write_bytes(content)
    assert_holds(store)


def test_a_segment_renamed(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 3), segment_bytes=1)
    one, two = segments_of(tmp_path / "log")
    two.rename(two.with_name(f"{3:020d}.jsonl"))
    assert not report_on(store).holds
    assert one.exists()


def test_reading_a_torn_tail_in_an_earlier_segment(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 3), segment_bytes=1)
    one = segments_of(tmp_path / "log")[0]
    one.write_bytes(one.read_bytes() + b'{"half')
    report = report_on(store)
    assert not report.holds
    assert [raw.torn for raw in read_segment(one.parent, 0, last=False)] == [False, False]
    assert VERIFIERS


def test_a_read_only_store_verifies(tmp_path: Path) -> None:
    new_journal(tmp_path / "log", *batches(2, 3)).close()
    assert_holds(JournalStore.open(tmp_path / "log", writable=False))
