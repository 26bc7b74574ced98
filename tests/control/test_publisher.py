"""A folder that the service itself keeps published: elected among workers, never in the way, whole at the end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import LogBusy
from audit_middleware.evidence.follow import Follower
from audit_middleware.evidence.published import verify_published
from audit_middleware.ledger.checkpoint import Checkpoint
from audit_middleware.ledger.note import parse_vkey
from audit_middleware.stores.journal import JournalStore
from tests.control.support import app_for, eventually, run, until
from tests.kit import ORIGIN, Log, call
from tests.middleware.support import check_log
from tests.servers.running import Server
from tests.stores.children import fork
from tests.stores.samples import ORIGIN as SAMPLE_ORIGIN
from tests.stores.samples import SEAL, VERIFIERS, entry, new_journal

READER = {"x-user": "ann:reader"}


def verified(folder: Path, log: Log) -> Checkpoint:
    """All of a published log read back and verified."""
    return verify_published(Folder(folder), ORIGIN, [parse_vkey(log.vkey)])


def test_a_service_publishes_its_log_to_the_last_record(log: Log, tmp_path: Path) -> None:
    folder = tmp_path / "published"

    async def drive(app: Any) -> None:
        assert (await call(app, "GET", "/")).status == 200
        await eventually(log.outcomes, "the record")
        size = len(log.records())
        await eventually(lambda: _size(folder) >= size, "the record is published")

    assert run(app_for(log, tmp_path, publish_to=folder, publish_interval=20), drive) is None
    assert log.records()[-1]["action"] == "audit.stopped"
    assert verified(folder, log).size == len(log.records())
    check_log(log)


def _size(folder: Path) -> int:
    try:
        return int((folder / "checkpoint").read_text().split("\n")[1])
    except FileNotFoundError:
        return 0


def test_one_of_many_workers_publishes_and_another_takes_over(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    server = Server(
        "uvicorn asyncio h11", tmp_path / "service", "--workers", "2",
        AUDIT_PUBLISH_TO=str(folder), AUDIT_PUBLISH_INTERVAL="20", AUDIT_HEARTBEAT="1",
    )  # fmt: skip
    try:
        until(lambda: _size(folder) > 0, "the first publication")
        pids = until(lambda: _workers(server.log, 2), "two workers")
        publisher = until(lambda: _holder(folder, pids), "a publisher")
        until(lambda: _pids(server.log, "audit.heartbeat") >= pids, "a heartbeat of each worker")
        assert publisher is not None
        os.kill(publisher, signal.SIGKILL)
        until(lambda: _holder(folder, _workers(server.log, 1)) not in (None, publisher), "another publisher")
        answer = httpx.get(f"{server.url}/docs/after", headers=READER, timeout=60)
        server.record(answer.headers["audit-id"])
        size = len(server.log.records())
        until(lambda: _size(folder) >= size, "what came after is published")
    finally:
        server.stop()
    assert verified(folder, server.log).size == len(server.log.records())


def _workers(log: Log, least: int) -> set[int]:
    pids = _pids(log, "audit.started")
    return pids if len(pids) >= least else set()


def _pids(log: Log, action: str) -> set[int]:
    return {int(one["service"]["instance"].split(":")[-2]) for one in log.controls(action)}


def _holder(folder: Path, pids: set[int]) -> int | None:
    """The process that holds the folder's lock, as the kernel lists it."""
    inode = (folder / ".state" / "publish.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}") and int(words[4]) in pids:
            return int(words[4])
    return None


# --- the follower by itself --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    return new_journal(tmp_path / "log", [entry(0)], [entry(1)])


def test_it_stands_by_while_another_publishes(store: JournalStore, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    follower = Follower(store.path, folder, 0.01)
    with Folder(folder).exclusive():
        follower.start()
        until(lambda: follower.state()["role"] == "standby", "standing by")
        assert _size(folder) == 0
    until(lambda: follower.state()["role"] == "publishing", "taking over")
    store.append([entry(2)], SEAL)
    follower.stop()
    assert follower.state() == {"role": "stopped", "size": 3, "problem": None, "failures": 0}
    assert verify_published(Folder(folder), SAMPLE_ORIGIN, VERIFIERS).size == 3


def test_one_that_stands_by_at_the_end_publishes_what_the_other_left(store: JournalStore, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    follower = Follower(store.path, folder, 3600)
    with Folder(folder).exclusive():
        follower.start()
        until(lambda: follower.state()["role"] == "standby", "standing by")
    follower.stop()
    assert _size(folder) == 2


def test_a_folder_that_cannot_be_written_is_said_once_and_tried_again(
    store: JournalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_middleware.evidence.follow._FIRST_PAUSE", 0.01)
    folder = tmp_path / "published"
    folder.write_text("not a folder")
    follower = Follower(store.path, folder, 0.01)
    follower.start()
    until(lambda: follower.state()["failures"] >= 3, "three tries")
    assert follower.state()["role"] == "failing"
    assert follower.state()["problem"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR], "said once"
    folder.unlink()
    until(lambda: follower.state()["role"] == "publishing", "published after all")
    assert follower.state()["problem"] is None
    follower.stop()
    assert _size(folder) == 2


def test_a_folder_of_another_history_stays_as_it_is(
    store: JournalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = new_journal(tmp_path / "other", [entry(number) for number in range(5)])
    folder = tmp_path / "published"
    first = Follower(other.path, folder, 0.01)
    first.start()
    first.stop()
    before = (folder / "checkpoint").read_bytes()
    follower = Follower(store.path, folder, 0.01)
    follower.start()
    until(lambda: follower.state()["role"] == "failing", "the refusal")
    follower.stop()
    assert (folder / "checkpoint").read_bytes() == before
    assert "rolled back or truncated" in caplog.text


def test_a_slow_disk_delays_no_request(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher hangs in its thread; requests, records and the start go on."""
    go_on, hanging = threading.Event(), threading.Event()
    genuine = Folder.put_all

    def slow(folder: Folder, objects: Any) -> int:
        hanging.set()
        assert go_on.wait(60)
        return genuine(folder, objects)

    monkeypatch.setattr(Folder, "put_all", slow)

    async def drive(app: Any) -> None:
        await eventually(hanging.is_set, "the publisher hangs")
        for _ in range(5):
            assert (await call(app, "GET", "/")).status == 200
        await eventually(lambda: len(log.outcomes()) == 5, "the records")
        go_on.set()

    assert run(app_for(log, tmp_path, publish_to=tmp_path / "published", publish_interval=10), drive) is None
    assert verified(tmp_path / "published", log).size == len(log.records())


def test_a_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "published")

    def work(tell: Any) -> None:
        tell(b"alive")
        time.sleep(120)

    with folder.exclusive():
        child = fork(work)
        assert os.read(child.pipe, 5) == b"alive"
        with pytest.raises(LogBusy), Folder(folder.root).exclusive():
            pass
    with Folder(folder.root).exclusive():
        pass
    child.kill()
    assert child.wait() == -signal.SIGKILL


JOB = """
import sys
from audit_middleware.evidence.follow import Follower
from pathlib import Path
import atexit
follower = Follower(Path(sys.argv[1]), Path(sys.argv[2]), 3600)
follower.start()
atexit.register(follower.stop)
"""


def test_a_process_that_just_ends_publishes(store: JournalStore, tmp_path: Path) -> None:
    """Stopped by the interpreter's exit, where no thread pool can be started any more."""
    arguments = [str(store.path), str(tmp_path / "published")]
    subprocess.run([sys.executable, "-c", JOB, *arguments], check=True, timeout=120, cwd=Path(__file__).parents[2])
    assert _size(tmp_path / "published") == 2
