"""One follower a channel: through restarts, crashes and outages; each delivery is a record, and none makes a loop."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import FollowerError, LogUnavailable
from audit_middleware.followers.channels.seam import Answer, Line
from audit_middleware.followers.notify import notifier
from audit_middleware.followers.notify.grouping import Limits
from audit_middleware.followers.notify.keeping import forget, state_name
from audit_middleware.followers.notify.message import Notification
from audit_middleware.followers.notify.notifier import WAITING, Notifier, Notifying
from audit_middleware.followers.notify.rules import Heard, Rule
from audit_middleware.followers.selection import Selection
from audit_middleware.followers.sink import Item, Way
from audit_middleware.stores.shelf import Folder
from tests.control.support import until
from tests.followers.channelling import START, channel, mail, slack
from tests.followers.serving import Handler, served
from tests.followers.support import WHSEC, append, cursor, follower, journal, running
from tests.stores.samples import entry

DENIED = Rule("refunds", Selection(outcome=frozenset({"denied"}), denials=False), frozenset({"ops"}))
HEARD = Heard("ops", (DENIED,))
TAKEN = Answer("taken")


@dataclass
class Told:
    """A channel that answers as it is told, and remembers."""

    answer: Callable[[Notification], Answer] = field(default=lambda told: TAKEN)
    taken: list[Notification] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    pause: float = 0.0

    def open(self) -> Line:
        return self

    def send(self, told: Notification) -> Answer:
        self.tried.append(told.id)
        answer = self.answer(told)
        if answer.verdict == "taken":
            self.taken.append(told)
        return answer

    def close(self) -> None:
        pass


@dataclass
class Desk:
    """A notifier by itself, with a clock that is set, and the control records that it asks for."""

    folder: Path
    channel: Any
    limits: Limits = field(default_factory=Limits)
    heard: Heard = HEARD
    now: int = START * 1000
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def tell(self, action: str, extra: Mapping[str, Any]) -> None:
        self.told.append((action, dict(extra)))

    def open(self) -> Notifier:
        way = Way("example.com/log", "notify-ops", self.folder, self.tell, lambda: self.now)
        made = Notifying("ops", "scripted", self.channel, self.heard, self.limits).open(way)
        assert isinstance(made, Notifier)
        return made

    def later(self, seconds: int) -> None:
        self.now = START * 1000 + seconds * 1_000_000_000

    @property
    def state(self) -> Path:
        return self.folder / state_name("notify-ops")


def denied(*numbers: int, **changes: Any) -> list[Item]:
    """Records a second apart; their users are ``user-0`` to ``user-6``."""
    return [Item(number, entry(number, outcome="denied", **changes)) for number in numbers]


def test_what_is_told_is_recorded(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told())
    made = desk.open()
    assert made.send(denied(5, 6, 12)).settled == 3
    assert [one.kind for one in desk.channel.taken] == ["alert"]
    ((action, extra),) = desk.told
    alert = desk.channel.taken[0]
    assert (action, extra) == (
        "audit.notified",
        {
            "channel": "ops", "type": "scripted", "notification": alert.id, "kind": "alert", "rule": "refunds",
            "key": "refunds/invoice.delete/user-5", "count": 1, "indexes": [5], "first": "2026-01-01T00:00:05Z",
            "last": "2026-01-01T00:00:05Z", "tries": 1, "why": None,
        },
    )  # fmt: skip
    desk.later(64)
    assert made.idle() is None
    assert len(desk.told) == 1, "the clock alone is not enough: records may come a little late"
    desk.later(71)
    assert made.idle() is None
    assert [(one.kind, one.users) for one in desk.channel.taken[1:]] == [("repeated", ("user-6",))]


def test_a_restart_forgets_nothing_and_tells_nothing_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told())
    for number in (0, 7, 14, 21):
        made = desk.open()
        made.send(denied(0, *range(7, number + 1, 7)))  # the same ones again, as after a crash before the cursor moved
        made.close()
    desk.later(700)
    made = desk.open()
    made.idle()
    assert [(one.kind, one.count, one.indexes) for one in desk.channel.taken] == [
        ("alert", 1, (0,)), ("repeated", 3, (7, 14, 21)),
    ]  # fmt: skip


def test_what_a_full_disk_did_not_take_is_kept_before_the_cursor_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, Told())
    made = desk.open()
    made.send(denied(0))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(notifier, "write_kept", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                made.send(denied(7, 14))
    assert made.send(denied(7, 14)).settled == 2
    made = desk.open()  # the process was killed; the cursor is past 14
    desk.later(700)
    made.idle()
    assert [(one.kind, one.indexes) for one in desk.channel.taken] == [("alert", (0,)), ("repeated", (7, 14))]


def test_a_clock_that_was_ahead_silences_no_channel(tmp_path: Path) -> None:
    """A host that came up in another year, told by whoever sets the clock right minutes later."""
    desk = Desk(tmp_path, Told())
    made = desk.open()
    made.send(denied(0))
    desk.later(20 * 365 * 86_400)
    made.idle()
    desk.later(60)
    made.idle()
    made = desk.open()
    for minute in range(1, 20):
        desk.later(60 * minute)
        made.send([Item(60 * minute, entry(60 * minute, outcome="denied", user_id="eve"))])
        made.idle()
    assert [(one.kind, one.count) for one in desk.channel.taken if "eve" in one.users] == [
        ("alert", 1), ("repeated", 9),
    ]  # fmt: skip


@pytest.mark.parametrize("moment", ["sent", "told"])
def test_a_crash_after_sending_sends_it_again_with_the_same_id(tmp_path: Path, moment: str) -> None:
    class Died(BaseException):
        pass

    desk = Desk(tmp_path, Told())
    made = desk.open()

    def die(*_: Any) -> None:
        if moment == "told":
            desk.told.append(_)
        raise Died

    desk.tell = die  # type: ignore[assignment,method-assign]  # where the process ends
    made = desk.open()
    with pytest.raises(Died):
        made.send(denied(0))
    desk.tell = lambda *one: desk.told.append(one)  # type: ignore[method-assign]  # the next one
    desk.open().send(denied(0))
    assert len(desk.channel.taken) == 2
    assert len({one.id for one in desk.channel.taken}) == 1
    assert len(desk.told) == (2 if moment == "told" else 1)
    assert desk.open().idle() is None
    assert len(desk.channel.taken) == 2


def test_in_an_outage_the_counting_goes_on_and_what_is_said_is_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("healthy", "broken")]
    found = []
    for folder, broken in zip(folders, (False, True), strict=True):
        folder.mkdir()
        desk = Desk(folder, Told(), Limits(per_hour=5))
        made = desk.open()
        if broken:
            desk.channel.answer = lambda told: Answer("later", "answered 503")
        for number in range(0, 3_000, 30):
            desk.later(number)
            made.send(denied(number, recorded_at=_moment(number)))
            if number % 100 == 0:
                assert (made.idle() is not None) == broken
                made.close()
                made = desk.open()
        desk.channel.answer = lambda told: TAKEN
        desk.later(10_000)
        assert made.idle() is None
        found.append([(one.id, one.kind, one.count) for one in desk.channel.taken])
    assert found[0] == found[1]
    assert sum(count for _, _, count in found[0]) == 100
    assert len(found[0]) < 10


def _moment(second: int) -> str:
    return f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000000Z"


def test_what_the_other_side_asks_to_wait_is_waited(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told(lambda told: Answer("later", "answered 429", 600.0)))
    made = desk.open()
    made.send(denied(0))
    assert made.idle() == "scripted: answered 429"
    assert made.idle() == "scripted: answered 429"
    assert len(desk.channel.tried) == 1


def test_a_channel_that_is_gone_is_left_alone_until_somebody_acts(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told(lambda told: Answer("gone", "answered 410")), Limits(give_up=3600))
    made = desk.open()
    made.send(denied(0))
    assert "disabled (answered 410)" in str(made.idle())
    assert [(action, extra["why"]) for action, extra in desk.told] == [("audit.notification_failed", "answered 410")]
    desk.channel.answer = lambda told: TAKEN
    for _ in range(2):
        made = desk.open()  # also after a restart
        made.send(denied(100, action="invoice.purge"))
        assert "disabled" in str(made.idle())
    assert len(desk.channel.tried) == 1
    desk.later(4_000)
    assert "disabled" in str(made.idle())
    assert desk.told[-1][1]["why"] == "given up after 1 hours: answered 410"
    forget(Folder(tmp_path), "notify-ops")
    desk.open().send(denied(200))
    assert [one.event.index for one in desk.channel.taken] == [200]


def test_what_is_refused_for_ever_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told(lambda told: TAKEN if told.event.index else Answer("never", "answered 400")))
    made = desk.open()
    made.send([*denied(0), *denied(1, action="invoice.purge")])
    assert made.idle() is None
    assert [(action, extra["why"]) for action, extra in desk.told] == [
        ("audit.notification_failed", "answered 400"), ("audit.notified", None),
    ]  # fmt: skip


def test_what_fails_for_too_long_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(tmp_path, Told(lambda told: Answer("later", "answered 503")), Limits(give_up=86_400))
    made = desk.open()
    made.send([*denied(0), *denied(1, action="invoice.purge")])
    desk.later(86_000)
    assert made.idle() == "scripted: answered 503"
    assert desk.told == []
    desk.later(86_401)
    assert made.idle() is None
    assert [(action, extra["why"]) for action, extra in desk.told] == [
        ("audit.notification_failed", "given up after 24 hours: scripted: answered 503")
    ] * 2
    assert "was not delivered: given up after 24 hours" in caplog.text
    desk.channel.answer = lambda told: TAKEN
    made.send(denied(90_000, action="other.thing"))
    assert made.idle() is None
    assert len(desk.channel.taken) == 1


def test_no_record_of_a_notification_causes_one(tmp_path: Path) -> None:
    every = Rule("every", Selection(severity="info", denials=False), frozenset({"ops"}))
    desk = Desk(tmp_path, Told(), heard=Heard("ops", (every,)))
    for number, action in enumerate(("audit.notified", "audit.notification_failed")):
        item = Item(number, entry(number, kind="control", action=action, outcome=None))
        assert not desk.heard.takes(item.record)
        desk.open().send([item])
    assert not desk.heard.takes(json.loads(entry(2, kind="intent", outcome=None)))
    assert desk.channel.tried == []
    assert desk.heard.takes(json.loads(entry(3, kind="control", action="audit.pruned")))


def absorb(made: Notifier, items: Sequence[Item]) -> None:
    """Sends until everything is settled, as a follower does."""
    while items:
        settled = made.send(items).settled
        assert settled
        items = items[settled:]


def _unlike(number: int) -> list[Item]:
    """Ten a second, of many principals and actions."""
    moment = _moment(number // 10)
    return denied(number, user_id=f"u{number}" * 100, action=f"a.b{number % 700}", recorded_at=moment)


def test_a_dead_channel_costs_bounded_memory_and_the_sums_are_right(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Told(lambda told: Answer("later", "no")), Limits(per_hour=1_000))
    made = desk.open()
    for start in range(0, 2_000, 500):
        absorb(made, [one for n in range(start, start + 500) for one in _unlike(n)])
        made.idle()
    assert len(json.loads(desk.state.read_bytes())["waiting"]) == WAITING
    assert desk.state.stat().st_size < 3_000_000
    desk.channel.answer = lambda told: TAKEN
    for second in range(2_000, 40_000, 1_000):
        desk.later(second)
        made.idle()
    assert sum(one.count for one in desk.channel.taken) == 2_000
    assert json.loads(desk.state.read_bytes())["waiting"] == []


def test_a_healthy_channel_is_sent_to_before_more_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "WAITING", 20)
    desk = Desk(tmp_path, Told(), Limits(per_hour=1_000))
    made = desk.open()
    items = [one for n in range(50) for one in denied(n, action=f"a.b{n}", recorded_at=_moment(0))]
    assert made.send(items).settled == 20
    assert [one.event.index for one in desk.channel.taken] == list(range(20))
    absorb(made, items[20:])
    assert [one.event.index for one in desk.channel.taken] == list(range(50))


def test_a_log_that_takes_no_record_stops_no_notification(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(tmp_path, Told())

    def refuse(action: str, extra: Mapping[str, Any]) -> None:
        raise LogUnavailable("no room")

    desk.tell = refuse  # type: ignore[method-assign]  # what the log answers
    made = desk.open()
    made.send(denied(0))
    assert made.idle() is None
    assert len(desk.channel.taken) == 1
    assert "the log does not hold the record audit.notified: no room" in caplog.text


@pytest.mark.parametrize("damage", [b"{", b'{"format":2,"origin":"example.com/log"}', b'{"format":1,"origin":"other"}'])
def test_a_state_that_is_damaged_or_of_another_log_is_refused(tmp_path: Path, damage: bytes) -> None:
    desk = Desk(tmp_path, Told())
    desk.state.write_bytes(damage)
    with pytest.raises(FollowerError, match=r"notify-ops\.state\.json"):
        desk.open()


# --- as followers of a log ---------------------------------------------------------------------------------------


def test_a_dead_channel_holds_up_no_other(tmp_path: Path) -> None:
    store = journal(tmp_path, 0)
    dead, alive = Told(lambda told: Answer("later", "no")), Told()
    followers = [
        follower(store, tmp_path, Notifying(name, "scripted", one, Heard(name, (rule,))), name=f"notify-{name}",
                 selection=Heard(name, (rule,)))[0]
        for name, one in (("dead", dead), ("alive", alive))
        for rule in [Rule("every", DENIED.selection, frozenset({name}))]
    ]  # fmt: skip
    with running(followers[0]), running(followers[1]):
        append(store, 50, outcome="denied")
        until(lambda: alive.taken, "the other channel is told")
        until(lambda: followers[0].problem, "the dead one says so")
    assert cursor(tmp_path, "notify-alive") == cursor(tmp_path, "notify-dead") == 50
    assert not dead.taken


def test_through_an_outage_of_slack_one_message_a_second_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = journal(tmp_path, 0)
    with slack() as server:
        monkeypatch.setenv("SLACK", server.url)
        notifying = Notifying("ops", "slack", channel("slack", url="${SLACK}", allow_private=True), HEARD)
        made, told = follower(store, tmp_path, notifying, selection=HEARD)
        server.refuse = 503, "down"
        with running(made):
            for action in ("a.b", "c.d", "e.f"):
                append(store, 5, outcome="denied", action=action)
            until(lambda: made.problem, "the outage is noticed")
            assert "answered 503" in str(made.problem)
            server.refuse = None
            until(lambda: len(server.taken) >= 3, "all arrive")
            until(lambda: len(told) >= 3, "and are recorded")
        assert not made.problem
    assert [one["text"].split()[1] for one in server.taken if "more like" not in one["text"]] == ["a.b", "c.d", "e.f"]
    assert {action for action, _ in told} == {"audit.notified"}


@pytest.fixture
def hostile_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[tuple[str, Any]]]:
    """A channel of each type, whose server repeats what it was sent and refuses."""

    def answer(handler: Handler) -> None:
        said = f"{handler.path} {handler.body.decode()} {handler.headers}".encode()
        handler.say(503, said)

    with ExitStack() as stack:
        url = stack.enter_context(served(answer))
        server = stack.enter_context(mail(tmp_path))
        server.password = "another"
        for name, value in {
            "URL": f"{url}/marked-secret-path", "WHSEC": WHSEC, "PD": "marked-secret-routing",
            "NAME": "marked-secret-user", "PASS": "marked-secret-pass",
            "APPRISE": f"{url.replace('http', 'json')}/marked-secret-apprise",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        address: dict[str, Any] = {
            "host": "localhost",
            "port": server.port,
            "ca": str(server.ca),
            "from": "a@b.example",
        }
        yield [
            ("webhook", {"url": "${URL}", "secret": "${WHSEC}", "allow_private": True}),
            ("slack", {"url": "${URL}", "allow_private": True}),
            ("pagerduty", {"url": "${URL}", "routing_key": "${PD}", "allow_private": True}),
            ("email", {"to": ("c@d.example",), "username": "${NAME}", "password": "${PASS}", **address}),
            ("apprise", {"url": "${APPRISE}"}),
        ]


def test_no_secret_is_in_any_error_log_record_or_state_file(
    tmp_path: Path, hostile_servers: Sequence[tuple[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = journal(tmp_path, 0)
    said: list[str] = []
    with ExitStack() as stack:
        followers = []
        for type, options in hostile_servers:
            heard = Heard(type, (Rule("r", DENIED.selection, frozenset({type})),))
            notifying = Notifying(type, type, channel(type, **options), heard, Limits(give_up=1))
            said.append(repr(notifying))
            made, told = follower(store, tmp_path, notifying, name=f"notify-{type}", selection=heard)
            followers.append((stack.enter_context(running(made)), told))
        append(store, 3, outcome="denied")
        for made, told in followers:
            until(partial(len, told), f"{made.spec.name} gives it up")
            said.append(json.dumps(told))
    said += [path.read_text() for path in (tmp_path / "state").iterdir()]
    said += [caplog.text, *(repr(vars(one)) for one in caplog.records)]
    everything = "\n".join(said)
    assert everything.count("audit.notification_failed") >= 5
    assert "marked-secret" not in everything
    assert WHSEC.removeprefix("whsec_") not in everything
