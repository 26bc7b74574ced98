"""The writer: batching, waiters, failures, gaps, bounds, forks, closing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import LogBusy, LogDamaged, LogUnavailable, RecordError
from audit_middleware.model import Head, Receipt
from audit_middleware.pipeline import batch, committer
from audit_middleware.pipeline.append import Writer
from audit_middleware.pipeline.company import Company
from audit_middleware.protocols import LogStore, Sealer
from audit_middleware.stores.journal import JournalStore
from audit_middleware.stores.memory import MemoryStore
from audit_middleware.stores.spool import Spool
from tests.stores.children import finish, fork
from tests.stores.samples import ORIGIN, SEAL, assert_holds, entries_of, entry, new_journal, record

from audit_middleware.ledger import canonical  # isort: skip


def encode(item: Any, sequence: int, recorded_at_ns: int) -> bytes:
    """An item is a dictionary of changes to the sample record, or a number of microseconds to be a nuisance."""
    if isinstance(item, Exception):
        raise item
    if isinstance(item, bytes):
        return item
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(recorded_at_ns // 10**9))
    moment = f"{seconds}.{recorded_at_ns // 1000 % 10**6:06}Z"
    changes = item if isinstance(item, dict) else {}
    return canonical.encode(
        record(sequence, changes.get("instance", "process-1"), recorded_at=moment) | _plain(changes)
    )


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name != "instance"}


class Faulty:
    """A store over another that fails on demand, before or after the real one has persisted the batch."""

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Event()
        self.batches: list[int] = []
        self.opened = 0
        self.closed = 0

    def open(self) -> LogStore:
        self.opened += 1
        return self

    @property
    def origin(self) -> str:
        return self.inner.origin

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        self.entered.set()
        assert self.hold.wait(20)
        if self.before:
            raise self.before.pop(0)
        head = self.inner.append(entries, seal)
        self.batches.append(len(entries))
        if self.after:
            raise self.after.pop(0)
        return head

    def head(self) -> Head:
        return self.inner.head()

    @property
    def base(self) -> Head:
        return self.inner.base

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Any]:
        return self.inner.frames(start, stop)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def store() -> Iterator[Faulty]:
    faulty = Faulty(MemoryStore(ORIGIN))
    yield faulty
    assert_holds(faulty.inner)


@pytest.fixture
def make(store: Faulty) -> Iterator[Callable[..., Writer]]:
    writers: list[Writer] = []

    def build(**options: Any) -> Writer:
        writers.append(Writer(store.open, SEAL, options.pop("encode", encode), **options))
        return writers[-1]

    yield build
    store.hold.set()
    for writer in writers:
        writer.close(5)


def until(condition: Callable[[], bool], seconds: float = 20, pause: Callable[[float], object] = time.sleep) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        pause(0.002)


def sequences(store: Faulty) -> list[int]:
    return [canonical.decode(one)["sequence"] for one in entries_of(store.inner)]


# --- what goes in comes out --------------------------------------------------------------------------------------


def test_submit_then_close(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    for _ in range(10):
        writer.submit({})
    assert writer.close() == 0
    assert sequences(store) == list(range(10))
    assert (writer.counters.written, writer.counters.failed, writer.counters.dropped) == (10, 0, 0)
    assert writer.counters.batches == len(store.batches)
    assert store.closed == store.opened == 1


def test_nothing_is_started_before_the_first_record(make: Callable[..., Writer], store: Faulty) -> None:
    before = threading.active_count()
    writer = make()
    assert writer.available
    assert not writer.full
    assert writer.close() == 0
    assert (threading.active_count(), store.opened) == (before, 0)


def test_commit_returns_a_receipt(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()

    async def run() -> list[Receipt]:
        return [await writer.commit({}) for _ in range(3)]

    receipts = asyncio.run(run())
    assert [receipt.index for receipt in receipts] == [0, 1, 2]
    assert {receipt.origin for receipt in receipts} == {ORIGIN}
    assert [receipt.action_id for receipt in receipts] == [
        canonical.decode(one)["action_id"] for one in entries_of(store.inner)
    ]


def test_a_receipt_of_an_entry_that_is_no_record(make: Callable[..., Writer]) -> None:
    assert make().submit_wait(b'{"n":1}') == Receipt(ORIGIN, 0, "")
    assert make().submit_wait(b"{n}") == Receipt(ORIGIN, 1, "")


def test_commits_of_one_loop_share_batches(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()

    async def run() -> list[Receipt]:
        return await asyncio.gather(*(writer.commit({}) for _ in range(200)))

    receipts = asyncio.run(run())
    assert sorted(receipt.index for receipt in receipts) == list(range(200))
    assert len(store.batches) < 20


def test_two_event_loops_and_a_thread(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    found: list[Receipt] = []

    async def run() -> None:
        for _ in range(5):
            found.extend(await asyncio.gather(*(writer.commit({}) for _ in range(10))))

    def plain() -> None:
        found.extend(writer.submit_wait({}) for _ in range(20))

    threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(2)]
    threads.append(threading.Thread(target=plain))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receipt.index for receipt in found) == list(range(120))
    assert sequences(store) == list(range(120))


def test_recorded_at_never_goes_back(make: Callable[..., Writer], store: Faulty) -> None:
    times = iter([5_000_000_000, 3_000_000_000, 7_000_000_000, 6_000_000_000])
    writer = make(clock=lambda: next(times))
    for _ in range(4):
        writer.submit_wait({})
    moments = [canonical.decode(one)["recorded_at"] for one in entries_of(store.inner)]
    assert [moment[17:19] for moment in moments] == ["05", "05", "07", "07"]


# --- waiting for company -----------------------------------------------------------------------------------------


@pytest.fixture
def lingering(make: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch) -> Writer:
    """A writer that lingers for ever over one record, unless something ends it."""
    monkeypatch.setattr(Company, "left", lambda self: 1e4)
    writer = make()
    writer.submit({})
    until(lambda: writer._mode == committer.LINGERING)
    return writer


def test_records_that_nobody_waits_for_linger(make: Callable[..., Writer], store: Faulty) -> None:
    """But not for ever; and they share commits."""
    writer = make(linger_ms=50)
    for number in range(1, 201):
        writer.submit({})
        time.sleep(0.001)
        if number % 50 == 0:
            until(lambda written=number: writer.counters.written == written)  # type: ignore[misc]
    assert len(store.batches) < 100


def test_nobody_lingers_for_records_that_do_not_come(
    make: Callable[..., Writer], store: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Company, "begin", lambda self: setattr(self, "_since", self._clock() + 1e4))
    writer = make(linger_ms=50)
    for number in range(1, 4):
        writer.submit({})
        until(lambda written=number: writer.counters.written == written)  # type: ignore[misc]
        time.sleep(0.3)
    assert store.batches == [1, 1, 1]


def test_a_bell_that_was_not_heard_is_not_rung_again(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=10_000)
    for _ in range(2000):
        writer.submit({})
        assert writer._bell.qsize() <= 1
    until(lambda: writer.counters.written == 2000)


def test_event_loops_get_their_turns_unless_somebody_waits(
    make: Callable[..., Writer], store: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[float] = []
    writer = make()
    monkeypatch.setattr(committer, "_TURNS", 1e4)

    def commit_at_once(count: int, last: Callable[[Any], object]) -> int:
        store.entered.clear()
        store.hold.clear()
        writer.submit({})
        assert store.entered.wait(20)
        with monkeypatch.context() as patched:
            patched.setattr(time, "sleep", turns.append)
            turns.clear()
            for _ in range(count - 1):
                writer.submit({})
            last({})
            store.hold.set()
            until(lambda: not writer.backlog, pause=threading.Event().wait)
        return len(turns)

    assert commit_at_once(300, writer.submit) == 4, "at every 64th but the last"
    waiters: list[threading.Thread] = []

    def wait_for(item: Any) -> None:
        waiters.append(threading.Thread(target=writer.submit_wait, args=(item,)))
        waiters[0].start()
        until(lambda: writer.backlog == 101, pause=threading.Event().wait)

    assert commit_at_once(100, wait_for) == 0
    waiters[0].join()
    monkeypatch.setattr(committer, "_TURNS", 0)
    assert commit_at_once(300, writer.submit) == 0, "nor where it takes too long already"


def test_a_waiter_ends_the_lingering(lingering: Writer, store: Faulty) -> None:
    for _ in range(10):
        lingering.submit({})
    assert lingering.submit_wait({}, timeout_s=20).index == 11
    assert store.batches == [12]


def test_enough_records_end_the_lingering(lingering: Writer, store: Faulty) -> None:
    for _ in range(committer.ENOUGH - 2):
        lingering.submit({})
    time.sleep(0.02)
    assert lingering.counters.written == 0
    lingering.submit({})
    until(lambda: lingering.counters.written == committer.ENOUGH)
    assert store.batches == [committer.ENOUGH]


def test_closing_ends_the_lingering(lingering: Writer, store: Faulty) -> None:
    assert lingering.close(20) == 0
    assert store.batches == [1]


@pytest.mark.parametrize("linger", [-1, 50.1, 1000])
def test_the_window_of_loss_is_bounded(make: Callable[..., Writer], linger: float) -> None:
    with pytest.raises(ValueError, match="linger_ms"):
        make(linger_ms=linger)


def test_batches_are_bounded(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=10_000, max_bytes=20_000)
    store.hold.clear()
    writer.submit({})
    store.entered.wait(20)
    for _ in range(1500):
        writer.submit({})
    store.hold.set()
    assert writer.close(20) == 0
    assert max(store.batches) < batch.LONGEST
    assert sum(store.batches) == 1501
    sizes = [sum(map(len, frame.entries)) for frame in store.inner.frames()]
    assert max(sizes) < 20_000 + 65_535


# --- cancellation and time limits --------------------------------------------------------------------------------


def test_a_cancelled_commit_is_written_all_the_same(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    store.hold.clear()

    async def run() -> None:
        tasks = [asyncio.create_task(writer.commit({})) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks[:4]:
            task.cancel()
        await asyncio.gather(*tasks[:4], return_exceptions=True)
        assert all(task.cancelled() for task in tasks[:4])
        store.hold.set()
        assert (await tasks[4]).index == 4

    asyncio.run(run())
    assert sequences(store) == [0, 1, 2, 3, 4]


def test_an_event_loop_that_is_gone(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    store.hold.clear()

    async def run() -> None:
        task = asyncio.create_task(writer.commit({}))
        await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(run())
    store.hold.set()
    writer.submit_wait({})
    assert sequences(store) == [0, 1]


def test_a_commit_waits_only_so_long(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(timeout_s=0.1)
    store.hold.clear()

    async def run() -> None:
        with pytest.raises(LogBusy, match="durable"):
            await writer.commit({})
        with pytest.raises(LogBusy, match="durable"):
            await writer.commit({}, timeout_s=0.01)

    asyncio.run(run())
    with pytest.raises(LogBusy, match="durable"):
        writer.submit_wait({}, timeout_s=0.01)
    until(lambda: not writer.available)  # a commit hangs
    store.hold.set()
    until(lambda: writer.available and not writer.backlog)
    assert sequences(store) == [0, 1, 2]


# --- the bound ---------------------------------------------------------------------------------------------------


def test_a_full_queue(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=10)
    store.hold.clear()
    for _ in range(10):
        writer.submit({})
    assert writer.full
    assert writer.backlog == 10
    with pytest.raises(LogBusy, match="10 records"):
        writer.submit({})

    async def run() -> None:
        with pytest.raises(LogBusy, match="room"):
            await writer.room(0.02)
        with pytest.raises(LogBusy, match="room"):
            await writer.commit({}, timeout_s=0.02)
        waiting = [asyncio.create_task(writer.room()) for _ in range(3)]
        commits = [asyncio.create_task(writer.commit({})) for _ in range(30)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in [*waiting, *commits])
        store.hold.set()
        await asyncio.gather(*waiting, *commits)

    with pytest.raises(LogBusy, match="room"):
        writer.submit_wait({}, timeout_s=0.02)
    asyncio.run(run())
    assert writer.close() == 0
    assert sequences(store) == list(range(40))
    assert writer.counters.dropped == 0  # a refusal is the caller's to deal with


def test_room_when_there_is_room(make: Callable[..., Writer]) -> None:
    asyncio.run(asyncio.wait_for(make().room(), 5))


def test_threads_wait_for_room(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=3)
    threads = [
        threading.Thread(target=lambda: [writer.submit_wait({}, timeout_s=20) for _ in range(10)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sequences(store) == list(range(80))


def test_the_reserve_is_for_what_cannot_be_refused(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=4)
    store.hold.clear()
    for _ in range(4):
        writer.submit({})
    for _ in range(4):
        writer.submit({}, reserve=True)
    with pytest.raises(LogBusy):
        writer.submit({}, reserve=True)
    store.hold.set()
    assert writer.close() == 0
    assert sequences(store) == list(range(8))


# --- items that cannot be encoded --------------------------------------------------------------------------------


def test_one_bad_item_does_not_harm_the_others(make: Callable[..., Writer], store: Faulty) -> None:
    gaps: list[tuple[int, str]] = []

    def make_gap(count: int, first: int, last: int, cause: str) -> Any:
        gaps.append((count, cause))
        return {"kind": "control", "action": "audit.gap"}

    writer = make(make_gap=make_gap)
    store.hold.clear()
    writer.submit({})
    store.entered.wait(20)
    bad = [ValueError("odd"), b"[]", b"", b'{"a":\n1}', b"{" + b"x" * 70_000, RecordError("no"), RuntimeError("worse")]
    for item in bad:
        writer.submit(item)
        writer.submit({})
    store.hold.set()
    until(lambda: not writer.backlog and bool(gaps))
    writer.close()
    assert sequences(store) == list(range(9))  # dense: what was lost took no number
    assert gaps == [(len(bad), "unencodable")]
    assert writer.counters.dropped == len(bad)
    assert canonical.decode(entries_of(store.inner)[-1])["action"] == "audit.gap"


def test_a_waiter_for_a_bad_item_is_told(make: Callable[..., Writer]) -> None:
    with pytest.raises(RecordError, match="odd"):
        make().submit_wait(ValueError("odd"))


def test_a_stand_in_takes_the_bad_items_place(make: Callable[..., Writer], store: Faulty) -> None:
    def stand_in(item: Any, error: Exception, sequence: int, recorded_at_ns: int) -> bytes:
        return encode({"action": "audit.unencodable", "extra": {"error": str(error)}}, sequence, recorded_at_ns)

    writer = make(on_unencodable=stand_in)
    assert writer.submit_wait({}).index == 0
    assert writer.submit_wait(ValueError("odd")).index == 1
    assert writer.submit_wait({}).index == 2
    found = [canonical.decode(one) for one in entries_of(store.inner)]
    assert found[1]["extra"] == {"error": "odd"}
    assert [one["sequence"] for one in found] == [0, 1, 2]
    assert writer.counters.dropped == 0


def test_a_stand_in_that_fails_too(make: Callable[..., Writer], store: Faulty) -> None:
    def stand_in(item: Any, error: Exception, sequence: int, recorded_at_ns: int) -> bytes:
        raise KeyError("again")

    writer = make(on_unencodable=stand_in)
    with pytest.raises(RecordError, match="odd"):
        writer.submit_wait(ValueError("odd"))
    writer.submit_wait({})
    assert sequences(store) == [0]
    assert writer.counters.dropped == 1


@pytest.mark.parametrize("make_gap", [lambda *_: 1 / 0, lambda *_: ValueError("odd"), lambda *_: b"[]"])
def test_a_gap_record_that_cannot_be_made(make: Callable[..., Writer], store: Faulty, make_gap: Any) -> None:
    writer = make(make_gap=make_gap)
    writer.lost("queue full")
    writer.submit_wait({})
    assert sequences(store) == [0]
    assert writer.counters.dropped == 1


def test_a_gap_alone_is_written(make: Callable[..., Writer], store: Faulty) -> None:
    times = iter(range(10**9, 10**12, 10**9))
    seen: list[tuple[int, int, int, str]] = []

    def make_gap(*gap: Any) -> dict[str, Any]:
        seen.append(gap)
        return {"action": "audit.gap"}

    store.hold.clear()
    writer = make(make_gap=make_gap, clock=lambda: next(times))
    writer.submit({})
    store.entered.wait(20)
    writer.lost("queue full", 3)
    writer.lost("spool full")
    writer.lost("queue full")
    store.hold.set()
    until(lambda: writer.counters.written == 2)
    assert seen == [(5, 2 * 10**9, 4 * 10**9, "queue full, spool full")]
    assert writer.counters.dropped == 5


# --- stores that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize(
    "error", [LogUnavailable("disk"), LogBusy("lock"), LogDamaged("bytes"), OSError(5, "I/O"), RuntimeError("kms")]
)
def test_a_failed_commit_is_told_kept_and_repeated(
    make: Callable[..., Writer], store: Faulty, error: Exception, persisted: bool
) -> None:
    writer = make()
    writer.submit_wait({})
    (store.after if persisted else store.before).append(error)
    expected = type(error) if isinstance(error, LogUnavailable | LogBusy | LogDamaged) else LogUnavailable
    with pytest.raises(expected) as caught:
        writer.submit_wait({})
    assert caught.value is not error
    until(lambda: writer.available and not writer.backlog)
    writer.submit_wait({})
    assert sequences(store) == ([0, 1, 1, 2] if persisted else [0, 1, 2])  # twice is harmless, lost is not
    assert writer.counters.failed == 1
    assert writer.counters.written == 3
    assert store.opened == (1 if isinstance(error, LogBusy) else 2)  # anything but a busy lock: open it anew
    report = assert_holds(store.inner)
    assert [finding.cause for finding in report.findings] == (["repeated"] if persisted else [])


def test_who_stops_behind_a_long_spool_leaves_its_records_there(
    make: Callable[..., Writer], store: Faulty, tmp_path: Path
) -> None:
    left = Spool(tmp_path, file_bytes=1)
    for number in range(20):
        left.add([encode({"instance": "gone"}, number, 10**18)])
    left.close()
    genuine = store.append

    def slow(entries: Sequence[bytes], seal: Sealer) -> Head:
        time.sleep(0.2)
        return genuine(entries, seal)

    store.append = slow  # type: ignore[method-assign]  # each file takes its time
    writer = make(open_spool=lambda: Spool(tmp_path))
    for _ in range(3):
        writer.submit({})
    assert writer.close(1) == 0, "nothing is lost"
    store.append = genuine  # type: ignore[method-assign]
    after = make(open_spool=lambda: Spool(tmp_path))
    after.submit({"instance": "process-2"})
    until(lambda: after.counters.written > 0 == after.backlog and not list(tmp_path.rglob("*.jsonl")))
    records = [canonical.decode(one) for one in entries_of(store.inner)]
    numbers = [(one["service"]["instance"], one["sequence"]) for one in records]
    assert numbers == [("gone", n) for n in range(20)] + [("process-1", n) for n in range(3)] + [("process-2", 0)]


def test_a_forked_child_lets_go_of_the_spool(make: Callable[..., Writer], store: Faulty, tmp_path: Path) -> None:
    """Its life must not keep the next process from taking over what a killed parent left."""
    writer = make(open_spool=lambda: Spool(tmp_path))
    store.before += [LogUnavailable("disk")] * 1000
    writer.submit({})
    until(lambda: writer.counters.spooled == 1)

    def child(tell: Callable[[bytes], int]) -> None:
        held = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        targets = [os.readlink(path) for path in held if path.is_symlink()]
        assert not [target for target in targets if str(tmp_path) in target], targets

    finish(fork(child))
    assert Spool(tmp_path).adopt() == 0, "the parent lives"
    store.before.clear()


def test_while_the_store_fails(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(max_records=10, make_gap=lambda *gap: {"action": "audit.gap", "extra": {"count": gap[0]}})
    store.before += [LogUnavailable("disk")] * 3
    refused = 0
    for _ in range(15):
        try:
            writer.submit({})
        except LogBusy:
            refused += 1
            writer.lost("queue full")
    until(lambda: not writer.available)
    assert refused == 5
    until(lambda: writer.available and not writer.backlog)
    found = [canonical.decode(one) for one in entries_of(store.inner)]
    assert [one["sequence"] for one in found] == list(range(len(found)))
    assert sorted(one["action"] for one in found) == ["audit.gap"] + ["invoice.delete"] * 10
    assert [one["extra"] for one in found if one["action"] == "audit.gap"] == [{"count": 5}]
    assert writer.counters.failed == 3


def test_the_gap_comes_after_what_was_kept_and_before_what_is_new(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make(linger_ms=0, make_gap=lambda *_: {"action": "audit.gap"})
    store.before.append(LogUnavailable("disk"))
    with pytest.raises(LogUnavailable):
        writer.submit_wait({"action": "kept"})
    writer.lost("queue full")
    writer.submit({"action": "new"})
    until(lambda: not writer.backlog)
    assert [canonical.decode(one)["action"] for one in entries_of(store.inner)] == ["kept", "audit.gap", "new"]


def test_a_store_that_cannot_be_opened(make: Callable[..., Writer], store: Faulty) -> None:
    attempts: list[int] = []
    real = store.open

    def open_later() -> LogStore:
        attempts.append(1)
        if len(attempts) < 3:
            raise LogDamaged("not yet")
        return real()

    store.open = open_later  # type: ignore[method-assign]
    writer = make()
    with pytest.raises(LogDamaged):
        writer.submit_wait({})
    until(lambda: writer.available and not writer.backlog)
    assert sequences(store) == [0]


# --- closing -----------------------------------------------------------------------------------------------------


def test_a_closed_writer(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    writer.submit_wait({})
    assert writer.close() == 0
    assert writer.close() == 0
    with pytest.raises(LogUnavailable, match="closed"):
        writer.submit({})
    with pytest.raises(LogUnavailable, match="closed"):
        asyncio.run(writer.commit({}))
    with pytest.raises(LogUnavailable, match="closed"):
        writer.submit_wait({})
    never = make()
    never.close()
    with pytest.raises(LogUnavailable, match="closed"):
        never.submit({})


def test_close_says_what_was_left(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    store.hold.clear()
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            writer.submit_wait({}, timeout_s=20)
        except LogUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: writer.backlog == 3)
    assert writer.close(0.05) == 3
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3
    store.hold.set()


def test_close_counts_records_that_nobody_waits_for(make: Callable[..., Writer], store: Faulty) -> None:
    """Those of the commit that hangs, and those behind it."""
    writer = make()
    store.hold.clear()
    writer.submit({})
    assert store.entered.wait(20)
    for _ in range(5):
        writer.submit({})
    assert writer.close(0.05) == 6
    store.hold.set()


def test_closing_while_the_store_fails_gives_up_in_time(make: Callable[..., Writer], store: Faulty) -> None:
    writer = make()
    store.before += [LogUnavailable("disk")] * 1000
    for _ in range(5):
        writer.submit({})
    started = time.monotonic()
    assert writer.close(0.3) == 5
    assert time.monotonic() - started < 5
    recovering = make()
    store.before[:] = [LogUnavailable("disk")] * 2
    recovering.submit({})
    assert recovering.close(5) == 0


def test_the_interpreter_ends_without_a_close(tmp_path: Path) -> None:
    """What was submitted just before the end is written."""
    script = (
        "import sys; from pathlib import Path; from tests.stores.test_writer import *; "
        "w = Writer(lambda: JournalStore.open(Path(sys.argv[1])), SEAL, encode); "
        "[w.submit({}) for _ in range(100)]"
    )
    new_journal(tmp_path / "log").close()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "log")], check=True)
    assert assert_holds(JournalStore.open(tmp_path / "log")).entries == 100


# --- processes ---------------------------------------------------------------------------------------------------


def test_after_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path).close()
    names = {"instance": "parent"}
    writer = Writer(lambda: JournalStore.open(path), SEAL, encode, linger_ms=50)
    writer.submit_wait(dict(names))
    for _ in range(10):
        writer.submit(dict(names))  # still in the queue at the time of the fork, most likely

    def work(tell: Callable[[bytes], int]) -> None:
        names["instance"] = f"child-{os.getpid()}"
        assert writer.backlog == 0
        assert writer.counters.written == 0
        for _ in range(5):
            writer.submit_wait(dict(names))
        writer.submit(dict(names))
        assert writer.close() == 0

    children = [fork(work) for _ in range(3)]
    finish(*children)
    assert writer.close() == 0
    store = JournalStore.open(path)
    report = assert_holds(store)  # the counters of each process are dense
    assert report.entries == 11 + 3 * 6
    assert not report.findings


def test_writers_in_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path).close()

    def work(tell: Callable[[bytes], int]) -> None:
        item = {"instance": f"child-{os.getpid()}"}
        writer = Writer(lambda: JournalStore.open(path, lock_timeout=None), SEAL, encode)

        async def run() -> None:
            for _ in range(5):
                await asyncio.gather(*(writer.commit(item) for _ in range(20)))

        asyncio.run(run())
        writer.close()

    finish(*(fork(work) for _ in range(4)))
    report = assert_holds(JournalStore.open(path))
    assert (report.entries, report.findings) == (400, ())


# --- with a journal ----------------------------------------------------------------------------------------------


def test_a_disk_that_fails_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    new_journal(path).close()
    writer = Writer(lambda: JournalStore.open(path), SEAL, encode)
    writer.submit_wait({})
    real, bad = os.fdatasync, [True]

    def broken(descriptor: int) -> None:
        if bad:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", broken)
    for _ in range(2):
        with pytest.raises(LogUnavailable):
            writer.submit_wait({})
    assert not writer.available
    bad.clear()
    until(lambda: writer.available and not writer.backlog)
    assert writer.close() == 0
    monkeypatch.undo()
    report = assert_holds(JournalStore.open(path))
    assert {finding.cause for finding in report.findings} <= {"repeated"}
    assert report.entries >= 3


@pytest.mark.slow
def test_a_long_run_with_random_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    chance = random.Random(3)
    path = tmp_path / "log"
    new_journal(path).close()
    for name in ("fdatasync", "write"):
        real = getattr(os, name)

        def flaky(*arguments: Any, real: Any = real) -> Any:
            roll = chance.random()
            if threading.current_thread().name == "audit-writer" and roll < 0.1:
                if roll < 0.05:
                    real(*arguments)
                raise OSError(28, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr(os, name, flaky)
    writer = Writer(lambda: JournalStore.open(path, segment_bytes=50_000), SEAL, encode)
    receipts: list[Receipt] = []
    for _ in range(300):
        with contextlib.suppress(LogUnavailable, LogBusy):
            receipts.append(writer.submit_wait({}))
    until(lambda: not writer.backlog, 60)
    assert writer.close(20) == 0
    monkeypatch.undo()
    store = JournalStore.open(path)
    found = entries_of(store)
    for receipt in receipts:
        assert canonical.decode(found[receipt.index])["action_id"] == receipt.action_id
    assert {canonical.decode(one)["sequence"] for one in found} == set(range(300))
    assert_holds(store)


@pytest.mark.parametrize("others", [0, 1, 2, 3])
def test_an_older_copy_put_back_is_not_continued(tmp_path: Path, others: int) -> None:
    """However often the log is opened anew: what this process was told of is not there."""
    path = tmp_path / "log"
    new_journal(path, [entry(0)]).close()
    segment = next((path / "journal").iterdir())
    backup = segment.read_bytes()
    opened: list[int] = []

    def open_store() -> LogStore:
        opened.append(1)
        return JournalStore.open(path)

    writer = Writer(open_store, SEAL, encode)
    try:
        for _ in range(2):
            writer.submit_wait({})
        right = segment.read_bytes()
        segment.write_bytes(backup)
        with contextlib.closing(JournalStore.open(path)) as other:
            for number in range(others):
                other.append([entry(number, "process-2")], SEAL)
        before = segment.read_bytes()
        writer.submit({})
        until(lambda: len(opened) >= 4)
        assert segment.read_bytes() == before
        (tmp_path / "right").write_bytes(right)
        (tmp_path / "right").replace(segment)
        until(lambda: not writer.backlog)
    finally:
        writer.close(5)
    assert assert_holds(JournalStore.open(path)).entries == 4, "goes on once the right copy is back"
