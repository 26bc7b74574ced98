"""YAML as strictly as a policy needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_middleware.errors import PolicyError
from audit_middleware.model import NOBODY
from audit_middleware.policy import load, loads
from tests.policy.samples import BILLING, NOWHERE, problems

BOMB = 'a: &a ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("", "1: the file is empty"),
        ("# only a comment\n", "1: the file is empty"),
        ("hello", "1: expected a mapping, found text"),
        ("- a\n", "1: expected a mapping, found a list"),
        (BOMB, "1: a: anchors and aliases are not part of the language: write the value out"),
        ("version: 1\nname: *x\n", "2: name: anchors and aliases are not part of the language: write the value out"),
        ("actions:\n\ta.b: {}\n", "2: YAML does not allow a tab here: indent with spaces"),
        ("version: 1\n---\nversion: 1\n", "2: a second YAML document: write one a file"),
        ("%YAML 1.1\n---\nversion: 1\n", "1: YAML directives are not part of the language"),
        ("%TAG ! tag:x,2000:\n---\nversion: 1\n", "1: YAML directives are not part of the language"),
        ("? [a]\n: b\n", "1: a key must be text"),
        ("version: 1\nname: a\x01b\n", "2: invisible character U+0001"),
        ("version: 1\nname: a\u2028b\n", "2: invisible character U+2028"),
        ("version: 1\nname: a\ud800b\n", "2: invisible character U+D800"),
        (
            "a: [1, 2\n",
            "2: not valid YAML: while parsing a flow sequence: expected ',' or ']', but got '<stream end>'",
        ),
        ("a: b: c\n", "1: not valid YAML: mapping values are not allowed here"),
    ],
)
def test_what_cannot_be_read_is_one_finding(text: str, finding: str) -> None:
    assert problems(text) == [finding]


def test_deep_nesting_is_refused_before_it_costs_anything() -> None:
    (finding,) = problems("a: " + "[" * 100_000)
    assert finding.startswith("1: a[0][0]")
    assert finding.endswith(": nested more than 32 levels deep")


def test_tags_are_reported_and_reading_goes_on() -> None:
    found = problems("version: 1\nname: !!python/name:os.system x\nactions: {}\nfoo: 1\n")
    assert found == [
        "2: name: tag tag:yaml.org,2002:python/name:os.system is not part of the language: remove it",
        "4: foo: unknown key",
    ]


def test_an_escape_cannot_smuggle_in_what_the_text_may_not_hold() -> None:
    assert problems('version: 1\nname: "a\\x7fb"\nactions: {}\n')[0] == "2: name: invisible character U+007F"
    assert problems('version: 1\nname: "\\ud83d\\ude00"\nactions: {}\n')[0] == "2: name: invisible character U+D83D"


def test_duplicate_keys_are_refused_at_every_level() -> None:
    found = problems("version: 1\nname: a\nname: b\nactions:\n  a.b: {}\n  a.c: {}\n  a.b:\n    record: none\n")
    assert found == [
        "3: name: duplicate key, first on line 2",
        "7: actions.a.b: duplicate key, first on line 5",
    ]


def test_yaml_1_1_words_stay_text_where_text_is_meant() -> None:
    policy = loads("version: 1\nname: p\nroles: {no: {}, on: {inherits: [no]}, y: {}}\nactions: {a.b: {allow: [no]}}\n")
    assert policy.roles == {"no": {"no"}, "on": {"on", "no"}, "y": {"y"}}
    assert policy.actions["a.b"].allow[0].grantees == {"no", "on"}


@pytest.mark.parametrize("word", ["yes", "no", "On", "off", "y", "N"])
def test_yaml_1_1_words_are_refused_where_a_value_is_meant(word: str) -> None:
    found = problems(f"version: 1\nname: p\nactions:\n  a.b: {{allow: [{{name: r, when: {{resource.x: {word}}}}}]}}\n")
    assert found == [
        f"4: actions.a.b.allow[0].when.resource.x: {word} is read as text by some and as a boolean by others: "
        "write true or false, or quote it"
    ]


@pytest.mark.parametrize("number", ["010", "0x1F", "0o17", "1_000", "-007", ".inf", "-.NaN"])
def test_numbers_that_yaml_versions_read_differently_are_refused(number: str) -> None:
    found = problems(
        f"version: 1\nname: p\nactions:\n  a.b: {{allow: [{{name: r, when: {{resource.x: {number}}}}}]}}\n"
    )
    assert found == [
        f"4: actions.a.b.allow[0].when.resource.x: {number} is read as different numbers: "
        "write it in decimal digits, or quote it"
    ]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        ("9007199254740992", "integers go up to 2**53 - 1: quote it if it is a name"),
        ("9" * 5000, "integers go up to 2**53 - 1: quote it if it is a name"),
        ("1e999", "the number is too large"),
    ],
)
def test_numbers_that_json_cannot_keep_are_refused(number: str, why: str) -> None:
    found = problems(
        f"version: 1\nname: p\nactions:\n  a.b: {{allow: [{{name: r, when: {{resource.x: {number}}}}}]}}\n"
    )
    assert found == [f"4: actions.a.b.allow[0].when.resource.x: {why}"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", 1 - 2**53),
        ("0", 0),
        ("+7", 7),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("1.", 1),
        ("1e3", 1000),
        ("2026-01-05", "2026-01-05"),
        ("10:30", "10:30"),
        ("'true'", "true"),
        ('"7"', "7"),
        ("~7", "~7"),
        ("tRue", "tRue"),
    ],
)
def test_plain_scalars(written: str, value: str | int | float | bool) -> None:
    policy = loads(f"version: 1\nname: p\nactions: {{a.b: {{allow: [{{name: r, when: {{context.x: {written}}}}}]}}}}\n")
    assert policy.evaluate("a.b", NOBODY, NOWHERE, {"x": value}).effect == "allow"


def test_size_limit(tmp_path: Path) -> None:
    fits = BILLING + "#" * (2**20 - len(BILLING.encode()))
    assert loads(fits).name == "billing"
    assert problems(fits + "#") == ["1: the file is larger than 1048576 bytes"]
    path = tmp_path / "p.yaml"
    path.write_text(fits + "#")
    with pytest.raises(PolicyError, match=r"p\.yaml:1: the file is larger than 1048576 bytes$"):
        load(path)


def test_not_utf_8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"version: 1\nname: caf\xe9\n")
    with pytest.raises(PolicyError, match=r"p\.yaml:2: not UTF-8$"):
        load(path)
    path.write_bytes(BILLING.encode("utf-16"))
    with pytest.raises(PolicyError, match=r"p\.yaml:1: not UTF-8$"):
        load(path)


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BILLING.replace("\n", "\r\n").encode())
    assert load(path).digest == loads(BILLING).digest == loads("\ufeff" + BILLING).digest


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"missing\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_the_number_of_findings_is_bounded() -> None:
    found = problems("".join(f"key{n}: 1\n" for n in range(500)))
    assert len(found) == 101
    assert found[0] == "1: key0: unknown key"
    assert found[-1].endswith("403 more findings are not shown")
    assert len(problems("".join(f"key{n}: 1\n" for n in range(97)))) == 100
    assert problems("".join(f"key{n}: 1\n" for n in range(98)))[100].endswith("1 more findings are not shown")
