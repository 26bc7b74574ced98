"""Each value has one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.errors import FormatError
from audit_middleware.ledger import lines


@given(st.binary(max_size=70))
def test_base64_comes_back(data: bytes) -> None:
    assert lines.from_base64(lines.to_base64(data), "x") == data


@pytest.mark.parametrize(
    "text", ["YR==", "YQ", "YQ=", "YQ===", "Y Q==", " YQ==", "YQ==\n", "YQ==YQ==", "Y!Q=", "--__", "é"]
)
def test_other_spellings_of_base64_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"^hash: "):
        lines.from_base64(text, "hash")


@given(st.integers(0, lines.LARGEST))
def test_decimals_come_back(number: int) -> None:
    assert lines.from_decimal(str(number), "x") == number


def test_the_largest_number() -> None:
    assert lines.from_decimal("9223372036854775807", "x") == 2**63 - 1


@pytest.mark.parametrize(
    "text", ["", "00", "01", "-1", "+1", " 1", "1 ", "1_0", "1.0", "0x1", "²", "\u0661", str(2**63), "9" * 5000]
)
def test_other_spellings_of_numbers_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match=r"^size: "):
        lines.from_decimal(text, "size")


@pytest.mark.parametrize("name", ["a", "audit.example/log1", "Grüße", "oid/1.2.3", "—"])
def test_names(name: str) -> None:
    assert lines.is_name(name)


@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\n", "\x00", "a\u00a0b", "a\u2028", "a\u3000", "\x85", "\ud800", chr(0xDFFF)]
)
def test_what_is_no_name(name: str) -> None:
    assert not lines.is_name(name)


@pytest.mark.parametrize("text", ["", "a", "a\tb\n", "\r\n", "\x00\n", "\ud800\n", f"{chr(0xDFFF)}\n"])
def test_what_is_no_text_of_a_note(text: str) -> None:
    with pytest.raises(FormatError, match=r"^note: "):
        lines.check_text(text, "note")
    lines.check_text("a\n\nb\n", "note")
