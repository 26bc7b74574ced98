"""What followers show of persons: tokens, the log's own text, or names; and where names never stand."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.cli import main
from audit_middleware.errors import FollowerError, SubjectKeysError
from audit_middleware.evidence.persons import LogPersons
from audit_middleware.followers.channels.seam import Answer
from audit_middleware.followers.destinations.jsonl import JsonLines
from audit_middleware.followers.notify.message import Notification
from audit_middleware.followers.notify.notifier import Notifying
from audit_middleware.followers.notify.rules import Heard, Rule
from audit_middleware.followers.replay import replay
from audit_middleware.followers.runner import Follower
from audit_middleware.followers.selection import Selection
from audit_middleware.followers.showing import OPENED
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.ledger.canonical import encode
from audit_middleware.persons import Person, Personal, Treatment, pseudonym_of
from audit_middleware.privacy.sealing import Sealing
from audit_middleware.stores.journal import JournalStore
from tests.blocking.support import requests
from tests.followers.support import Scripted, configured, dead, once, spec
from tests.kit import Log, MemoryKeys
from tests.sealing.support import Sealed
from tests.stores.samples import ORIGIN, SEAL, new_journal, record

NAME, REASON, ADDRESS = "marked-user-ann", "marked-reason-of-ann", "198.51.100.77"
MARKED = (NAME, REASON, ADDRESS)
PERSONAL: Personal = {
    "user_id": Treatment("seal"), "reason": Treatment("seal"), "initiator_ip": Treatment("seal"),
    "user_agent": Treatment("commit"),
}  # fmt: skip


@dataclass
class Held:
    """A log of sealed records, the keys of its persons, and what followers told it."""

    folder: Path
    store: JournalStore
    keys: MemoryKeys = field(default_factory=lambda: MemoryKeys(ORIGIN))
    told: list[Any] = field(default_factory=list)

    @property
    def token(self) -> str:
        return self.keys.rows[Person("user", NAME)].token

    def add(self, count: int = 3, **changes: Any) -> None:
        """Sealed records; their keys stay the same."""
        sealing = Sealing(self.keys, ORIGIN)
        start = self.store.head().size
        values = {"user_id": NAME, "reason": REASON, "initiator_ip": ADDRESS, "outcome": "denied"} | changes
        rows = [sealing.apply(record(number, **values), PERSONAL) for number in range(start, start + count)]
        self.keys.commit()
        self.store.append([encode(row) for row in rows], SEAL)

    def tell(self, action: str, extra: Any) -> None:
        self.told.append((action, dict(extra)))

    def persons(self, store: Any) -> LogPersons:
        return LogPersons(store, self.keys)

    def follower(self, destination: Any, *, keyless: bool = False, **more: Any) -> Follower:
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        reader = JournalStore.open(self.store.path, writable=False)
        persons = None if keyless else self.persons
        return Follower(spec(destination, **more), reader, state, self.tell, interval=0.01, persons=persons)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    made = Held(tmp_path, new_journal(tmp_path / "log"))
    made.add()
    return made


def shown(held: Held, **more: Any) -> list[dict[str, Any]]:
    """What a destination was shown."""
    found: list[dict[str, Any]] = []

    def answer(items: Sequence[Item]) -> Sent:
        found.extend(item.record for item in items)
        return Sent(len(items))

    made = held.follower(Scripted(answer), **more)
    once(made)
    assert made.problem is None
    return found


# --- what a destination sees ---------------------------------------------------------------------------------------


def test_tokens_are_what_is_sent_unless_something_else_is_said(held: Held) -> None:
    for one in shown(held):
        assert one["user_id"] == pseudonym_of(held.token)
        assert (one["reason"], one["user_agent"], one["initiator_ip"]) == ("[sealed]", "[sealed]", None)
    assert held.told == []


def test_sealed_is_the_logs_own_record(held: Held) -> None:
    assert [encode(one) for one in shown(held, personal="sealed")] == [
        entry for frame in held.store.frames() for entry in frame.entries
    ]
    assert held.told == []


def test_open_is_told_to_the_log_once_and_shows_what_was_sealed(held: Held) -> None:
    found = shown(held, personal="open", because="CASE-7")
    assert {(one["user_id"], one["reason"], one["initiator_ip"]) for one in found} == {MARKED}
    assert {one["user_agent"].partition(" ")[0] for one in found} == {"committed"}, "what was committed to never opens"
    assert held.told == [(OPENED, {"follower": "one", "because": "CASE-7"})]


def test_who_was_erased_stays_erased(held: Held) -> None:
    extra = {"tokens": [held.token]}
    held.store.append([encode(record(90, kind="control", action="audit.subject_erased", extra=extra))], SEAL)
    *found, _ = shown(held, personal="open", because="CASE-7")
    for one in found:
        assert one["user_id"] == one["reason"] == f"erased ({held.token[:6]}…)"
        assert one["initiator_ip"] is None, "an address or nothing"


def test_an_erasure_counts_for_a_follower_that_is_at_work(held: Held) -> None:
    found: list[str] = []

    def answer(items: Sequence[Item]) -> Sent:
        found.extend(item.record["user_id"] for item in items)
        return Sent(len(items))

    made = held.follower(Scripted(answer), personal="open", because="CASE-7", batch=1)
    made.check()
    once(made)
    extra = {"tokens": [held.token]}
    held.store.append([encode(record(90, kind="control", action="audit.subject_erased", extra=extra))], SEAL)
    held.add(1)
    once(made)
    assert found[:3] == [NAME] * 3
    assert found[-1].startswith("erased (")


@pytest.mark.parametrize("broken", ["no keys", "keys fail", "not told"])
def test_what_cannot_be_opened_or_told_waits(held: Held, broken: str) -> None:
    destination = Scripted()
    made = held.follower(destination, keyless=broken == "no keys", personal="open", because="CASE-7")
    if broken == "keys fail":
        held.keys.broken = SubjectKeysError("the store is away")
    if broken == "not told":
        made._showing._tell = _refuse
    once(made)
    assert destination.calls == []
    assert made.problem is not None
    assert made.state()["next"] == 0
    held.keys.broken = None
    if broken == "keys fail":
        once(made)
        assert destination.calls == [[0, 1, 2]]


def _refuse(action: str, extra: Any) -> None:
    raise FollowerError(f"{action}: no signing key here")


def test_files_have_the_logs_bytes_by_default_and_names_when_opened(held: Held, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    once(held.follower(JsonLines(sealed), name="sealed", personal="sealed"))
    lines = (sealed / "audit.jsonl").read_bytes().splitlines()
    entries = [entry for frame in held.store.frames() for entry in frame.entries]
    assert all(entry in line for line, entry in zip(lines, entries, strict=True))
    plain = tmp_path / "open"
    for _ in range(2):  # the second time it looks at the newest line that is there
        once(held.follower(JsonLines(plain), name="open", personal="open", because="CASE-7"))
        held.add(1)
    assert [json.loads(line)["record"]["user_id"] for line in (plain / "audit.jsonl").open()] == [NAME] * 4


# --- where nothing opened stands ----------------------------------------------------------------------------------


def test_no_state_dead_letter_or_message_holds_what_was_opened(
    held: Held, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(items: Sequence[Item]) -> Sent:
        assert items[0].record["user_id"] == NAME
        return Sent(len(items), {item.index: "refused" for item in items})

    def fail(items: Sequence[Item]) -> Sent:
        raise RuntimeError(items[0].record["reason"])

    with caplog.at_level(logging.DEBUG):
        once(held.follower(Scripted(refuse), personal="open", because="CASE-7"))
        failing = held.follower(Scripted(fail), name="two", personal="open", because="CASE-7")
        once(failing)
    entries = [entry for frame in held.store.frames() for entry in frame.entries]
    assert [encode(one["record"]) for one in dead(tmp_path)] == entries
    everything = "\n".join(path.read_text() for path in (tmp_path / "state").iterdir())
    everything += caplog.text + json.dumps(held.told) + str(failing.state()) + repr(Item(0, entries[0]))
    assert "sealed.v1." in everything
    assert [mark for mark in MARKED if mark in everything] == []


def test_dead_letters_are_sent_again_as_the_follower_shows_records(held: Held, tmp_path: Path) -> None:
    reject = Scripted(lambda items: Sent(len(items), {item.index: "refused" for item in items}))
    for personal, expected in (("tokens", pseudonym_of(held.token)), ("open", NAME)):
        once(held.follower(reject, name=personal, personal=personal, because="CASE-7"))
        seen: list[str] = []

        def take(items: Sequence[Item], seen: list[str] = seen) -> Sent:
            seen.extend(item.record["user_id"] for item in items)
            return Sent(len(items))

        made = spec(Scripted(take), name=personal, personal=personal, because="CASE-7")
        done = replay(made, held.store, tmp_path / "state", held.tell, lambda part: None, persons=held.persons)
        assert (done.delivered, seen) == ([0, 1, 2], [expected] * 3)


# --- notifications -------------------------------------------------------------------------------------------------


@dataclass
class Channel:
    """A channel that keeps what it was told."""

    taken: list[Notification] = field(default_factory=list)
    later: bool = False
    pause: float = 0.0

    def open(self) -> Channel:
        return self

    def send(self, told: Notification) -> Answer:
        if self.later:
            return Answer("later", "away")
        self.taken.append(told)
        return Answer("taken")

    def close(self) -> None:
        pass


def notifying(held: Held, channel: Any, **more: Any) -> Follower:
    heard = Heard("ops", (Rule("denials", Selection(outcome=frozenset({"denied"})), frozenset({"ops"})),))
    destination = Notifying("ops", "scripted", channel, heard, full=True)
    return held.follower(destination, name="notify-ops", selection=heard, **more)


def test_messages_name_the_user_by_token(held: Held) -> None:
    channel = Channel()
    once(notifying(held, channel))
    told = channel.taken[0]
    assert told.users == (pseudonym_of(held.token),)
    assert told.event.user_id == pseudonym_of(held.token)
    assert told.event.full is not None
    assert told.event.full["reason"] == "[sealed]"
    assert "initiator_ip" not in told.event.full


def test_names_are_in_the_message_and_nowhere_else(held: Held, tmp_path: Path) -> None:
    channel = Channel(later=True)
    made = notifying(held, channel, personal="names", because="CASE-8")
    once(made)
    waiting = "\n".join(path.read_text() for path in (tmp_path / "state").iterdir())
    assert held.token in waiting
    assert [mark for mark in MARKED if mark in waiting] == []
    channel.later = False
    once(made)
    told = channel.taken[0]
    assert (told.users, told.event.user_id) == ((NAME,), NAME)
    assert held.token in told.event.key, "what is alike stays alike"
    assert (OPENED, {"follower": "notify-ops", "because": "CASE-8"}) in held.told
    assert [mark for mark in MARKED if mark in json.dumps(held.told)] == []


# --- the configuration ---------------------------------------------------------------------------------------------


def followers(*lines: str) -> str:
    return "version: 1\nfollowers:\n" + "\n".join(f"  - {{name: f{n}, {line}}}" for n, line in enumerate(lines))


def test_what_each_destination_gets_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw")
    hook = "type: webhook, url: 'https://x.example/', secret: '${S}'"
    found = configured(tmp_path, followers(
        "type: jsonl, directory: /tmp/a", "type: jsonl, directory: /tmp/b, format: ecs",
        "type: jsonl, directory: /tmp/c, personal: tokens", hook, f"{hook}, payload: whole", f"{hook}, payload: ocsf",
        "type: jsonl, directory: /tmp/d, format: ecs, personal: open, because: CASE-1", "type: detectors",
    ))  # fmt: skip
    assert [one.personal for one in found.followers] == [
        "sealed", "tokens", "tokens", "tokens", "sealed", "tokens", "open", "sealed"
    ]  # fmt: skip
    assert [one.because for one in found.followers if one.because] == ["CASE-1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("type: jsonl, directory: /tmp/a, personal: open", "because: says why personal data is opened; it goes into"),
        ("type: jsonl, directory: /tmp/a, because: x", "because: says why personal data is opened: it goes with"),
        ("type: jsonl, directory: /tmp/a, format: cef, personal: sealed", "personal: sealed is the log's own text"),
        ("type: jsonl, directory: /tmp/a, personal: names", "personal: "),
        ("type: detectors, personal: tokens", "personal"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(FollowerError) as problem:
        configured(tmp_path, followers(line))
    assert said in str(problem.value)


def test_notifications_name_persons_only_for_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK", "https://hooks.slack.com/services/T/B/x")
    text = (
        "version: 1\nnotifications:\n  {more}\n  channels: {{ops: {{type: slack, url: '${{SLACK}}'}}}}\n"
        "  rules: [{{name: all, when: {{severity: high}}, notify: [ops]}}]\n"
    )
    (plain,) = configured(tmp_path, text.format(more="per_hour: 5")).followers
    (named,) = configured(tmp_path, text.format(more="personal: open\n  because: CASE-2")).followers
    assert (plain.personal, named.personal, named.because) == ("tokens", "names", "CASE-2")
    with pytest.raises(FollowerError, match=r"notifications\.because: says why"):
        configured(tmp_path, text.format(more="personal: open"))


# --- with real keys, by commands ----------------------------------------------------------------------------------


def test_a_command_follows_with_the_keys_of_the_log(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sealed = Sealed(tmp_path, log).make_keys()
    monkeypatch.setenv("AUDIT_MASTER_KEY", sealed.master)
    with sealed.keys() as keys:
        token = keys.of(Person("user", NAME)).token
        keys.commit()
    requests(log, pseudonym_of(token))
    config = tmp_path / "followers.yaml"
    config.write_text(
        f"version: 1\nfollowers:\n  - {{name: names, type: jsonl, directory: {tmp_path / 'out'}, personal: open, "
        "because: CASE-9}\n"
    )
    monkeypatch.setattr(sys.modules["audit_middleware.cli.followers"], "stop_on_signals", _stopped)
    monkeypatch.setattr(sys, "argv", ["audit-middleware", "follow", str(log.path), "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr()
    lines = [json.loads(line)["record"] for line in (tmp_path / "out" / "audit.jsonl").open()]
    assert NAME in [one["user_id"] for one in lines]
    (told,) = log.controls(OPENED)
    assert told["extra"] == {"follower": "names", "because": "CASE-9"}
    assert told["severity"] == "high"
    assert NAME not in json.dumps(log.records())


def _stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop
