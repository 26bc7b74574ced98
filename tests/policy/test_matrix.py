"""The matrix says what the engine decides, in every format."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from typing import Any

from hypothesis import given, settings

from audit_middleware.model import ANONYMOUS, NOBODY, Resource, Subject
from audit_middleware.policy import loads
from audit_middleware.policy.matrix import Matrix, matrix
from tests.policy.generated import attributes, policies, resources, subjects
from tests.policy.samples import BILLING

POLICY = loads(BILLING)


def text(found: Matrix, action: str, caller: str) -> str:
    (row,) = [row for row in found.rows if row.action == action]
    return str(row.cells[found.callers.index(caller)])


def test_cells_say_what_each_role_may_do() -> None:
    found = matrix(POLICY)
    assert found.callers == ("anyone", "authenticated", "viewer", "clerk", "admin", "contractor")
    network = 'not if context.ip in_cidr ["10.9.0.0/16"]'
    assert text(found, "invoice.read", "admin") == "allow"
    assert text(found, "invoice.read", "anyone") == "deny"
    assert text(found, "invoice.delete", "viewer") == "deny"
    assert text(found, "invoice.delete", "clerk") == f"if resource.owner same_as subject.id, {network}"
    assert text(found, "invoice.delete", "admin") == f"allow, {network}"
    assert text(found, "invoice.create", "contractor") == "deny"
    assert text(found, "static.read", "anyone") == "allow"


def test_rows_and_columns_can_be_chosen_and_alternatives_are_told() -> None:
    policy = loads(
        "version: 1\nname: p\nroles: {a: {}}\nactions:\n  x.y:\n    mode: monitor\n    allow:\n"
        "      - {name: r, roles: [a], when: {resource.m: 1, resource.n: 2}}\n"
        "      - {name: s, roles: [a], when: {resource.o: 3}}\n  z.z: {}\n"
    )
    found = matrix(policy, roles=("a",), actions="x.*")
    assert [row.action for row in found.rows] == ["x.y"]
    assert found.callers == ("a",)
    assert str(found.rows[0].cells[0]) == "if (resource.m equals 1 and resource.n equals 2) or resource.o equals 3"
    assert found.rows[0].notes == ("monitored: requests pass whatever is decided",)


@settings(deadline=None, max_examples=200)
@given(policies, subjects, resources, attributes)
def test_a_cell_that_is_sure_is_right_for_every_request(
    source: dict[str, Any], who: Subject, what: Resource, context: dict[str, Any]
) -> None:
    policy = loads(json.dumps(source))
    found = matrix(policy)
    columns = [*(Subject(who.id, roles=(role,), properties=who.properties) for role in policy.roles)]
    properties = who.properties
    subject_of = dict(zip(policy.roles, columns, strict=True))
    subject_of["authenticated"] = Subject(who.id, properties=properties)
    subject_of["anyone"] = Subject(NOBODY.id, ANONYMOUS, properties=properties)
    for name, cell in zip(found.callers, found.rows[0].cells, strict=True):
        effect = policy.evaluate("a.b", subject_of[name], what, context).effect
        assert cell.effect in (effect, "conditional")


def test_csv_is_a_table_that_no_spreadsheet_computes() -> None:
    rows = list(csv.reader(io.StringIO(matrix(POLICY).to_csv())))
    assert rows[0] == ["action", *matrix(POLICY).callers, "notes"]
    assert {len(row) for row in rows} == {8}
    strange = loads("version: 1\nname: p\nroles: {'=1+1': {}}\nactions: {a.b: {allow: ['=1+1']}}\n")
    assert "'=1+1" in matrix(strange).to_csv().splitlines()[0].split(",")


class Page(HTMLParser):
    """Checks that what is opened is closed, and keeps the tags and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_one_well_formed_page_with_headers_for_rows_and_columns() -> None:
    strange = BILLING.replace("contractor", "'<script>alert(1)</script>'")
    found = matrix(loads(strange))
    page = Page()
    page.feed(found.to_html())
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert "<script>alert(1)</script>" in page.text
    assert not {"link", "img", "iframe"} & set(tags), "the page must need nothing else"
    scopes = [attributes["scope"] for tag, attributes in page.tags if tag == "th"]
    assert scopes.count("col") == len(found.callers) + 1
    assert scopes.count("row") == len(found.rows)
    assert ("html", {"lang": "en"}) in page.tags
    assert {"title", "main", "h1", "caption"} <= set(tags)
    # Told by words and signs, not by colour alone.
    denied = [attributes["class"] for tag, attributes in page.tags if tag == "td"].count("deny")
    assert denied == page.text.count("deny") > 0


def test_json_holds_rules_and_conditions() -> None:
    body = json.loads(json.dumps(matrix(POLICY).to_dict()))
    (delete,) = [row for row in body["actions"] if row["action"] == "invoice.delete"]
    assert delete["cells"]["clerk"] == {
        "effect": "conditional",
        "when": [{"rule": "owner-clerk", "condition": "resource.owner same_as subject.id"}],
        "unless": [{"rule": "guest-network", "condition": 'context.ip in_cidr ["10.9.0.0/16"]'}],
    }
