"""The index template and the saved objects for Kibana: they know the fields that are sent, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from audit_middleware.cli import app
from audit_middleware.followers.destinations.elasticsearch import saved_objects, template
from audit_middleware.followers.shape import Shapes
from audit_middleware.followers.sink import Item
from audit_middleware.formats.facts import severity
from tests.formats.records import RECORDS
from tests.formats.schema_files import PUBLISHED, published
from tests.formats.test_schemas import flattened

MAPPED = json.loads(template())["template"]["mappings"]
SHAPES = Shapes("ecs", "example.com/log", stream="logs-audit-test")
FREE = {"audit.extra", "audit.impact", "audit.subject.properties", "audit.resource.properties"}


def documents() -> list[dict[str, Any]]:
    return [json.loads(SHAPES.shape(Item(7, json.dumps(record).encode()))) for record in RECORDS.values()]


def leaves(properties: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in properties.items():
        if "properties" in value:
            yield from leaves(value["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name, value


TYPES = {name: value["type"] for name, value in leaves(MAPPED["properties"])}


def test_every_field_that_is_sent_is_mapped_and_no_other() -> None:
    sent = {name for document in documents() for name, _ in flattened(document)}
    assert sent <= set(TYPES)
    assert set(TYPES) - sent <= {"audit.decision.detail", "audit.source.detail", "http.response.body.content"}, (
        "no record of the set has these"
    )
    assert MAPPED["dynamic"] is False


@published
def test_types_are_those_of_ecs() -> None:
    fields = json.loads((PUBLISHED / "ecs-9.4.0-fields.json").read_text())
    for name, kind in TYPES.items():
        if not name.startswith("audit."):
            assert kind == fields[name][0], name


def test_values_are_of_the_types_that_are_mapped() -> None:
    for document in documents():
        for name, value in flattened(document):
            for one in value if isinstance(value, list) else [value]:
                assert isinstance(one, int if TYPES[name] == "long" else str), name


def test_what_nobody_can_use_as_a_filter_is_text_and_a_bad_value_refuses_no_record() -> None:
    assert {TYPES[name] for name in FREE} == {"match_only_text"}
    for name, value in leaves(MAPPED["properties"]):
        if value["type"] in ("ip", "long", "date") and name != "@timestamp":
            assert value["ignore_malformed"] is True, name
        if value["type"] == "keyword":
            assert value["ignore_above"] == 1024, name


def test_the_saved_objects_fit_together_and_name_only_fields_of_the_template() -> None:
    objects = [json.loads(line) for line in saved_objects().splitlines()]
    known = {(one["type"], one["id"]): one for one in objects}
    assert len(known) == len(objects) == 3
    view = known["index-pattern", "audit-middleware-records"]
    assert view["attributes"]["title"] in json.loads(template())["index_patterns"]
    assert view["attributes"]["timeFieldName"] in TYPES
    searches = [one for one in objects if one["type"] == "search"]
    assert len(searches) == 2
    for search in searches:
        source = json.loads(search["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
        names = {reference["name"]: (reference["type"], reference["id"]) for reference in search["references"]}
        assert set(names.values()) <= set(known)
        assert source["indexRefName"] in names
        asked = re.findall(r"([\w.@]+) *(?::|>=)", source["query"]["query"])
        assert asked
        for field in (*asked, *search["attributes"]["columns"], *(name for name, _ in search["attributes"]["sort"])):
            assert field in TYPES, field


@pytest.mark.parametrize(
    ("title", "meant"),
    [
        (
            "denied and failed",
            lambda one: one["decision"]["effect"] == "deny" or one["outcome"] not in ("success", None),
        ),
        ("high severity", lambda one: severity(one) in ("high", "critical")),
    ],
)
def test_the_searches_find_what_they_say(title: str, meant: Callable[[dict[str, Any]], bool]) -> None:
    """Asked of the documents by hand, as the two queries are written."""
    objects = [json.loads(line) for line in saved_objects().splitlines()]
    (search,) = [one for one in objects if title in one["attributes"]["title"]]
    query = json.loads(search["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]["query"]
    assert query in ('event.type : "denied" or event.outcome : "failure"', "event.severity >= 3")

    def finds(event: dict[str, Any]) -> bool:
        if "severity" in query:
            return bool(event["severity"] >= 3)
        return "denied" in event["type"] or event["outcome"] == "failure"

    found = {name for name, document in zip(RECORDS, documents(), strict=True) if finds(document["event"])}
    assert found == {name for name, record in RECORDS.items() if meant(record)}
    assert 0 < len(found) < len(RECORDS)


def test_the_command_prints_both(tmp_path: Path) -> None:
    runner = CliRunner()
    assert json.loads(runner.invoke(app, ["followers", "template", "elasticsearch"]).stdout) == json.loads(template())
    assert runner.invoke(app, ["followers", "template", "kibana"]).stdout == saved_objects()
    assert runner.invoke(app, ["followers", "template", "splunk"]).exit_code == 2
