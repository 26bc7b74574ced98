"""What a client sends cannot make a line, a field or a mention in any format: parsed back, each value is where it was.

The parsers are those of `parsing` and of the standard library, not ours.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit_middleware.formats import FORMATS
from audit_middleware.formats.fields import LIMIT
from audit_middleware.formats.text import sentence, shortened, visible
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.records import RECORDS, Record

ENCODE: dict[str, Callable[[Record], bytes]] = {name: form.encoder() for name, form in FORMATS.items()}
LINES = [name for name, form in FORMATS.items() if form.media_type.startswith("text/")]

nasty = st.sampled_from(
    ["\n", "\r\n", "|", "=", "\\", "]", '"', "\t", "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\u202e",
     "\ud800", "\udfff", "\ufeff", "<!channel>", "@here ", "<@U1>", " suser=root", " cs1=x", "\\=", "\\n", "\\\\",
     '"] [audit@32473 user_id="root"]', "CEF:0|a|b|c|d|e|10|", "LEEF:2.0|a|b|c|d|x09|", "\tusrName=root",
     "é", "\U0001d518", "…"]
)  # fmt: skip
hostile = (
    st.lists(st.one_of(nasty, st.text(alphabet=st.characters(), max_size=6)), min_size=1, max_size=8)
    .map("".join)
    .filter(bool)
)
calm = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

PLACES: dict[str, Callable[[Record, str], None]] = {
    "user_id": lambda record, text: record.update(user_id=text),
    "action": lambda record, text: record.update(action=text),
    "event": lambda record, text: record.update(event=text),
    "reason": lambda record, text: record.update(reason=text),
    "user_agent": lambda record, text: record.update(user_agent=text),
    "initiator_ip": lambda record, text: record.update(initiator_ip=text),
    "role": lambda record, text: record["subject"].update(roles=[text]),
    "subject_type": lambda record, text: record["subject"].update(type=text),
    "tenant": lambda record, text: record["subject"].update(tenant=text),
    "resource_id": lambda record, text: record["resource"].update(id=text),
    "resource_type": lambda record, text: record["resource"].update(type=text),
    "path": lambda record, text: record["request"].update(path=text),
    "query": lambda record, text: record["request"].update(query=text),
    "method": lambda record, text: record["request"].update(method=text),
    "rule": lambda record, text: record["decision"].update(rule=text),
    "correlation": lambda record, text: record["trace"].update(correlation_id=text),
    "trace": lambda record, text: record["trace"].update(trace_id=text, span_id=text),
    "service": lambda record, text: record["service"].update(name=text),
    "instance": lambda record, text: record["service"].update(instance=text),
    "environment": lambda record, text: record["service"].update(environment=text),
    "flag": lambda record, text: record.update(flags=[text]),
    "forwarded": lambda record, text: record["forwarded"].update(untrusted=[text]),
    "header": lambda record, text: record["request"].update(headers={"accept": text}),
    "extra": lambda record, text: record.update(extra={"note": text, "ocsf": text}),
    "impact": lambda record, text: record.update(impact={"before": text, "after": {"roles": [text]}, "count": 1}),
}


def with_text(text: str, *places: str) -> Record:
    """The denied record, or that of a role change, with a text in some places; all places if none is named."""
    record = copy.deepcopy(RECORDS["role_change"])
    for place in places or PLACES:
        PLACES[place](record, text)
    return record


def valid(text: str) -> str:
    """Lone surrogates are no text: U+FFFD stands for each."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def members(value: Any) -> Any:
    """The shape of JSON: names, without values."""
    if isinstance(value, dict):
        return {name: members(item) for name, item in value.items()}
    return [members(item) for item in value] if isinstance(value, list) else None


@calm
@given(hostile)
@example("\n".join("\r\u2028\u2029\x85\x0b\x0c\x1c"))
@pytest.mark.parametrize("name", FORMATS)
def test_a_record_is_one_line_and_keeps_its_identity(name: str, text: str) -> None:
    record = with_text(text)
    line = ENCODE[name](record)
    assert b"\n" not in line
    assert b"\r" not in line
    decoded = line.decode()  # valid UTF-8
    if name != "jsonl":  # canonical: only U+000A ends its lines
        assert len(decoded.splitlines()) == 1
    assert record["action_id"] in decoded
    if name not in LINES:
        json.loads(decoded)


@calm
@given(hostile, st.sampled_from(sorted(PLACES)))
@example("a=b c=d", "user_id")
@example("x\\", "reason")
@example(" ", "user_id")
def test_lines_say_what_the_record_says(text: str, place: str) -> None:
    record = with_text(text, place)
    cef = parse_cef(ENCODE["cef"](record).decode())
    leef = parse_leef(ENCODE["leef"](record).decode())
    syslog = parse_rfc5424(ENCODE["rfc5424"](record).decode())
    expected = {"user_id": record["user_id"], "reason": record["reason"], "user_agent": record["user_agent"],
                "tenant": record["subject"]["tenant"], "rule": record["decision"]["rule"],
                "correlation_id": record["trace"]["correlation_id"]}  # fmt: skip
    theirs = {
        "cef": ({"user_id": "suser", "reason": "reason", "user_agent": "requestClientApplication",
                 "tenant": "flexString1", "rule": "cs1", "correlation_id": "cs3"}, cef.fields),
        "leef": ({"user_id": "usrName", "reason": "reason", "user_agent": "userAgent", "tenant": "accountName",
                  "rule": "rule", "correlation_id": "correlationId"}, leef.fields),
        "rfc5424": ({name: name for name in expected}, syslog.fields),
    }  # fmt: skip
    for form, (names, fields) in theirs.items():
        for ours, value in expected.items():
            kept = re.sub(r"[^\r\n]+", lambda found: visible(found[0]), value) if form == "cef" else visible(value)
            assert fields[names[ours]] == kept, (form, ours)
    known = [parse_cef(ENCODE["cef"](RECORDS[name]).decode()).fields for name in RECORDS]
    assert set(cef.fields) <= set().union(*known) | {"shost", "c6a2", "c6a2Label"}
    assert len(syslog.header) == 7
    assert len(leef.header) == 4


@calm
@given(hostile, st.sampled_from(sorted(PLACES)))
def test_json_formats_have_the_same_members_whatever_the_text(text: str, place: str) -> None:
    """Text may change which known members there are (an address that is none), never add a name of its own."""
    record = with_text(text, place)
    for name in set(FORMATS) - set(LINES):
        names = _names_of(name, record)
        assert names <= KNOWN[name] | {"svc_name", "name", "uid", "headers", "note", "ocsf", "is_truncated"}, name


def _names_of(name: str, record: Record) -> set[str]:
    """Names of members; of OTLP also those of attributes, of CloudTrail also those of the JSON inside."""
    made = json.loads(ENCODE[name](record))
    if name == "cloudtrail":
        made = [made, json.loads(made["eventData"])]
    found = set(re.findall(r'"([^"\\]+)":', json.dumps(members(made))))
    if name == "otlp":
        line = made["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
        found |= {one["key"] for one in line["attributes"]}
    return found


def _names(name: str) -> set[str]:
    return set().union(*(_names_of(name, record) for record in RECORDS.values()))


KNOWN = {name: _names(name) for name in FORMATS if name not in LINES}


@calm
@given(hostile)
def test_json_keeps_text_as_it_is(text: str) -> None:
    record = with_text(text, "user_id", "reason", "extra")
    same = valid(text)
    assert json.loads(ENCODE["ocsf"](record))["actor"]["user"]["uid"] == same
    assert json.loads(ENCODE["ocsf"](record))["unmapped"]["extra"]["note"] == same
    assert json.loads(ENCODE["ecs"](record))["user"]["id"] == same
    assert json.loads(json.loads(ENCODE["ecs"](record))["audit"]["extra"])["note"] == same
    assert json.loads(ENCODE["datadog"](record))["usr"]["id"] == same
    assert json.loads(ENCODE["cloudevents"](record))["data"]["reason"] == same
    assert json.loads(ENCODE["k8s"](record))["user"]["username"] == same
    assert json.loads(ENCODE["jsonl"](record))["user_id"] == same
    data = json.loads(json.loads(ENCODE["cloudtrail"](record))["eventData"])
    assert data["userIdentity"]["principalId"] == same
    line = json.loads(ENCODE["otlp"](record))["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    assert {"key": "user.id", "value": {"stringValue": same}} in line["attributes"]


@calm
@given(hostile)
@example("<!channel> <@U1> @here <b>")
def test_messages_mention_nobody_and_are_printed(text: str) -> None:
    record = with_text(text)
    message = json.loads(ENCODE["ecs"](record))["message"]
    assert not re.search(r"[<>]", message)
    assert not re.search(r"(?<!\w)@\w", message)
    assert message.isprintable()
    assert len(message.encode()) <= 512


def test_an_address_of_mail_is_left_alone() -> None:
    assert sentence("ann@example.com") == "ann@example.com"
    assert sentence("@here ann") == "\uff20here ann"


@pytest.mark.parametrize("text", ["x" * 65_536, "\u2028" * 21_845, '"\\]=|' * 13_107, "\x00" * 65_536], ids=str.__len__)
@pytest.mark.parametrize("place", sorted(PLACES))
def test_large_values_are_cut_and_marked_where_there_is_a_limit(place: str, text: str) -> None:
    record = with_text(text, place)
    for name in LINES:
        line = ENCODE[name](record)
        assert len(line) <= LIMIT, name
        assert record["action_id"] in line.decode()
    assert len(json.loads(ENCODE["cloudtrail"](record))["eventData"].encode()) <= 256 * 1024
    assert len(ENCODE["datadog"](record)) <= 1_000_000
    for value in _texts(json.loads(ENCODE["ecs"](record))["audit"]):
        assert len(value.encode()) <= 65_536 * 6
    assert parse_rfc5424(ENCODE["rfc5424"](record).decode()).fields["action_id"] == record["action_id"]
    assert parse_cef(ENCODE["cef"](record).decode()).fields["externalId"] == record["action_id"]
    assert parse_leef(ENCODE["leef"](record).decode()).fields["externalId"] == record["action_id"]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def test_everything_large_at_once_still_fits() -> None:
    for text in ("x" * 65_536, "\x00" * 10_000, "|=\\]" * 5_000):
        record = with_text(text)
        for name in LINES:
            assert len(ENCODE[name](record)) <= LIMIT, name
        data = json.loads(json.loads(ENCODE["cloudtrail"](record))["eventData"])
        assert data["UID"] == record["action_id"]
    line = parse_cef(ENCODE["cef"](with_text("x" * 65_536)).decode())
    assert line.fields["suser"].endswith("…")
    assert len(line.fields["suser"].encode()) <= 1023


def test_an_event_that_is_too_large_says_what_was_left_out() -> None:
    record = copy.deepcopy(RECORDS["allowed"])
    record["extra"] = {"note": "\x01" * 65_536}
    data = json.loads(json.loads(ENCODE["cloudtrail"](record))["eventData"])
    assert data["additionalEventData"]["dropped_bytes"]["extra"] > 256 * 1024
    assert "extra" not in data["additionalEventData"]


def test_a_role_cannot_make_two() -> None:
    record = with_text("viewer,admin", "role")
    assert parse_cef(ENCODE["cef"](record).decode()).fields["spriv"] == "viewer\\x2cadmin"


@given(st.text(alphabet=st.characters(), max_size=60), st.integers(3, 40))
def test_shortened_text_fits_and_is_marked(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert len(valid(short).encode()) <= limit
    assert short == text or short.endswith("…") or valid(text) == short
