"""A verification that goes on where an earlier one ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_middleware.errors import FormatError
from audit_middleware.ledger import checkpoint
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.state import State, format_state, is_state, parse_state
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Head
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.frames import Commit, RawFrame
from audit_middleware.stores.journal import JournalStore
from tests.ledger_verify.witnesses import cosign, heads_of, outside
from tests.stores.samples import (
    ORIGIN,
    VERIFIERS,
    assert_holds,
    batches,
    entry,
    new_journal,
    report_on,
    segments_of,
    small,
)

GROUPS = batches(2, 3, 1, 4)
HEADS = heads_of(GROUPS)


def remembered(groups: Sequence[Sequence[bytes]], folder: Path, **options: Any) -> State:
    """What a verification of these batches remembers, through the file it is written to."""
    report = assert_holds(new_journal(folder, *groups), **options)
    assert report.state is not None
    return parse_state(format_state(report.state))


def resumed(store: JournalStore, state: State, **options: Any) -> Report:
    frames = store.raw_frames(state.size - 1)
    return verify(frames, ORIGIN, VERIFIERS, resume=state, **options)


@pytest.fixture
def half(tmp_path: Path) -> State:
    """The state after the first five of ten records."""
    return remembered(GROUPS[:2], tmp_path / "half")


@pytest.fixture
def log(tmp_path: Path) -> JournalStore:
    """Ten records in four commits."""
    return new_journal(tmp_path / "log", *GROUPS)


# --- resumed -----------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_read(log: JournalStore, half: State) -> None:
    report = resumed(log, half)
    assert report.holds, report.findings
    assert (report.start, report.entries, report.size) == (5, 5, 10)
    assert "entries 5 to 9 are what the log's key signed" in report.claim
    assert "entries 0 to 4: they were not read again" in report.not_checked[0]
    assert "after entry 4 were cut off" in report.not_checked[1]
    assert report.state is not None
    whole = assert_holds(log).state
    assert report.state == whole, "to go on twice is to read it once"
    assert resumed(log, report.state).entries == 0


def test_frames_before_the_state_are_passed_over(log: JournalStore, half: State) -> None:
    for start in range(10):
        report = verify(log.raw_frames(start) if start < 5 else log.raw_frames(4), ORIGIN, VERIFIERS, resume=half)
        assert (report.holds, report.entries) == (True, 5), report.findings


def test_damage_after_the_state_is_found_and_before_it_is_not(log: JournalStore, half: State, tmp_path: Path) -> None:
    path = segments_of(tmp_path / "log")[0]
    healthy = path.read_bytes()
    end = healthy.index(b"\n", healthy.index(b'"size":5}')) + 1
    before, after = 0, 0
    for offset in range(0, len(healthy), 61):
        damaged = bytearray(healthy)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        report = resumed(log, half)
        if offset >= end:
            assert not report.holds, offset
            assert report.index is None or report.index >= 5
            after += 1
        elif report.holds:
            assert "entries 0 to 4: they were not read again" in report.not_checked[0]
            before += 1
        assert not report_on(log).holds
    assert before > 20
    assert after > 20


def test_a_log_written_anew_before_the_state(tmp_path: Path, half: State) -> None:
    """The bytes are not read again, but what comes after them must lead on from them."""
    changed = [[entry(0), entry(1, reason="another")], *GROUPS[1:]]
    for number, groups in enumerate((changed, changed[:2])):
        report = resumed(new_journal(tmp_path / str(number), *groups), half)
        assert not report.holds, number
        assert report.cause in ("altered", "forked"), report.findings


def test_a_log_cut_below_the_state(tmp_path: Path, half: State) -> None:
    for kept in range(2):
        report = resumed(new_journal(tmp_path / str(kept), *GROUPS[:kept]), half)
        assert (report.cause, report.index) == ("truncated", (0, 2)[kept])
        assert "a verification remembers 5 entries" in report.findings[0].text
    grown = [*GROUPS[:1], [small(n) for n in range(9)]]
    assert not resumed(new_journal(tmp_path / "grown", *grown), half).holds


def test_counters_and_clocks_go_on(tmp_path: Path, half: State) -> None:
    folders = (tmp_path / f"log-{number}" for number in count())

    def report(*entries: bytes) -> Report:
        return resumed(new_journal(next(folders), *GROUPS[:2], entries), half)

    assert not report(entry(5), entry(6)).findings
    assert [(one.check, one.cause) for one in report(entry(6)).findings] == [(7, "missing")]
    late = report(entry(5, recorded_at="2025-12-31T00:00:00.000000Z"))
    assert [(one.check, one.cause) for one in late.findings] == [(8, "malformed")]
    again = report(entry(3), entry(4), entry(5))
    assert again.holds
    assert [(one.cause, one.level) for one in again.findings] == [("repeated", "note")] * 2


def test_what_was_witnessed_is_remembered(log: JournalStore, tmp_path: Path) -> None:
    evidence = outside("any a b c", cosign(HEADS[0].checkpoint, "a"))
    state = remembered(GROUPS[:2], tmp_path / "seen", outside=evidence)
    assert state.witnessed == 2
    report = resumed(log, state, outside=evidence)
    assert report.holds
    assert any("more than the first 2 entries" in text for text in report.not_checked)
    assert any("cosigned by a (size 2)" in text for text in report.not_checked)
    assert resumed(log, msgspec.structs.replace(state, witnessed=0), outside=evidence).cause == "not witnessed"
    newer = outside("any a b c", cosign(HEADS[3].checkpoint, "a"))
    assert resumed(log, state, outside=newer).claims[-1].size == 10


def test_nothing_is_remembered_of_a_log_that_does_not_hold(tmp_path: Path) -> None:
    assert report_on(new_journal(tmp_path / "a", [entry(1)])).state is None
    assert assert_holds(new_journal(tmp_path / "b")).state is None


# --- states that are none ----------------------------------------------------------------------------------------


def test_a_state_of_another_log_is_refused(log: JournalStore, half: State) -> None:
    thief = make_sealer(ORIGIN, [Ed25519Signer(ORIGIN, bytes(32))])(Head(), GROUPS[0])
    other = checkpoint.sign_checkpoint("other.example", 5, half.peaks, [Ed25519Signer("other.example", bytes(32))])
    changes: list[tuple[dict[str, Any], str]] = [
        ({"origin": "other.example"}, "is of the log 'other.example'"),
        ({"checkpoint": thief.checkpoint.decode()}, "not signed by a trusted key"),
        ({"checkpoint": other.decode()}, "not signed by a trusted key"),
        ({"checkpoint": HEADS[0].checkpoint.decode()}, "not those of its checkpoint"),
        ({"size": 4}, "not those of its checkpoint"),
        ({"root": bytes(32)}, "not those of its checkpoint"),
        ({"peaks": half.peaks[:1]}, "peaks do not lead"),
        ({"peaks": half.peaks[::-1]}, "peaks do not lead"),
        ({"peaks": (b"x", b"y")}, "peaks do not lead"),
    ]
    for change, words in changes:
        with pytest.raises(FormatError, match=words):
            resumed(log, msgspec.structs.replace(half, **change))


def test_files_that_are_no_states(half: State) -> None:
    good = format_state(half)
    assert is_state(good)
    assert not is_state(HEADS[0].checkpoint)
    values = json.loads(good)
    for bad in (
        b"{}",
        b"{",
        b"[]",
        b"\xff",
        json.dumps(values | {"format": 2}).encode(),
        json.dumps(values | {"kind": "receipt"}).encode(),
        json.dumps(values | {"size": "5"}).encode(),
        json.dumps(values | {"size": 0}).encode(),
        json.dumps(values | {"more": 1}).encode(),
        json.dumps(values | {"peaks": ["*"]}).encode(),
        json.dumps(values | {"processes": {"x": {"next": -1}}}).encode(),
    ):
        with pytest.raises(FormatError, match="state: "):
            parse_state(bad)


def test_frames_that_cannot_be_read_before_the_start(tmp_path: Path, half: State) -> None:
    """What lies before the start is not looked at; what may lie after it is."""
    raw = list(new_journal(tmp_path / "log", *GROUPS).raw_frames())
    odd = RawFrame("x", [small(1)], None, "odd")
    assert isinstance(raw[2].commit, Commit)
    for frames, holds in (
        ([raw[0], odd, raw[2], raw[3]], True),
        ([odd, raw[1], raw[2], raw[3]], True),
        ([raw[0], raw[1], odd, raw[3]], False),
        ([raw[0], raw[1], raw[2], odd], False),
        ([odd], False),
        ([], False),
        ([odd] * 70, False),
        ([raw[0], raw[1], raw[3]], False),
    ):
        report = verify(frames, ORIGIN, VERIFIERS, resume=half)
        assert report.holds == holds, (frames, report.findings)


def test_going_on_anywhere_finds_what_reading_at_once_finds(tmp_path: Path) -> None:
    """Two processes, heartbeats, silences, gaps, a skipped and a repeated record: cut between any two commits."""

    def at(sequence: int, second: int, process: str = "p", action: str = "", **extra: Any) -> bytes:
        more: dict[str, Any] = {"recorded_at": f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000000Z"}
        if action:
            more |= {"kind": "control", "action": f"audit.{action}", "extra": extra}
        return entry(sequence, process, **more)

    groups = [
        [at(0, 0), at(1, 1, action="heartbeat", interval_s=20)],
        [at(0, 2, "q", action="retention_set")],
        [at(2, 90), at(3, 91)],
        [at(4, 92, action="gap", count=2)],
        [at(1, 93, "q", action="heartbeat", interval_s=5), at(2, 99, "q")],
        [at(5, 100), at(6, 200, action="pruned", minimum=1)],
        [at(7, 201), at(3, 300, "q", action="clock_jump")],
        [at(8, 301, action="stopped")],
        [at(4, 900, "q"), at(5, 901, "q", action="stopped")],
    ]
    whole = assert_holds(new_journal(tmp_path / "whole", *groups))
    assert len(whole.findings) >= 6
    for cut in range(1, len(groups)):
        first = assert_holds(new_journal(tmp_path / f"first-{cut}", *groups[:cut]))
        assert first.state is not None
        store = new_journal(tmp_path / f"all-{cut}", *groups)
        second = resumed(store, parse_state(format_state(first.state)))
        found = {*first.findings, *second.findings}
        at_the_end = {one for one in first.findings if "did not say that it stopped" in one.text}
        assert set(whole.findings) - found == set(), cut
        assert found - set(whole.findings) <= at_the_end, cut
        assert second.state == whole.state


def test_an_anchor_where_the_state_ends(log: JournalStore, half: State) -> None:
    agrees = resumed(log, half, since=HEADS[1].checkpoint)
    assert [claim.kind for claim in agrees.claims] == ["locally consistent", "kept elsewhere"]
    other = heads_of([[small(n) for n in range(5)]])[0]
    report = resumed(log, half, since=other.checkpoint)
    assert (report.holds, report.cause) == (False, "forked")
