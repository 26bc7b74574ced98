"""The page says what the code does: the table of rules, the examples, the pipeline for converters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sigma.backends.test.backend import TextQueryTestBackend
from sigma.collection import SigmaCollection
from sigma.processing.pipeline import ProcessingPipeline

from audit_middleware.detectors import finding, own, read_custom, read_detection, windows
from audit_middleware.detectors.engine import Engine
from audit_middleware.detectors.finding import LEVELS
from audit_middleware.detectors.load import SHIPPED, load_rules
from audit_middleware.policy.document import MapNode, ScalarNode, compose
from audit_middleware.policy.findings import Findings
from tests.detectors.support import request, write_rules
from tests.detectors.test_shipped import set_roles

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "detectors.md").read_text()
YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.S | re.M)


def described(path: str) -> str:
    """A rule's description, as one line."""
    root = compose(Path(path).read_text(), Findings(path))
    assert isinstance(root, MapNode)
    node = root.items["description"].value
    assert isinstance(node, ScalarNode)
    return " ".join(node.text.split())


def rule_table() -> str:
    """The table of rules that give findings, gravest first."""
    rules = load_rules([], shipped=True)
    order = tuple(LEVELS)
    lines = ["| rule | level | finds | by |", "|---|---|---|---|"]
    for rule in sorted(rules.rules, key=lambda rule: (-order.index(rule.level), rule.name)):
        if rule.alone:
            by = ", ".join(f"`{name}`" for name in rule.group_by)
            lines.append(f"| `{rule.name}` | {rule.level} | {described(rules.sources[rule.id])} | {by} |")
    return "\n".join(lines)


def test_the_page_lists_the_rules() -> None:
    found = re.search(r"<!-- rules -->\n(.*?)\n?<!-- /rules -->", PAGE, re.S)
    assert found is not None
    assert found[1] == rule_table(), f"docs/detectors.md should have:\n{rule_table()}"


def test_examples_are_rules(tmp_path: Path) -> None:
    texts = [text for text in YAML if text.startswith("title:")]
    assert len(texts) == 2
    folder = write_rules(tmp_path, **{f"rule{at}": text for at, text in enumerate(texts)})
    loaded = {rule.name: rule for rule in load_rules([folder], shipped=True).rules}
    example = loaded["address_changed_at_night"]
    assert example.respond is not None
    assert example.respond.seconds == 900


def test_the_pipeline_makes_conditions_of_the_logsource() -> None:
    (text,) = [text for text in YAML if "transformations:" in text]
    backend = TextQueryTestBackend(processing_pipeline=ProcessingPipeline.from_yaml(text))
    queries = [str(query) for query in backend.convert(SigmaCollection.load_ruleset([SHIPPED / "sigma"]))]
    assert all("audit.kind" in query and "event.module" in query for query in queries)
    assert any("'audit.kind'=\"control\"" in query for query in queries)


def test_modifiers_and_detectors_are_described() -> None:
    for modifier in read_detection._MODIFIERS:
        assert re.search(rf"\\\|{modifier}\b|`{modifier}`", PAGE), modifier
    for kind, (options, _) in read_custom._TYPES.items():
        rows = re.findall(rf"^\| `{kind}` \|.*$", PAGE, re.M)
        assert any(all(f"`{name}`" in row for name in options) for row in rows), kind


def test_members_of_a_finding_are_described() -> None:
    engine = Engine(load_rules([], shipped=True))
    engine.feed(0, request())
    (found,) = engine.feed(1, set_roles(1))
    section = PAGE.split("## What a finding says")[1].split("## ")[0]
    for name in found.extra():
        assert f"`{name}`" in section, name


@pytest.mark.parametrize("number", ["10,000", "50,000", "1,000", "128", "96", "64"])
def test_limits_are_those_of_the_code(number: str) -> None:
    limits = (windows.MAX_GROUPS, own._VALUES, own._PROCESSES, own._INTERVALS, own._BUCKETS, finding.MAX_EVIDENCE)
    assert int(number.replace(",", "")) in limits
    assert number in PAGE
