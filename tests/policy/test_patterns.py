"""Patterns: RE2's semantics, and the bound on what one match may cost."""

from __future__ import annotations

import random
import time

import pytest

from audit_middleware.errors import ConditionError
from audit_middleware.policy.patterns import MAX_INPUT, MAX_PROGRAM, MAX_WORK, Pattern, PatternError

ADVERSARIAL = ("^(a+)+$", "(a|aa)+$", "(x+x+)+y", "^(a|a?)+$", "(.*)(.*)(.*)b")


def seconds(pattern: Pattern, text: str) -> float:
    """The least of several runs: what the machine does besides only adds."""
    best = float("inf")
    for _ in range(25):
        start = time.perf_counter()
        pattern.search(text, "x")
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.parametrize("source", ADVERSARIAL)
@pytest.mark.parametrize("letter", ["a", "x"])
def test_time_grows_linearly_with_the_input(source: str, letter: str) -> None:
    # These patterns double the time of a backtracking engine with each letter; a quadratic one would give a ratio of 4.
    pattern = Pattern(source)
    assert pattern.limit == MAX_INPUT
    half, whole = letter * (MAX_INPUT // 2 - 1) + "!", letter * (MAX_INPUT - 1) + "!"
    ratio = min(seconds(pattern, whole) / seconds(pattern, half) for _ in range(3))
    assert ratio < 3


def test_the_product_of_program_and_input_is_bounded() -> None:
    chance = random.Random(1)  # not a secret
    for source in ("a", "^[A-Z]+-\\d+$", "a[ab]{20}c", "a[ab]{200}c", "a[ab]{990}c", ".{200}", "(a?){40}a{40}c"):
        pattern = Pattern(source)
        fits = "".join(chance.choices("ab", k=pattern.limit))
        pattern.search(fits, "x")
        with pytest.raises(ConditionError, match=rf"^x is longer than its pattern may read \({pattern.limit} bytes\)$"):
            pattern.search(fits + "a", "x")
    assert Pattern("a").limit == MAX_INPUT
    assert Pattern("a[ab]{20}c").limit == MAX_WORK // 26
    assert Pattern("a[ab]{990}c").limit >= MAX_WORK // MAX_PROGRAM


def test_the_limit_counts_bytes() -> None:
    pattern = Pattern("é$")
    assert pattern.search("é" * (MAX_INPUT // 2), "x")
    with pytest.raises(ConditionError, match="longer"):
        pattern.search("é" * (MAX_INPUT // 2) + "a", "x")


@pytest.mark.parametrize("source", ["(a", "a**", "[b-a]", "(?<name>x)(?=y)", "\\8", "a{1001}", "\\C\\pZZZ)"])
def test_what_re2_refuses_is_a_pattern_error(source: str) -> None:
    with pytest.raises(PatternError, match=r"^RE2 refuses the pattern: "):
        Pattern(source)


def test_large_programs_are_refused() -> None:
    with pytest.raises(PatternError, match=r"^the pattern compiles to more than 2000 instructions"):
        Pattern("[a-z]{1000}[a-z]{1000}")
    with pytest.raises(PatternError, match="pattern too large"):
        Pattern("\\pL{1000}")


def test_refused_patterns_write_nothing_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PatternError):
        Pattern("(?=a)")
    assert capfd.readouterr() == ("", "")
