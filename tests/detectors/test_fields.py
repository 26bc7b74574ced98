"""A field's shortcut gives what the exported document holds; nothing that it may hold is unknown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.detectors.condition import decided
from audit_middleware.detectors.fields import ECS, View, field, known_names
from audit_middleware.detectors.load import load_rules
from audit_middleware.detectors.model import Detection
from audit_middleware.formats import ecs
from tests.detectors.support import Record, control, denied, request
from tests.formats.records import RECORDS

OPTIONAL_TEXT = st.none() | st.sampled_from(["", "a", "GET", "x.y"])


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {
        name: item for key, below in value.items() for name, item in flat(below, f"{path}.{key}".strip(".")).items()
    }


SEEN = [record for record in RECORDS.values() if record["action"] != "audit.finding"]
"""Rules do not look at findings, whose documents have fields of their own."""


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A record of any of the golden kinds, with what rules ask for made absent, empty or something else."""
    record = draw(st.sampled_from(SEEN))
    record = record | {
        "action": draw(OPTIONAL_TEXT),
        "event": draw(OPTIONAL_TEXT),
        "reason": draw(OPTIONAL_TEXT),
        "user_agent": draw(OPTIONAL_TEXT),
        "severity": draw(st.sampled_from(["info", "low", "medium", "high", "critical"])),
        "outcome": draw(st.sampled_from([None, "success", "failure", "denied", "error", "aborted"])),
        "sequence": draw(st.integers(0, 3)),
        "initiator_ip": draw(st.sampled_from([None, "", "unix:", "192.0.2.1", "2001:db8::7", "fe80::1%eth0"])),
    }
    record["subject"] = record["subject"] | {"roles": draw(st.lists(st.sampled_from(["a", "b"]), max_size=2))}
    record["subject"] |= {"tenant": draw(OPTIONAL_TEXT)}
    record["resource"] = record["resource"] | {"id": draw(OPTIONAL_TEXT), "type": draw(OPTIONAL_TEXT)}
    record["response"] = record["response"] | {"status": draw(st.sampled_from([None, 200, 404]))}
    return record


@given(records())
def test_shortcuts_say_what_the_exported_document_says(record: Record) -> None:
    document = flat(ecs.document(record))
    assert set(document) <= set(ECS)
    view = View(record)
    for name in ECS:
        known = field("ecs", name)
        assert known is not None
        assert known.get(view) == document.get(name), name
        if known.many:
            assert isinstance(document.get(name, []), list)


def test_every_field_occurs_in_some_document() -> None:
    seen = {name for record in SEEN for name in flat(ecs.document(record))}
    assert seen == set(ECS)


@given(records())
def test_what_is_decided_by_the_key_fields_is_so(record: Record) -> None:
    """The engine remembers answers by these fields: a record with the same ones must have the same answer."""
    for rule in load_shipped():
        answer = decided(rule.condition, View(record))
        assert answer in (None, rule.condition.holds(View(record)))


_SHIPPED: list[Detection] = []


def load_shipped() -> list[Detection]:
    if not _SHIPPED:
        _SHIPPED.extend(rule.body for rule in load_rules([], shipped=True).rules if isinstance(rule.body, Detection))
    return _SHIPPED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action", "invoice.read"),
        ("user_id", "ann"),
        ("subject.roles", ["clerk", "approver"]),
        ("subject.properties.department", "finance"),
        ("request.path_params.invoice_id", "1001"),
        ("response.error", None),
        ("impact.count", None),
        ("extra.anything.below", None),
        ("decision.inputs.values.x", None),
        ("flags", None),
    ],
)
def test_the_records_own_names(name: str, value: Any) -> None:
    known = field("audit", name)
    assert known is not None
    assert known.get(View(request())) == value


def test_below_a_list_all_items_count() -> None:
    started = control(0, "audit.started", extra={"heads": [{"place": "a", "problem": None}, {"place": "b"}]})
    places, problems = field("audit", "extra.heads.place"), field("audit", "extra.heads.problem")
    assert places is not None
    assert problems is not None
    assert places.get(View(started)) == ["a", "b"]
    assert problems.get(View(started)) is None


@pytest.mark.parametrize(
    "name", ["", "nothing", "user", "user.nothing", "subject", "subject.roles.x", "action.x", "extra"]
)
def test_names_that_are_no_field(name: str) -> None:
    assert field("ecs", name) is None
    assert (field("audit", name) is None) is (name != "extra") or name == "extra"


def test_names_to_suggest_are_fields() -> None:
    for taxonomy in ("ecs", "audit"):
        for name in known_names(taxonomy):
            below = field(taxonomy, name)
            assert below is not None or field(taxonomy, f"{name}.x") is not None, name
    assert decided is not None
    assert denied()["outcome"] == "denied"
