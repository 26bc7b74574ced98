"""What the loader accepts is Sigma: valid by the published schemas, readable by pySigma, and of the same meaning there.

The second evaluator here walks pySigma's parsed condition over the exported document, with Python's own `re`: it shares
nothing with the engine but the record.
"""

from __future__ import annotations

import json
import re
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sigma.backends.test.backend import TextQueryTestBackend
from sigma.collection import SigmaCollection
from sigma.conditions import ConditionAND, ConditionFieldEqualsValueExpression, ConditionNOT, ConditionOR
from sigma.rule import SigmaRule
from sigma.types import (
    SigmaBool,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SpecialChars,
)

from audit_middleware.detectors.fields import View
from audit_middleware.detectors.load import SHIPPED, load_rules
from audit_middleware.detectors.model import Correlation, Detection, Rule
from audit_middleware.errors import ConfigError
from audit_middleware.formats import ecs
from audit_middleware.policy.document import ListNode, MapNode, Node, ScalarNode, compose, typed
from audit_middleware.policy.findings import Findings
from tests.detectors.support import BASE
from tests.detectors.test_fields import flat, records
from tests.formats.schema_files import PUBLISHED, published

FILES = sorted(SHIPPED.rglob("*.yml"))


def plain(node: Node) -> Any:
    """A document as YAML 1.2 reads it."""
    if isinstance(node, MapNode):
        return {key: plain(pair.value) for key, pair in node.items.items()}
    return [plain(item) for item in node.items] if isinstance(node, ListNode) else typed(node)


def schema_errors(document: dict[str, Any]) -> list[str]:
    kind = "correlation-rules" if "correlation" in document else "detection-rule"
    schema = json.loads((PUBLISHED / f"sigma-{kind}-schema.json").read_text())
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    return [f"{list(error.path)}: {error.message}" for error in checker.iter_errors(document)]


# --- the shipped rules -----------------------------------------------------------------------------------------------


@published
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_shipped_rules_are_valid_by_the_published_schemas(path: Path) -> None:
    assert schema_errors(plain(compose(path.read_text(), Findings(path.name)))) == []


def test_shipped_rules_are_read_and_converted_by_pysigma() -> None:
    everything = SigmaCollection.load_ruleset([SHIPPED])
    assert len(everything.rules) == len(FILES)
    assert not everything.errors
    sigma = SigmaCollection.load_ruleset([SHIPPED / "sigma"])
    alone = {rule.name for rule in load_rules([SHIPPED / "sigma"], shipped=False).rules if rule.alone}
    queries = TextQueryTestBackend().convert(sigma)
    assert len(queries) == len(alone)
    assert any("user.id" in str(query) for query in queries)


def test_what_is_no_sigma_stands_apart() -> None:
    for rule in load_rules([SHIPPED / "sigma"], shipped=False).rules:
        assert isinstance(rule.body, Correlation) or rule.body.detector is None
    for rule in load_rules([SHIPPED / "own"], shipped=False).rules:
        assert isinstance(rule.body, Detection)
        assert rule.body.detector is not None


# --- an evaluator of pySigma's tree ----------------------------------------------------------------------------------


def text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def as_regex(value: SigmaString) -> str:
    wildcards = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}
    return "".join(re.escape(part) if isinstance(part, str) else wildcards[part] for part in value.s)  # type: ignore[index]


def matches(wanted: Any, found: Any) -> bool:
    """One value of a rule against one of a record."""
    if isinstance(wanted, SigmaCasedString):
        return re.fullmatch(as_regex(wanted), text(found), re.DOTALL) is not None
    if isinstance(wanted, SigmaString):
        return re.fullmatch(as_regex(wanted).lower(), text(found).lower(), re.DOTALL) is not None
    if isinstance(wanted, SigmaRegularExpression):
        flags = sum(getattr(re, flag.name) for flag in wanted.flags)
        return re.search(str(wanted.regexp), text(found), flags) is not None
    if isinstance(wanted, SigmaCompareExpression):
        if isinstance(found, bool) or not isinstance(found, int):
            return False
        number = wanted.number.number
        return {"LT": found < number, "LTE": found <= number, "GT": found > number, "GTE": found >= number}[
            wanted.op.name
        ]
    if isinstance(wanted, SigmaCIDRExpression):
        try:
            return isinstance(found, str) and ip_address(found) in wanted.network
        except ValueError:
            return False
    if isinstance(wanted, SigmaBool):
        return text(found).lower() == text(wanted.boolean) if not isinstance(found, int) else found is wanted.boolean
    assert isinstance(wanted, SigmaNumber)
    return not isinstance(found, bool) and text(found) == str(wanted.number)


def evaluate(node: Any, document: dict[str, Any]) -> bool:
    if isinstance(node, ConditionAND):
        return all(evaluate(one, document) for one in node.args)
    if isinstance(node, ConditionOR):
        return any(evaluate(one, document) for one in node.args)
    if isinstance(node, ConditionNOT):
        return not evaluate(node.args[0], document)
    assert isinstance(node, ConditionFieldEqualsValueExpression)
    found = document.get(node.field)
    if isinstance(node.value, SigmaExists):
        return (found is not None) is node.value.exists
    if isinstance(node.value, SigmaNull):
        return found is None
    values = found if isinstance(found, list) else [] if found is None else [found]
    if isinstance(node.value, SigmaFieldReference):
        other = document.get(node.value.field)
        others = other if isinstance(other, list) else [] if other is None else [other]
        return any(one == two and type(one) is type(two) for one in values for two in others)
    return any(matches(node.value, one) for one in values)


# --- rules of any shape ----------------------------------------------------------------------------------------------

FIELDS = (
    "event.action", "event.outcome", "user.id", "user.roles", "event.severity", "http.response.status_code",
    "source.ip", "tags", "event.type", "user.target.id", "audit.decision.effect",
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "a",
        "x.y",
        "X.Y",
        "x*",
        "*y",
        "?.y",
        "*",
        "x\\*",
        "\\\\",
        "ann",
        "Clerk",
        "cler?",
        "success",
        "200",
        "4*",
        "[a]",
        "a.b",
    ]
)
SCALARS = st.one_of(WORDS, st.integers(0, 4), st.sampled_from([200, 404]), st.booleans(), st.none())
PATTERNS = st.sampled_from(["^a", "x.y", "[A-Z]", "er$", "2..", "a|b", "(?:x)y?"])
NETWORKS = st.sampled_from(["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "198.51.100.0/24"])


@st.composite
def items(draw: st.DrawFn) -> tuple[str, Any]:
    field, kind = draw(st.sampled_from(FIELDS)), draw(st.integers(0, 7))
    if kind == 0:
        return f"{field}|exists", draw(st.booleans())
    if kind == 1:
        return f"{field}|fieldref", draw(st.sampled_from(FIELDS))
    if kind == 2:
        flags = draw(st.sampled_from(["", "|i", "|i|s", "|m"]))
        return f"{field}|re{flags}", draw(PATTERNS | st.lists(PATTERNS, min_size=1, max_size=2))
    if kind == 3:
        return f"{field}|cidr", draw(NETWORKS | st.lists(NETWORKS, min_size=1, max_size=2))
    if kind == 4:
        return f"{field}|{draw(st.sampled_from(['lt', 'lte', 'gt', 'gte']))}", draw(st.integers(0, 500))
    if kind == 5:
        place = draw(st.sampled_from(["contains", "startswith", "endswith"]))
        modifiers = draw(st.sampled_from([place, f"{place}|cased", f"{place}|all", "cased"]))
        least = 2 if "all" in modifiers else 1
        return f"{field}|{modifiers}", draw(st.lists(WORDS, min_size=least, max_size=3))
    if kind == 6:
        return f"{field}|all", draw(st.lists(SCALARS, min_size=2, max_size=3))
    return field, draw(SCALARS | st.lists(SCALARS, min_size=1, max_size=3))


MAPS = st.lists(items(), min_size=1, max_size=3).map(dict)
NAMES = ("sel_a", "sel_b", "other")


@st.composite
def conditions(draw: st.DrawFn, depth: int = 0) -> str:
    if depth > 2 or draw(st.booleans()):
        return draw(st.sampled_from([*NAMES, "1 of them", "all of sel_*", "1 of sel_*", "all of them", "1 of *"]))
    kind = draw(st.sampled_from(["and", "or", "not", "()"]))
    if kind == "not":
        return f"not {draw(conditions(depth + 1))}"
    if kind == "()":
        return f"({draw(conditions(depth + 1))})"
    return f"{draw(conditions(depth + 1))} {kind} {draw(conditions(depth + 1))}"


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A detection rule within the subset."""
    detection: dict[str, Any] = {name: draw(MAPS | st.lists(MAPS, min_size=1, max_size=2)) for name in NAMES}
    # All of them are used, so that no rule is refused for one that is not.
    detection["condition"] = f"({draw(conditions())}) and (1 of them or not 1 of them)"
    found: dict[str, Any] = {
        "title": "Made up",
        "id": f"{BASE}1",
        "taxonomy": "ecs",
        "level": draw(st.sampled_from(["informational", "low", "medium", "high", "critical"])),
        "logsource": {"product": "audit_middleware"},
        "detection": detection,
    }
    optional: dict[str, Any] = {
        "status": "test", "tags": ["attack.t1098"], "falsepositives": ["work"], "date": "2026-11-23", "name": "made_up",
        "custom": {"group-by": ["user.id"]}, "related": [{"id": f"{BASE}2", "type": "derived"}], "author": "a",
    }  # fmt: skip
    return found | {key: optional[key] for key in draw(st.sets(st.sampled_from(sorted(optional))))}


def load(document: Any) -> Rule:
    """Our loader's reading. JSON is a subset of the YAML that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rule.yml"
        path.write_text(json.dumps(document))
        (rule,) = load_rules([path], shipped=False).rules
    return rule


@settings(max_examples=80, deadline=None)
@given(documents(), st.lists(records(), min_size=1, max_size=4))
def test_rules_of_the_subset_are_accepted_and_mean_the_same(document: dict[str, Any], given_records: list[Any]) -> None:
    rule = load(document)
    assert isinstance(rule.body, Detection)
    theirs = SigmaRule.from_dict(document)
    (condition,) = theirs.detection.parsed_condition
    tree = condition.parsed
    for record in given_records:
        expected = evaluate(tree, flat(ecs.document(record)))
        event(f"holds: {expected}")
        assert rule.body.condition.holds(View(record)) is expected, (document["detection"], flat(ecs.document(record)))


JUNK = st.sampled_from([None, 5, True, [], {}, "", "x", ["x"], {"x": "y"}, [1], 1.5, "high", ["attack.x", "attack.x"]])


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A rule with one thing in it replaced, added or removed."""
    document: dict[str, Any] = json.loads(json.dumps(draw(documents())))
    where, path = document, draw(st.sampled_from(["", "detection", "logsource", "detection.sel_a"]))
    for part in filter(None, path.split(".")):
        where = where[part]
    if isinstance(where, list):
        where.append(draw(JUNK))
    elif draw(st.booleans()):
        where.pop(draw(st.sampled_from(sorted(where))))
    else:
        where[draw(st.sampled_from([*sorted(where), "new", "filter", "status", "references"]))] = draw(JUNK)
    return document


def accepted(document: dict[str, Any]) -> bool:
    try:
        load(document)
    except ConfigError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(damaged())
def test_whatever_is_accepted_is_read_by_pysigma(document: dict[str, Any]) -> None:
    if accepted(document):
        SigmaRule.from_dict(document)


@published
@settings(max_examples=100, deadline=None)
@given(documents() | damaged())
def test_whatever_is_accepted_is_valid_by_the_published_schemas(document: dict[str, Any]) -> None:
    if accepted(document):
        assert schema_errors(document) == []


# --- correlations ----------------------------------------------------------------------------------------------------


@st.composite
def correlated(draw: st.DrawFn) -> dict[str, Any]:
    """A correlation within the subset, over the rules ``one_rule`` and ``two_rule``."""
    kind = draw(st.sampled_from(["event_count", "value_count", "temporal", "temporal_ordered"]))
    body: dict[str, Any] = {
        "type": kind,
        "rules": ["one_rule", "two_rule"],
        "group-by": draw(st.lists(st.sampled_from(["user.id", "source.ip", "who"]), unique=True, max_size=3)),
        "timespan": draw(st.sampled_from(["1s", "5m", "24h", "7d", "2w"])),
    }
    if kind in ("event_count", "value_count"):
        body["condition"] = {draw(st.sampled_from(["gt", "gte", "lt", "lte", "eq"])): draw(st.integers(1, 100))}
    if kind == "value_count":
        body["condition"]["field"] = "audit.resource.id"
    if "who" in body["group-by"]:
        body["aliases"] = {"who": {"one_rule": "user.id", "two_rule": "user.target.id"}}
    if draw(st.booleans()):
        body["generate"] = draw(st.booleans())
    return {"title": "Made up", "id": f"{BASE}9", "taxonomy": "ecs", "level": "low", "correlation": body}


DAMAGE = st.sampled_from(["", "type", "rules", "group-by", "timespan", "condition", "generate"])


@settings(max_examples=60, deadline=None)
@given(correlated(), DAMAGE, JUNK)
def test_correlations_are_read_by_pysigma(document: dict[str, Any], damage: str, junk: Any) -> None:
    if damage:
        document["correlation"][damage] = junk
    both, loaded = load_correlation(document)
    if loaded is None:
        assert damage
        return
    theirs = SigmaCollection.from_dicts([*both, document])
    assert sum(rule.alone for rule in loaded) == len(list(theirs.get_output_rules()))


@published
@settings(max_examples=60, deadline=None)
@given(correlated(), DAMAGE, JUNK)
def test_correlations_are_valid_by_the_published_schemas(document: dict[str, Any], damage: str, junk: Any) -> None:
    if damage:
        document["correlation"][damage] = junk
    if load_correlation(document)[1] is not None:
        assert schema_errors(document) == []


def load_correlation(document: dict[str, Any]) -> tuple[list[Any], tuple[Rule, ...] | None]:
    """The rules that it refers to, and what our loader makes of all of them; ``None`` if it refuses."""
    base: dict[str, Any] = {
        "title": "Base", "taxonomy": "ecs", "level": "low", "logsource": {"product": "audit_middleware"},
        "detection": {"every": {"audit.kind": "outcome"}, "condition": "every"},
    }  # fmt: skip
    both = [base | {"id": f"{BASE}{number}", "name": f"{word}_rule"} for number, word in enumerate(("one", "two"))]
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate((*both, document)):
            (Path(folder) / f"{number}.yml").write_text(json.dumps(one))
        try:
            return both, load_rules([Path(folder)], shipped=False).rules
        except ConfigError:
            return both, None


def test_scalars_are_what_they_seem() -> None:
    assert plain(ScalarNode("5", True, 1)) == 5
    assert plain(ScalarNode("5", False, 1)) == "5"
