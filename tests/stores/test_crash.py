"""Crashes, full disks and failing system calls: the log opens, verifies, and has everything that was acknowledged."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit_middleware.errors import LogDamaged, LogUnavailable
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.tail import Repair
from tests.stores.children import fork
from tests.stores.samples import SEAL, assert_holds, batches, entries_of, entry, new_journal, segments_of, small

# --- torn writes -------------------------------------------------------------------------------------------------


def _cut_at_every(step: int, path: Path, groups: list[list[bytes]]) -> None:
    new_journal(path, *groups).close()
    segment = segments_of(path)[0]
    healthy = segment.read_bytes()
    whole = int(list(JournalStore.open(path, writable=False).frames())[-1].where.rpartition(":")[2])
    before = [one for group in groups[:-1] for one in group]
    for length in range(whole + 1, len(healthy), step):
        segment.write_bytes(healthy[:length])
        told: list[Repair] = []
        store = JournalStore.open(path, repaired=told.append)
        assert told == store.repairs
        (repair,) = told
        assert (repair.segment, repair.offset, repair.size) == (segment, whole, length - whole)
        assert repair.kept.read_bytes() == healthy[whole:length]
        assert repair.kept.stat().st_mode & 0o777 == 0o600
        repair.kept.unlink()
        assert segment.read_bytes() == healthy[:whole]
        assert entries_of(store) == before
        store.append([small(length)], SEAL)
        assert entries_of(store) == [*before, small(length)]
        assert_holds(store)
        store.close()


@pytest.mark.parametrize("sizes", [(1,), (2, 3)])
def test_a_torn_tail_of_some_lengths(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    _cut_at_every(83, tmp_path / "log", batches(*sizes))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1,), (2, 2)])
def test_a_torn_tail_of_every_length(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    _cut_at_every(1, tmp_path / "log", [[small(number) for number in range(size)] for size in sizes])


def test_a_torn_tail_is_repaired_by_an_open_store_too(tmp_path: Path) -> None:
    told: list[Repair] = []
    store = new_journal(tmp_path / "log", *batches(2), repaired=told.append)
    with segments_of(tmp_path / "log")[0].open("ab") as segment:
        segment.write(entry(9) + b'\n{"comm')
    store.append([small(1)], SEAL)
    assert len(told) == 1
    assert len(entries_of(store)) == 3
    assert_holds(store)


def test_blocks_that_never_reached_the_disk_are_a_torn_tail(tmp_path: Path) -> None:
    """A power cut may keep a file's last block and lose one before it."""
    path = tmp_path / "log"
    new_journal(path, *batches(2, 5)).close()
    segment = segments_of(path)[0]
    healthy = segment.read_bytes()
    whole = int(list(JournalStore.open(path, writable=False).frames())[-1].where.rpartition(":")[2])
    for start in (whole, whole + 700):
        segment.write_bytes(healthy[:start] + bytes(512) + healthy[start + 512 :])
        store = JournalStore.open(path)
        assert [repair.offset for repair in store.repairs] == [whole]
        assert len(entries_of(store)) == 2
        assert_holds(store)
        store.close()
    segment.write_bytes(healthy + bytes(4096))
    store = JournalStore.open(path)
    assert len(entries_of(store)) == 7
    assert_holds(store)


def test_only_the_last_commit_can_have_lost_blocks(tmp_path: Path) -> None:
    """A commit was durable before the next one was written: two that are wrong are damage, zeros or not."""
    path = tmp_path / "log"
    new_journal(path, *batches(2, 2, 2)).close()
    segment = segments_of(path)[0]
    data = bytearray(segment.read_bytes())
    offsets = [int(frame.where.rpartition(":")[2]) for frame in JournalStore.open(path, writable=False).frames()]
    data[offsets[1] + 9] ^= 1
    data[offsets[2] + 100 : offsets[2] + 600] = bytes(500)
    segment.write_bytes(data)
    with pytest.raises(LogDamaged, match="Nothing was changed"):
        JournalStore.open(path)
    assert segment.read_bytes() == data


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_last_commit_is_never_cut(tmp_path: Path, step: int) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2, 1)).close()
    segment = segments_of(path)[0]
    healthy = segment.read_bytes()
    whole = int(list(JournalStore.open(path, writable=False).frames())[-1].where.rpartition(":")[2])
    for offset in [*range(whole, len(healthy), step), len(healthy) - 1]:
        damaged = bytearray(healthy)
        damaged[offset] ^= 1
        segment.write_bytes(damaged)
        with pytest.raises(LogDamaged, match="Nothing was changed"):
            JournalStore.open(path)
        assert segment.read_bytes() == damaged
    assert not list((path / ".state").glob("torn-*"))
    segment.write_bytes(healthy)
    assert_holds(JournalStore.open(path))


# --- kill -9 -----------------------------------------------------------------------------------------------------


def _kill_writers(path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    new_journal(path).close()
    acknowledged: list[bytes] = []
    for number in range(rounds):

        def write(tell: Callable[[bytes], int], number: int = number) -> None:
            store = JournalStore.open(path, segment_bytes=20_000)
            for step in range(100_000):
                group = [small(number * 10**6 + step * 10 + one) for one in range(1 + step % 7)]
                store.append(group, SEAL)
                tell(b"".join(one + b"\n" for one in group))

        child = fork(write)
        time.sleep(chance.uniform(0.002, 0.08))
        child.kill()
        told = child.read()
        assert child.wait() == -signal.SIGKILL
        acknowledged += told[: told.rfind(b"\n") + 1].split()
        store = JournalStore.open(path)
        found = entries_of(store)
        assert set(acknowledged) <= set(found), "an acknowledged record is lost"
        assert len(found) == len(set(found))
        assert_holds(store)
        store.close()
    assert acknowledged


def test_kill_9_loses_nothing_acknowledged(tmp_path: Path) -> None:
    _kill_writers(tmp_path / "log", 6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_kill_9_many_times(tmp_path: Path, seed: int) -> None:
    _kill_writers(tmp_path / "log", 40, seed)


# --- system calls that fail --------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[int]]]:
    """Makes the next calls of a function of `os` fail; ``after`` says how much it does before failing."""

    def fail(name: str, times: int, *, code: int = errno.EIO, after: str = "nothing") -> list[int]:
        real = getattr(os, name)
        seen: list[int] = []

        def broken(descriptor: int, *rest: object) -> object:
            if len(seen) >= times:
                return real(descriptor, *rest)
            seen.append(descriptor)
            if after == "all":
                real(descriptor, *rest)
            elif after == "half" and rest:
                data = rest[0]
                assert isinstance(data, bytes)
                real(descriptor, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, name, broken)
        return seen

    yield fail
    monkeypatch.undo()


@pytest.mark.parametrize("after", ["nothing", "all"])
def test_a_failed_fdatasync_poisons_the_descriptor(
    tmp_path: Path, failing: Callable[..., list[int]], after: str
) -> None:
    store = new_journal(tmp_path / "log", *batches(2))
    head = store.head()
    failing("fdatasync", 1, after=after)
    with pytest.raises(LogUnavailable, match="Input/output error"):
        store.append([small(1)], SEAL)
    assert store._appender is not None
    assert store._appender._descriptor is None  # never used again
    grown = store.append([small(2)], SEAL)
    # The failed batch may be there, which its sender was told; what follows extends whatever is.
    assert grown.size in (head.size + 1, head.size + 2)
    assert entries_of(store)[-1] == small(2)
    assert_holds(store)


def test_the_second_failure_in_a_row_stops_the_store(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    store = new_journal(tmp_path / "log", *batches(2))
    failing("fdatasync", 2)
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="Input/output"):
            store.append([small(1)], SEAL)
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="open the log anew"):
            store.append([small(2)], SEAL)
    fresh = JournalStore.open(tmp_path / "log")
    fresh.append([small(3)], SEAL)
    assert entries_of(fresh)[:2] == batches(2)[0]
    assert entries_of(fresh)[-1] == small(3)
    assert_holds(fresh)


def test_failures_that_are_not_in_a_row(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    store = new_journal(tmp_path / "log")
    for number in range(4):
        failing("fdatasync", 1)
        with pytest.raises(LogUnavailable):
            store.append([small(number)], SEAL)
        store.append([small(100 + number)], SEAL)
    assert_holds(store)


@pytest.mark.parametrize("after", ["nothing", "half", "all"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failed_write(tmp_path: Path, failing: Callable[..., list[int]], after: str, code: int) -> None:
    store = new_journal(tmp_path / "log", *batches(2))
    failing("write", 1, code=code, after=after)
    words = "free space" if code != errno.EIO else "system's log"
    with pytest.raises(LogUnavailable, match=words):
        store.append([small(1)], SEAL)
    store.append([small(2)], SEAL)
    assert entries_of(store)[-1] == small(2)
    assert len(store.repairs) == (1 if after == "half" else 0)
    assert_holds(store)


def test_a_failure_while_beginning_a_segment(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    for number, name in enumerate(("fdatasync", "fsync", "write")):
        path = tmp_path / f"log-{name}"
        store = new_journal(path, *batches(2, 2), segment_bytes=1)
        failing(name, 1)
        with pytest.raises(LogUnavailable):
            store.append([small(number)], SEAL)
        store.append([small(10)], SEAL)
        store.append([small(11)], SEAL)
        assert entries_of(store)[-2:] == [small(10), small(11)]
        assert_holds(store)


def test_a_failure_while_repairing(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2)).close()
    segment = segments_of(path)[0]
    torn = segment.read_bytes() + b'{"half'
    for name in ("write", "fsync", "ftruncate"):
        segment.write_bytes(torn)
        failing(name, 1, code=errno.ENOSPC)
        with pytest.raises(LogUnavailable):
            JournalStore.open(path)
        assert segment.read_bytes() == torn  # what could not be kept was not cut
        store = JournalStore.open(path)
        assert len(entries_of(store)) == 2
        assert_holds(store)
        store.close()


def test_a_reader_does_not_show_what_it_cannot_make_durable(tmp_path: Path, failing: Callable[..., list[int]]) -> None:
    store = new_journal(tmp_path / "log", *batches(2))
    reader = JournalStore.open(tmp_path / "log", writable=False)
    failing("fdatasync", 1)
    with pytest.raises(LogUnavailable, match="durable"):
        reader.head()
    assert reader.head() == store.head()
    failing("fdatasync", 1, code=errno.EROFS)
    assert JournalStore.open(tmp_path / "log", writable=False).head() == store.head()


def test_the_interpreter_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between any two steps of an append."""
    store = new_journal(tmp_path / "log", *batches(2))
    for name in ("write", "fdatasync", "fstat"):
        for after in (False, True):
            real = getattr(os, name)

            def interrupted(*arguments: object, real: Callable[..., object] = real, after: bool = after) -> object:
                if after:
                    real(*arguments)
                monkeypatch.undo()
                raise KeyboardInterrupt

            monkeypatch.setattr(os, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append([small(1)], SEAL)
            store.append([small(2)], SEAL)
            assert_holds(store)


# --- full disks, for real ----------------------------------------------------------------------------------------


def test_a_file_size_limit(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel take half a frame and refuse the rest, like a full disk."""
    path = tmp_path / "log"
    new_journal(path, *batches(2)).close()
    before = segments_of(path)[0].stat().st_size

    def write(tell: Callable[[bytes], int]) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = JournalStore.open(path)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + 300, hard))
        for _ in range(2):
            try:
                store.append([entry(2)], SEAL)
            except LogUnavailable as error:
                tell(str(error).encode() + b"\n")
        assert segments_of(path)[0].stat().st_size > before
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store = JournalStore.open(path)
        assert len(store.repairs) == 1
        assert store.append([entry(2)], SEAL).size == 3

    child = fork(write)
    told = child.read().decode().splitlines()
    assert child.wait() == 0
    assert len(told) == 2
    assert all("free space" in line for line in told)
    assert_holds(JournalStore.open(path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    store = new_journal(small_disk / "log", *batches(2))
    large = b'{"n":"%b"}' % (b"x" * 5000)
    while store.headroom() > 2 * len(large):
        store.append([large], SEAL)
    written = store.head().size
    for _ in range(2):
        with pytest.raises(LogUnavailable, match="free space"):
            store.append([large] * 3, SEAL)
    assert_holds(JournalStore.open(small_disk / "log", writable=False))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    store = JournalStore.open(small_disk / "log")
    assert store.append([small(1)], SEAL).size == written + 1
    assert_holds(store)


# --- every system call, with strace ------------------------------------------------------------------------------

ONE_APPEND = """
import sys
from pathlib import Path
from tests.stores.samples import SEAL, small
from audit_middleware.stores.journal import JournalStore
store = JournalStore.open(Path(sys.argv[1]), segment_bytes=int(sys.argv[2]))
print("opened", flush=True)
store.append([small(7)], SEAL)
print("acknowledged", flush=True)
"""


def _inject(path: Path, call: str, fault: str, when: int, segment_bytes: int) -> tuple[bool, bool]:
    """Runs one append with one fault; says whether it was acknowledged, and whether the fault happened at all."""
    trace = path.parent / "trace"
    command = ["strace", "-f", "-o", str(trace), "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"]
    for inside in (path / "journal", path / ".state", *segments_of(path), path / "journal" / f"{3:020d}.jsonl"):
        command += ["-P", str(inside)]
    command += [sys.executable, "-c", ONE_APPEND, str(path), str(segment_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    happened = "INJECTED" in trace.read_text() or done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return "acknowledged" in done.stdout, happened


def _one_fault(path: Path, call: str, fault: str, when: int, *, torn: bool, rolling: bool) -> bool:
    shutil.rmtree(path, ignore_errors=True)
    new_journal(path, *batches(3)).close()
    if torn:
        with segments_of(path)[0].open("ab") as segment:
            segment.write(b'{"half')
    acknowledged, happened = _inject(path, call, fault, when, 1 if rolling else 2**20)
    store = JournalStore.open(path)
    found = entries_of(store)
    assert found[:3] == batches(3)[0]
    assert set(found[3:]) <= {small(7)}
    if acknowledged:
        assert found[3:] == [small(7)]
    assert_holds(store)
    store.append([small(8)], SEAL)
    assert_holds(store)
    store.close()
    return happened


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def every_fault(path: Path, call: str, fault: str, *, torn: bool, rolling: bool) -> int:
    """One run for each occurrence of the call on the log's files, until it does not occur any more; how many."""
    for when in range(1, 40):
        if not _one_fault(path, call, fault, when, torn=torn, rolling=rolling):
            return when - 1
    raise AssertionError("more occurrences than expected")


@needs_strace
@pytest.mark.parametrize("fault", ["error=EIO", "signal=KILL"])
@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync", "ftruncate"])
def test_a_fault_in_every_call_that_writes(tmp_path: Path, call: str, fault: str) -> None:
    """With a new segment, which takes all steps of an append; to shorten a file, a torn write is needed."""
    torn = call == "ftruncate"
    assert every_fault(tmp_path / "log", call, fault, torn=torn, rolling=not torn)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("torn", "rolling"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("fault", ["error=EIO", "signal=KILL"])
@pytest.mark.parametrize("call", ["openat", "write", "fdatasync", "fsync", "ftruncate", "pread64", "close", "flock"])
def test_a_fault_in_every_system_call(tmp_path: Path, call: str, fault: str, torn: bool, rolling: bool) -> None:
    every_fault(tmp_path / "log", call, fault, torn=torn, rolling=rolling)
