"""The archiver in a service: elected, never in the way, said once what is wrong, told to the log."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.evidence.archive_follow import ArchiveFollower
from audit_middleware.evidence.archive_rounds import MemoryFile, Rounds, Teller, Wanted
from audit_middleware.evidence.archived import ArchiveReader
from audit_middleware.evidence.heads import compare_heads
from audit_middleware.evidence.retention import place_hold, release_hold, set_retention
from audit_middleware.evidence.signers import signers_of
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.signing import Ed25519Signer, read_key_file
from audit_middleware.stores.journal import JournalStore
from audit_middleware.wiring.work import background_state
from tests.archives.flags import unlock
from tests.archiving.support import NOW, Bucket, copy_of, grow, log_of
from tests.control.support import app_for, eventually, run, until
from tests.kit import ORIGIN, Log, call, make_log
from tests.middleware.support import check_log
from tests.servers.running import Server

DAY = 86_400


def archived(log: Log, folder: Path) -> int:
    """Size of the newest checkpoint; all of it verifies."""
    store = JournalStore.open(log.path, writable=False)
    report = ArchiveReader(FolderArchive(folder), ORIGIN, [parse_vkey(log.vkey)], log=store).run()
    assert report.holds, report.findings
    return report.covered


def settings(folder: Path | str) -> dict[str, Any]:
    return {"archive_to": str(folder), "archive_interval": 100, "archive_retain": "400d", "archive_partial": True}


def test_a_service_archives_its_log_to_the_last_record(log: Log, tmp_path: Path, folder: Path) -> None:
    def state() -> dict[str, Any]:
        return dict(background_state()[str(log.path)]["archiver"])

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/")).status == 200
        await eventually(log.outcomes, "the record")
        await eventually(lambda: log.controls("audit.archived"), "the log is told")
        await eventually(lambda: state()["role"] == "archiving", "the end of a round")
        assert state()["shown_immutable"] is False

    assert run(app_for(log, tmp_path, **settings(folder)), drive) is None
    assert log.records()[-1]["action"] == "audit.stopped"
    assert archived(log, folder) == len(log.records())
    (told,) = log.controls("audit.archived")
    assert told["severity"] == "info"
    assert told["extra"]["place"] == str(folder)
    assert told["extra"]["shown_immutable"] is False
    assert told["extra"]["objects"] >= 2
    assert told["extra"]["until"].endswith("T00:00:00Z"), "locks end at midnight"
    check_log(log)


def test_an_archive_that_is_away_is_in_nobodys_way(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("audit_middleware.evidence.follow._FIRST_PAUSE", 0.01)
    monkeypatch.setattr("audit_middleware.evidence.follow._LONGEST_PAUSE", 0.05)
    folder = tmp_path / "mounted later"

    def state() -> dict[str, Any]:
        return dict(background_state()[str(log.path)]["archiver"])

    async def drive(app: Any) -> None:
        await eventually(lambda: state()["failures"] >= 3, "three tries")
        for _ in range(3):
            assert (await call(app, "GET", "/")).status == 200
        await eventually(lambda: len(log.outcomes()) == 3, "the records")
        assert state()["role"] == "failing"
        assert "no directory is there" in state()["problem"]
        assert state()["lag"] == len(log.records()), "how far it is behind"
        folder.mkdir()
        await eventually(lambda: state()["role"] == "archiving", "archived after all")
        await eventually(lambda: state()["lag"] == 0, "all of it")

    try:
        assert run(app_for(log, tmp_path, heartbeat=0, **settings(folder)), drive) is None
        assert archived(log, folder) == len(log.records())
    finally:
        unlock(folder)
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 1, "said once"
    heads = log.controls("audit.started")[0]["extra"]["heads"]
    assert [one["state"] for one in heads] == ["unknown"], "the start goes on and says so"


def test_a_log_rolled_back_behind_its_archive_does_not_start(
    log: Log, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may need more than three seconds; what follows from that is tested elsewhere.
    monkeypatch.setattr("audit_middleware.wiring.parts.compare_heads", partial(compare_heads, timeout=120))
    assert run(app_for(log, tmp_path, **settings(place))) is None
    shutil.copytree(log.path, tmp_path / "backup")
    assert run(app_for(log, tmp_path, **settings(place))) is None
    shutil.rmtree(log.path)
    shutil.copytree(tmp_path / "backup", log.path)
    size = len(log.records())
    refused = run(app_for(log, tmp_path, **settings(place)))
    assert refused is not None
    assert f"archived in {place.partition('?')[0]}" in refused
    assert "rolled back or cut" in refused
    assert len(log.records()) == size, "nothing was written"


def test_one_of_two_workers_archives_and_the_other_takes_over(tmp_path: Path, folder: Path) -> None:
    server = Server(
        "uvicorn asyncio h11", tmp_path / "service", "--workers", "2",
        AUDIT_ARCHIVE_TO=str(folder), AUDIT_ARCHIVE_INTERVAL="200", AUDIT_ARCHIVE_RETAIN="400d",
        AUDIT_ARCHIVE_PARTIAL="true", AUDIT_HEARTBEAT="1",
    )  # fmt: skip
    try:
        lock = MemoryFile.of(server.log.path, str(folder)).path.with_suffix(".lock")
        holder = until(lambda: _holder(lock) or 0, "an archiver")
        os.kill(holder, signal.SIGKILL)
        until(lambda: _holder(lock) not in (None, holder), "another archiver")
        size = len(server.log.records())
        until(lambda: _newest(folder) >= size, "what came after is archived")
    finally:
        server.stop()
    assert archived(server.log, folder) == len(server.log.records())


def _holder(lock: Path) -> int | None:
    """The process that holds a lock, as the kernel lists it."""
    if not lock.exists():
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{lock.stat().st_ino}"):
            return int(words[4])
    return None


def _newest(folder: Path) -> int:
    return max((int(path.name) for path in (folder / "checkpoints").glob("*")), default=0)


# --- the follower by itself ------------------------------------------------------------------------------------------


def test_settings_that_name_no_archive_or_no_retention_stop_the_start(log: Log, tmp_path: Path, folder: Path) -> None:
    assert "expected s3://bucket/prefix" in str(run(app_for(log, tmp_path, archive_to="ftp://there")))
    wrong = settings(folder) | {"archive_retain": "one year"}
    assert "expected days, such as 400d" in str(run(app_for(log, tmp_path, **wrong)))


def test_another_history_is_an_alarm_and_the_log_is_left_as_it_is(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = log_of(tmp_path / "log", 300)
    backup = copy_of(store, tmp_path / "backup")
    grow(store, 300)

    def follower(log: Path) -> ArchiveFollower:
        return ArchiveFollower(log, str(folder), Wanted("400d"), 0.05, lambda: [])

    first = follower(store.path)
    first.start()
    until(lambda: first.state()["lag"] == 0, "archived")
    first.stop()
    second = follower(backup)
    second.start()
    until(lambda: second.state()["role"] == "failing", "the refusal")
    second.stop()
    assert "rolled back or truncated" in str(second.state()["problem"])
    alarms = {one.levelno for one in caplog.records if "does not lead to what is archived" in one.message}
    assert alarms == {logging.CRITICAL}
    assert JournalStore.open(backup, writable=False).head().size == 300


def test_bundles_go_between_two_checkpoints(tmp_path: Path, folder: Path) -> None:
    store = log_of(tmp_path / "log", 300)
    follower = ArchiveFollower(store.path, str(folder), Wanted("400d"), 3600, lambda: [])
    follower.start()
    until(lambda: follower.state()["lag"] == 0, "the first round")
    grow(store, 300)
    until(lambda: (folder / "tile/entries/001").exists(), "the second bundle")
    assert _newest(folder) == 300
    follower.stop()
    assert _newest(folder) == 600, "one more round at the end"


# --- rounds, with a clock of their own -------------------------------------------------------------------------------


class Clock:
    """Nanoseconds that are set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return int(self.now * 1e9)


def rounds(log: Log, bucket: Bucket, clock: Clock, retain: str | None = "400d") -> Rounds:
    """One process's; the log's key is beside it."""
    teller = Teller(log.path, lambda: signers(log), lambda why: None)
    return Rounds(JournalStore.open(log.path, writable=False), bucket, log.path, Wanted(retain), teller, clock=clock)


def signers(log: Log) -> tuple[Ed25519Signer, ...]:
    return signers_of(read_key_file(f"{log.path}.key"))


def write(log: Log) -> None:
    """A record."""
    set_retention(log.path, Path(f"{log.path}.key"), 12, "somebody")


def test_the_log_is_told_on_change_and_not_more_than_once_an_hour(log: Log) -> None:
    bucket, clock = Bucket(), Clock()
    write(log)
    one = rounds(log, bucket, clock)
    for _ in range(5):
        one.round()
        clock.now += 300
    assert [told["extra"]["size"] for told in log.controls("audit.archived")] == [1]
    size = len(log.records())
    clock.now += 10 * 3600
    for _ in range(5):
        rounds(log, bucket, clock).round()
        clock.now += 2 * 3600
    assert len(log.records()) == size, "an idle log does not grow by being archived"
    write(log)
    one.round()
    last = log.controls("audit.archived")[-1]["extra"]
    assert (last["size"], last["place"]) == (3, "memory://bucket")
    memory = MemoryFile.of(log.path, bucket.place)
    kept = memory.read()
    kept.checked, kept.immutable = clock.now, "yes"
    memory.write(kept)
    one.round()
    told = log.controls("audit.archived")[-1]["extra"]
    assert told["shown_immutable"] is True
    clock.now += 91 * DAY
    one.round()
    assert log.controls("audit.archived")[-1]["extra"]["shown_immutable"] is False, "an examination gets old"


def test_locks_follow_the_logs_retention(log: Log) -> None:
    bucket, clock = Bucket(), Clock()
    with pytest.raises(Exception, match="no retention was ever set"):
        rounds(log, bucket, clock, None).round()
    write(log)
    rounds(log, bucket, clock, None).round()
    (version,) = bucket.objects["checkpoints/00000000000000000001"]
    assert version is not None
    assert version.until is not None
    assert 365 * DAY <= version.until - NOW <= 367 * DAY
    assert version.until % DAY == 0
    free = Bucket()
    rounds(log, free, clock, "none").round()
    assert {one.until for known in free.objects.values() for one in known if one} == {None}


@pytest.mark.parametrize("text", ["400", "0d", "-1d", "400 d", "99999d", "1y", ""])
def test_a_retention_that_is_none(log: Log, text: str) -> None:
    with pytest.raises(Exception, match="expected days, such as 400d"):
        rounds(log, Bucket(), Clock(), text)


def test_an_open_hold_moves_the_locks_of_what_it_covers(log: Log) -> None:
    bucket, clock, key = Bucket(), Clock(), Path(f"{log.path}.key")
    for _ in range(300):
        write(log)
    one = rounds(log, bucket, clock, "100d")
    one.round()

    def end(name: str) -> float:
        (version,) = bucket.objects[name]
        assert version is not None
        assert version.until is not None
        return version.until

    before = end("tile/entries/000")
    place_hold(log.path, key, "case-7", 0, 200, "subpoena", "somebody")
    one.round()
    assert end("tile/entries/000") == before, "more than a month is left"
    clock.now += 80 * DAY
    one.round()
    assert end("tile/entries/000") == end("tile/0/000") == before + 80 * DAY
    assert end("checkpoints/00000000000000000300") == before + 80 * DAY, "the first that covers it"
    release_hold(log.path, key, "case-7", "settled", "somebody")
    clock.now += 80 * DAY
    one.round()
    assert end("tile/entries/000") == before + 80 * DAY, "not any more"


def test_memory_that_cannot_be_used_is_begun_anew(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    file = MemoryFile.of(log.path, "memory://bucket")
    assert file.read().told == 0
    file.write(file.read())
    file.path.write_text("{")
    assert file.read().told == 0
    assert file.path.stat().st_mode & 0o077 == 0


def test_the_archives_head_is_compared_in_bounded_time(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(
        "audit_middleware.archives.opening.open_archive", lambda *_, **__: (go_on.wait(60), Bucket())[1]
    )
    (state,) = compare_heads(JournalStore.open(log.path, writable=False), archive="s3://bucket", timeout=0.05)
    go_on.set()
    assert (state.state, state.problem) == ("unknown", "no answer within 0.05 seconds")
