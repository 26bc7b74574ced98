"""Heartbeats of quiet processes, and clocks that are set."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from audit_middleware import record
from audit_middleware.evidence.control import statement
from audit_middleware.evidence.signers import signers_of
from audit_middleware.pipeline.append import Writer
from audit_middleware.pipeline.pulse import STEP_NS, Pulse, boot_id, since_boot_ns
from audit_middleware.pipeline.record import Recorder, Service
from audit_middleware.pipeline.seal import make_sealer
from audit_middleware.privacy.redact import Redactor
from audit_middleware.signing import read_key_file
from audit_middleware.stores.journal import JournalStore
from tests.control.support import app_for, eventually, run, until
from tests.kit import ORIGIN, Log, Running, call
from tests.middleware.support import check_log, verified
from tests.stores.children import finish, fork

SECOND = 10**9
NOON = 1_767_268_800 * SECOND  # 2026-01-01T12:00:00Z


class Clocks:
    """A wall clock that can be set, and the time since boot, which cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 5 * SECOND

    def pass_(self, ns: int) -> None:
        """Time goes by."""
        self.wall += ns
        self.steady += ns

    def set(self, step_ns: int) -> None:
        """Somebody sets the wall clock."""
        self.wall += step_ns

    def pulse(self, interval_s: float = 0) -> Pulse:
        """What watches these clocks."""
        recorder = Recorder(Service("s", None, "i", None), Redactor())
        return Pulse(interval_s, lambda: self.wall, recorder.timestamp, lambda: self.steady)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def writer(log: Log, clocks: Clocks) -> Iterator[Writer]:
    """A writer on a real log with clocks of the test."""
    recorder = Recorder(Service("control", None, "here:1:aa", None), Redactor())
    signers = signers_of(read_key_file(f"{log.path}.key"))
    made = Writer(
        lambda: JournalStore.open(log.path),
        make_sealer(ORIGIN, signers),
        recorder.encode,
        clock=lambda: clocks.wall,
        make_pulse=clocks.pulse,
        linger_ms=0,
    )
    yield made
    made.close()


# --- the clock ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [STEP_NS, -STEP_NS, 0, 40_000_000])
def test_a_small_step_is_none(clocks: Clocks, step: int) -> None:
    pulse = clocks.pulse()
    clocks.pass_(3600 * SECOND)
    clocks.set(step)
    assert pulse.step() is None


@pytest.mark.parametrize(("step", "severity"), [(STEP_NS + 1, "info"), (-STEP_NS - 1000, "high")])
def test_a_step_is_told_once(clocks: Clocks, step: int, severity: str) -> None:
    pulse = clocks.pulse()
    clocks.pass_(60 * SECOND)
    clocks.set(step)
    told = pulse.step()
    assert told is not None
    assert (told.action, told.event, told.severity) == ("audit.clock_jump", "AUDIT_CLOCK_JUMP", severity)
    assert told.extra is not None
    assert told.extra["from"] == "2026-01-01T12:01:00.000000Z"
    assert told.extra["step_us"] == step // 1000
    assert told.at_ns == clocks.wall
    clocks.pass_(SECOND)
    assert pulse.step() is None


def test_many_small_steps_are_not_added_up(clocks: Clocks) -> None:
    pulse = clocks.pulse()
    for _ in range(10):
        clocks.set(STEP_NS // 2)
        assert pulse.step() is None


def test_a_clock_set_back_between_two_records(log: Log, writer: Writer, clocks: Clocks) -> None:
    """The jump stands before the first record with the new time, and recorded_at never goes back."""
    writer.submit_wait(statement("audit.one", clock=lambda: clocks.wall))
    clocks.pass_(10 * SECOND)
    clocks.set(-3600 * SECOND)
    writer.submit_wait(statement("audit.two", clock=lambda: clocks.wall))
    clocks.pass_(10 * SECOND)
    clocks.set(7200 * SECOND)
    writer.submit_wait(statement("audit.three", clock=lambda: clocks.wall))
    records = log.records()
    assert [one["action"] for one in records] == [
        "audit.one", "audit.clock_jump", "audit.two", "audit.clock_jump", "audit.three",
    ]  # fmt: skip
    back, forward = log.controls("audit.clock_jump")
    assert back["extra"] == {
        "from": "2026-01-01T12:00:10.000000Z",
        "to": "2026-01-01T11:00:10.000000Z",
        "step_us": -3_600_000_000,
    }
    assert (back["severity"], forward["severity"]) == ("high", "info")
    assert forward["extra"]["step_us"] == 7_200_000_000
    recorded = [one["recorded_at"] for one in records]
    assert recorded == sorted(recorded)
    assert recorded[2] == recorded[0] == "2026-01-01T12:00:00.000000Z"
    assert verified(log).holds


def test_the_time_since_boot_goes_on() -> None:
    assert since_boot_ns() <= since_boot_ns()
    assert boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# --- heartbeats --------------------------------------------------------------------------------------------------


def test_a_quiet_service_beats_and_ends_with_its_stop(log: Log, tmp_path: Path) -> None:
    async def drive(app: Any) -> None:
        await eventually(lambda: len(log.controls("audit.heartbeat")) >= 2, "two heartbeats")

    assert run(app_for(log, tmp_path, heartbeat=1), drive) is None
    beats = log.controls("audit.heartbeat")
    assert {beat["extra"]["interval_s"] for beat in beats} == {1}
    assert {beat["extra"]["boot_id"] for beat in beats} == {boot_id()}
    steady = [beat["extra"]["monotonic_ns"] for beat in beats]
    assert all(later - earlier >= 0.9 * SECOND for earlier, later in pairwise(steady))
    assert log.records()[-1]["action"] == "audit.stopped"
    check_log(log)


def test_records_put_a_heartbeat_off(log: Log, tmp_path: Path) -> None:
    """A second of silence lies before each heartbeat of a process that beats every second."""

    async def drive(app: Any) -> None:
        for _ in range(12):
            assert (await call(app, "GET", "/")).status == 200
            await asyncio.sleep(0.05)
        await eventually(lambda: log.controls("audit.heartbeat"), "a heartbeat")

    assert run(app_for(log, tmp_path, heartbeat=1), drive) is None
    silent = [
        datetime.fromisoformat(beat["timestamp"]) - datetime.fromisoformat(before["recorded_at"])
        for before, beat in pairwise(log.records())
        if beat["action"] == "audit.heartbeat"
    ]
    assert min(silent).total_seconds() >= 0.9
    assert len(log.outcomes()) == 12


def test_without_heartbeats(log: Log, tmp_path: Path) -> None:
    async def drive(app: Any) -> None:
        await asyncio.sleep(1.5)

    assert run(app_for(log, tmp_path, heartbeat=0), drive) is None
    assert log.controls("audit.heartbeat") == []


def test_a_forked_child_beats_for_itself(log: Log, tmp_path: Path) -> None:
    app = app_for(log, tmp_path, heartbeat=1)

    def work(tell: Any) -> None:
        record("doc.read", reason="child", wait=True)
        until(lambda: _beats(log, os.getpid()), "the child's heartbeat")

    async def main() -> None:
        async with Running(app) as running:
            assert running.failed is None
            await eventually(lambda: _beats(log, os.getpid()), "the parent's heartbeat")
            child = fork(work)
            await asyncio.to_thread(finish, child)
            ended = len(log.records())
            await eventually(lambda: len(log.records()) > ended, "the parent's next heartbeat")

    asyncio.run(main())
    assert len({beat["service"]["instance"] for beat in log.controls("audit.heartbeat")}) == 2
    check_log(log)


def _beats(log: Log, pid: int) -> list[dict[str, Any]]:
    found = log.controls("audit.heartbeat")
    return [beat for beat in found if beat["service"]["instance"].split(":")[-2] == str(pid)]


def test_no_heartbeat_after_beating_was_stopped(log: Log, clocks: Clocks) -> None:
    """However short the interval: what is submitted then is the last record."""
    recorder = Recorder(Service("control", None, "here:1:aa", None), Redactor())
    signers = signers_of(read_key_file(f"{log.path}.key"))
    made = Writer(
        lambda: JournalStore.open(log.path),
        make_sealer(ORIGIN, signers),
        recorder.encode,
        make_pulse=lambda: clocks.pulse(0.001),
        linger_ms=0,
    )
    made.submit(statement("audit.one"))
    until(lambda: len(log.controls("audit.heartbeat")) > 3, "heartbeats")
    made.stop_beating()
    made.submit(statement("audit.last"))
    threading.Event().wait(0.05)
    made.close()
    assert log.records()[-1]["action"] == "audit.last"
    assert log.controls("audit.heartbeat")[0]["extra"]["interval_s"] == "0.001"
    check_log(log)
