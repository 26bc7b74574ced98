"""Wildcards against Python's `re`; and what is compared with what."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sigma.types import SigmaString, SpecialChars

from audit_middleware.detectors.values import cidr, compare, equal, matches, text_of, wildcard

PATTERNS = st.text("abA*?\\", max_size=8)
TEXTS = st.text("abA*?\\\n", max_size=10)


def reference(pattern: str) -> str:
    """pySigma's reading of a pattern, as a regular expression."""
    special = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}
    return "".join(re.escape(part) if isinstance(part, str) else special[part] for part in SigmaString(pattern).s)  # type: ignore[index]


@given(PATTERNS, TEXTS)
def test_wildcards_are_those_of_sigma(pattern: str, text: str) -> None:
    assert wildcard(pattern, cased=True)(text) is (re.fullmatch(reference(pattern), text, re.DOTALL) is not None)
    expected = re.fullmatch(reference(pattern.lower()), text.lower(), re.DOTALL) is not None
    assert wildcard(pattern)(text) is expected


@given(PATTERNS.filter(bool), TEXTS)
def test_parts_of_a_text_are_those_with_wildcards_around(pattern: str, text: str) -> None:
    found = reference(pattern)
    for options, wanted in (
        ({"before": True, "after": True}, f".*{found}.*"),
        ({"before": True}, f".*{found}"),
        ({"after": True}, f"{found}.*"),
    ):
        expected = re.fullmatch(wanted, text, re.DOTALL) is not None
        assert wildcard(pattern, cased=True, **options)(text) is expected, options


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("*ab*ab*", "xaby", False),
        ("*ab*ab*", "abab", True),
        ("a*b*b", "ab", False),
        ("GRÜSSE?", "grüßen", False),
        ("grü?e", "GRÜßE", True),
        ("40?", "404", True),
    ],
)
def test_wildcards(pattern: str, text: str, expected: bool) -> None:
    assert wildcard(pattern)(text) is expected


@pytest.mark.parametrize(
    ("wanted", "value", "expected"),
    [
        (404, 404, True), (404, "404", True), (404, "0404", False), (1, True, False), (0, False, False),
        (True, True, True), (True, "TRUE", True), (True, 1, False), (False, "true", False), (1.5, 1, False),
    ],
)  # fmt: skip
def test_numbers_and_booleans(wanted: Any, value: Any, expected: bool) -> None:
    assert equal(wanted)(value) is expected


def test_only_numbers_are_less_or_more() -> None:
    assert [compare("gte", 2)(value) for value in (1, 2, 3, "3", True, None)] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_only_addresses_are_in_networks() -> None:
    test = cidr("10.0.0.0/8")
    assert [test(value) for value in ("10.1.2.3", "11.1.2.3", "::ffff:10.1.2.3", "ten", 167837955, "")] == [
        True, False, False, False, False, False,
    ]  # fmt: skip


def test_patterns_read_the_beginning_of_a_long_text() -> None:
    long = "x" * 100_000
    assert matches("x", "")(long)
    assert not matches("y", "")(long + "y")
    assert matches("^.x", "")("éx")
    assert matches("É", "i")("é")


def test_what_is_no_single_value_has_no_text() -> None:
    values: list[Any] = [True, 5, "a", None, [], {}]
    assert [text_of(value) for value in values] == ["true", "5", "a", None, None, None]
    assert not wildcard("*")({})
    assert not matches(".", "")([])
