"""Storms become a handful of messages that say what happened, whenever they are read, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.followers.notify.grouping import HOUR, LISTED, MOST, NAMED, Grouped, Grouping, Limits
from audit_middleware.followers.notify.message import KEY, Event, Notification, bounded, describe
from audit_middleware.followers.notify.wording import title
from tests.stores.samples import record

SECOND = 1_000_000
START = 1_767_225_600 * SECOND  # 2026-01-01


def event(at: int, user: str = "ann", action: str = "payment.refund", index: int = 0) -> Event:
    """``at`` in seconds after the start."""
    given = record(index, user_id=user, action=action, outcome="denied")
    return msgspec.structs.replace(describe(given, index, "refunds", full=False), at=START + at * SECOND)


def grouping(**limits: int) -> Grouping:
    return Grouping(Limits(**limits), "example.com/log", "ops")


def told(made: Iterable[Notification]) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(one.kind, one.count, one.users) for one in made]


def played(events: Iterable[Event], end: int, **limits: int) -> list[Notification]:
    made = grouping(**limits)
    found = [one for given in events for one in made.take(given)]
    return found + made.until(START + end * SECOND)


def test_the_first_is_told_at_once_and_the_rest_are_counted() -> None:
    made = grouping(group=60, cool_down=600)
    assert told(made.take(event(0, index=7))) == [("alert", 1, ("ann",))]
    for at in range(1, 38):
        assert made.take(event(at, index=7 + at)) == []
    assert made.until(START + 599 * SECOND) == []
    (summary,) = made.until(START + 600 * SECOND)
    assert (summary.kind, summary.count, summary.indexes) == ("repeated", 37, tuple(range(8, 8 + LISTED)))
    assert title(summary) == (
        "[high] and 37 more like this between 2026-01-01T00:00:01Z and 2026-01-01T00:00:37Z (suppressed 37): "
        "payment.refund denied: ann"
    )
    assert made.until(START + 10_000 * SECOND) == [], "after a quiet cool-down nothing is left"
    assert told(made.take(event(10_001))) == [("alert", 1, ("ann",))], "and the next one is told at once"


def test_a_storm_that_goes_on_is_summed_up_at_each_cool_down() -> None:
    found = played((event(at) for at in range(0, 3_000, 10)), 4_000, group=60, cool_down=600)
    assert told(found) == [("alert", 1, ("ann",))] + [("repeated", n, ("ann",)) for n in (59, 60, 60, 60, 60)]
    assert sum(one.count for one in found) == 300, "none is left out"


def test_many_principals_are_gathered_at_growing_intervals() -> None:
    found = played((event(at, f"user-{at}") for at in range(1_200)), 5_000, group=60, cool_down=600)
    assert [one.kind for one in found] == ["alert"] + ["gathered"] * 5
    assert [one.count for one in found] == [1, 59, 120, 240, 480, 300]
    assert sum(one.count for one in found) == 1_200
    assert all(len(one.users) == NAMED and one.others for one in found[1:])
    assert "user-1, user-2, user-3 and others" in title(found[1])


def test_other_actions_and_rules_are_not_kept_waiting() -> None:
    made = grouping()
    for at, action in enumerate(("a.b", "c.d", "e.f")):
        assert told(made.take(event(at, action=action))) == [("alert", 1, ("ann",))]


def test_beyond_the_cap_of_an_hour_there_is_one_summary() -> None:
    found = played((event(at, action=f"a.b{at}") for at in range(100)), HOUR + 100, per_hour=10)
    assert [one.kind for one in found] == ["alert"] * 10 + ["held"]
    assert (found[-1].count, found[-1].first, found[-1].last) == (90, START + 10 * SECOND, START + 99 * SECOND)
    assert "(suppressed 90)" in title(found[-1])


def test_ten_thousand_denials_are_a_handful_of_messages_in_bounded_memory() -> None:
    dice = random.Random(11)
    for users in (1, 40, 10_000):
        made = grouping()
        found: list[Notification] = []
        for index in range(10_000):
            found += made.take(event(index // 100, f"user-{dice.randrange(users)}", index=index))
        assert len(made.kept.kinds) <= MOST
        assert len(msgspec.json.encode(made.kept)) < 1_000_000
        found += made.until(START + 86_400 * SECOND)
        assert len(found) <= 8, told(found)
        assert sum(one.count for one in found) == 10_000
        assert not made.kept.kinds
        assert not made.kept.families, "and nothing is left of it"


def _random_events(numbers: list[tuple[int, int, int]]) -> list[Event]:
    at, found = 0, []
    for index, (gap, user, action) in enumerate(numbers):
        at += gap
        found.append(event(at, f"u{user}", f"a.b{action}", index))
    return found


NUMBERS = st.lists(
    st.tuples(st.sampled_from([0, 1, 5, 59, 60, 61, 300, 600, 601, 4_000]), st.integers(0, 3), st.integers(0, 2)),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(NUMBERS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_read_as_they_come_or_all_together_the_messages_are_the_same(
    numbers: list[tuple[int, int, int]], dice: random.Random, cap: int
) -> None:
    events = _random_events(numbers)
    together = played(events, 200_000, per_hour=cap)
    made, live = grouping(per_hour=cap), list[Notification]()
    for one in events:
        while dice.random() < 0.6:  # looks at a quiet log, at any moment before the record comes
            live += made.until(dice.randint(min(made.kept.now, one.at), one.at))
        if dice.random() < 0.3:  # and a restart
            kept = msgspec.json.decode(msgspec.json.encode(made.kept), type=Grouped)
            made = Grouping(Limits(per_hour=cap), "example.com/log", "ops", kept)
        live += made.take(one)
    live += made.until(START + 200_000 * SECOND)
    assert live == together
    assert sum(one.count for one in together) == len(events), "every record is in exactly one message"
    assert len({one.id for one in together}) == len(together)


def test_a_clock_that_goes_back_ends_nothing_early() -> None:
    made = grouping(group=60, cool_down=600)
    assert told(made.take(event(1_000))) == [("alert", 1, ("ann",))]
    assert made.take(event(10)) == []
    (summary,) = made.until(START + 1_600 * SECOND)
    assert (summary.count, summary.first) == (1, START + 10 * SECOND)


def test_a_clock_that_was_far_ahead_keeps_nobody_silent() -> None:
    made = grouping(group=60, cool_down=600)
    made.take(event(0))
    made.take(event(1))
    year = START + 365 * 86_400 * SECOND
    assert [one.kind for one in made.until(year)] == ["repeated"], "a quiet log, and a clock that was put forward"
    made.take(event(365 * 86_400 + 1))
    assert made.put_back(START + 100 * SECOND), "and put right"
    assert made.take(event(101)) == []
    (summary,) = made.until(START + 701 * SECOND)
    assert (summary.kind, summary.count) == ("repeated", 1)
    assert not made.put_back(START + 701 * SECOND - 3_599 * SECOND), "hosts may differ a little"


def test_a_record_from_the_future_takes_time_an_hour_further_at_most() -> None:
    made = grouping(group=60, cool_down=600)
    made.take(event(365 * 86_400), START)
    assert made.kept.now == START + HOUR * SECOND
    assert not made.put_back(START)
    made.take(event(1_000), START + 1_000 * SECOND)
    (summary,) = made.until(START + (HOUR + 600) * SECOND)
    assert (summary.kind, summary.count) == ("repeated", 1)


@pytest.mark.parametrize("user", ["x" * 300, "a\nb", "a\u202eb", "\ud800", "x" * 64_000])
def test_keys_are_short_and_tell_apart(user: str) -> None:
    keys = {bounded("rule", "a.b", user), bounded("rule", "a.b", user + "2"), bounded("rule", "a.b", "2" + user)}
    assert len(keys) == 3
    assert all(len(key) <= KEY and key.isprintable() for key in keys)


def test_a_finding_is_about_whom_it_names() -> None:
    extra: dict[str, Any] = {
        "finding_id": "f-1", "rule": "burst", "title": "Burst of refunds", "level": "high", "dimension": "rate",
        "group": {"user": "ann"}, "observed": 120, "baseline": "12.5", "window_s": 60, "user_id": "ann",
    }  # fmt: skip
    given = record(3, kind="control", action="audit.finding", user_id="audit-middleware", extra=extra)
    found = describe(given, 3, "findings", full=False)
    assert (found.user_id, found.key, found.incident) == ("ann", "findings/audit.finding/burst/ann", "findings/ann")
    assert found.finding is not None
    assert (found.finding["observed"], found.finding["baseline"], found.finding["dimension"]) == ("120", "12.5", "rate")
    (alert,) = grouping().take(found)
    assert title(alert) == "[high] Burst of refunds: ann"
    other = describe(given | {"extra": extra | {"user_id": None}}, 3, "findings", full=False)
    assert other.user_id == "user ann"
