"""What is no rule of the subset is refused: with file and line, everything at once, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_middleware.detectors.finding import Respond
from audit_middleware.detectors.load import load_rules
from audit_middleware.errors import ConfigError
from tests.detectors.support import BASE, correlation, detection, rules, write_rules

PLAIN = "one: {event.action: x}\ncondition: one"
COUNT = "{type: event_count, rules: [rule1], group-by: [user.id], timespan: 5m, condition: {gte: 2}}"


def problem(folder: Path, **texts: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_rules([write_rules(folder, **texts)], shipped=False)
    return str(caught.value)


def of_detection(folder: Path, body: str, custom: str = "", taxonomy: str = "ecs") -> str:
    return problem(folder, rule=detection(body, custom=custom, taxonomy=taxonomy))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("title: Rule 1\n", "", ":1: title: missing"),
        ("title: Rule 1\n", "title: yes\n", ":1: title: yes is read as text by some"),
        ("title: Rule 1\n", "title: 5\n", ":1: title: expected text, found a number"),
        ("title: Rule 1\n", f"title: {'x' * 257}\n", ":1: title: expected 1 to 256 characters, found 257"),
        (f"id: {BASE}1\n", "", "id: missing"),
        (f"id: {BASE}1\n", "id: rule-1\n", ":2: id: 'rule-1' is no UUID: make one with uuidgen"),
        ("taxonomy: ecs\n", "", "taxonomy: missing"),
        ("taxonomy: ecs\n", "taxonomy: sigma\n", ":4: taxonomy: 'sigma' is not one of ecs, audit"),
        (
            "level: high\n",
            "level: grave\n",
            ":5: level: 'grave' is not one of informational, low, medium, high, critical",
        ),
        ("level: high\n", "", "level: missing"),
        ("level: high\n", "level: high\nstatus: done\n", ":6: status: 'done' is not one of"),
        ("level: high\n", "level: high\nstatus: unsupported\n", ":6: status: a rule that cannot be used"),
        ("level: high\n", "level: high\ndate: 2026-02-30\n", ":6: date: expected a date"),
        ("level: high\n", "level: high\nmodified: today\n", ":6: modified: expected a date"),
        ("level: high\n", "level: high\ntags: [attack]\n", ":6: tags: 'attack' is no tag"),
        ("level: high\n", "level: high\nfalsepositives: [x]\n", ":6: falsepositives[0]: expected 2 to 1024 characters"),
        ("level: high\n", "level: high\nfields: [a, a]\n", "fields[1]: 'a' is listed twice"),
        ("level: high\n", "level: high\nrelated: [{id: x, type: like}]\n", "is no UUID"),
        ("level: high\n", "level: high\nlevels: x\n", ":6: levels: unknown key; did you mean 'level'?"),
        ("level: high\n", "level: high\ngenerate: true\n", "generate: write it in correlation"),
        ("level: high\n", "level: high\ndescription: ''\n", ":6: description: expected 1 to 65535 characters"),
        ("product: audit_middleware", "product: windows", "expected audit_middleware, found 'windows'"),
        ("category: request", "category: webserver", "'webserver' is not one of request, intent, control"),
        ("category: request", "class: request", "logsource.class: unknown key"),
        ("product: audit_middleware, ", "", "logsource.product: missing"),
    ],
)
def test_heads_that_are_refused(tmp_path: Path, old: str, new: str, wanted: str) -> None:
    text = detection(PLAIN)
    assert old in text
    found = problem(tmp_path, rule=text.replace(old, new))
    assert found.startswith(str(tmp_path / "rule.yml:"))
    assert wanted in found


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("one: {event.action: x}", "detection.condition: missing"),
        ("condition: one", "there is no selection 'one'"),
        ("one: {event.action: x}\ncondition: two", "there is no selection 'two'; there are: one"),
        ("one: {event.action: x}\ntwo: {event.action: x}\ncondition: one", ":9: detection.two: the condition does"),
        ("one: {event.action: x}\ncondition: one and", "it ends where a selection's name should be"),
        ("one: {event.action: x}\ncondition: (one", "a ')' is missing"),
        ("one: {event.action: x}\ncondition: one one", "'one' is not expected here"),
        ("one: {event.action: x}\ncondition: one | count() > 5", "write a correlation"),
        ("one: {event.action: x}\ncondition: any of one*", "write '1 of'"),
        ("one: {event.action: x}\ncondition: 1 of two*", "no selection's name is like 'two*'"),
        ("one: {event.action: x}\ncondition: 2 of one*", "there is no selection '2'"),
        ("one: {event.action: x}\ncondition: one; two", "';' is not part of a condition"),
        (f"one: {{event.action: x}}\ncondition: {'(' * 40}one{')' * 40}", "nested more than 32 levels deep"),
        ("one: {event.action: x}\ncondition: [one]", "several conditions"),
        ("off: {event.action: x}\ncondition: off", "'off' is no name"),
        ("one: {}\ncondition: one", "an empty mapping"),
        ("one: []\ncondition: one", "an empty list"),
        ("one: x\ncondition: one", "expected a mapping of fields"),
        ("one: [x]\ncondition: one", "a keyword without a field"),
        ("one: {'|contains': x}\ncondition: one", "a keyword without a field"),
        ("one: {event.acton: x}\ncondition: one", "has no field 'event.acton'; did you mean 'event.action'?"),
        ("one: {event.action: []}\ncondition: one", "expected a value or a list of values"),
        ("one: {event.action: {a: b}}\ncondition: one", "expected a value or a list of values"),
        ("one: {event.action|windash: x}\ncondition: one", "the modifier 'windash' is not read here"),
        ("one: {event.action|contain: x}\ncondition: one", "did you mean 'contains'?"),
        ("one: {event.action|contains|startswith: x}\ncondition: one", "do not go together"),
        ("one: {event.action|contains|re: x}\ncondition: one", "do not go together"),
        ("one: {event.action|all|re: [x, y]}\ncondition: one", "'re' comes first"),
        ("one: {event.action|contains|contains: x}\ncondition: one", "given twice"),
        ("one: {event.action|all: x}\ncondition: one", "'all' is for a list of values"),
        ("one: {event.action|i: x}\ncondition: one", "'i' is for re"),
        ("one: {event.action|re: '(?=x)'}\ncondition: one", "RE2 has no lookaround"),
        ("one: {event.action|re: '\\pL'}\ncondition: one", "Python's re, which converters use, refuses"),
        ("one: {event.action|re: '(x{1000}){1000}'}\ncondition: one", "RE2 refuses"),
        ("one: {event.action|cidr: 10.0.0.0/8/8}\ncondition: one", "write a network such as 10.0.0.0/8"),
        ("one: {event.action|gt: x}\ncondition: one", "expected a number"),
        ("one: {event.action|contains: 5}\ncondition: one", "expected text"),
        ("one: {event.action|exists: 1}\ncondition: one", "expected true or false"),
        ("one: {event.action|exists: [true, false]}\ncondition: one", "expected true or false"),
        ("one: {event.action|fieldref: nothing}\ncondition: one", "has no field 'nothing'"),
        ("one: {event.action|fieldref: user.*}\ncondition: one", "expected the name of a field"),
        ("one: {event.action: ''}\ncondition: one", "an empty text counts as absent"),
        ("one: {event.action: yes}\ncondition: one", "yes is read as text by some"),
        ("one: {event.action: 10:30}\ncondition: one", "10:30 is read as a time or number by some: quote it"),
        ("one: {event.action: 2026-11-22}\ncondition: one", "quote it"),
        ("one: {event.action: 1e3}\ncondition: one", "quote it"),
        ("one: {event.action: 010}\ncondition: one", "is read as different numbers"),
        ("one: {event.action: x}\none: {event.action: y}\ncondition: one", "duplicate key, first on line 8"),
        ("one: {event.action: x}\ntimeframe: 5m\ncondition: one", "write a correlation"),
    ],
)  # fmt: skip
def test_detections_that_are_refused(tmp_path: Path, body: str, wanted: str) -> None:
    assert wanted in of_detection(tmp_path, body)


@pytest.mark.parametrize(
    ("custom", "wanted"),
    [
        ("{responds: block 5m}", "custom.responds: unknown key; did you mean 'respond'?"),
        ("{respond: block}", "expected block and a time"),
        ("{respond: kill 5m}", "expected block and a time"),
        ("{respond: block 31d}", "expected block and a time of up to 30d"),
        ("{respond: block 5m, group-by: [source.ip]}", "only a rule whose group-by has the user can respond"),
        ("{group-by: [user.roles]}", "user.roles is a list"),
        ("{group-by: [nobody]}", "has no field 'nobody'"),
        ("{cooldown: 5}", "custom.cooldown: expected text"),
        ("{cooldown: 0s}", "expected a time of up to 366d"),
        ("{cooldown: 400d}", "expected a time of up to 366d"),
        ("{detector: {}}", "custom.detector.type: missing; one of concurrency, baseline"),
        ("{detector: {type: magic}}", "'magic' is not one of"),
        ("{detector: {type: concurrency}}", "custom.detector.gte: missing"),
        ("{detector: {type: concurrency, gte: 1}}", "expected 2 to 100"),
        ("{detector: {type: baseline, history: 2}}", "expected 8 to 96"),
        ("{detector: {type: baseline, gte: 5}}", "custom.detector.gte: unknown key"),
        ("{detector: {type: first_seen}}", "custom.detector.field: missing"),
        ("{detector: {type: off_hours, zone: Nowhere/City}}", "there is no time zone 'Nowhere/City' here"),
        ("{detector: {type: off_hours, zone: ../etc}}", "there is no time zone"),
        ("{detector: {type: off_hours, from: '19:00', to: '07:00'}}", "from must be before to"),
        ("{detector: {type: off_hours, from: '7:00'}}", "expected a time as '07:00'"),
        ("{detector: {type: off_hours, days: [monday]}}", "'monday' is not one of mon, tue"),
        ("{detector: {type: off_hours, days: []}}", "an empty list"),
        ("{detector: {type: silence}, group-by: [user.id]}", "this detector looks at processes"),
        ("{detector: {type: counters}, respond: block 5m}", "this detector looks at processes"),
    ],
)  # fmt: skip
def test_custom_parts_that_are_refused(tmp_path: Path, custom: str, wanted: str) -> None:
    assert wanted in of_detection(tmp_path, PLAIN, custom)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("{type: event_count}", "correlation.rules: missing"),
        (COUNT.replace("event_count", "value_sum"), "sums, averages and percentiles are not read"),
        (COUNT.replace("[rule1]", "[rule2]"), ":6: correlation.rules[0]: there is no rule 'rule2'; did you mean"),
        (COUNT.replace("[rule1]", "[]"), "correlation.rules: an empty list"),
        (COUNT.replace("[rule1]", "[rule1, rule1]"), "listed twice"),
        (COUNT.replace("[rule1]", "rule1"), "expected a list, found text: write [rule1]"),
        (COUNT.replace("[rule1]", "[rule9]"), "the rule refers to itself"),
        (COUNT.replace("[user.id]", "[user.roles]"), "user.roles is a list"),
        (COUNT.replace("[user.id]", "[user.idd]"), "has no field 'user.idd'"),
        (COUNT.replace("5m", "5M"), "expected a time"),
        (COUNT.replace("{gte: 2}", "{gte: 2, lte: 5}"), "expected one of gt, gte, lt, lte, eq"),
        (COUNT.replace("{gte: 2}", "{neq: 2}"), "correlation.condition.neq: unknown key"),
        (COUNT.replace("{gte: 2}", "{gte: 0}"), "expected 1 to 10000"),
        (COUNT.replace(", condition: {gte: 2}", ""), "correlation.condition: missing"),
        (COUNT.replace("event_count", "value_count"), "correlation.condition.field: missing"),
        (COUNT.replace("event_count", "temporal"), "temporal takes none"),
        ("{type: temporal, rules: [rule1], group-by: [user.id], timespan: 5m}", "temporal needs at least two rules"),
        (COUNT[:-1] + ", aliases: {who: {rule3: user.id}}}", "correlation.aliases.who.rule3: there is no rule"),
        (COUNT[:-1] + ", generate: 1}", "correlation.generate: expected true or false"),
    ],
)  # fmt: skip
def test_correlations_that_are_refused(tmp_path: Path, body: str, wanted: str) -> None:
    assert wanted in problem(tmp_path, rule=detection(PLAIN), many=correlation(body))


def test_a_correlation_of_a_correlation_is_grouped_by_no_more(tmp_path: Path) -> None:
    outer = "{type: temporal, rules: [rule9, rule1], group-by: [user.id, source.ip], timespan: 5m}"
    found = problem(tmp_path, a=detection(PLAIN), b=correlation(COUNT), c=correlation(outer, number=8))
    assert "'Rule 9' is not grouped by source.ip, only by user.id" in found
    values = (
        "{type: value_count, rules: [rule9], group-by: [user.id], timespan: 5m, condition: {gte: 2, field: user.id}}"
    )
    found = problem(tmp_path, a=detection(PLAIN), b=correlation(COUNT), c=correlation(values, number=8))
    assert "values can be counted of records, not of another correlation" in found


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    first = detection("one: {event.acton: x}\ncondition: two").replace("title: Rule 1\n", "")
    found = problem(tmp_path, a=first, b="title: [", c="- x").split("\n")
    assert len(found) >= 5
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in found] == sorted(
        line.split(":")[0].rsplit("/", 1)[1] for line in found
    )


def test_ids_and_names_are_there_once(tmp_path: Path) -> None:
    found = problem(tmp_path, a=detection(PLAIN), b=detection(PLAIN))
    assert f"b.yml:1: the rule '{BASE}1' is already in {tmp_path / 'a.yml'}" in found
    assert "the rule 'rule1' is already in" in found


def test_taxonomies_are_not_mixed(tmp_path: Path) -> None:
    own = detection("one: {action: x}\ncondition: one", taxonomy="audit")
    assert "both must be the same" in problem(tmp_path, a=own, b=correlation(COUNT))


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the rules cannot be read: No such file"):
        load_rules([tmp_path / "nothing"], shipped=False)
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rules([tmp_path / "binary.yml"], shipped=False)


def test_a_file_takes_the_place_of_a_shipped_rule_or_switches_it_off(tmp_path: Path) -> None:
    shipped = load_rules([], shipped=True)
    (burst,) = [rule for rule in shipped.rules if rule.name == "request_burst"]
    text = Path(shipped.sources[burst.id]).read_text()
    folder = write_rules(tmp_path, mine=text.replace("gte: 300", "gte: 30"))
    mine = load_rules([folder], shipped=True)
    assert len(mine.rules) == len(shipped.rules)
    assert mine.sources[burst.id] == str(folder / "mine.yml")
    assert mine.digest != shipped.digest
    write_rules(tmp_path, mine=text.replace("status: test", "status: deprecated"))
    assert {rule.id for rule in load_rules([folder], shipped=True).rules} == {
        rule.id for rule in shipped.rules if rule.id != burst.id
    }


def test_what_is_switched_off_cannot_be_referred_to(tmp_path: Path) -> None:
    off = detection(PLAIN).replace("level: high\n", "level: high\nstatus: deprecated\n")
    assert "the rule 'rule1' is switched off by its status" in problem(tmp_path, a=off, b=correlation(COUNT))


def test_the_digest_is_of_what_is_said(tmp_path: Path) -> None:
    first = rules(tmp_path / "a", one=detection(PLAIN))
    again = rules(
        tmp_path / "b", other="# a remark\n" + detection(PLAIN).replace("{event.action: x}", "{event.action:  x}")
    )
    third = rules(tmp_path / "c", one=detection(PLAIN.replace("x", "z")))
    assert first.digest == again.digest != third.digest


def test_what_a_rule_asks_for_is_carried(tmp_path: Path) -> None:
    given = rules(tmp_path, a=detection(PLAIN, custom="{respond: block 15m, cooldown: 1h}"), b=correlation(COUNT))
    by_name = {rule.name: rule for rule in given.rules}
    assert by_name["rule1"].respond == Respond("block", 900)
    assert by_name["rule1"].alone is False
    assert by_name["rule9"].alone is True
    generated = correlation(COUNT[:-1] + ", generate: true}", custom="{respond: block 1d}")
    given = rules(tmp_path, a=detection(PLAIN), b=generated)
    assert [(rule.alone, rule.respond) for rule in given.rules] == [(True, None), (True, Respond("block", 86_400))]
    nobody = correlation(COUNT.replace("user.id", "source.ip"), custom="{respond: block 1d}")
    assert "only a rule whose group-by has the user can respond" in problem(tmp_path, a=detection(PLAIN), b=nobody)
