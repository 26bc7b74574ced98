"""The follower that runs detectors: findings become records, once, whatever happens meanwhile; and blocks."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.detectors.blocklist import BlockList
from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.orders import FINDING
from audit_middleware.errors import FollowerError, LogUnavailable
from audit_middleware.evidence.blocking import add_block, lift_blocks, rebuild
from audit_middleware.evidence.control import ControlWriter
from audit_middleware.evidence.delivering import control_teller, reset
from audit_middleware.followers.config import load_followers
from audit_middleware.followers.destinations import detectors as destination
from audit_middleware.followers.notify.message import describe
from audit_middleware.followers.runner import Follower
from audit_middleware.followers.sink import Sent
from audit_middleware.protocols import Clock
from audit_middleware.stores.journal import JournalStore
from tests.blocking.support import (
    ALL,
    EVERYTHING,
    STORM,
    blocks_of,
    detectors,
    findings,
    keys,
    requests,
    storm_rules,
    tell,
)
from tests.control.support import until
from tests.followers.support import Scripted, once, spec
from tests.kit import Log
from tests.middleware.support import check_log


def follower(log: Log, config: Path, told: Any = None, clock: Clock = time.time_ns) -> Follower:
    """The only follower of a configuration, as a service makes it."""
    (spec,) = load_followers(config).followers
    state = log.path / ".state" / "followers"
    state.mkdir(exist_ok=True)
    reader = JournalStore.open(log.path, writable=False)
    say = told or control_teller(log.path, lambda: keys(log))
    return Follower(spec, reader, state, say, clock=clock, interval=0.01, grace=30.0, log=log.path)


def rounds(log: Log, config: Path, count: int = 3) -> None:
    """Follower after follower, each for one round: until there is nothing left to say."""
    for _ in range(count):
        made = follower(log, config)
        once(made)
        assert made.problem is None, made.problem


def held(log: Log) -> list[tuple[str, bool]]:
    return [(one.who, one.block) for one in blocks_of(log).read().entries]


def ids(log: Log) -> list[str]:
    return [one["extra"]["finding_id"] for one in findings(log)]


def test_a_storm_becomes_a_record_with_its_evidence_and_a_block(log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, "ann", "bob", "ann", "ann", outcome="denied")
    requests(log, "ann", outcome="success")
    requests(log, "ann", "bob", "ann")
    rounds(log, config)
    (told,) = findings(log)
    assert (told["severity"], told["user_id"], told["kind"]) == ("high", "system", "control")
    extra = told["extra"]
    assert (extra["rule"], extra["user_id"], extra["follower"], extra["level"]) == (STORM, "ann", "watch", "high")
    records = log.records()
    assert extra["evidence"] == [
        at for at, one in enumerate(records) if (one["user_id"], one["outcome"]) == ("ann", "denied")
    ]
    assert extra["evidence_count"] == 5
    assert extra["respond"] == {"action": "block", "seconds": 900}
    assert extra["effect"]["since"] == extra["last"] == records[extra["evidence"][-1]]["recorded_at"]
    (entry,) = blocks_of(log).read().entries
    assert (entry.who, entry.block, entry.rule, entry.finding_id) == ("ann", True, STORM, extra["finding_id"])
    assert entry.until_ns - entry.since_ns == 900 * 10**9
    check_log(log)


@pytest.mark.parametrize(
    ("more", "respond", "expected"),
    [("block: true", "block 15m", True), ("block: false", "block 15m", False), ("batch: 5", "block 15m", False),
     ("block: true", "", False)],
)  # fmt: skip
def test_only_who_asks_for_blocks_gets_them(more: str, respond: str, expected: bool, log: Log, tmp_path: Path) -> None:
    requests(log, *["ann"] * 5)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path, respond=respond), more=more))
    assert held(log) == [("ann", expected)]


def test_who_calls_himself_anonymous_is_blocked_like_others(log: Log, tmp_path: Path) -> None:
    """A name that somebody may have chosen at the identity provider, and signed in with."""
    requests(log, *["anonymous"] * 5)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path)))
    assert held(log) == [("anonymous", True)]


def test_what_is_long_past_is_told_and_blocks_nobody(log: Log, tmp_path: Path) -> None:
    requests(log, *["ann"] * 5)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path, respond="block 1s")), 1)
    time.sleep(1.1)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path, respond="block 1s")), 1)
    assert len(findings(log)) == 1
    assert blocks_of(log).read().at(time.time_ns()).entries == ()


def test_a_rule_over_the_logs_own_records_does_not_feed_on_itself(log: Log, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "all.yml").write_text(EVERYTHING.format(id=ALL))
    config = detectors(tmp_path, rules)
    tell(log, "audit.heartbeat", {})
    tell(log, "audit.low_space", {})
    rounds(log, config, 5)
    assert [one["extra"]["evidence"] for one in findings(log)] == [[0], [1]]
    assert len(log.records()) == 4
    assert {one["severity"] for one in findings(log)} == {"low"}


def test_a_finding_that_nobody_takes_makes_no_other(log: Log, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "all.yml").write_text(EVERYTHING.format(id=ALL))
    config = detectors(tmp_path, rules)
    tell(log, "audit.heartbeat", {})
    state = log.path / ".state" / "followers"
    for _ in range(4):
        rounds(log, config, 1)
        refusing = Scripted(lambda items: Sent(len(items), {item.index: "no" for item in items}))
        reader = JournalStore.open(log.path, writable=False)
        once(Follower(spec(refusing), reader, state, control_teller(log.path, lambda: keys(log)), interval=0.01))
    failed = [one["extra"]["actions"] for one in log.controls("audit.delivery_failed")]
    assert failed == [["audit.heartbeat", "audit.finding"], ["audit.finding"]]
    assert [log.records()[one["extra"]["evidence"][0]]["action"] for one in findings(log)] == [
        "audit.heartbeat", "audit.delivery_failed",
    ], "of the second failure, which was about a finding alone, there is none"  # fmt: skip


@pytest.mark.parametrize("action", ["audit.notified", "audit.notification_failed"])
def test_that_somebody_was_told_of_a_finding_makes_no_other(action: str, log: Log, tmp_path: Path) -> None:
    """Or a rule over the log's own records, and a notification of findings, would go on for ever."""
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "all.yml").write_text(EVERYTHING.format(id=ALL))
    config = detectors(tmp_path, rules)
    tell(log, "audit.heartbeat", {})
    rounds(log, config, 1)
    found = describe(log.records()[-1], 1, "all", full=False)
    assert found.key.startswith(f"all/audit.finding/{ALL}")
    tell(log, action, {"key": found.key})
    rounds(log, config)
    assert len(findings(log)) == 1
    tell(log, action, {"key": "all/payment.refund/ann"})
    rounds(log, config)
    assert len(findings(log)) == 2, "of anything else, it is evidence like any other"


def test_a_block_does_not_prolong_itself(log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path, span="1s"))
    requests(log, *["ann"] * 5)
    rounds(log, config)
    time.sleep(1.1)  # a storm after this is another one
    requests(log, *["ann"] * 9, cause="blocked")
    rounds(log, config)
    assert len(findings(log)) == 1
    requests(log, *["ann"] * 5)
    rounds(log, config)
    assert len(findings(log)) == 2


def test_what_detectors_cause_still_counts_as_a_sign_of_life(log: Log, tmp_path: Path) -> None:
    """Numbers of records are compared by a shipped rule: none of these may seem to be missing, and a gap must show."""
    path = tmp_path / "followers.yaml"
    path.write_text("version: 1\nfollowers:\n  - {name: watch, type: detectors}\n")
    writer = ControlWriter(keys(log))
    for cause in ("default", "blocked", "default", "blocked", "blocked", "default"):
        requests(log, "ann", cause=cause, writer=writer)
    tell(log, FINDING, {"title": "told by hand"}, writer=writer)
    requests(log, "ann", writer=writer)
    rounds(log, path)
    assert [one["extra"]["title"] for one in findings(log)] == ["told by hand"]
    lost = ControlWriter(keys(log))
    lost._sequence = 0
    requests(log, "ann", writer=lost)
    lost._sequence = 2
    requests(log, "ann", cause="blocked", writer=lost)
    rounds(log, path)
    assert findings(log)[-1]["extra"]["title"] == "Numbers are missing in what a process recorded"


def test_what_time_alone_shows_is_told_once(log: Log, tmp_path: Path) -> None:
    """By a shipped rule: a process that promised signs of life gives none."""
    path = tmp_path / "followers.yaml"
    path.write_text("version: 1\nfollowers:\n  - {name: watch, type: detectors}\n")
    tell(log, "audit.heartbeat", {"interval_s": 60})
    rounds(log, path, 2)
    assert findings(log) == []
    for _ in range(3):
        made = follower(log, path, clock=lambda: time.time_ns() + 600 * 10**9)
        once(made)
        once(made)
    (told,) = findings(log)
    assert (told["extra"]["title"], told["extra"]["evidence"]) == ("A process stopped recording", [0])
    assert (told["extra"]["user_id"], told["extra"]["effect"]) == (None, None)
    requests(log, "ann")
    rounds(log, path, 2)
    assert len(findings(log)) == 1


# --- what survives ----------------------------------------------------------------------------------------------------


class Died(BaseException):
    """Stands for kill -9 at one line."""


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool) -> Iterator[None]:
    """The process dies where this function is called, before or after it did its work."""
    real = getattr(owner, name)

    def die(*arguments: Any, **more: Any) -> Any:
        if after:
            real(*arguments, **more)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        yield


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", ["tell", "change", "_save", "_move"])
def test_a_finding_is_recorded_once_and_blocks_wherever_the_follower_dies(
    place: str, after: bool, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, *["ann"] * 3)
    rounds(log, config, 1)
    requests(log, *["ann"] * 2, *["bob"] * 5)
    made = follower(log, config)
    owners: dict[str, Any] = {
        "change": BlockList, "_save": destination.DetectorSink, "_move": Follower,
    }  # fmt: skip
    if place == "tell":
        real = control_teller(log.path, lambda: keys(log))

        def die(action: str, extra: Mapping[str, Any]) -> None:
            if after:
                real(action, extra)
            raise Died

        made = follower(log, config, die)
        with pytest.raises(Died):
            once(made)
    else:
        with dying(monkeypatch, owners[place], place, after=after), pytest.raises(Died):
            once(made)
    rounds(log, config)
    assert sorted(one["extra"]["user_id"] for one in findings(log)) == ["ann", "bob"]
    assert sorted(held(log)) == [("ann", True), ("bob", True)]
    check_log(log)


def test_a_log_that_takes_no_record_loses_no_finding(log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, *["ann"] * 5, *["bob"] * 5)
    real = control_teller(log.path, lambda: keys(log))
    calls: list[str] = []

    def unsure(action: str, extra: Mapping[str, Any]) -> None:
        calls.append(action)
        if len(calls) in (1, 3):
            raise LogUnavailable("the disk is full")
        real(action, extra)

    made = follower(log, config, unsure)
    once(made)
    assert (made.problem, findings(log), held(log)) == ("the disk is full", [], [])
    once(made)
    assert (made.problem, len(findings(log))) == ("the disk is full", 1)
    once(made)
    assert (made.problem, len(findings(log))) == (None, 2)
    assert sorted(held(log)) == [("ann", True), ("bob", True)]


def test_a_full_disk_is_said_with_its_place(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")  # as a write fails: without a name

    requests(log, "ann")
    made = follower(log, detectors(tmp_path, storm_rules(tmp_path)))
    made.check()
    monkeypatch.setattr("audit_middleware.stores.shelf.replace_file", full)
    once(made)
    assert made.problem == f"{log.path / '.state' / 'followers'}: No space left on device"


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def counted_otherwise(path: Path) -> None:
    before = path.read_bytes()
    after = before.replace(b"[[5,", b"[[0,")  # the place of Bob's first refusal
    assert after != before
    path.write_bytes(after)


def foreign(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"example.com/test", b"example.com/else"))


@pytest.mark.parametrize(
    "change", [Path.unlink, damaged, counted_otherwise, foreign, lambda path: path.write_bytes(b"")]
)
def test_without_its_state_the_engine_learns_again_and_repeats_nothing(change: Any, log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, *["ann"] * 5, *["bob"] * 3)
    rounds(log, config, 1)
    before = ids(log)
    change(log.path / ".state" / "followers" / "watch.engine")
    requests(log, *["bob"] * 2)
    rounds(log, config)
    assert ids(log)[: len(before)] == before
    assert [one["extra"]["user_id"] for one in findings(log)] == ["ann", "bob"]
    assert findings(log)[1]["extra"]["evidence_count"] == 5, "also what it had seen before"
    assert findings(log)[1]["extra"]["evidence"][0] == 5


def test_state_of_a_log_that_was_put_back_is_not_used_with_another_history(log: Log, tmp_path: Path) -> None:
    """State may be kept elsewhere. With it, Bob's two refusals would be five, and the evidence somebody else's."""
    copy, kept, state = tmp_path / "copy", tmp_path / "kept", log.path / ".state" / "followers"
    shutil.copytree(log.path, copy)
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, *["bob"] * 3)
    rounds(log, config)
    state.rename(kept)
    shutil.rmtree(log.path)
    copy.rename(log.path)
    shutil.copytree(kept, state)
    requests(log, *["eve"] * 3)
    with closing(JournalStore.open(log.path, writable=False)) as reader:
        reset(reader, load_followers(config), state, "watch", 3)
    requests(log, *["bob"] * 2, *["eve"] * 2)
    rounds(log, config)
    assert [one["extra"]["user_id"] for one in findings(log)] == ["eve"]


def test_a_list_that_was_lost_is_made_anew_with_the_next_finding(log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path))
    requests(log, *["ann"] * 5, *["eve"] * 5)
    rounds(log, config)
    lift_blocks(log.path, keys(log), "user", "eve", "a test", "root")
    blocks_of(log).path.unlink()
    requests(log, *["bob"] * 5)
    rounds(log, config)
    assert sorted(held(log)) == [("ann", True), ("bob", True)]
    for lost in (False, True):
        if lost:
            blocks_of(log).path.unlink()
        add_block(log.path, keys(log), "user", f"carl-{lost}", 900, "a test", "root")
    assert len(held(log)) == 4
    blocks_of(log).path.unlink()
    lift_blocks(log.path, keys(log), "user", "ann", "a test", "root")
    assert len(held(log)) == 3


def test_other_rules_learn_from_the_past_and_do_not_tell_of_it(log: Log, tmp_path: Path) -> None:
    requests(log, *["ann"] * 5, *["bob"] * 3)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path)))
    config = detectors(tmp_path, storm_rules(tmp_path, count=4))
    rounds(log, config)
    assert [one["extra"]["user_id"] for one in findings(log)] == ["ann"]
    requests(log, "bob")
    rounds(log, config)
    assert [one["extra"]["user_id"] for one in findings(log)] == ["ann", "bob"]
    assert findings(log)[1]["extra"]["evidence_count"] == 4


def test_how_much_of_the_past_can_be_bounded(log: Log, tmp_path: Path) -> None:
    requests(log, *["bob"] * 4)
    config = detectors(tmp_path, storm_rules(tmp_path), more="history: 0, start: now")
    rounds(log, config)
    (log.path / ".state" / "followers" / "watch.engine").unlink()
    requests(log, "bob")
    rounds(log, config)
    assert findings(log) == []


def test_a_cursor_that_is_put_back_tells_what_was_not_told_and_no_more(log: Log, tmp_path: Path) -> None:
    requests(log, *["ann"] * 5)
    config = detectors(tmp_path, storm_rules(tmp_path, count=9))
    rounds(log, config)
    config = detectors(tmp_path, storm_rules(tmp_path))
    rounds(log, config)
    assert findings(log) == []
    cursor = log.path / ".state" / "followers" / "watch.json"
    for _ in range(2):
        cursor.write_text(json.dumps({"format": 1, "origin": "example.com/test", "next": 0, "hash": ""}))
        rounds(log, config)
        assert [one["extra"]["user_id"] for one in findings(log)] == ["ann"]


def test_what_was_lifted_stays_lifted_when_the_finding_comes_again(log: Log, tmp_path: Path) -> None:
    requests(log, *["ann"] * 5)
    config = detectors(tmp_path, storm_rules(tmp_path))
    rounds(log, config)
    lift_blocks(log.path, keys(log), "user", "ann", "a test", "root")
    cursor = log.path / ".state" / "followers" / "watch.json"
    cursor.write_text(json.dumps({"format": 1, "origin": "example.com/test", "next": 0, "hash": ""}))
    rounds(log, config)
    assert held(log) == []
    rebuild(log.path)
    assert held(log) == []


def test_a_damaged_list_keeps_no_finding_from_the_log(log: Log, tmp_path: Path) -> None:
    blocks_of(log).path.write_bytes(b"{")
    requests(log, *["ann"] * 5)
    config = detectors(tmp_path, storm_rules(tmp_path))
    made = follower(log, config)
    once(made)
    assert "blocks rebuild" in str(made.problem)
    assert len(findings(log)) == 1
    rebuild(log.path)
    once(made)
    assert made.problem is None
    assert held(log) == [("ann", True)]


@pytest.mark.parametrize("who", ["12345", "__proto__", "\x00\x1b[31mann\r\n", "x" * 256, "é" * 120, "\U0001f600"])
def test_hostile_users_are_found_and_blocked_like_others(who: str, log: Log, tmp_path: Path) -> None:
    requests(log, *[who] * 5)
    rounds(log, detectors(tmp_path, storm_rules(tmp_path)))
    assert held(log) == [(who, True)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shipped: false", "followers[0].rules: there are none"),
        ("filter: {severity: high}", "detectors see every record"),
        ("rules: [nowhere]", "nowhere: the rules cannot be read"),
        ("rules: [bad]", "bad.yml"),
        ("block: perhaps", "expected true or false"),
        ("blocks: true", "did you mean 'block'"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.yml").write_text("title: x\n")
    path = tmp_path / "followers.yaml"
    path.write_text(f"version: 1\nfollowers:\n  - {{name: watch, type: detectors, {line}}}\n")
    with pytest.raises(FollowerError) as caught:
        load_followers(path)
    assert said in str(caught.value)


def test_shipped_rules_alone_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "followers.yaml"
    path.write_text("version: 1\nfollowers:\n  - {name: watch, type: detectors}\n")
    (spec,) = load_followers(path).followers
    assert isinstance(spec.destination, destination.Detectors)
    assert spec.destination.rules.digest == load_rules((), shipped=True).digest
    assert not spec.destination.block


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_a_follower_that_is_killed_again_and_again_loses_no_finding(kills: int, log: Log, tmp_path: Path) -> None:
    config = detectors(tmp_path, storm_rules(tmp_path), more="block: true, batch: 7")
    dice = random.Random(20261123)
    command = [sys.executable, "-m", "audit_middleware", "follow", str(log.path), "--config", str(config)]
    whos = [f"user-{n}" for n in range(kills * 6)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--interval", "0.01"], stdout=subprocess.DEVNULL)

    for round_ in range(kills):
        process = start()
        for who in whos[round_ * 6 : round_ * 6 + 6]:
            requests(log, *[who] * 6)
        if round_ == 0:
            until(lambda: findings(log), "the first finding")
        time.sleep(dice.uniform(0, 0.7))
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start()
    until(lambda: {one["extra"]["user_id"] for one in findings(log)} >= set(whos), "all findings")
    until(lambda: {who for who, _ in held(log)} >= set(whos), "all blocks")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    engine = Engine(load_rules([tmp_path / "rules"], shipped=False))
    expected = [one for at, record in enumerate(log.records()) for one in engine.feed(at, record)]
    assert set(ids(log)) == {one.finding_id for one in expected}
    assert len(ids(log)) == len(set(ids(log))), "each of them once"
    told = {one["extra"]["finding_id"]: one["extra"] for one in findings(log)}
    assert {name: {key: told[name][key] for key in ("evidence", "first", "last")} for name in told} == {
        one.finding_id: {"evidence": list(one.evidence), "first": one.first, "last": one.last} for one in expected
    }
    assert FINDING == "audit.finding"
    check_log(log)
