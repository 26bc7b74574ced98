"""Log and index beside a record: the same shape with them in it, read back from it, and never mistaken for content."""

from __future__ import annotations

import json
from typing import Any

import pytest

from audit_middleware.errors import ConfigError
from audit_middleware.formats import FORMATS, Place
from audit_middleware.formats.fields import LEAST
from tests.formats.parsing import parse_cef, parse_leef, parse_rfc5424
from tests.formats.records import RECORDS
from tests.formats.schema_files import PUBLISHED, errors, ocsf_schema, own, published
from tests.formats.test_injection import PLACES, with_text

HERE = Place("audit.example.com/billing", 90071992547)
ODD = Place('audit.example.com/a|b=c]"d\\e', 3)
PLACED = [name for name, form in FORMATS.items() if form.locate is not None]
FORGED = [
    " deviceExternalId=evil flexNumber1=9 flexNumber1Label=log index",
    "\tlog=evil\tindex=9",
    ' log="evil" index="9"] ',
    '"] [audit@32473 log="evil" index="9"] ',
    '{"log":"evil","index":9}',
]


def fields(name: str, line: bytes) -> dict[str, str]:
    return {"cef": parse_cef, "leef": parse_leef, "rfc5424": parse_rfc5424}[name](line.decode()).fields


def test_only_the_closed_lake_has_no_room_for_it() -> None:
    assert set(FORMATS) - set(PLACED) == {"cloudtrail"}
    record = RECORDS["denied"]
    assert FORMATS["cloudtrail"].placing()(record, HERE) == FORMATS["cloudtrail"].encoder()(record)


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("record", RECORDS)
def test_the_place_is_read_back(name: str, record: str) -> None:
    form = FORMATS[name]
    assert form.locate is not None
    for place in (HERE, ODD):
        assert form.locate(form.placing()(RECORDS[record], place)) == place
    with pytest.raises(ValueError, match="no log and index"):
        form.locate(form.encoder()(RECORDS[record]))


@pytest.mark.parametrize("name", PLACED)
@pytest.mark.parametrize("text", FORGED)
def test_content_is_not_taken_for_a_place(name: str, text: str) -> None:
    form = FORMATS[name]
    assert form.locate is not None
    assert form.locate(form.placing()(with_text(text, *PLACES), HERE)) == HERE


@pytest.mark.parametrize("record", RECORDS)
def test_the_rest_is_what_an_export_has(record: str) -> None:
    for name in ("cef", "leef", "rfc5424"):
        with_place = fields(name, FORMATS[name].placing()(RECORDS[record], HERE))
        assert with_place.items() >= fields(name, FORMATS[name].encoder()(RECORDS[record])).items()
        assert len(with_place) - len(fields(name, FORMATS[name].encoder()(RECORDS[record]))) in (2, 3)

    def made(name: str) -> tuple[Any, Any]:
        form = FORMATS[name]
        return json.loads(form.encoder()(RECORDS[record])), json.loads(form.placing()(RECORDS[record], HERE))

    told = {"origin": HERE.origin, "index": HERE.index}
    for name, inside in (("ecs", "audit"), ("datadog", "audit"), ("ocsf", "unmapped")):
        bare, placed = made(name)
        assert placed[inside].pop("log") == told
        assert placed == bare
    bare, placed = made("cloudevents")
    assert placed == bare | {"logorigin": HERE.origin, "logindex": str(HERE.index)}
    bare, placed = made("jsonl")
    assert placed == {"log": HERE.origin, "index": HERE.index, "record": bare}


@published
@pytest.mark.parametrize("record", [name for name in RECORDS if name not in ("role_change", "account_created")])
def test_the_schemas_of_destinations_take_it(record: str) -> None:
    def made(name: str) -> Any:
        return json.loads(FORMATS[name].placing()(RECORDS[record], HERE))

    event = made("ocsf")
    assert errors(ocsf_schema("1.8.0", event["class_uid"]), event) == []
    assert errors(json.loads((PUBLISHED / "cloudevents-1.0.schema.json").read_text()), made("cloudevents")) == []
    assert errors(own("k8s-audit.k8s.io-v1-Event"), made("k8s")) == []
    assert errors(own("datadog-http-log-item"), made("datadog")) == []


@pytest.mark.parametrize("name", ["cef", "leef", "rfc5424"])
@pytest.mark.parametrize("text", ["x" * 65_536, "\x00" * 9_000, '|=\\]"' * 5_000])
def test_a_line_can_be_cut_to_the_least_limit(name: str, text: str) -> None:
    form = FORMATS[name]
    line = form.placing(limit=LEAST)(with_text(text, *PLACES), HERE)
    assert len(line) <= LEAST
    assert form.locate is not None
    assert form.locate(line) == HERE


def test_the_stream_and_tags_of_a_destination() -> None:
    record = RECORDS["denied"]
    ecs = FORMATS["ecs"]
    found = json.loads(ecs.encoder(stream="logs-audit-billing")(record))
    assert found["data_stream"] == {"type": "logs", "dataset": "audit", "namespace": "billing"}
    assert found["event"]["dataset"] == "audit"
    found = json.loads(ecs.encoder(stream="audit")(record))
    assert "data_stream" not in found
    assert "dataset" not in found["event"]
    tagged = json.loads(FORMATS["datadog"].encoder(tags="team:billing,site:north")(record))
    assert tagged["ddtags"].endswith(",team:billing,site:north")
    refused: dict[str, dict[str, object]] = {
        "ecs": {"stream": "A B"}, "datadog": {"tags": "a, b"}, "cef": {"limit": 100},
    }  # fmt: skip
    for name, wrong in refused.items():
        with pytest.raises(ConfigError):
            FORMATS[name].encoder(**wrong)
