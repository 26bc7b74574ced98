"""Checks 2, 7, 8, 9 and 10, the report, and what a verification says about itself."""

from __future__ import annotations

import json
import random
import tracemalloc
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from audit_middleware.errors import FormatError, NoteError
from audit_middleware.ledger import canonical, checkpoint, note, tree
from audit_middleware.ledger.counters import ActionIds, Facts, read_facts
from audit_middleware.ledger.report import Finding, Findings
from audit_middleware.ledger.told import Told
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Head
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.frames import Commit, RawFrame
from audit_middleware.stores.memory import MemoryStore
from tests.stores.samples import (
    ORIGIN,
    SEAL,
    SIGNER,
    VERIFIERS,
    assert_holds,
    batches,
    check_record,
    entry,
    new_journal,
    report_on,
    segments_of,
    small,
)


def memory(*groups: Sequence[bytes]) -> MemoryStore:
    store = MemoryStore(ORIGIN)
    for group in groups:
        store.append(group, SEAL)
    return store


def test_the_report_of_a_good_log() -> None:
    store = memory(*batches(2, 3))
    report = assert_holds(store, check_entry=check_record, check_index=lambda first, entries: ())
    assert report.root == tree.root(store.head().peaks)
    values = json.loads(json.dumps(report.to_dict()))
    assert values == {
        "origin": ORIGIN,
        "holds": True,
        "verdict": "holds",
        "entries": 5,
        "size": 5,
        "root": store.head().checkpoint.split(b"\n")[2].decode(),
        "index": None,
        "cause": None,
        "findings": [],
        "more": 0,
        "claim": "locally consistent: all 5 entries are what the log's key signed, in that order",
        "not_checked": list(report.not_checked),
        "claims": [{"kind": "locally consistent", "size": 5, "text": report.claim, "by": [], "time": None}],
        "counts": {"gaps": 0, "lost": 0, "silences": 0, "jumps": 0},
        "persons": {"keys": 0, "erased": 0, "erasures": 0, "told_in": []},
        "start": 0,
        "pruned": 0,
    }
    assert len(report.not_checked) == 1
    assert "written anew and signed again" in report.not_checked[0]


def test_what_was_not_checked_is_said() -> None:
    report = assert_holds(memory(*batches(2)))
    assert len(report.not_checked) == 3
    assert "schema" in report.not_checked[1]
    assert "search index" in report.not_checked[2]
    anchored = assert_holds(memory(*batches(2)), since=memory(*batches(2)).head().checkpoint)
    assert "after entry 1 were" in anchored.not_checked[0]
    assert anchored.claim.startswith("consistent with the checkpoint kept elsewhere")


def test_an_empty_log_holds() -> None:
    report = assert_holds(memory())
    assert (report.entries, report.size, report.root) == (0, 0, tree.EMPTY_ROOT)
    empty = checkpoint.sign_checkpoint(ORIGIN, 0, (), [SIGNER])
    assert_holds(memory(), since=empty)
    assert_holds(memory(*batches(2)), since=empty)


def test_an_anchor_that_is_none() -> None:
    store = memory(*batches(2))
    for since, error in (
        (b"", NoteError),
        (b"x\n", NoteError),
        (store.head().checkpoint.replace(b"\n2\n", b"\n3\n"), NoteError),
        (checkpoint.sign_checkpoint("other.example", 0, (), [SIGNER]), FormatError),
        (checkpoint.sign_checkpoint(ORIGIN, 0, (), [Ed25519Signer(ORIGIN, bytes(32))]), NoteError),
    ):
        with pytest.raises(error):
            report_on(store, since=since)


def test_progress_is_told() -> None:
    told: list[int] = []
    assert_holds(memory(*batches(2, 3, 1)), progress=told.append)
    assert told == [2, 5, 6]


def test_two_keys_during_a_rotation() -> None:
    new = Ed25519Signer(ORIGIN, bytes(32))
    store = memory(*batches(2))
    store.append([entry(2)], make_sealer(ORIGIN, [SIGNER, new]))
    store.append([entry(3)], make_sealer(ORIGIN, [new]))
    both = [*VERIFIERS, note.parse_vkey(note.format_vkey(ORIGIN, new.public_key))]
    assert verify(store.raw_frames(), ORIGIN, both).holds
    assert report_on(store).cause == "wrong key"
    assert report_on(store).index == 3


# --- 2 -----------------------------------------------------------------------------------------------------------


def test_entries_that_are_signed_but_malformed() -> None:
    store = memory([entry(0), small(1)], [entry(1), entry(2, severity="loud"), entry(3)], [b'{"b":1,"a":2}', b"{"])
    report = report_on(store, check_entry=check_record)
    assert not report.holds
    assert [(one.check, one.cause, one.index) for one in report.findings] == [
        (2, "malformed", index) for index in (1, 3, 5, 6)
    ]
    assert assert_holds(store).entries == 7  # the bytes are what was signed


# --- 7 and 8 -----------------------------------------------------------------------------------------------------


def test_a_record_that_never_reached_the_log() -> None:
    report = report_on(memory([entry(0), entry(1)], [entry(3), entry(4)]))
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(7, "missing", 2)]
    assert "records 2 to 2" in report.findings[0].text
    report = report_on(memory([entry(1)]))
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(7, "missing", 0)]


def test_processes_are_counted_apart() -> None:
    store = memory([entry(0, "a"), entry(1, "a")], [entry(0, "b")], [entry(2, "a"), entry(1, "b")], [small(1)])
    assert not assert_holds(store).findings
    store.append([entry(3, "b")], SEAL)
    assert report_on(store).index == 6


def test_a_batch_that_was_sent_again() -> None:
    one, two, three = batches(2, 3, 1)
    report = assert_holds(memory(one, two, two, three))
    assert [(finding.check, finding.cause, finding.index) for finding in report.findings] == [
        (9, "repeated", index) for index in (5, 6, 7)
    ]
    assert "entry 2" in report.findings[0].text
    # Sent again in other batches, with the records of another process between.
    assert_holds(memory(one, two, [entry(0, "other")], two[:1], two[1:] + three))


def test_a_sequence_number_that_was_used_again() -> None:
    other = entry(1, action_id="019b76da-a800-7000-8000-ffffffffffff")
    report = report_on(memory([entry(0), entry(1), entry(2)], [other, entry(3)]))
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(7, "malformed", 3)]


def test_a_clock_that_goes_back() -> None:
    early = "2025-12-31T00:00:00.000000Z"
    report = report_on(memory([entry(0), entry(1, recorded_at=early), entry(2)]))
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(8, "malformed", 1)]
    assert_holds(memory([entry(0), entry(0, "b", recorded_at=early), entry(1)]))


# --- 9 -----------------------------------------------------------------------------------------------------------


def _facts(number: int) -> Facts:
    return Facts(action_id=f"019b76da-a800-7000-8000-{number:012x}")


def test_repetitions_are_found_exactly() -> None:
    ids = ActionIds()
    for at in range(0, 20_000, 100):
        ids.add(at, [_facts(number) for number in range(at, at + 100)])
    ids.add(50_000, [_facts(7), None, Facts(), _facts(19_999), Facts("x" * 36), _facts(7)])
    assert ids.repeated() == {50_000: 7, 50_003: 19_999, 50_005: 7}
    assert ActionIds().repeated() == {}


def test_ids_that_only_look_alike_in_the_bit_map() -> None:
    ids = ActionIds()
    far = 1 << 31  # the bit map looks at 31 bits
    ids.add(0, [_facts(5), _facts(5 + far), _facts(5 + 2 * far), _facts(5 + far)])
    assert ids.repeated() == {3: 1}


def test_entries_without_an_id_take_no_room_as_suspects() -> None:
    ids = ActionIds()
    ids.add(0, [_facts(1), *[None] * 100])
    assert not ids._suspects
    assert ids.repeated() == {}


def test_repetitions_among_random_ids_are_found_exactly() -> None:
    """So many that hundreds find their bits taken by others."""
    draw = random.Random(7)
    numbers = [draw.getrandbits(62) for _ in range(300_000)]
    twice = {draw.randrange(200_000, 300_000): draw.randrange(200_000) for _ in range(50)}
    for there, first in twice.items():
        numbers[there] = numbers[first]
    ids = ActionIds()
    for at in range(0, len(numbers), 1000):
        ids.add(at, Told((), None, array("Q", numbers[at : at + 1000])))
    assert len(ids._suspects) > 2 * len(twice)
    assert ids.repeated() == twice


# --- 10 ----------------------------------------------------------------------------------------------------------


def test_the_search_index_is_asked_for_every_entry_and_for_the_end() -> None:
    asked: list[tuple[int, int]] = []

    def check(first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        asked.append((first, len(entries)))
        if first == 2:
            yield 3, "user_id"

    report = report_on(memory(*batches(2, 3, 1)), check_index=check)
    assert asked == [(0, 2), (2, 3), (5, 1), (6, 0)]
    assert (report.holds, report.cause, report.index) == (False, "index column differs", 3)


# --- limits ------------------------------------------------------------------------------------------------------


def test_findings_are_bounded() -> None:
    store = memory(*([small(number)] for number in range(30)))
    frames = [
        RawFrame("x", [small(99)], raw.commit, raw.problem) if number % 2 else raw
        for number, raw in enumerate(store.raw_frames())
    ]
    report = verify(frames, ORIGIN, VERIFIERS, limit=4)
    assert not report.holds
    assert len(report.findings) == 4
    assert report.more == 11
    assert report.index == 1
    assert len(report.not_checked) <= 4 + 3


def test_the_first_finding_has_the_smallest_index() -> None:
    findings = Findings(10)
    findings.add(Finding(11, "forked", None, ""))
    assert findings.first is not None
    assert findings.first.cause == "forked"
    findings.add(Finding(4, "altered", 9, ""))
    findings.add(Finding(3, "missing", 4, ""))
    findings.add(Finding(9, "repeated", 1, "", level="note"))
    assert findings.first.index == 4
    assert [finding.index for finding in findings.all()] == [None, 1, 4, 9]


def test_memory_does_not_grow_with_the_log() -> None:
    frame = next(memory([small(number) for number in range(64)]).raw_frames())
    head, frames = Head(), []
    for _ in range(40):
        head = SEAL(head, frame.entries)
        frames.append(Commit(head.size - 64, 64, head.size, head.peaks, head.checkpoint))

    def stream() -> Iterator[RawFrame]:
        for number, commit in enumerate(frames):
            if number == 10:
                tracemalloc.start()
            yield RawFrame(f"frame {number}", list(frame.entries), commit)

    try:
        assert verify(stream(), ORIGIN, VERIFIERS).holds
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 30 * 64 * 8 + 40_000  # 8 bytes an entry, and little else


def test_hostile_entries_do_not_stop_the_verifier() -> None:
    hostile = [
        b'{"a":' * 5000,
        b"{" + b"[" * 60_000,
        b'{"sequence":1e400}',
        b'{"action_id":"\xff"}',
        b'{"service":{"instance":7}}',
        b'{"sequence":-5}',
        canonical.encode({"action_id": "z" * 36, "sequence": 2**53 - 1, "service": {"instance": "x"}}),
    ]
    report = report_on(memory(hostile, [small(1)]), check_entry=check_record)
    assert report.entries == 8
    assert {finding.check for finding in report.findings} == {2, 7}
    with pytest.raises(ValueError, match=r"."):
        read_facts(b"{")


# --- a stranger's verifier ---------------------------------------------------------------------------------------


def test_a_verifier_written_from_the_pages_alone(tmp_path: Path) -> None:
    """docs/format/journal.md, tree.md and checkpoint.md suffice: nothing of ours is used here."""
    import base64
    import hashlib

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    store = new_journal(tmp_path / "log", *batches(2, 3, 1, 7), segment_bytes=4000)
    name, _, encoded = VERIFIERS[0].vkey.split("+", 2)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        split = 1 << (len(leaves) - 1).bit_length() - 1
        return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()

    leaves: list[bytes] = []
    for path in segments_of(tmp_path / "log"):
        assert int(path.stem) == len(leaves)
        frame = b""
        for line in path.read_bytes().splitlines(keepends=True):
            frame += line
            if not line.startswith(b'{"commit":'):
                leaves.append(hashlib.sha256(b"\0" + line[:-1]).digest())
                continue
            said = json.loads(line)
            assert hashlib.sha256(frame[:-78]).hexdigest() == said["sha256"]
            assert said["commit"]["size"] == len(leaves)
            text, _, signatures = said["commit"]["checkpoint"].rpartition("\n\n")
            assert text.split("\n") == [name, str(len(leaves)), base64.b64encode(root(leaves)).decode()]
            signature = base64.b64decode(signatures.split(" ")[2])
            key.verify(signature[4:], (text + "\n").encode())
            frame = b""
    assert len(leaves) == assert_holds(store).entries == 13


def test_no_limit_hides_the_verdict() -> None:
    store = memory([small(0)], [small(1)])
    one, two = store.raw_frames()
    for limit in (0, 1):
        report = verify([one, RawFrame("x", [small(9)], two.commit)], ORIGIN, VERIFIERS, limit=limit)
        assert not report.holds
        assert (report.index, report.cause) == (1, "altered")
        report = verify([two], ORIGIN, VERIFIERS, limit=limit)
        assert (report.holds, report.cause, report.index) == (False, "missing", 0)


def test_nothing_follows_a_torn_write() -> None:
    store = memory([small(0)], [small(1)])
    one, two = store.raw_frames()
    torn = RawFrame("x", [small(5)], None, "9 bytes of an unfinished frame", torn=True)
    assert verify([one, two, torn], ORIGIN, VERIFIERS).holds
    report = verify([one, torn, two], ORIGIN, VERIFIERS)
    assert (report.holds, report.index) == (False, 1)


def test_a_store_that_hands_out_nonsense() -> None:
    """A driver may give what no journal holds: still a verdict, never a crash."""
    store = memory([small(0), small(1)], [small(2)])
    one, two = store.raw_frames()
    assert two.commit is not None
    for commit in (
        Commit(2, 1, 3, (), two.commit.checkpoint),
        Commit(1, 1, 3, two.commit.peaks, two.commit.checkpoint),
        Commit(2, 1, 3, (bytes(32),) * 5, b""),
        Commit(2, 7, 9, (b"x", b"y"), b"junk"),
        Commit(7, 1, 8, (bytes(32),), two.commit.checkpoint),
        Commit(0, 9, 9, (bytes(32),) * 2, two.commit.checkpoint),
        Commit(2, 0, 2, (bytes(32),), two.commit.checkpoint),
    ):
        for entries in ([small(2)], [], [small(2)] * 3):
            frames = [one, RawFrame("x", entries, commit), RawFrame("y", [small(3)], None, "odd"), two]
            assert not verify(frames, ORIGIN, VERIFIERS).holds


def test_a_log_that_is_wrong_everywhere_is_verified_in_time() -> None:
    store = memory(*([small(step * 50 + one) for one in range(50)] for step in range(30)))
    frames = [
        RawFrame(f"frame {number}", [small(-1), *raw.entries[1:]], raw.commit)
        for number, raw in enumerate(store.raw_frames())
    ]
    report = verify(frames, ORIGIN, VERIFIERS, limit=3)
    assert (report.holds, len(report.findings), report.more) == (False, 3, 27)


def test_an_entry_inserted_into_a_large_commit() -> None:
    groups = batches(2, 400)
    raw = list(memory(*groups).raw_frames())
    entries = [*raw[1].entries[:300], small(1), *raw[1].entries[300:]]
    report = verify([raw[0], RawFrame("x", entries, raw[1].commit, "401 entries")], ORIGIN, VERIFIERS)
    assert (report.cause, report.index) == ("altered", 302)


def test_entries_swapped_in_a_large_commit() -> None:
    groups = batches(2, 400)
    raw = list(memory(*groups).raw_frames())
    entries = list(raw[1].entries)
    entries[100], entries[350] = entries[350], entries[100]
    report = verify([raw[0], RawFrame("x", entries, raw[1].commit)], ORIGIN, VERIFIERS)
    assert (report.cause, report.index) == ("reordered", 102)


def test_an_entry_of_another_process_in_place_of_one() -> None:
    raw = list(memory(*batches(2, 5)).raw_frames())
    entries = list(raw[1].entries)
    entries[3] = entry(9)
    report = verify([raw[0], RawFrame("x", entries, raw[1].commit)], ORIGIN, VERIFIERS)
    assert (report.cause, report.index) == ("altered", 5)
    entries[3] = entry(5, severity="loud")
    report = verify([raw[0], RawFrame("x", entries, raw[1].commit)], ORIGIN, VERIFIERS, check_entry=check_record)
    assert (report.cause, report.index) == ("altered", 5)
