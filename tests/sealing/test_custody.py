"""Keys and commits: what is durable before what, what the log is told, and what happens without keys."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import LogUnavailable, MasterKeyError, SubjectKeysError
from audit_middleware.evidence.control import statement
from audit_middleware.ledger.canonical import decode
from audit_middleware.model import Frame, Head, Resource, Subject
from audit_middleware.persons import Personal, Treatment
from audit_middleware.pipeline.append import Writer
from audit_middleware.pipeline.batch import Batch
from audit_middleware.pipeline.custody import Custody
from audit_middleware.pipeline.record import Recorder, Service
from audit_middleware.pipeline.statement import Statement, work_fields
from audit_middleware.privacy.redact import Redactor
from audit_middleware.privacy.sealed import commitment, parse
from audit_middleware.stores.spool import Spool
from tests.kit import ORIGIN, MemoryKeys

PERSONAL: Personal = {"user_id": Treatment("token"), "reason": Treatment("seal")}
WAIT = 30.0


class Store:
    """A log in memory that says what the keys had made durable when entries came."""

    origin = ORIGIN
    base = Head()

    def __init__(self, keys: MemoryKeys) -> None:
        self.keys = keys
        self.fails = False
        self.entries: list[dict[str, Any]] = []
        self.durable: list[set[str]] = []

    def append(self, entries: Any, seal: Any) -> Head:
        if self.fails:
            raise LogUnavailable("no")
        self.durable.append({key.token for key in self.keys.durable.values()})
        self.entries += [decode(entry) for entry in entries]
        return Head(len(self.entries))

    def head(self) -> Head:
        return Head(len(self.entries))

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        return iter(())

    def has_commit(self, head: Head) -> bool:
        return True

    def close(self) -> None:
        pass


class Setting:
    """A writer over both."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.keys = MemoryKeys()
        self.store = Store(self.keys)
        self.opens: Exception | None = None
        self.recorder = Recorder(Service("test", None, "a:1", None), Redactor())
        self.recorder.custody = Custody(self._open, ORIGIN, lambda extra: statement("audit.subject_keys", extra=extra))
        self.recorder.custody.declared = lambda action: PERSONAL
        self.spool = folder / "spool"
        self.writer = Writer(
            lambda: self.store, lambda head, entries: head, self.recorder.encode,
            on_unencodable=self.recorder.unencodable, custody=self.recorder.custody, linger_ms=0,
            **{"open_spool": lambda: Spool(self.spool)} | options,
        )  # fmt: skip

    def _open(self) -> MemoryKeys:
        if self.opens is not None:
            raise self.opens
        return self.keys

    def work(self, user: str, reason: str = "because") -> Statement:
        """Work of one user."""
        fields = work_fields(Subject(user), Resource(), "success", {"reason": reason})
        now = time.time_ns()
        action_id = f"01900000-0000-7000-8000-{len(self.store.entries):012x}"
        return Statement(action_id, now, "any.thing", "ANY_THING", "info", None, fields)

    def spooled(self) -> bytes:
        """What waits on disk."""
        return b"".join(path.read_bytes() for path in self.spool.rglob("*.jsonl"))

    def of(self, action: str) -> list[dict[str, Any]]:
        """What the log has of one action."""
        return [entry for entry in self.store.entries if entry["action"] == action]


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.writer.close(WAIT)


def test_keys_are_durable_first_and_told_in_the_same_commit(setting: Setting) -> None:
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    key = next(iter(setting.keys.rows.values()))
    work, told = setting.store.entries
    assert parse(work["user_id"]) == ("token", key.token, b"")
    assert told["extra"] == {"keys": [[key.token, commitment(key.secret).hex()]]}
    assert setting.store.durable == [{key.token}]
    until(lambda: setting.keys.find(next(iter(setting.keys.rows))).told)  # type: ignore[union-attr]  # it is there
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert len(setting.of("audit.subject_keys")) == 1
    assert setting.keys.calls.count("commit") == 1


def test_many_keys_are_told_in_several_records(setting: Setting) -> None:
    setting.store.fails = True
    for number in range(450):
        setting.writer.submit(setting.work(f"user-{number}"))
    setting.store.fails = False
    until(lambda: len(setting.of("any.thing")) == 450)
    rows = [row for told in setting.of("audit.subject_keys") for row in told["extra"]["keys"]]
    assert {token for token, _ in rows} == {key.token for key in setting.keys.rows.values()}
    assert max(len(told["extra"]["keys"]) for told in setting.of("audit.subject_keys")) <= 200


def test_what_was_not_acknowledged_is_told_again_by_the_next_process(setting: Setting, tmp_path: Path) -> None:
    setting.store.fails = True
    setting.writer.submit(setting.work("alice"))
    until(setting.spooled)
    assert b"audit.subject_keys" in setting.spooled()
    again = Setting(tmp_path / "other")
    again.keys = again.store.keys = setting.keys
    again.writer.submit_wait(again.work("alice"), WAIT)
    again.writer.close(WAIT)
    assert len(again.of("audit.subject_keys")) == 1
    setting.store.fails = False


def test_without_keys_records_wait_and_waiters_are_refused(setting: Setting) -> None:
    setting.keys.broken = SubjectKeysError("the disk")
    before = setting.store.entries.copy()
    with pytest.raises(LogUnavailable, match="the disk"):
        setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert not setting.writer.available
    setting.writer.submit(setting.work("bob"))
    time.sleep(0.3)
    assert setting.store.entries == before
    assert setting.spooled() == b""
    setting.keys.broken = None
    until(lambda: len(setting.of("any.thing")) == 2)
    assert all(parse(entry["user_id"]) for entry in setting.of("any.thing"))
    assert [entry["sequence"] for entry in setting.store.entries] == list(range(len(setting.store.entries)))
    until(lambda: setting.writer.available)
    assert not setting.of("audit.unencodable")


def test_a_waiter_that_comes_meanwhile_is_refused_soon(setting: Setting) -> None:
    setting.keys.broken = SubjectKeysError("the disk")
    setting.writer.submit(setting.work("alice"))
    until(lambda: not setting.writer.available)
    waiter: Future[Any] = Future()
    setting.writer._put(setting.work("bob"), waiter, 100)
    with pytest.raises(LogUnavailable):
        waiter.result(WAIT)
    setting.keys.broken = None
    until(lambda: len(setting.of("any.thing")) == 2)


@pytest.mark.parametrize("failing", ["of", "commit", "generation"])
def test_whichever_call_fails_nothing_is_written(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    broken = True
    genuine = getattr(setting.keys, failing)

    def call(*args: Any) -> Any:
        if broken:
            raise RuntimeError("alice")  # a driver's own, with a name in it
        return genuine(*args)

    monkeypatch.setattr(setting.keys, failing, call)
    with pytest.raises(LogUnavailable) as problem:
        setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert "alice" not in str(problem.value)
    assert setting.store.entries == []
    broken = False
    until(lambda: len(setting.of("any.thing")) == 1)
    (work,) = setting.of("any.thing")
    token = parse(work["user_id"]).token  # type: ignore[union-attr]  # it is one
    assert token in {key.token for key in setting.keys.durable.values()}


def test_a_store_that_does_not_open_is_tried_again(setting: Setting) -> None:
    setting.opens = MasterKeyError("another key")
    setting.writer.submit(setting.work("alice"))
    until(lambda: not setting.writer.available)
    setting.opens = None
    until(lambda: setting.of("any.thing"))


def test_a_failure_to_note_what_was_told_harms_nothing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(tokens: Any) -> None:
        raise SubjectKeysError("busy")

    monkeypatch.setattr(setting.keys, "told", told)
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    monkeypatch.undo()
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert len(setting.of("audit.subject_keys")) == 2
    until(lambda: all(key.told for key in setting.keys.rows.values()))


def test_half_a_queue_goes_to_the_spool_without_what_is_personal(tmp_path: Path) -> None:
    setting = Setting(tmp_path, max_records=64)
    setting.keys.broken = SubjectKeysError("the disk")
    for _ in range(40):
        setting.writer.submit(setting.work("alice", "zqsecret"))
    until(setting.spooled)
    spooled = setting.spooled()
    assert b"zqsecret" not in spooled
    assert b"alice" not in spooled
    assert b'"flags":["personal_withheld"]' in spooled
    setting.keys.broken = None
    until(lambda: len(setting.of("any.thing")) == 40)
    flags = {tuple(entry["flags"]) for entry in setting.of("any.thing")}
    assert ("personal_withheld",) in flags
    setting.writer.close(WAIT)


def test_what_is_left_at_the_end_goes_to_the_spool_without_what_is_personal(setting: Setting) -> None:
    setting.keys.broken = SubjectKeysError("the disk")
    for _ in range(3):
        setting.writer.submit(setting.work("alice", "zqsecret"))
    assert setting.writer.close(WAIT) == 0
    spooled = setting.spooled()
    assert spooled.count(b"personal_withheld") == 3
    assert b"zqsecret" not in spooled
    assert setting.store.entries == []


def test_what_nobody_owns_needs_no_keys(setting: Setting) -> None:
    setting.opens = SubjectKeysError("no store")
    setting.writer.submit_wait(statement("audit.heartbeat"), WAIT)
    assert setting.keys.calls == []
    setting.recorder.custody.declared = None  # type: ignore[union-attr]  # it was set
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert setting.of("any.thing")[0]["user_id"] == "alice"


def test_the_order_is_kept_when_keys_cannot_be_made_durable(setting: Setting) -> None:
    """Then entries were made already, and are taken back."""

    def commit() -> None:
        raise SubjectKeysError("the disk")

    users = ["alice", "bob", "carol", "dora"]
    genuine = setting.keys.commit
    setting.keys.commit = commit  # type: ignore[method-assign]  # for a while
    for user in users:
        setting.writer.submit(setting.work(user))
    until(lambda: setting.writer.counters.failed >= 2)
    setting.keys.commit = genuine  # type: ignore[method-assign]  # as it was
    until(lambda: len(setting.of("any.thing")) == 4)
    opened = [parse(entry["user_id"]).token for entry in setting.of("any.thing")]  # type: ignore[union-attr]  # tokens
    names = {key.token: person.id for person, key in setting.keys.rows.items()}
    assert [names[token] for token in opened] == users
    assert [entry["sequence"] for entry in setting.store.entries] == list(range(len(setting.store.entries)))


def test_a_batch_gives_back_what_it_took_in_its_order(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit() -> None:
        raise SubjectKeysError("the disk")

    monkeypatch.setattr(setting.keys, "commit", commit)
    recorder = setting.recorder
    batch = Batch(recorder.encode, None, None, time.time_ns, 2**20, lambda cause: None, recorder.custody)
    queue: deque[Any] = deque(setting.work(user) for user in ("alice", "bob", "carol"))
    before = list(queue)
    with pytest.raises(SubjectKeysError):
        batch.fill(queue, None)
    assert list(queue) == before
    assert len(batch) == len(batch.waiters) == 0
    monkeypatch.undo()
    batch.fill(queue, None)
    assert not queue
    assert [decode(entry)["sequence"] for entry in batch.entries] == [0, 1, 2, 3]


def test_an_erasure_elsewhere_counts_from_the_next_batch(setting: Setting) -> None:
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    (old,) = [key.token for key in setting.keys.rows.values()]
    setting.keys.erase([old])
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    tokens = [parse(entry["user_id"]).token for entry in setting.of("any.thing")]  # type: ignore[union-attr]  # tokens
    assert tokens[0] == old != tokens[1]


def test_a_forked_child_opens_the_keys_anew(setting: Setting) -> None:
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    opened: list[int] = []

    def open_keys() -> MemoryKeys:
        opened.append(os.getpid())
        return setting.keys

    assert setting.recorder.custody is not None
    setting.recorder.custody._open = open_keys
    child = os.fork()
    if child == 0:
        try:
            setting.writer.submit_wait(setting.work("bob"), WAIT)
            os._exit(0 if opened == [os.getpid()] else 3)
        except BaseException:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    setting.writer.submit_wait(setting.work("alice"), WAIT)
    assert opened == []


def test_a_record_that_is_too_large_is_cut_down_before_it_is_sealed(setting: Setting) -> None:
    fields = work_fields(Subject("alice"), Resource(), "success", {"reason": "why", "extra": {"x": "y" * 70_000}})
    item = Statement("01900000-0000-7000-8000-0000000000aa", 1, "any.thing", "ANY_THING", "info", None, fields)
    setting.writer.submit_wait(item, WAIT)
    (found,) = setting.of("any.thing")
    assert found["flags"] == ["content_dropped"]
    assert parse(found["reason"])
    assert found["extra"]["dropped_bytes"]["extra"] > 70_000
