"""Verification in several processes: says what one process says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audit_middleware.errors import LogDamaged, LogUnavailable, StoreError
from audit_middleware.evidence import examiner, examining
from audit_middleware.evidence.examiner import Answer, Assignment, Task, examine_task
from audit_middleware.evidence.examining import examined
from audit_middleware.evidence.keywatch import KeyWatch
from audit_middleware.ledger.examine import Examined
from audit_middleware.ledger.verify import fold_examined
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.base import _copy_from, commit_line_at
from audit_middleware.stores.index import SearchIndex
from audit_middleware.stores.journal import JournalStore
from bench.logs import build_log
from tests.ledger_verify.test_pruned import RULED, control, prune, pruning
from tests.stores.samples import ORIGIN, SEAL, SIGNER, VERIFIERS, VKEY, batches, entry, new_journal, segments_of, small

SIZES = (2, 3, 1, 40, 4, 1, 1, 30)


def in_pieces(store: JournalStore, watch: KeyWatch, piece: int, start: int = 0) -> Iterator[Examined]:
    """What `examined` does with other processes, without the processes: every message is written and read."""
    assignment = Assignment(ORIGIN, [VKEY], check_records=True)
    for task in examining._tasks(store, start, piece):
        task = msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task)
        answer = msgspec.msgpack.encode(examine_task(task, assignment, VERIFIERS))
        yield from examining._unpacked(task, msgspec.msgpack.decode(answer, type=Answer), ORIGIN, watch)


def report(store: JournalStore, frames: Iterator[Examined], watch: KeyWatch, **options: Any) -> dict[str, Any]:
    found = fold_examined(frames, ORIGIN, VERIFIERS, entries_checked=True, **options)
    return watch.amend(found).to_dict()


def assert_same(store: JournalStore, piece: int = 3000, **options: Any) -> dict[str, Any]:
    """One process and many pieces give the same report; returns it."""
    watch, other = KeyWatch(), KeyWatch()
    alone = report(store, examined(store, VERIFIERS, watch=watch, processes=1), watch, **options)
    shared = report(store, in_pieces(store, other, piece), other, **options)
    assert alone == shared
    return alone


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    return new_journal(tmp_path / "log", *batches(*SIZES))


@pytest.mark.parametrize("piece", [1, 700, 3000, 2**20])
def test_pieces_of_any_size_say_the_same(store: JournalStore, piece: int) -> None:
    assert assert_same(store, piece)["holds"]
    frames = list(in_pieces(store, KeyWatch(), piece))
    assert [len(one.frame.entries) for one in frames] == list(SIZES)
    assert [list(one.frame.entries) for one in frames] == [list(raw.entries) for raw in store.raw_frames()]


@pytest.mark.parametrize("piece", [1, 3000, 2**20])
def test_only_the_first_frame_of_a_segment_is_hashed_again(store: JournalStore, piece: int) -> None:
    """The first one of a piece grows from what the commit line before it says."""
    assert [one.grown_from is None for one in in_pieces(store, KeyWatch(), piece)] == [True] + [False] * 7


def test_what_a_piece_grows_from_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit line before a piece is read once more. Who changes the file meanwhile gains nothing."""
    store = new_journal(tmp_path / "log", *batches(*SIZES))
    other = new_journal(tmp_path / "other", *batches(*SIZES, instance="other"))
    head = next(iter(other.frames())).head
    file, forged = segments_of(store.path)[0], segments_of(other.path)[0].read_bytes()
    lines, others = file.read_bytes().splitlines(keepends=True), forged.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], *others[3:]]))  # its first commit, and the rest of the other log
    monkeypatch.setattr(examiner, "_tree_before", lambda descriptor, begin: (head.size, head.peaks))
    frames = list(in_pieces(store, KeyWatch(), 1))
    assert frames[1].grown_from == (head.size, head.peaks)  # it does, but that is not the log's tree
    said = assert_same(store, 1)
    assert (said["holds"], said["index"]) == (False, 2)


def test_damage_of_every_kind_is_reported_alike(store: JournalStore) -> None:
    file = segments_of(store.path)[0]
    healthy = file.read_bytes()
    size = len(healthy)
    lines = healthy.splitlines(keepends=True)
    swapped = [*lines[:10], lines[11], lines[10], *lines[12:]]
    cases: list[bytes] = [
        *(healthy[:at] + bytes([healthy[at] ^ 1]) + healthy[at + 1 :] for at in range(5, size, size // 40)),
        *(healthy[: size - at] for at in (1, 50, 500, 5000)),
        healthy + b'{"half',
        healthy + bytes(100),
        healthy[:3000] + bytes(40) + healthy[3040:],
        b"".join(lines[3:]),
        b"".join(lines[:3] + lines[7:]),
        b"".join(lines[:7] + lines[3:]),
        b"".join(swapped),
        b"".join(line for line in lines if not line.startswith(b'{"commit":')),
        b"\n" * 50,
        b"",
        healthy.replace(b'"first":5', b'"first":99999999999999999999999'),
    ]
    verdicts = set()
    for changed in cases:
        file.write_bytes(changed)
        for piece in (900, 20_000):
            verdicts.add(assert_same(store, piece)["cause"])
    assert verdicts >= {None, "altered", "missing", "duplicated", "reordered"}


def test_records_that_are_none_and_counters(tmp_path: Path) -> None:
    groups: list[list[bytes]] = [
        [entry(0), small(1), b'{"b":1,"a":2}'],
        [entry(1, severity="loud"), entry(2)],
        [entry(4), entry(0, "process-2"), entry(5, recorded_at="2025-01-01T00:00:00.000000Z")],
        [entry(2), entry(5, user_agent="x")],
        [entry(6, action_id="z" * 36), canonical_huge()],
    ]
    said = assert_same(new_journal(tmp_path / "log", *groups))
    assert {one["check"] for one in said["findings"]} == {2, 7, 8, 9}


def test_what_the_log_says_of_itself_is_weighed_alike(tmp_path: Path) -> None:
    later = "2027-02-01T00:00:00.000000Z"
    groups = [
        [control(0, "audit.heartbeat", {"interval_s": 1}), control(1, "audit.gap", {"count": 7, "cause": "disk"})],
        [control(2, "audit.clock_jump", {"by_ms": 5})],
        [entry(3, recorded_at=later)],
        [control(4, "audit.pruned", {"minimum": 1}, recorded_at=later)],
    ]
    said = assert_same(new_journal(tmp_path / "log", *groups))
    assert {one["check"] for one in said["findings"]} == {13, 14, 15, 16}
    assert said["counts"] == {"gaps": 1, "lost": 7, "silences": 1, "jumps": 1}


def test_a_pruned_log_is_judged_alike(tmp_path: Path) -> None:
    store = prune(tmp_path / "log", [*RULED, [pruning(5, 4), entry(6)]], 3)
    said = assert_same(store, base=store.base)
    assert (said["holds"], said["pruned"], said["entries"]) == (True, 4, 3), said


def test_what_a_prune_left_below_the_base_is_passed_over_alike(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *RULED, [pruning(5, 4), entry(6)])
    (tmp_path / "log" / "journal" / f"{4:020d}.base").write_bytes(commit_line_at(store.layout.journal, 4))
    store.close_segment_at(7)
    assert assert_same(store, base=store.base)["holds"]
    _copy_from(store.layout.journal, 0, 4)  # the whole segment and the copy of its end: as killed before the unlink
    said = assert_same(store, base=store.base)
    assert (said["holds"], said["entries"]) == (True, 3), said


def canonical_huge() -> bytes:
    return b'{"action_id":"%b","sequence":%d,"service":{"instance":"x"}}' % (b" " * 36, 2**80)


def test_many_segments_and_a_later_start(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(*SIZES), segment_bytes=9000)
    assert len(segments_of(store.path)) > 3
    assert_same(store)
    for start in (0, 1, 5, 30, 81, 82):
        alone = [one.frame.where for one in examined(store, VERIFIERS, processes=1, start=start)]
        shared = [one.frame.where for one in in_pieces(store, KeyWatch(), 900, start)]
        assert alone == shared


def test_keys_are_watched_alike(tmp_path: Path) -> None:
    new = Ed25519Signer(ORIGIN, b"\x05" * 32)
    store = new_journal(tmp_path / "log", *batches(2))
    retired: dict[str, Any] = {"kind": "control", "action": "audit.key_retired", "extra": {"vkey": VKEY}}
    store.append([entry(2), entry(3, **retired), entry(4)], SEAL)
    store.append([entry(5)], make_sealer(ORIGIN, [new, SIGNER]))
    store.append([entry(6)], SEAL)
    said = assert_same(store, 100)
    assert [one["index"] for one in said["findings"] if one["cause"] == "wrong key"] == [2, 5, 6]


def test_the_search_index_is_compared_alike(store: JournalStore) -> None:
    index = SearchIndex(store.path / "index.sqlite", store)
    index.catch_up()
    assert assert_same(store, check_index=index.check)["holds"]
    index._database().execute("UPDATE entry SET user_id = 'nobody' WHERE idx IN (4, 40)")
    said = assert_same(store, check_index=index.check)
    assert [one["index"] for one in said["findings"]] == [4, 40]
    index.close()


def test_an_anchor_within_a_commit(store: JournalStore) -> None:
    head = SEAL(type(store.head())(), [entry(number) for number in range(20)])
    assert assert_same(store, since=head.checkpoint)["holds"]


def test_a_file_that_changes_meanwhile(store: JournalStore) -> None:
    frames = list(in_pieces(store, KeyWatch(), 3000))
    file = segments_of(store.path)[0]
    file.write_bytes(file.read_bytes().replace(b"curl/8", b"curl/9"))
    with pytest.raises(LogDamaged, match="changed while it was verified"):
        list(frames[3].frame.entries)
    file.unlink()
    with pytest.raises(LogUnavailable):
        frames[2].frame.entries[0]


# --- real processes ----------------------------------------------------------------------------------------------


def children(process: int) -> list[int]:
    """The processes that this one has started and that live."""
    try:
        text = " ".join(one.read_text() for one in Path(f"/proc/{process}/task").glob("*/children"))
    except FileNotFoundError:
        return []
    return [int(one) for one in text.split()]


def alive(processes: Sequence[int]) -> list[int]:
    def state(process: int) -> str:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "gone"

    return [one for one in processes if state(one) not in ("gone", "Z")]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits for something to become true and returns it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)
    return found


@pytest.mark.parametrize("lead", [0, 1, 4])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_say_the_same(
    store: JournalStore, lead: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "_LEAD", lead)
    before = children(os.getpid())
    watch, other = KeyWatch(), KeyWatch()
    alone = report(store, examined(store, VERIFIERS, watch=watch, processes=1), watch)
    shared = report(store, examined(store, VERIFIERS, watch=other, processes=processes, piece=1), other)
    assert alone == shared
    assert shared["holds"]
    assert children(os.getpid()) == before


@pytest.mark.parametrize("answered", [True, False])
def test_no_more_is_read_than_was_asked_for(
    store: JournalStore, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """This process does what is further on while it waits for the others, but not all of it."""
    monkeypatch.setattr(examining._Examiner, "has_answered", lambda _: answered)
    monkeypatch.setattr(examining, "_LEAD", 1)
    dealt: list[Task] = []
    tasks = examining._tasks

    def counted(*given: Any) -> Iterator[Task]:
        for task in tasks(*given):
            dealt.append(task)
            yield task

    monkeypatch.setattr(examining, "_tasks", counted)
    before = children(os.getpid())
    frames = examined(store, VERIFIERS, processes=2, piece=1)
    # One of this process and two of the other; then one more for each that is given out, and one done meanwhile.
    for number, count in enumerate([3, 4, 5, 6] if answered else [3, 5, 6, 6]):
        assert next(frames).frame.where.endswith(f":{dealt[number].begin}")
        assert len(dealt) == count
    started = [one for one in children(os.getpid()) if one not in before]
    assert len(started) == 1
    frames.close()  # type: ignore[attr-defined] # a generator
    assert alive(started) == []


def test_a_killed_process_is_an_error(store: JournalStore) -> None:
    before = children(os.getpid())
    frames = examined(store, VERIFIERS, processes=3, piece=1)
    next(frames)
    started = [one for one in children(os.getpid()) if one not in before]
    assert len(started) == 2
    os.kill(started[1], signal.SIGKILL)
    with pytest.raises(StoreError, match="ended before it was done"):
        list(frames)
    assert alive(started) == []


def test_small_logs_start_no_process(store: JournalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "_Examiner", None)
    assert len(list(examined(store, VERIFIERS))) == len(SIZES)
    with pytest.raises(ValueError, match="processes is 0"):
        next(examined(store, VERIFIERS, processes=0))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that takes a while."""
    path = tmp_path_factory.mktemp("large") / "log"
    build_log(path, 20_000, 1250, 20).close()
    return path


def command(path: Path, *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "audit_middleware", "verify", str(path), "--json", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_with_two_processes(large: Path) -> None:
    said = []
    for number in ("1", "2"):
        done = command(large, "--processes", number)
        text, problem = done.communicate(timeout=60)
        assert (done.returncode, problem) == (0, "")
        said.append(json.loads(text))
    assert said[0] == said[1]
    assert said[0]["entries"] == 20_000


def test_the_command_when_a_process_is_killed(large: Path) -> None:
    running = command(large, "--processes", "3")
    started = until(lambda: len(found := children(running.pid)) == 2 and found)
    os.kill(started[0], signal.SIGKILL)
    text, problem = running.communicate(timeout=60)
    assert (running.returncode, text) == (3, "")
    assert "ended before it was done (signal 9)" in problem
    until(lambda: not alive(started))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(large: Path, how: signal.Signals) -> None:
    running = command(large, "--processes", "3")
    started = until(lambda: len(found := children(running.pid)) == 2 and found)
    running.send_signal(how)
    text, problem = running.communicate(timeout=60)
    assert running.returncode not in (0, 1)
    assert text == ""
    assert "Traceback" not in problem
    until(lambda: not alive(started))


def growth(path: Path, *options: str) -> int:
    """Most memory, in KiB, of the process that verifies a log; those that it starts are not counted.

    Not ``ru_maxrss``: that begins with what the test's own process had when it started this one.
    """
    program = (
        "import sys\n"
        "from audit_middleware.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
    )
    line = [sys.executable, "-c", program, "verify", str(path), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stderr.split()[-1])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_memory_hardly_grows(large: Path, tmp_path: Path, processes: str) -> None:
    build_log(tmp_path / "log", 100_000, 1250, 500).close()
    path = tmp_path / "log"
    before, after = growth(large, "--processes", processes), growth(path, "--processes", processes)
    assert after - before < 12 * 1024  # 80,000 entries of 8 bytes, larger commits, and the map of action ids
    assert after < 100 * 1024


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_entries_in_100_megabytes(tmp_path: Path) -> None:
    store = build_log(tmp_path / "log", 1_000_000, 1250, 500)
    try:
        assert growth(store.path, "--processes", "2") < 100 * 1024
        assert growth(store.path, "--processes", "1") < 100 * 1024
    finally:
        for file in segments_of(store.path):
            file.unlink()  # more than a gigabyte
