"""Records in any portions, with the engine put away and brought back in between: always the same findings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.model import Rules
from tests.detectors.support import (
    DAY,
    HOUR,
    SECOND,
    Record,
    control,
    correlation,
    denied,
    detection,
    findings,
    request,
    rules,
)
from tests.detectors.test_shipped import set_roles

EVERY = "every: {audit.kind: outcome}\ncondition: every"


@st.composite
def streams(draw: st.DrawFn) -> list[Record]:
    """Records of a few users, close together and far apart, of all that rules look at."""
    found: list[Record] = []
    at = draw(st.sampled_from([0, 12 * HOUR]))
    for _ in range(draw(st.integers(1, 60))):
        at += draw(st.sampled_from([0, 1, SECOND // 10, SECOND, SECOND, 20 * SECOND, HOUR, 40 * DAY, -SECOND]))
        user = draw(st.sampled_from(["ann", "bob"]))
        kind = draw(st.integers(0, 7))
        if kind <= 2:
            found.append(denied(at, user_id=user))
        elif kind == 3:
            found.append(set_roles(at, user=user))
        elif kind == 4:
            name = draw(st.sampled_from(["audit.heartbeat", "audit.started", "audit.stopped"]))
            found.append(control(at, name, extra={"interval_s": 60}))
        else:
            found.append(request(at, user_id=user, duration_us=draw(st.sampled_from([0, 5 * SECOND])), severity="high"))
    return [record | {"sequence": at + (at > 40)} for at, record in enumerate(found)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    """Rules of all kinds, with limits that short streams reach."""
    folder = tmp_path_factory.mktemp("rules")
    span = "group-by: [user.id], timespan: 30s"
    of_people = {
        "concurrency": ", gte: 2, timespan: 1m",
        "baseline": ", bucket: 1m, history: 8",
        "dormant": ", after: 30d",
        "first_seen": ", field: event.action, learn: 1h, forget: 30d",
        "off_hours": ", zone: Europe/London",
    }
    texts = {
        kind: detection(EVERY, number=10 + at, custom=f"{{detector: {{type: {kind}{options}}}}}")
        for at, (kind, options) in enumerate(of_people.items())
    }
    for at, kind in enumerate(("silence", "counters")):
        text = detection(EVERY.replace("outcome", "'*'"), number=20 + at, custom=f"{{detector: {{type: {kind}}}}}")
        texts[kind] = text.replace(", category: request", "")
    values = f"{{type: value_count, rules: [rule1, rule2], {span}, condition: {{field: event.action, gt: 1}}}}"
    return rules(
        folder,
        a=detection("one: {audit.outcome: denied}\ncondition: one"),
        b=detection("one: {event.severity|gte: 3}\ncondition: one", number=2, custom="{cooldown: 10s}"),
        c=correlation(f"{{type: event_count, rules: [rule1], {span}, condition: {{gte: 3}}}}", number=3),
        d=correlation(f"{{type: temporal_ordered, rules: [rule3, rule2], {span}}}", number=4),
        e=correlation(f"{{type: temporal, rules: [rule1, rule2], {span}}}", number=5),
        f=correlation(values, number=6),
        **texts,
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(records=streams(), cuts=st.sets(st.integers(0, 59), max_size=6))
def test_findings_do_not_depend_on_portions(mixed: Rules, records: list[Record], cuts: set[int]) -> None:
    """Put away and brought back between any two records, the engine finds the same, and remembers the same."""
    whole, engine = Engine(mixed), Engine(mixed)
    for index, record in enumerate(records):
        if index in cuts:
            data = engine.snapshot()
            engine = Engine.restore(mixed, data)
            assert engine.snapshot() == data
        assert engine.feed(index, record) == whole.feed(index, record)
    assert engine.snapshot() == whole.snapshot()
    assert whole.unread == 0


def test_streams_reach_every_rule(mixed: Rules) -> None:
    """The property above says something of each rule only if each gives findings."""
    seen: set[str] = set()

    @settings(max_examples=120, deadline=None, database=None, derandomize=True)
    @given(records=streams())
    def collect(records: list[Record]) -> None:
        seen.update(one.title for one in findings(mixed, records))

    collect()
    quiet = {"Rule 11"}  # a baseline needs more history than a short stream has
    assert {rule.title for rule in mixed.rules if rule.alone} - quiet <= seen
