"""Golden files, and what each destination's own schema says of them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from audit_middleware.errors import ConfigError
from audit_middleware.formats import FORMATS, format_named
from audit_middleware.ledger.canonical import decode, encode
from tests.formats.golden import page, path_of, text_of
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.records import RECORDS
from tests.formats.schema_files import PUBLISHED, errors, ocsf_schema, own, published

ROOT = Path(__file__).resolve().parents[2]
NAMES = list(RECORDS)


def made(form: str, name: str) -> Any:
    """One record of the set in one format, as parsed JSON."""
    return json.loads(FORMATS[form].encoder()(RECORDS[name]))


@pytest.mark.parametrize("name", FORMATS)
def test_the_golden_file_is_what_the_format_makes(name: str) -> None:
    assert path_of(FORMATS[name]).read_text() == text_of(FORMATS[name]), (
        "look at the change, then run: python -m tests.formats.golden"
    )


def test_the_page_has_the_examples_of_the_golden_files() -> None:
    text = (ROOT / "docs" / "exports.md").read_text()
    assert page() == text, "run: python -m tests.formats.golden"
    for name in FORMATS:
        assert f"<!-- example: {name} -->" in text, name


def test_every_field_of_a_record_is_in_the_pages_table() -> None:
    text = (ROOT / "docs" / "exports.md").read_text()
    for name in RECORDS["allowed"]:
        assert f"| `{name}" in text or f"`{name}`" in text, name


def everything() -> str:
    """One hash over all records in all formats."""
    return hashlib.sha256(b"".join(f.encoder()(r) for f in FORMATS.values() for r in RECORDS.values())).hexdigest()


def test_output_does_not_depend_on_the_process() -> None:
    """Another process, other hash seed: the same bytes."""
    code = "from tests.formats.test_schemas import everything; print(everything())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == everything()


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_not_changed_by_being_exported(name: str) -> None:
    before = json.dumps(RECORDS[name])
    for form in FORMATS.values():
        form.encoder()(RECORDS[name])
    assert json.dumps(RECORDS[name]) == before


@pytest.mark.parametrize("name", NAMES)
def test_jsonl_is_the_entry(name: str) -> None:
    line = FORMATS["jsonl"].encoder()(RECORDS[name])
    assert line == encode(RECORDS[name])
    assert decode(line) == RECORDS[name]


# --- the schemas of the destinations ----------------------------------------------------------------------------------


CLASSES = {"role_change": 3005, "account_created": 3001, "finding": 2004, "finding_bare": 2004}


@published
@pytest.mark.parametrize("name", NAMES)
def test_ocsf(name: str) -> None:
    event = made("ocsf", name)
    assert event["class_uid"] == CLASSES.get(name, 6003)
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert errors(ocsf_schema("1.8.0", event["class_uid"]), event) == []
    wrong = event | {"type_uid": 1, "nonsense": 1}
    assert len(errors(ocsf_schema("1.8.0", event["class_uid"]), wrong)) == 2, "the schema refuses something"


@published
@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLASSES])
def test_ocsf_with_integrity(name: str) -> None:
    event = made("ocsf-1.9", name)
    assert errors(ocsf_schema("1.9.0-dev", 6003), event) == []
    fingerprint = event["attestation_list"][0].pop("fingerprint")
    assert fingerprint["value"] == hashlib.sha256(encode(event)).hexdigest()


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flattened(item, f"{prefix}{name}.")
    else:
        yield prefix[:-1], value


@published
@pytest.mark.parametrize("name", NAMES)
def test_ecs(name: str) -> None:
    fields = json.loads((PUBLISHED / "ecs-9.4.0-fields.json").read_text())
    allowed = json.loads((PUBLISHED / "ecs-9.4.0-event-allowed-values.json").read_text())
    document = made("ecs", name)
    numbers = {"long", "float", "integer", "scaled_float"}
    for dotted, value in flattened(document):
        if dotted.startswith("audit."):
            continue
        assert dotted in fields, dotted
        kind, _, is_array = fields[dotted]
        assert isinstance(value, list) == bool(is_array), dotted
        if kind in numbers:
            assert isinstance(value, int), dotted
        elif not is_array:
            assert isinstance(value, str), dotted
    event = document["event"]
    assert event["kind"] in allowed["event.kind"]
    assert event["outcome"] in allowed["event.outcome"]
    for kind in event["type"]:
        assert any(kind in allowed["event.category"][category] for category in event["category"]), kind
    assert not any(isinstance(value, dict) for _, value in flattened(document["audit"]))


@published
@pytest.mark.parametrize("name", NAMES)
def test_cloudevents(name: str) -> None:
    event = made("cloudevents", name)
    assert errors(json.loads((PUBLISHED / "cloudevents-1.0.schema.json").read_text()), event) == []
    assert all(attribute.isalnum() and attribute.islower() for attribute in event)
    assert event["data"] == RECORDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes(name: str) -> None:
    schema = own("k8s-audit.k8s.io-v1-Event")
    assert errors(schema, made("k8s", name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_datadog(name: str) -> None:
    item = made("datadog", name)
    assert errors(own("datadog-http-log-item"), item) == []
    assert len(list(flattened(item))) <= 256, "the intake takes so many attributes"
    assert item["ddtags"].count(",") <= 2


@pytest.mark.parametrize("name", NAMES)
def test_cloudtrail(name: str) -> None:
    element = made("cloudtrail", name)
    data = element["eventData"]
    schema = own("cloudtrail-lake-eventData")
    assert errors(schema, json.loads(data)) == []
    checksum = base64.b64encode(hashlib.sha256(data.encode()).digest()).decode()
    assert element == {"id": RECORDS[name]["action_id"], "eventData": data, "eventDataChecksum": checksum}


@pytest.mark.parametrize("name", NAMES)
def test_otlp(name: str) -> None:
    """OTLP/JSON differs from the JSON of protobuf in one thing: ids are hexadecimal."""
    data = made("otlp", name)
    (line,) = data["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    for member in ("traceId", "spanId"):
        if member in line:
            line[member] = base64.b64encode(bytes.fromhex(line[member])).decode()
    parsed = json_format.ParseDict(data, ExportLogsServiceRequest())
    (got,) = parsed.resource_logs[0].scope_logs[0].log_records
    record = RECORDS[name]
    known = {one.key: one.value for one in got.attributes}
    assert known["log.record.uid"].string_value == record["action_id"]
    assert known["user.id"].string_value == record["user_id"]
    assert (
        [one.string_value for one in known["user.roles"].array_value.values] == record["subject"]["roles"]
        if (record["subject"]["roles"])
        else "user.roles" not in known
    )
    assert got.event_name == (record["event"] or record["action"] or "GET")
    assert got.trace_id.hex() == (record["trace"]["trace_id"] or "")
    assert got.time_unix_nano % 1_000_000_000 == 123_456_000


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_read_back(name: str) -> None:
    record = RECORDS[name]
    cef = parse_cef(FORMATS["cef"].encoder()(record).decode())
    assert cef.header[:3] == ["audit_middleware", "billing", "3.2.0"]
    assert cef.fields["externalId"] == record["action_id"]
    leef = parse_leef(FORMATS["leef"].encoder()(record).decode())
    assert leef.header[:3] == ["audit_middleware", "billing", "3.2.0"]
    assert leef.fields["externalId"] == record["action_id"]
    syslog = parse_rfc5424(FORMATS["rfc5424"].encoder()(record).decode())
    assert int(syslog.header[0]) // 8 == 13
    assert syslog.header[1:5] == [record["timestamp"], "web-1", "billing", "4242"]
    assert syslog.fields["action_id"] == record["action_id"]
    assert cef.fields["msg"] == leef.fields["msg"] or name == "hostile"
    for fields, user, outcome in ((cef.fields, "suser", "outcome"), (leef.fields, "usrName", "outcome")):
        assert fields[outcome] == (record["outcome"] or "intent")
        assert name == "hostile" or fields[user] == record["user_id"]


def test_options_are_checked() -> None:
    record = RECORDS["allowed"]
    assert b"[audit@64001 " in FORMATS["rfc5424"].encoder(enterprise=64001)(record)
    assert b'recipientAccountId\\":\\"123456789012' in FORMATS["cloudtrail"].encoder(account="123456789012")(record)
    with pytest.raises(ConfigError, match="twelve digits"):
        FORMATS["cloudtrail"].encoder(account="12")
    with pytest.raises(ConfigError, match="private enterprise number"):
        FORMATS["rfc5424"].encoder(enterprise=0)
    with pytest.raises(ConfigError, match="takes no account"):
        FORMATS["ecs"].encoder(account="123456789012")
    with pytest.raises(ConfigError, match="there are jsonl, ocsf"):
        format_named("xml")
