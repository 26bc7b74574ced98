"""Findings of detectors in the formats that know alerts; whatever stands in them, the export is valid."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit_middleware.formats import FORMATS
from audit_middleware.formats.facts import message
from audit_middleware.formats.fields import LIMIT
from audit_middleware.formats.findings import finding
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.records import RECORDS
from tests.formats.schema_files import errors, ocsf_schema, published

MEMBERS = sorted(RECORDS["finding"]["extra"])
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(max_size=20)
    | st.sampled_from(["high", "<!channel>", "@here", "\n|=", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
calm = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def of(extra: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECORDS["finding"]), "extra": extra, **changes}


def made(form: str, record: dict[str, Any]) -> Any:
    return json.loads(FORMATS[form].encoder()(record))


def test_a_finding_is_an_alert_wherever_there_are_any() -> None:
    record = RECORDS["finding"]
    said = "Many denials of one user: ann, observed 41, usually 3 a day"
    ocsf = made("ocsf", record)
    assert (ocsf["class_uid"], ocsf["type_uid"], ocsf["severity_id"], ocsf["is_alert"]) == (2004, 200401, 4, True)
    assert ocsf["finding_info"]["uid"] == "f-019aab0d-1"
    assert ocsf["finding_info"]["analytic"]["uid"] == "denial-burst"
    assert [one["uid"] for one in ocsf["finding_info"]["related_events"]] == ["1801", "1803", "1809"]
    assert ocsf["end_time"] - ocsf["start_time"] == 311_750
    assert ocsf["unmapped"]["extra"] == record["extra"], "nothing of it is lost"
    ecs = made("ecs", record)
    assert (ecs["event"]["kind"], ecs["event"]["severity"], ecs["message"]) == ("alert", 3, said)
    assert ecs["rule"] == {"id": "denial-burst", "name": "Many denials of one user", "category": "denials"}
    assert (ecs["event"]["start"], ecs["event"]["end"]) == ("2026-11-22T10:10:00.250Z", "2026-11-22T10:15:12.000Z")
    assert (ecs["user"]["id"], ecs["related"]["user"]) == ("ann", ["ann", "system"])
    datadog = made("datadog", record)
    assert (datadog["status"], datadog["usr"]["id"], datadog["audit"]["rule"]) == ("error", "ann", "denial-burst")
    event = made("cloudevents", record)
    assert (event["subject"], event["severitytext"], event["severitynumber"]) == ("finding/f-019aab0d-1", "high", 17)
    cef = parse_cef(FORMATS["cef"].encoder()(record).decode())
    assert cef.header[3:6] == ["denial-burst", "Many denials of one user", "8"]
    assert (cef.fields["duser"], cef.fields["cnt"], cef.fields["msg"]) == ("ann", "41", said)
    leef = parse_leef(FORMATS["leef"].encoder()(record).decode())
    assert (leef.fields["sev"], leef.fields["rule"], leef.fields["target"]) == ("8", "denial-burst", "ann")
    assert parse_rfc5424(FORMATS["rfc5424"].encoder()(record).decode()).header[0] == "107"


@pytest.mark.parametrize(
    ("level", "severity_id", "cef"),
    [("informational", 1, "2"), ("low", 2, "4"), ("medium", 3, "6"), ("high", 4, "8"), ("critical", 5, "10"),
     ("dreadful", 3, "6"), (None, 3, "6"), (["high"], 3, "6")],
)  # fmt: skip
def test_the_level_is_the_severity_and_else_that_of_the_record(level: Any, severity_id: int, cef: str) -> None:
    record = of({"level": level})
    assert made("ocsf", record)["severity_id"] == severity_id
    assert parse_cef(FORMATS["cef"].encoder()(record).decode()).header[5] == cef


def test_only_control_records_are_findings() -> None:
    """A route of a service may have an action of this name; its extra is what a handler said."""
    record = of(RECORDS["finding"]["extra"], kind="outcome")
    assert finding(record) is None
    assert made("ocsf", record)["class_uid"] == 6003
    assert made("ecs", record)["event"]["kind"] == "event"


def check(extra: dict[str, Any]) -> dict[str, Any]:
    record = of(extra)
    for name, form in FORMATS.items():
        data = form.encoder()(record)
        if form.media_type.startswith("text/"):
            assert len(data) <= LIMIT, name
            assert record["action_id"] in data.decode()
        else:
            json.loads(data)
    said = message(record)
    assert not re.search(r"[<>]|(?<!\w)@\w", said)
    assert len(said.encode()) <= 512
    return record


@calm
@given(st.dictionaries(st.sampled_from(MEMBERS), anything))
@example({"group": {"": "x", "a": None, "b": 1}, "evidence": [True, -1, 2, "3"], "evidence_count": -1})
@example({"first": "9999-12-31T23:59:59-23:59", "last": "0001-01-01T00:00:00+23:59"})
@example(
    {"title": "<!channel> @here", "observed": "x" * 60_000, "user_id": "\u202e" * 9_000, "group": {"a": "b" * 9_000}}
)
@published
def test_any_finding_is_a_valid_event(extra: dict[str, Any]) -> None:
    event = made("ocsf", check(extra))
    assert errors(ocsf_schema("1.8.0", 2004), event) == []
    assert event["unmapped"].get("extra", {}) == extra


def test_a_long_finding_is_cut_to_what_destinations_take() -> None:
    record = check({"evidence": list(range(5_000)), "group": {f"k{n}": "v" for n in range(500)}, "title": "x" * 60_000})
    event = made("ocsf", record)
    assert len(event["finding_info"]["related_events"]) == 64
    assert event["finding_info"]["related_events_count"] == event["count"] == 5_000
    assert len(event["evidences"][0]["data"]) == 64
    assert len(event["finding_info"]["title"].encode()) <= 1024
