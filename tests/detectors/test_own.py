"""The detectors that Sigma has no words for: their edges, and a slow and plain reckoning beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.model import Rules
from audit_middleware.formats.facts import micros
from audit_middleware.policy.load import load
from tests.detectors.support import DAY, HOUR, MINUTE, SECOND, Record, detection, findings, numbered, request, rules

EVERY = "every: {audit.kind: outcome}\ncondition: every"
POLICY = Path(__file__).resolve().parents[2] / "policies" / "billing.yaml"


def looking(folder: Path, detector: str, more: str = "") -> Rules:
    return rules(folder, rule=detection(EVERY, custom=f"{{detector: {{{detector}}}{more}}}"))


# --- concurrency -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_at_once(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    return looking(tmp_path_factory.mktemp("rules"), "type: concurrency, gte: 3, timespan: 1h")


def interval(record: Record) -> tuple[int, int]:
    start = micros(record["timestamp"])
    return start, start + (record["duration_us"] or 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=1, max_size=25))
def test_requests_at_once_are_those_that_overlap(three_at_once: Rules, shapes: list[tuple[int, int]]) -> None:
    """The finding comes with the first record at which three of those recorded so far ran at one moment."""
    ended = sorted(shapes, key=lambda one: one[0] + one[1])
    records = [request((start + length) * SECOND, duration_us=length * SECOND) for start, length in ended]
    found = findings(three_at_once, records)

    def together(count: int) -> int:
        spans = [interval(record) for record in records[:count]]
        return max(sum(start <= moment < end for start, end in spans) for moment, _ in spans)

    first = next((at for at in range(len(records)) if together(at + 1) >= 3), None)
    assert [one.evidence[-1] for one in found] == ([] if first is None else [first])
    if found:
        assert found[0].observed == len(found[0].evidence) == together(found[0].evidence[-1] + 1)
        spans = [interval(records[at]) for at in found[0].evidence]
        assert max(start for start, _ in spans) < min(end for _, end in spans)


# --- baselines -------------------------------------------------------------------------------------------------------


def hourly(counts: list[int]) -> list[Record]:
    return [request(hour * HOUR + at * SECOND) for hour, count in enumerate(counts) for at in range(count)]


def test_a_baseline_says_what_is_usual(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: baseline, bucket: 1h, history: 8")
    (found,) = findings(given_rules, hourly([10, 14, 10, 14, 12, 12, 11, 13, 25]))
    assert found.baseline == {"limit": 19, "median": "12", "mad": "1.5", "buckets": 8}
    assert (found.observed, found.window_s, found.evidence_count) == (20, 3600, 20)
    assert found.evidence == tuple(range(96, 116))


def test_hours_without_a_record_are_left_out(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: baseline, bucket: 1h, history: 8")
    working_days = [hour for day in range(3) for hour in ([5] * 8 + [0] * 16)]
    assert findings(given_rules, hourly(working_days)) == []


def test_a_record_of_a_clock_that_is_behind_opens_no_bucket(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: baseline, bucket: 1h, history: 8")
    hours = hourly([5] * 9)
    late = [request(8 * HOUR - SECOND), request(8 * HOUR + 6 * SECOND)]
    assert findings(given_rules, [*hours, *late * 2]) == []
    (found,) = findings(given_rules, [*hours, *late * 3])
    assert found.observed == 11


def test_evidence_of_a_long_bucket_has_its_beginning(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: baseline, bucket: 1h, history: 8")
    (found,) = findings(given_rules, hourly([200] * 8 + [500]))
    assert found.evidence[0] == 1600
    assert len(found.evidence) == 64
    assert found.evidence_count == found.observed == found.evidence[-1] - 1600 + 1


# --- first, and after a long time ------------------------------------------------------------------------------------


def test_what_was_not_there_for_long_is_new_again(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: first_seen, field: event.action, learn: 1d, forget: 10d")
    records = [request(0), request(2 * DAY), request(11 * DAY), request(22 * DAY), request(23 * DAY)]
    found = findings(given_rules, records)
    assert [(one.evidence, one.baseline) for one in found] == [((3,), {"value": "invoice.read"})]


def test_learning_ends_at_its_time(tmp_path: Path) -> None:
    given_rules = looking(tmp_path, "type: first_seen, field: event.action, learn: 1d, forget: 10d")
    last = request(DAY, action="a")
    assert len(findings(given_rules, [request(0), last])) == 1
    assert findings(given_rules, [request(1), last]) == []


def test_dormant_is_by_the_time_since_the_last_record(tmp_path: Path) -> None:
    (found,) = findings(
        looking(tmp_path, "type: dormant, after: 10d"), [request(0), request(5 * DAY), request(15 * DAY)]
    )
    assert (found.evidence, found.observed, found.baseline) == ((1, 2), 864_000, {"limit": 864_000})


# --- working hours ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "utc", "found"),
    [
        ("2026-11-23", "06:59", True),  # a Monday in winter: London is UTC
        ("2026-11-23", "07:00", False),
        ("2026-11-23", "18:59", False),
        ("2026-11-23", "19:00", True),
        ("2026-07-06", "06:00", False),  # a Monday in summer: an hour ahead
        ("2026-07-06", "18:00", True),
        ("2026-11-22", "12:00", True),  # a Sunday
    ],
)
def test_working_hours_are_local(tmp_path: Path, day: str, utc: str, found: bool) -> None:
    given_rules = looking(tmp_path, "type: off_hours, zone: Europe/London")
    record = request() | {"recorded_at": f"{day}T{utc}:00.000000Z"}
    assert bool(findings(given_rules, [record])) is found


def test_a_night_of_work_is_one_finding(tmp_path: Path) -> None:
    night = [request(12 * HOUR + at * 10 * MINUTE) for at in range(20)]
    assert len(findings(looking(tmp_path, "type: off_hours"), night)) == 1


# --- processes -------------------------------------------------------------------------------------------------------


def test_after_a_pruning_the_first_numbers_are_unknown() -> None:
    given_rules = load_rules([], shipped=True)
    record = request(0) | {"sequence": 7}
    assert [one.title for one in findings(given_rules, [record])] == ["Numbers are missing in what a process recorded"]
    assert findings(given_rules, [record], start=1000) == []
    (found,) = findings(given_rules, [record, request(1) | {"sequence": 10}], start=1000)
    assert (found.evidence, found.observed, found.baseline) == ((1000, 1001), 2, {"expected": 8})
    assert found.user_id is None


# --- the example's own actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        ("user.set_roles", "role_granted"),
        ("service_account.create", "service_account_created"),
        ("service_account.rotate_key", "key_created"),
        ("refund.create", "first_grave_action"),
    ],
)
def test_the_examples_actions_are_known_by_their_names(action: str, rule: str) -> None:
    spec = load(POLICY).actions[action]
    known = load_rules([], shipped=True)
    (wanted,) = [one.id for one in known.rules if one.name == rule]
    engine = Engine(known)
    engine.feed(0, request(0, sequence=0))
    record = request(8 * DAY, sequence=1, action=action, event=spec.event, severity=spec.severity)
    assert wanted in {finding.rule for finding in engine.feed(1, record)}


@pytest.mark.parametrize(
    ("action", "rule", "count"),
    [("invoice.delete", "mass_delete", 20), ("export.create", "mass_export", 10), ("report.stream", "mass_export", 10)],
)
def test_the_examples_actions_are_counted(action: str, rule: str, count: int) -> None:
    spec = load(POLICY).actions[action]
    known = load_rules([], shipped=True)
    (wanted,) = [one.id for one in known.rules if one.name == rule]
    records = [request(at * SECOND, action=action, event=spec.event, severity=spec.severity) for at in range(count)]
    assert [one.evidence_count for one in findings(known, numbered(records)) if one.rule == wanted] == [count]
