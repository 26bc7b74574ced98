"""One follower: order, cursor, filters, failures, and what becomes of what cannot be delivered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from audit_middleware.errors import FollowerError
from audit_middleware.followers import metrics
from audit_middleware.followers.selection import Selection
from audit_middleware.followers.sink import Item, Sent
from audit_middleware.stores.journal import JournalStore
from tests.control.support import until
from tests.followers.support import Scripted, append, cursor, dead, dies_at, follower, journal, once, running
from tests.stores.children import fork
from tests.stores.samples import SEAL, entry, new_journal


def flat(calls: list[list[int]]) -> list[int]:
    return [index for call in calls for index in call]


def test_delivers_everything_in_order_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    store, sink = journal(tmp_path, 23), Scripted()
    made, _ = follower(store, tmp_path, sink, batch=4)
    once(made)
    assert flat(sink.calls) == list(range(23))
    assert max(map(len, sink.calls)) == 4
    append(store, 7)
    again, _ = follower(store, tmp_path, sink, batch=4)
    once(again)
    assert flat(sink.calls) == list(range(30))
    assert cursor(tmp_path) == 30


def test_a_first_start_may_begin_now(tmp_path: Path) -> None:
    store, sink = journal(tmp_path, 10), Scripted()
    once(follower(store, tmp_path, sink, start="now")[0])
    assert sink.calls == []
    append(store, 3)
    once(follower(store, tmp_path, sink, start="now")[0])
    assert flat(sink.calls) == [10, 11, 12]


def test_what_may_pass_is_tried_again_and_nothing_overtakes_it(tmp_path: Path) -> None:
    store = journal(tmp_path, 20)
    fails = iter([Sent(0, retry="down"), Sent(3, retry="busy", after=0.02), FollowerError("no route"), OSError(5, "x")])

    def answer(items: Sequence[Item]) -> Sent:
        found = next(fails, None)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Sent) else Sent(len(items))

    sink = Scripted(answer)
    made, told = follower(store, tmp_path, sink, batch=8)
    with running(made):
        until(lambda: cursor(tmp_path) == 20, "everything is delivered")
    assert [call[0] for call in sink.calls] == [0, 0, 3, 3, 3, 11, 19]
    assert told == []
    assert made.state() == {"next": 20, "problem": None, "failures": 0}


def test_a_bug_in_a_destination_does_not_end_the_follower_and_shows_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = journal(tmp_path, 2)

    def answer(items: Sequence[Item]) -> Sent:
        raise KeyError("a secret of the record")

    made, _ = follower(store, tmp_path, Scripted(answer))
    once(made)
    assert made.problem == "unexpected KeyError"
    texts = caplog.text + "".join(path.read_text() for path in (tmp_path / "state").iterdir())
    assert "unexpected KeyError" in texts
    assert "a secret" not in texts


def test_rejected_records_go_to_the_dead_letters_and_the_rest_goes_on(tmp_path: Path) -> None:
    store = journal(tmp_path, 10)

    def answer(items: Sequence[Item]) -> Sent:
        return Sent(len(items), {item.index: "never" for item in items if item.index in (2, 7)})

    made, told = follower(store, tmp_path, Scripted(answer), batch=5)
    once(made)
    assert cursor(tmp_path) == 10
    assert [(one["index"], one["why"]) for one in dead(tmp_path)] == [(2, "never"), (7, "never")]
    assert dead(tmp_path)[0]["record"] == json.loads(entry(2))
    assert [(action, extra["indexes"]) for action, extra in told] == [
        ("audit.delivery_failed", [2]),
        ("audit.delivery_failed", [7]),
    ]


def test_rejections_beyond_what_is_settled_do_not_count(tmp_path: Path) -> None:
    store = journal(tmp_path, 4)
    answers = iter([Sent(1, {3: "never"}, retry="busy"), Sent(3)])
    made, told = follower(store, tmp_path, Scripted(lambda items: next(answers)))
    with running(made):
        until(lambda: cursor(tmp_path) == 4, "everything is delivered")
    assert dead(tmp_path) == []
    assert told == []


@pytest.mark.parametrize("action", ["audit.delivery_failed", "audit.notified", "audit.notification_failed"])
def test_a_failed_delivery_of_a_record_about_one_makes_no_other(tmp_path: Path, action: str) -> None:
    store = new_journal(tmp_path / "log", [entry(0, action=action, kind="control")])
    made, told = follower(store, tmp_path, Scripted(lambda items: Sent(1, {0: "never"})))
    once(made)
    assert len(dead(tmp_path)) == 1
    assert told == []


def test_a_torn_dead_letter_is_cut_off(tmp_path: Path) -> None:
    store = journal(tmp_path, 2)
    made, _ = follower(store, tmp_path, Scripted(lambda items: Sent(len(items), {1: "never"})))
    (tmp_path / "state" / "one.dead.jsonl").write_text('{"index":0}\n{"torn":')
    once(made)
    assert [one["index"] for one in dead(tmp_path)] == [0, 1]


def test_filters_and_the_denials_that_pass_them(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log")
    denied = {"effect": "deny", "cause": "default", "mode": "enforce"}
    changes: list[dict[str, Any]] = [
        {"action": "invoice.read", "severity": "low"},
        {"action": "invoice.delete", "severity": "critical"},
        {"action": "user.list", "severity": "critical"},
        {"action": "user.list", "severity": "info", "decision": denied, "outcome": "denied"},
        {"action": None, "severity": "critical"},
        {"action": "invoice.delete", "severity": "high", "outcome": "failure"},
    ]
    store.append([entry(number, **change) for number, change in enumerate(changes)], SEAL)

    def taken(**given: Any) -> list[int]:
        records = [json.loads(one) for frame in store.frames() for one in frame.entries]
        return [at for at, record in enumerate(records) if Selection(**given).takes(record)]

    assert taken() == [0, 1, 2, 3, 4, 5]
    assert taken(actions=("invoice.*",)) == [0, 1, 3, 5]
    assert taken(actions=("invoice.*",), denials=False) == [0, 1, 5]
    assert taken(actions=("*.list",), denials=False) == [2, 3]
    assert taken(severity="high") == [1, 2, 3, 4, 5]
    assert taken(severity="high", denials=False) == [1, 2, 4, 5]
    assert taken(decision=frozenset({"allow"})) == [0, 1, 2, 3, 4, 5]
    assert taken(decision=frozenset({"deny"})) == [3]
    assert taken(outcome=frozenset({"failure"})) == [3, 5]
    sink = Scripted()
    once(follower(store, tmp_path, sink, selection=Selection(outcome=frozenset({"failure"})))[0])
    assert flat(sink.calls) == [3, 5]
    assert cursor(tmp_path) == 6, "the cursor moves past what is not selected"


def test_a_shorter_another_or_a_foreign_log_is_refused(tmp_path: Path) -> None:
    store = journal(tmp_path, 10)
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    append(store, 10)
    once(follower(store, tmp_path, Scripted())[0])

    restored = JournalStore.open(tmp_path / "copy")
    with pytest.raises(FollowerError, match=r"20 entries were followed, but the log ends at 10.*put back"):
        follower(restored, tmp_path, Scripted())[0].check()
    append(restored, 10, user_id="another")
    sink = Scripted()
    made, _ = follower(restored, tmp_path, sink)
    with pytest.raises(FollowerError, match="entry 19 of the log is not the one that was delivered"):
        made.check()
    append(restored, 10)
    once(made)
    assert sink.calls == [], "nothing of another history is sent"
    assert "not the one" in str(made.problem)

    path = tmp_path / "state" / "one.json"
    path.write_text(path.read_text().replace("audit.example.com/test", "example.com/other"))
    with pytest.raises(FollowerError, match=r"stood in the log 'example.com/other'"):
        follower(store, tmp_path, Scripted())[0].check()
    path.write_text("{")
    with pytest.raises(FollowerError, match="is no cursor"):
        follower(store, tmp_path, Scripted())[0].check()


def test_after_a_failure_the_log_is_compared_again(tmp_path: Path) -> None:
    """It may have been replaced while the destination was away."""
    store = journal(tmp_path, 10)
    path = tmp_path / "state" / "one.json"

    def answer(items: Sequence[Item]) -> Sent:
        if items[0].index == 0:
            return Sent(len(items))
        path.write_text(path.read_text().replace('"hash": "', '"hash": "00'))
        return Sent(0, retry="down")

    sink = Scripted(answer)
    made, _ = follower(store, tmp_path, sink, batch=5)
    with running(made):
        until(lambda: "not the one that was delivered" in str(made.problem), "the difference is noticed")
    assert len(sink.calls) == 2, "nothing more was sent"


def test_entries_pruned_before_they_were_delivered_are_told(tmp_path: Path) -> None:
    store, sink = journal(tmp_path, 10), Scripted()
    once(follower(store, tmp_path, sink)[0])
    append(store, 20, batch=5)
    store.prune(20, 0, "2026-01-01T00:00:00Z")
    made, told = follower(store, tmp_path, sink)
    once(made)
    assert told == [("audit.follower_lagged", {"follower": "one", "first": 10, "last": 19, "count": 10})]
    assert flat(sink.calls) == [*range(10), *range(20, 30)]


def test_killed_at_each_step_nothing_is_lost_and_order_is_kept(tmp_path: Path) -> None:
    store = journal(tmp_path, 12)
    out = tmp_path / "out"

    def answer(items: Sequence[Item]) -> Sent:
        descriptor = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, b"".join(b"%d\n" % item.index for item in items))
        os.close(descriptor)
        return Sent(len(items), {item.index: "never" for item in items if item.index == 5})

    def work(_: object) -> None:
        made, _told = follower(store, tmp_path, Scripted(answer), batch=4)
        made.check()
        dies_at(number)
        made.run(stop)

    killed, number, stop = 0, 1, threading.Event()
    stop.set()
    while True:
        for path in (tmp_path / "state").glob("*") if (tmp_path / "state").exists() else ():
            path.unlink()
        out.unlink(missing_ok=True)
        code = fork(work).wait()
        before = cursor(tmp_path)
        got = [int(line) for line in out.read_text().split()] if out.exists() else []
        assert not before or got[-1] >= before - 1, "the cursor is never ahead of what was delivered"
        once(follower(store, tmp_path, Scripted(answer), batch=4)[0])
        got = [int(line) for line in out.read_text().split()]
        firsts = list(dict.fromkeys(got))
        assert firsts == list(range(12))
        assert cursor(tmp_path) == 12
        assert {one["index"] for one in dead(tmp_path)} == {5}
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed, number = killed + 1, number + 1
    assert killed > 12


def test_lag_and_failures_are_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    meter.create_observable_gauge("lag.records", [metrics._records])
    meter.create_observable_gauge("lag.seconds", [metrics._seconds])
    for name in ("delivered", "rejected", "failures"):
        monkeypatch.setattr(metrics, name, meter.create_counter(name))
    store = journal(tmp_path, 10)

    def answer(items: Sequence[Item]) -> Sent:
        return Sent(4, {1: "never"}) if items[0].index == 0 else Sent(0, retry="down")

    def read() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        (scope,) = data.resource_metrics[0].scope_metrics
        points: list[tuple[str, Any]] = [(one.name, point) for one in scope.metrics for point in one.data.data_points]
        return {name: point.value for name, point in points if point.attributes["audit.follower.name"] == "lagging"}

    made, _ = follower(store, tmp_path, Scripted(answer), name="lagging")
    with running(made):
        until(lambda: read().get("failures"), "a failure")
        found = read()
    assert (found["delivered"], found["rejected"], found["lag.records"]) == (3, 1, 6)
    assert found["lag.seconds"] > 3600, "the records of the samples are old"
