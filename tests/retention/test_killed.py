"""Prunes that are killed or whose system calls fail, at every step; and prunes while others write and read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import EntriesPruned, StoreError
from audit_middleware.evidence.prune import plan_prune
from audit_middleware.evidence.published import verify_published
from audit_middleware.evidence.retention import place_hold, read_retention, set_retention
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log, make_log
from tests.publish.test_killed import dies_at
from tests.retention.support import (
    aged,
    assert_holds_from_base,
    clock,
    dated,
    fill,
    key_of,
    prune_at,
    publish_log,
    sealer,
    verifiers,
)
from tests.stores.children import Child, finish, fork

DAY = 90.0
STEPS = ("fsync", "fdatasync", "link", "unlink", "rename", "replace", "rmdir", "write", "ftruncate")


@pytest.fixture
def prepared(tmp_path: Path) -> Log:
    """A log of 700 old records in one segment, indexed and published; copies of it are what gets pruned."""
    (tmp_path / "first").mkdir()
    log = make_log(tmp_path / "first")
    store = aged(log)
    publish_log(log, store, tmp_path / "first" / "dir")
    index = SearchIndex(log.path / "index.sqlite", store)
    index.catch_up()
    index.close()
    store.close()
    return log


def copy_of(log: Log, folder: Path) -> Log:
    shutil.copytree(log.path.parent, folder)
    return Log(folder / log.path.name, log.vkey)


def check(log: Log, finished: bool) -> None:
    """The log opens, verifies, explains itself and has every entry that is not pruned."""
    store = JournalStore.open(log.path)
    size = assert_holds_from_base(store, log)
    assert store.base.size in (0, 511)
    assert size in (701, 702)
    left = [one for frame in store.frames() for one in frame.entries]
    assert left[: 700 - store.base.size] == [dated(number) for number in range(store.base.size, 700)]
    found = read_retention(log.path)
    assert (found.months, found.base) == (1, store.base.size)
    assert (found.explained is not None) == (store.base.size > 0)
    index = SearchIndex(log.path / "index.sqlite", store)
    assert index.catch_up() == size
    assert list(index.find(Filters(), newest_first=False)) == list(range(store.base.size, size))
    index.close()
    folder = Folder(log.path.parent / "dir")
    assert verify_published(folder, ORIGIN, verifiers(log)).size in (701, 702)
    if finished:
        assert (store.base.size, found.minimum) == (511, 512)
        names = [path.name for path in (log.path / "journal").iterdir() if not path.name.startswith(".")]
        assert sorted(names) == sorted(
            [f"{511:020d}.base", f"{511:020d}.jsonl", f"{511:020d}.pruned", f"{701:020d}.jsonl"]
        )
        assert not (folder.root / "tile" / "0" / "000").exists()
        assert not (folder.root / "tile" / "entries" / "001").exists()
    store.close()


def prune_and_die(log: Log, number: int) -> int:
    def work(tell: object) -> None:
        dies_at(number, STEPS)
        prune_at(log, DAY, Folder(log.path.parent / "dir"))

    return fork(work).wait()


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_each_call_that_changes_the_disk(prepared: Log, tmp_path: Path, step: int) -> None:
    number, killed = 1, 0
    while True:
        log = copy_of(prepared, tmp_path / f"run{number}")
        code = prune_and_die(log, number)
        assert code in (0, 9)
        check(log, finished=code == 0)
        prune_at(log, DAY, Folder(log.path.parent / "dir"))
        check(log, finished=True)
        # A record that a killed run left is used, not repeated.
        assert len(log_records(log)) == 1
        store = fill(log, 702, 720)
        assert assert_holds_from_base(store, log) == 720
        shutil.rmtree(tmp_path / f"run{number}")
        if code == 0:
            break
        killed += 1
        number += step
    assert killed >= 5


def log_records(log: Log) -> list[dict[str, Any]]:
    return log.controls("audit.pruned")


def die_after_the_record(log: Log, day: float) -> None:
    """A prune that is killed between its record and its first change."""

    def work(tell: object) -> None:
        JournalStore.prune = lambda *_: os._exit(9)  # type: ignore[method-assign]
        prune_at(log, day)

    assert fork(work).wait() == 9


def test_a_hold_that_comes_after_the_record_of_an_unfinished_prune_wins(prepared: Log) -> None:
    """Nothing was removed yet, so the record did not end the time in which a hold can be placed."""
    die_after_the_record(prepared, DAY)
    assert len(log_records(prepared)) == 1
    assert read_retention(prepared.path).explained is None
    place_hold(prepared.path, key_of(prepared), "late", 300, None, "CASE-2", "tester", clock=lambda: clock(DAY))
    done = prune_at(prepared, DAY)
    assert (done.plan.previous, done.plan.minimum) == (0, 256)
    assert [one["extra"]["minimum"] for one in log_records(prepared)] == [512, 256]
    found = read_retention(prepared.path)
    assert (found.minimum, found.explained, [one.name for one in found.holds]) == (256, done.record, ["late"])
    assert assert_holds_from_base(JournalStore.open(prepared.path), prepared) == 704


def test_an_unfinished_prune_may_go_further_when_it_is_run_again(prepared: Log) -> None:
    die_after_the_record(prepared, 31 + 30.0)
    assert [one["extra"]["minimum"] for one in log_records(prepared)] == [256]
    done = prune_at(prepared, DAY)
    assert (done.plan.previous, done.plan.minimum) == (0, 512)
    assert len(log_records(prepared)) == 2
    check_explained(prepared, 512)


def check_explained(log: Log, minimum: int) -> None:
    found = read_retention(log.path)
    assert found.explained is not None
    assert found.minimum == minimum
    assert_holds_from_base(JournalStore.open(log.path), log)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another account")
def test_root_prunes_as_the_logs_owner(prepared: Log) -> None:
    """Segments that belong to root would lock the service out."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories let nobody else through
        log = copy_of(prepared, Path(place) / "log")
        for path in (Path(place), *Path(place).rglob("*")):
            os.chown(path, 12_345, 12_345)
        prune_at(log, DAY, Folder(log.path.parent / "dir"))
        assert os.geteuid() == 0
        check_explained(log, 512)
        assert {path.stat().st_uid for path in Path(place).rglob("*")} == {12_345}


ONE_PRUNE = """
import sys
from pathlib import Path
from audit_middleware.archives.local import Folder
from tests.kit import Log
from tests.retention.support import prune_at
log = Log(Path(sys.argv[1]), sys.argv[2])
print("started", flush=True)
prune_at(log, 90.0, Folder(log.path.parent / "dir"))
print("pruned", flush=True)
"""

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def one_fault(prepared: Log, folder: Path, call: str, fault: str, when: int) -> bool:
    """One prune with one fault on the journal's files; what is left holds, and the next prune completes it."""
    log = copy_of(prepared, folder)
    trace = folder / "trace"
    command = ["strace", "-f", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"]
    journal = log.path / "journal"
    names = [*journal.iterdir(), *(journal / f"{size:020d}.{end}" for size in (511, 701) for end in ("jsonl", "base"))]
    temporary = [journal / f".{511:020d}.{end}.new" for end in ("jsonl", "base", "pruned")]
    for inside in (journal, log.path / ".state", *names, *temporary):
        command += ["-P", str(inside)]
    done = subprocess.run(
        [*command, sys.executable, "-c", ONE_PRUNE, str(log.path), log.vkey],
        capture_output=True,
        text=True,
        check=False,
    )
    happened = "INJECTED" in trace.read_text() or done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    check(log, finished="pruned" in done.stdout)
    prune_at(log, DAY, Folder(log.path.parent / "dir"))
    check(log, finished=True)
    assert len(log_records(log)) <= 2  # an fsync that failed after the write: whether the record is there is unknown
    shutil.rmtree(folder)
    return happened


@needs_strace
@pytest.mark.parametrize(
    ("call", "fault", "when"),
    [("fsync", "error=EIO", 3), ("rename", "error=EIO", 2), ("unlink", "signal=KILL", 1)],
)
def test_a_fault_in_a_prune(prepared: Log, tmp_path: Path, call: str, fault: str, when: int) -> None:
    assert one_fault(prepared, tmp_path / "run", call, fault, when)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["error=EIO", "signal=KILL"])
@pytest.mark.parametrize("call", ["openat", "write", "fdatasync", "fsync", "rename", "unlink", "pread64", "close"])
def test_a_fault_in_every_system_call(prepared: Log, tmp_path: Path, call: str, fault: str) -> None:
    """One run for each occurrence of the call on the log's files, until it does not occur any more."""
    for when in range(1, 150):
        if not one_fault(prepared, tmp_path / f"run{when}", call, fault, when):
            assert when > 1
            return
    raise AssertionError("more occurrences than expected")


# --- while others work --------------------------------------------------------------------------------------------


def run_until(stop: Path, work: Callable[[], object]) -> int:
    """Works until the file is there; not for ever, should the test have ended without making it."""
    rounds, parent = 0, os.getppid()
    while not stop.exists() and os.getppid() == parent and stop.parent.exists():
        work()
        rounds += 1
    return rounds


def hammer(log: Log, stop: Path) -> list[Child]:
    """Two writers, a reader from the start, and one who searches, each a process; each says how often it worked."""

    def write(tell: Callable[[bytes], int], number: int) -> None:
        store = JournalStore.open(log.path, segment_bytes=40_000, lock_timeout=60)
        # Without an end: how often it comes round is for the machine to say.
        seal, at = sealer(log), count(10_000 * number)
        tell(b"%d" % run_until(stop, lambda: store.append([dated(next(at) % 650) for _ in range(3)], seal)))

    def read(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(log.path, writable=False)
        pruned = 0

        def once() -> None:
            nonlocal pruned
            try:
                base = store.base.size
                position = base
                for frame in store.frames():
                    assert frame.first >= base
                    position = frame.head.size
                assert position <= store.head().size
                for raw in store.raw_frames():
                    assert raw.problem is None or raw.torn, raw
                list(store.frames(0, 1))
            except EntriesPruned:
                pruned += 1

        rounds = run_until(stop, once)
        assert pruned
        tell(b"%d" % rounds)

    def search(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(log.path, writable=False)
        index = SearchIndex(log.path / "index.sqlite", store)
        tell(b"%d" % run_until(stop, lambda: (index.catch_up(), next(index.find(Filters()), None))))

    return [
        fork(lambda tell: write(tell, 1)),
        fork(lambda tell: write(tell, 2)),
        fork(read),
        fork(search),
    ]


@pytest.mark.parametrize("prunes", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_writers_readers_and_searches_go_on(log: Log, tmp_path: Path, prunes: int) -> None:
    fill(log, 0, 600)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(60))
    children = hammer(log, tmp_path / "stop")
    store = JournalStore.open(log.path, writable=False)
    bases = [store.base.size]
    try:
        for number in range(1, prunes + 1):
            grown = store.head().size + 300
            deadline = time.monotonic() + 300
            while store.head().size < grown and time.monotonic() < deadline:
                time.sleep(0.01)
            # Years apart, so that everything is old each time, the record of the prune before as well.
            bases.append(prune_at(log, 1000 * number).plan.base.size)
    finally:
        (tmp_path / "stop").touch()
    rounds = [int(told) for told in finish(*children)]
    assert min(rounds) > 0
    assert bases == sorted(set(bases)), "each prune went further"
    size = assert_holds_from_base(JournalStore.open(log.path), log)
    assert size >= 600 + 3 * (rounds[0] + rounds[1])
    assert plan_prune(store, now_ns=clock(2000 * prunes)).begins == bases[-1]


def test_killed_at_random_times_while_others_write(log: Log, tmp_path: Path) -> None:
    fill(log, 0, 600)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(60))

    def write(tell: Callable[[bytes], int]) -> None:
        store = JournalStore.open(log.path, segment_bytes=40_000, lock_timeout=60)
        run_until(tmp_path / "stop", lambda: store.append([dated(number) for number in range(5)], sealer(log)))

    writer, base = fork(write), 0
    try:
        for number in range(6):
            child = fork(lambda tell: void(prune_at(log, 1000)))
            time.sleep(0.02 * (number + 1))
            child.kill()
            assert child.wait() in (0, -signal.SIGKILL)
            reader = JournalStore.open(log.path, writable=False)
            assert reader.base.size >= base
            base = reader.base.size
            assert_holds_up_to_a_head(reader, log)
    finally:
        (tmp_path / "stop").touch()
    finish(writer)
    done = prune_at(log, 1000)
    store = JournalStore.open(log.path)
    assert store.base.size == done.plan.base.size > 256
    assert_holds_from_base(store, log)


def void(_: object) -> None:
    """For what is done and not asked about."""


def assert_holds_up_to_a_head(reader: JournalStore, log: Log) -> None:
    """Like `assert_holds_from_base`, while the log grows."""
    for frame in reader.frames():
        assert frame.head.size <= reader.head().size
    if reader.base.size:
        assert read_retention(log.path).explained is not None


def test_a_reader_that_has_a_pruned_segment_open_ends_well(log: Log) -> None:
    store = aged(log, segment_bytes=20_000)
    reader = JournalStore.open(log.path, writable=False)
    reading = reader.frames()
    assert next(reading).first == 0
    prune_at(log, DAY)
    with pytest.raises(EntriesPruned, match=r"entry \d+ was pruned at .* entry 701 of the log is the record of it"):
        list(reading)
    assert next(reader.frames()).first == store.base.size
    raw = store.raw_frames()
    assert next(raw).commit is not None
    assert issubclass(EntriesPruned, StoreError)
    assert os.listdir(log.path / "journal")
