"""Checks 8 and 13 to 16: what the log's own records say of the log, and whether that is coherent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit_middleware.ledger.report import Counts, Persons, Report
from audit_middleware.ledger.verify import verify
from audit_middleware.stores.memory import MemoryStore
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, assert_holds, check_record, entry

START = datetime(2026, 3, 1, 23, 59, 0, tzinfo=UTC)


class Writer:
    """A log whose records are written at chosen seconds."""

    def __init__(self) -> None:
        self.store = MemoryStore(ORIGIN)
        self.numbers: dict[str, int] = {}

    def put(self, second: float, action: str = "", process: str = "p", **extra: Any) -> Writer:
        number = self.numbers[process] = self.numbers.get(process, -1) + 1
        at = (START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        changes: dict[str, Any] = {"recorded_at": at}
        if action:
            changes |= {"kind": "control", "action": f"audit.{action}", "extra": extra}
        self.store.append([entry(number, process, **changes)], SEAL)
        return self

    def beat(self, second: float, process: str = "p", interval: Any = 60) -> Writer:
        return self.put(
            second, "heartbeat", process, interval_s=interval, boot_id="b", monotonic_ns=int(second * 10**9)
        )

    def report(self) -> Report:
        return assert_holds(self.store, check_entry=check_record)

    def notes(self) -> list[tuple[int, str, int | None]]:
        return [(one.check, one.cause, one.index) for one in self.report().findings]


# --- signs of life -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 2, 10, 27, 28, 60, 3600])
def test_the_longest_silence_that_is_none(interval: int) -> None:
    """Twice the interval and five seconds, to the microsecond, wherever in a minute it begins."""
    allowed = 2 * interval + 5
    for begin in (0, 0.5, 29.999999, 59, 60):
        writer = Writer().put(begin).beat(begin, interval=interval)
        assert writer.put(begin + allowed).put(begin + allowed).notes() == []
        assert writer.put(begin + 2 * allowed + 0.000001).notes() == [(13, "silent", 4)]


def test_a_silence_is_named_with_its_times_and_counted() -> None:
    report = Writer().beat(0).beat(60).beat(600).beat(660).report()
    (note,) = report.findings
    assert note.level == "note"
    assert "silence from 2026-03-02T00:00:00.000000Z to 2026-03-02T00:09:00.000000Z" in note.text
    assert report.counts == Counts(silences=1)


def test_a_silence_before_the_first_sign_of_life_is_found() -> None:
    assert Writer().put(0).put(30).put(500).beat(560).notes() == [(13, "silent", 3 - 1)]
    assert Writer().put(0).put(500).notes() == [], "it promised nothing"


def test_a_process_that_fell_silent_for_good() -> None:
    writer = Writer().beat(0).put(10, process="q")
    assert writer.put(125, process="q").notes() == []
    assert writer.put(126, process="q").notes() == [(13, "silent", 0)]
    stopped = Writer().beat(0).put(1, "stopped").put(1000, process="q")
    assert stopped.notes() == []
    assert Writer().beat(0).notes() == [], "nothing in the log is later"


def test_a_promise_is_one_processs_alone() -> None:
    assert Writer().beat(0).put(0, process="q").put(1, "stopped").put(900, process="q").notes() == []


@pytest.mark.parametrize("interval", [None, 0, -5, "x", "nan", "-1", "1e9", "", True, 2**50, [60]])
def test_promises_that_are_none(interval: Any) -> None:
    store = Writer().put(0, "heartbeat", interval_s=interval).put(9000).store
    assert verify(store.raw_frames(), ORIGIN, VERIFIERS).findings == ()


def test_a_promise_in_parts_of_a_second() -> None:
    assert Writer().beat(0, interval="2.5").put(11).notes() == []
    assert Writer().beat(0, interval="2.5").put(11.5).notes() == [(13, "silent", 1)]


def test_times_that_are_none_stop_nothing() -> None:
    store = MemoryStore(ORIGIN)
    for number, at in enumerate(("zzzz", "zzzz~", "~", "~~")):
        beat: dict[str, Any] = {"kind": "control", "action": "audit.heartbeat", "extra": {"interval_s": 1}}
        store.append([entry(number, recorded_at=at, **beat)], SEAL)
    store.append([entry(0, "q")], SEAL)
    assert verify(store.raw_frames(), ORIGIN, VERIFIERS).holds
    assert not verify(store.raw_frames(), ORIGIN, VERIFIERS, check_entry=check_record).holds


# --- clocks ------------------------------------------------------------------------------------------------------


def test_processes_whose_clocks_differ() -> None:
    assert Writer().put(60, process="a").put(0, process="b").put(61, process="a").put(1, process="b").notes() == []
    apart = Writer().put(61, process="a").put(0, process="b").put(62, process="a").put(1, process="b")
    assert apart.notes() == [(8, "clock", 1)], "once for each process"
    assert "61 s before" in apart.report().findings[0].text


def test_a_clock_jump_that_the_log_admits() -> None:
    report = Writer().put(0, "clock_jump", before="a", seconds=-7).put(1).report()
    assert [(one.check, one.cause, one.level) for one in report.findings] == [(16, "clock", "note")]
    assert "before a, seconds -7" in report.findings[0].text
    assert report.counts == Counts(jumps=1)


# --- gaps --------------------------------------------------------------------------------------------------------


def test_gaps_are_listed_and_added_up() -> None:
    gap = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-01T00:00:09Z", "cause": "disk full"}
    report = Writer().put(0, "gap", count=5, **gap).put(1, "gap", count=12, **gap).put(2, "gap").report()
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(14, "gap", index) for index in range(3)]
    assert "5 records could not be kept, from 2026-03-01T00:00:00Z to 2026-03-01T00:00:09Z: disk full" in (
        report.findings[0].text
    )
    assert "an unknown number of records" in report.findings[2].text
    assert report.counts == Counts(gaps=3, lost=17)


def test_long_texts_in_a_record_are_cut_in_the_report() -> None:
    report = Writer().put(0, "gap", count=1, cause="x" * 9000).report()
    assert len(report.findings[0].text) < 600


def test_only_control_records_speak_of_the_log() -> None:
    store = MemoryStore(ORIGIN)
    inside = {"kind": "control", "action": "audit.gap"}
    store.append([entry(0, action="audit.gap", extra={"count": 3}), entry(1, extra={"body": inside})], SEAL)
    report = assert_holds(store, check_entry=check_record)
    assert not report.findings
    assert report.counts == Counts()


def test_control_records_of_another_shape_are_left_to_the_check_of_entries() -> None:
    store = MemoryStore(ORIGIN)
    store.append([entry(0, kind="control", action="audit.gap", extra=["count"])], SEAL)
    assert verify(store.raw_frames(), ORIGIN, VERIFIERS).counts == Counts()
    assert verify(store.raw_frames(), ORIGIN, VERIFIERS, check_entry=check_record).cause == "malformed"


# --- persons -----------------------------------------------------------------------------------------------------


def test_erasures_explain_what_cannot_be_read() -> None:
    writer = Writer().put(0).put(1, "subject_keys", keys=[["a", "0"], ["b", "1"], ["c", "2"]])
    assert writer.report().persons == Persons(keys=3)
    assert writer.report().persons.words is None
    writer.put(2, "subject_erased", tokens=["a", "b"]).put(3).put(4, "subject_erased", token="c")
    report = writer.put(5, "subject_erased", tokens=["a"]).report()
    assert report.persons == Persons(keys=3, erased=3, erasures=3, told_in=(2, 4, 5))
    assert "3 persons were erased, says the log (entries 2, 4, 5)" in str(report.persons.words)
    one = Writer().put(0, "subject_erased", tokens=["a"]).report().persons.words
    assert str(one).startswith("1 person was erased, says the log (entry 0): what was sealed")


def test_many_erasures_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit_middleware.ledger.told_persons._KNOWN", 5)
    writer = Writer()
    for second in range(20):
        writer.put(second, "subject_erased", tokens=[f"t{second}", "same"])
    persons = writer.report().persons
    assert (persons.erased, persons.erasures, persons.told_in) == (21, 20, tuple(range(10)))
    assert ", 9, ...)" in str(persons.words)


@pytest.mark.parametrize("extra", [{}, {"tokens": 7}, {"tokens": [None, {}]}, {"token": ["a"]}, {"keys": "abc"}])
def test_records_about_persons_of_another_shape_stop_nothing(extra: dict[str, Any]) -> None:
    writer = Writer().put(0, "subject_erased", **extra).put(1, "subject_keys", **extra)
    assert writer.report().persons.keys == 0
    assert writer.report().persons.erased == len([one for one in [extra.get("token")] if one])
