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


def generated(chance: random.Random, depth: int = 0) -> str:
    """A pattern of nested repetitions and alternatives over two letters: what makes engines explode."""
    if depth > 3 or chance.random() < 0.3:
        return chance.choice(["a", "b", ".", "[ab]", "a?", "(a|aa)", "a*"])
    inner = generated(chance, depth + 1)
    form = chance.choice(["({0})*", "({0})+", "({0}){{1,9}}", "({0}|{1})", "{0}{1}", "[ab]*{0}", "({0})?{1}"])
    return form.format(inner, generated(chance, depth + 1))


def test_no_pattern_costs_much_more_than_reading_the_longest_input_once() -> None:
    """The worst of many patterns on inputs as long as they may be, beside one plain loop over 64 KiB in Python."""
    chance = random.Random(20260302)
    longest = "a" * MAX_INPUT
    scans, worst, tried = [], 0.0, 0
    for _ in range(120):
        try:
            pattern = Pattern(f"^{generated(chance)}{generated(chance)}c$")
        except PatternError:
            continue
        tried += 1
        for text in ("a" * pattern.limit, "".join(chance.choices("ab", k=pattern.limit))):
            start = time.perf_counter()
            pattern.search(text, "x")
            spent = time.perf_counter() - start
            if spent > worst:  # what the machine does besides only adds
                start = time.perf_counter()
                pattern.search(text, "x")
                worst = max(worst, min(spent, time.perf_counter() - start))
        start = time.perf_counter()
        assert sum(letter == "b" for letter in longest) == 0
        scans.append(time.perf_counter() - start)
    assert tried > 80
    assert worst < 5 * sorted(scans)[len(scans) // 2]


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
