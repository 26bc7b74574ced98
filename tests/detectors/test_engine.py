"""Windows, order, cool-down, bounds; and the same findings however the records are portioned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.detectors import own, windows
from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.finding import MAX_EVIDENCE, Finding, finding_id
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.model import Rules
from audit_middleware.errors import ConfigError
from audit_middleware.formats.facts import micros
from tests.detectors.support import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    START,
    Record,
    control,
    correlation,
    detection,
    findings,
    numbered,
    request,
    rules,
)
from tests.detectors.test_shipped import beats, set_roles

EVERY = "every: {audit.kind: outcome}\ncondition: every"
ALICE = "one: {event.action: a}\ncondition: one"
BOB = "one: {event.action: b}\ncondition: one"
CAROL = "one: {event.action: c}\ncondition: one"


def counting(
    folder: Path, condition: str, kind: str = "event_count", group: str = "[user.id]", span: str = "10s"
) -> Rules:
    body = f"{{type: {kind}, rules: [rule1], group-by: {group}, timespan: {span}, condition: {condition}}}"
    return rules(folder, base=detection(EVERY), count=correlation(body))


def steps(folder: Path, kind: str, rules_: str = "[rule1, rule2]", **more: str) -> Rules:
    body = f"{{type: {kind}, rules: {rules_}, group-by: [user.id], timespan: 10s}}"
    return rules(
        folder,
        a=detection(ALICE),
        b=detection(BOB, number=2),
        c=detection(CAROL, number=3),
        d=correlation(body),
        **more,
    )


def done(*actions: str, apart: int = SECOND) -> list[Record]:
    return [request(at * apart, action=action) for at, action in enumerate(actions)]


def where(found: Sequence[Finding]) -> list[tuple[int, ...]]:
    return [finding.evidence for finding in found]


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "first"),
    [("{gte: 3}", 2), ("{gt: 3}", 3), ("{eq: 3}", 2), ("{lt: 3}", 0), ("{lte: 3}", 0)],
)
def test_counts_are_compared(tmp_path: Path, condition: str, first: int) -> None:
    found = findings(counting(tmp_path, condition), [request(at * SECOND) for at in range(6)])
    assert [finding.evidence[-1] for finding in found] == [first]
    assert found[0].observed == first + 1
    assert found[0].baseline == {"limit": 3}
    assert found[0].window_s == 10


def test_the_window_slides(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 3}")
    assert findings(given, [request(at) for at in (0, 4 * SECOND, 10 * SECOND)]) == []
    assert where(findings(given, [request(at) for at in (0, 4 * SECOND, 10 * SECOND, 13 * SECOND)])) == [(1, 2, 3)]
    assert where(findings(given, [request(at) for at in (0, 4 * SECOND, 10 * SECOND - 1)])) == [(0, 1, 2)]


def test_a_storm_is_one_finding_until_it_ends(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 3}")
    storm = [request(at * SECOND) for at in range(100)]
    after = [request(200 * SECOND + at * SECOND) for at in range(5)]
    found = findings(given, [*storm, *after])
    assert where(found) == [(0, 1, 2), (100, 101, 102)]
    assert len({finding.finding_id for finding in found}) == 2


def test_a_storm_without_end_is_told_of_every_day(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 2}", span="2h")
    found = findings(given, [request(at * HOUR) for at in range(60)])
    assert [finding.evidence[-1] for finding in found] == [1, 25, 49]


def test_each_group_for_itself(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 2}", group="[user.id, source.ip]")
    records = [request(0), request(1, user_id="bob"), request(2, initiator_ip="192.0.2.99"), request(3)]
    (found,) = findings(given, records)
    assert found.group == {"user.id": "ann", "source.ip": "192.0.2.17"}
    assert found.evidence == (0, 3)
    assert found.dimension == "event_count by user.id, source.ip"
    assert (found.first, found.last) == ("2026-11-23T10:00:00.000000Z", "2026-11-23T10:00:00.000003Z")


def test_without_group_all_are_one(tmp_path: Path) -> None:
    (found,) = findings(counting(tmp_path, "{gte: 2}", group="[]"), [request(0), request(1, user_id="bob")])
    assert found.group == {}
    assert found.user_id is None


def test_a_record_without_the_field_is_in_no_group(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 2}", group="[source.ip]")
    assert findings(given, [request(at, initiator_ip=None) for at in range(5)]) == []
    assert findings(given, [request(at, initiator_ip="unix:") for at in range(5)]) == []


def test_different_values_are_counted(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 3, field: audit.resource.id}", "value_count")
    names = ["a", "a", "b", None, "b", "a", "c"]
    records = [request(at * SECOND) for at in range(len(names))]
    for record, name in zip(records, names, strict=True):
        record["resource"]["id"] = name
    (found,) = findings(given, records)
    assert found.observed == 3
    assert found.evidence == (4, 5, 6)  # where each was last
    for at, record in enumerate(records):
        record["recorded_at"] = request(at * 6 * SECOND)["recorded_at"]
    assert findings(given, records) == []


@pytest.mark.parametrize(
    ("kind", "actions", "expected"),
    [
        ("temporal", "ab", [(0, 1)]),
        ("temporal", "ba", [(0, 1)]),
        ("temporal", "aab", [(1, 2)]),
        ("temporal", "aaa", []),
        ("temporal_ordered", "ab", [(0, 1)]),
        ("temporal_ordered", "ba", []),
        ("temporal_ordered", "bab", [(1, 2)]),
        ("temporal_ordered", "acab", [(2, 3)]),
        ("temporal_ordered", "a" + "c" * 9 + "b", []),
        ("temporal_ordered", "a" + "c" * 8 + "b", [(0, 9)]),
    ],
)
def test_several_rules_in_a_window(tmp_path: Path, kind: str, actions: str, expected: list[tuple[int, ...]]) -> None:
    found = [one for one in findings(steps(tmp_path, kind), done(*actions)) if one.title == "Rule 9"]
    assert where(found) == expected


@pytest.mark.parametrize(
    ("actions", "expected"),
    [("abc", [(0, 1, 2)]), ("acb", []), ("abac", [(0, 1, 3)]), ("bcabc", [(2, 3, 4)]), ("ab" + "x" * 8 + "c", [])],
)
def test_three_rules_in_their_order(tmp_path: Path, actions: str, expected: list[tuple[int, ...]]) -> None:
    given = steps(tmp_path, "temporal_ordered", "[rule1, rule2, rule3]")
    assert where(findings(given, done(*actions))) == expected


def test_one_record_is_not_two_steps(tmp_path: Path) -> None:
    both = detection("one: {event.action: [a, b]}\ncondition: one", number=4)
    ordered = steps(tmp_path / "o", "temporal_ordered", "[rule1, rule4]", e=both)
    assert where(one for one in findings(ordered, done("a")) if one.title == "Rule 9") == []  # type: ignore[arg-type]
    assert [one.evidence for one in findings(ordered, done("a", "a")) if one.title == "Rule 9"] == [(0, 1)]
    together = steps(tmp_path / "t", "temporal", "[rule1, rule4]", e=both)
    assert [one.evidence for one in findings(together, done("a")) if one.title == "Rule 9"] == [(0,)]


def test_aliases_join_different_fields(tmp_path: Path) -> None:
    body = (
        "{type: temporal_ordered, rules: [rule1, rule2], group-by: [who], timespan: 1m, "
        "aliases: {who: {rule1: user.target.id, rule2: user.id}}}"
    )
    granted = "one: {event.action: user.set_roles}\ncondition: one"
    given = rules(tmp_path, a=detection(granted), b=detection(ALICE, number=2), c=correlation(body))
    used = request(SECOND, action="a", user_id="bob")
    (found,) = findings(given, [set_roles(0, whom="bob"), used])
    assert found.group == {"who": "bob"}
    assert found.evidence == (0, 1)
    assert findings(given, [set_roles(0, whom="carol"), used]) == []


def test_a_rule_with_a_cooldown_is_told_of_once(tmp_path: Path) -> None:
    given = rules(tmp_path, a=detection(ALICE, custom="{cooldown: 10s}"))
    assert where(findings(given, done("a", "a", "a"))) == [(0,)]
    assert where(findings(rules(tmp_path, a=detection(ALICE)), done("a", "a"))) == [(0,), (1,)]


def test_clocks_that_differ_do_not_break_a_window(tmp_path: Path) -> None:
    """One record from a clock that is years ahead must neither end nor freeze the counting."""
    given = counting(tmp_path, "{gte: 3}")
    records = [request(0), request(1, user_id="x"), request(9_000 * DAY), request(2 * SECOND), request(1 * SECOND)]
    records += [request(3 * SECOND), request(60 * SECOND), request(120 * SECOND)]
    assert where(findings(given, records)) == [(3, 4, 5)]


# --- who, and what is asked for --------------------------------------------------------------------------------------


def test_a_finding_says_whom_to_block(tmp_path: Path) -> None:
    given = rules(tmp_path, a=detection(ALICE, custom="{respond: block 15m}"))
    (found,) = findings(given, done("a"))
    assert found.user_id == "ann"
    assert found.extra()["respond"] == {"action": "block", "seconds": 900}
    (found,) = findings(given, [request(action="a", user_id="anonymous", subject={"type": "anonymous"})])
    assert found.user_id is None


def test_what_stands_in_a_record_is_complete_and_without_fractions(tmp_path: Path) -> None:
    (found,) = findings(counting(tmp_path, "{gte: 2}"), [request(0), request(SECOND)])
    assert list(found.extra()) == [
        "finding_id", "rule", "title", "level", "dimension", "group", "observed", "baseline", "window_s", "first",
        "last", "evidence", "evidence_count", "user_id", "respond",
    ]  # fmt: skip
    assert json.loads(json.dumps(found.extra(), allow_nan=False)) == found.extra()
    assert found.finding_id == finding_id(found.rule, {"user.id": "ann"}, 0, 1)
    assert len(found.finding_id) == 32
    assert found.severity == "high"


def test_evidence_is_bounded(tmp_path: Path) -> None:
    (found,) = findings(counting(tmp_path, "{gte: 200}"), [request(at) for at in range(200)])
    assert len(found.evidence) == MAX_EVIDENCE
    assert (found.evidence[0], found.evidence[1], found.evidence[-1]) == (0, 200 - MAX_EVIDENCE + 1, 199)
    assert found.evidence_count == 200


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_groups_are_forgotten_by_age_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows.Groups.__init__, "__defaults__", (3,))
    engine = Engine(counting(tmp_path, "{gte: 2}"))
    for at, user in enumerate(["a", "b", "c", "a", "d", "b", "a"]):
        engine.feed(at, request(at, user_id=user))
    assert set(engine.forgotten.values()) == {2}  # b when d came, then c


def test_a_group_that_is_over_takes_no_room(tmp_path: Path) -> None:
    engine = Engine(counting(tmp_path, "{gte: 2}"))
    for at in range(50):
        engine.feed(at, request(at * MINUTE, user_id=f"u{at}"))
    assert len(engine.snapshot()) < 2_000


def test_long_values_are_cut_and_still_told_apart(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 2}")
    long = "x" * 5_000
    found = findings(
        given, [request(0, user_id=long + "a"), request(1, user_id=long + "b"), request(2, user_id=long + "a")]
    )
    assert where(found) == [(0, 2)]
    assert len(found[0].group["user.id"]) < 256


# --- entries that are no records -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"schema_version": 2},
        {"schema_version": 1},
        {"schema_version": 1, "recorded_at": 5},
        request() | {"recorded_at": "2026-13-45T00:00:00.000000Z"},
        request() | {"service": 5},
    ],
)
def test_entries_of_another_shape_are_passed_over_and_counted(tmp_path: Path, entry: dict[str, Any]) -> None:
    engine = Engine(counting(tmp_path, "{gte: 2}"))
    assert engine.feed(0, request(0)) == ()
    assert engine.feed(1, entry) == ()
    assert engine.unread == 1
    assert where(engine.feed(2, request(1))) == [(0, 2)]


def test_what_was_fed_already_is_not_counted_again(tmp_path: Path) -> None:
    engine = Engine(counting(tmp_path, "{gte: 2}"))
    assert engine.feed(5, request(0)) == ()
    assert engine.feed(5, request(0)) == ()
    assert engine.feed(4, request(0)) == ()
    assert engine.next == 6


# --- time alone ------------------------------------------------------------------------------------------------------


def test_a_quiet_log_shows_who_is_silent_and_the_next_record_does_not_repeat_it() -> None:
    given = load_rules([], shipped=True)
    records = numbered(beats(10))
    last = micros(records[20]["recorded_at"])
    live, later = Engine(given), Engine(given)
    for index, record in enumerate(records[:22]):
        assert live.feed(index, record) == later.feed(index, record) == ()
    assert live.quiet((last + 120 * SECOND) * 1000) == ()
    found = live.quiet((last + 126 * SECOND + 2) * 1000)
    assert {one.group["service.node.name"] for one in found} == {"web-1:1:a", "web-2:1:b"}
    assert live.quiet((last + 500 * SECOND) * 1000) == ()
    history = [one for index, record in enumerate(records[22:], 22) for one in later.feed(index, record)]
    assert [one for index, record in enumerate(records[22:], 22) for one in live.feed(index, record)] == []
    assert [one.finding_id for one in history] == [found[0].finding_id]
    assert (found[0].title, found[0].observed, found[0].baseline) == (
        "A process stopped recording",
        126,
        {"limit": 125},
    )


def test_who_speaks_again_is_watched_again() -> None:
    mine = beats(10)[0]["service"]
    again = [
        control(at, "audit.heartbeat", extra={"interval_s": 60}, service=mine) for at in (30 * MINUTE, 50 * MINUTE)
    ]
    records = sorted([*beats(10), *again], key=lambda record: str(record["recorded_at"]))
    found = [one for one in findings(load_rules([], shipped=True), numbered(records)) if "stopped" in one.title]
    assert len(found) == 3  # after ten minutes, after thirty and after fifty


# --- put away and brought back ----------------------------------------------------------------------------------------


def test_a_storm_goes_on_over_a_snapshot(tmp_path: Path) -> None:
    given = counting(tmp_path, "{gte: 3}")
    engine = Engine(given)
    told = [one for at in range(50) for one in engine.feed(at, request(at * SECOND))]
    engine = Engine.restore(given, engine.snapshot())
    told += [one for at in range(50, 100) for one in engine.feed(at, request(at * SECOND))]
    assert where(told) == [(0, 1, 2)]


def test_a_silence_that_was_told_is_not_told_again_after_a_snapshot() -> None:
    given = load_rules([], shipped=True)
    engine = Engine(given)
    records = numbered(beats(10))
    for index, record in enumerate(records):
        engine.feed(index, record)
    later = (micros(records[-1]["recorded_at"]) + HOUR) * 1000
    engine = Engine.restore(given, engine.snapshot())
    assert len(engine.quiet(later)) == 1  # the other was found when its neighbour spoke
    assert Engine.restore(given, engine.snapshot()).quiet(later) == ()


def test_a_state_of_other_rules_or_versions_is_refused(tmp_path: Path) -> None:
    one, two = counting(tmp_path / "a", "{gte: 2}"), counting(tmp_path / "b", "{gte: 3}")
    data = Engine(one).snapshot()
    with pytest.raises(ConfigError, match=r"made with other rules .* feed it the log's records again"):
        Engine.restore(two, data)
    with pytest.raises(ConfigError, match="is of version 0, this is 1"):
        Engine.restore(one, data.replace(b'"version":1', b'"version":0'))
    for bad in (b"", b"[]", b"\xff", data[:-1]):
        with pytest.raises(ConfigError, match="is no snapshot"):
            Engine.restore(one, bad)
    for old, new in (
        (b'"begun":null', b'"begun":[1]'),
        (b'"states":[', b'"states":[{},'),
        (b'"kept":[]', b'"kept":[1]'),
    ):
        assert old in data
        with pytest.raises(ConfigError, match="is damaged"):
            Engine.restore(one, data.replace(old, new, 1))


def test_a_snapshot_is_canonical(tmp_path: Path) -> None:
    engine = Engine(counting(tmp_path, "{gte: 2}"))
    engine.feed(0, request(0, user_id="émile"))
    data = engine.snapshot()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_time_is_what_records_say(tmp_path: Path) -> None:
    assert micros(request(5 * SECOND)["recorded_at"]) == START + 5 * SECOND
    assert own.SilenceWatch().overdue(10**18) == ()
