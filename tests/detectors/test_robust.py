"""The bound of a baseline against its definition, in fractions."""

from __future__ import annotations

from fractions import Fraction
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.detectors.robust import bound

COUNTS = st.lists(st.integers(1, 3_000), min_size=1, max_size=96)


def too_high(count: int, before: list[int]) -> bool:
    """As the literature has it."""
    exact = [Fraction(one) for one in before]
    middle = median(exact)
    mad = max(median([abs(one - middle) for one in exact]), Fraction(1), middle / 10)
    return Fraction(6745, 10_000) * (count - middle) / mad > Fraction(35, 10)


@given(COUNTS)
def test_the_limit_is_the_last_count_that_is_not_too_high(before: list[int]) -> None:
    found = bound(before)
    assert not too_high(found.limit, before)
    assert too_high(found.limit + 1, before)


@given(COUNTS)
def test_median_and_mad_are_shown_as_they_are(before: list[int]) -> None:
    found = bound(before)
    middle = median([Fraction(one) for one in before])
    assert Fraction(found.median) == middle
    mad = median([abs(one - middle) for one in before])
    # A tenth of a half is a twentieth: two places suffice.
    assert Fraction(found.mad) == max(mad, Fraction(1), middle / 10)
    assert "e" not in found.median + found.mad


def test_examples() -> None:
    assert (bound([5] * 24).limit, bound([5] * 24).median, bound([5] * 24).mad) == (10, "5", "1")
    assert (bound([1, 2]).median, bound([1000] * 9).mad) == ("1.5", "100")
