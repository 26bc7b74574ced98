"""Canonical bytes: equal to RFC 8785, and nothing else decodes."""

from __future__ import annotations

import contextlib
import datetime
import enum
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit_middleware.errors import RecordError
from audit_middleware.ledger import canonical

INTEGERS = st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER)
NAMES = st.text(st.characters(max_codepoint=0x7F), max_size=8)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)


@given(OBJECTS)
@example(
    {'\x00\x01\x08\t\n\x0b\x0c\r\x1f\x20"\\/\x7f': '\x00\x01\x08\t\n\x0b\x0c\r\x1f\x20"\\/\x7f\x80\u2028\U0001f600'}
)
@example({"a": 2**53 - 1, "b": -(2**53 - 1), "B": 0, "": [], "aa": {}})
def test_bytes_are_those_of_rfc_8785(value: dict[str, Any]) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


@given(OBJECTS)
def test_decode_returns_what_was_encoded(value: dict[str, Any]) -> None:
    assert canonical.decode(canonical.encode(value)) == value


@given(OBJECTS)
def test_trusted_encoding_gives_the_same_bytes(value: dict[str, Any]) -> None:
    assert canonical.encode_trusted(value) == canonical.encode(value)


@given(OBJECTS, st.randoms(use_true_random=False))
def test_order_of_insertion_does_not_matter(value: dict[str, Any], random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    assert canonical.encode({name: value[name] for name in names}) == canonical.encode(value)


def test_tuples_are_arrays() -> None:
    assert canonical.encode({"a": (1, ("b",))}) == b'{"a":[1,["b"]]}'


class Colour(enum.StrEnum):
    RED = "red"


def test_a_string_enumeration_is_its_text() -> None:
    # Twice: once on the fast path, once where sixteen digits send the record through the walk.
    assert canonical.encode({"a": Colour.RED}) == b'{"a":"red"}'
    assert canonical.encode({"a": Colour.RED, "b": "1" * 16}) == b'{"a":"red","b":"1111111111111111"}'


class Number(enum.IntEnum):
    SEVEN = 7


class Markup(str):
    """As template engines have it."""


class Id(int):
    """As database drivers have it."""


def test_an_integer_enumeration_is_its_number() -> None:
    assert canonical.encode({"a": Number.SEVEN, "b": "1" * 16}) == b'{"a":7,"b":"1111111111111111"}'


REFUSED: list[tuple[Any, str]] = [
    ({"a": 1.0}, r"^\$\.a: float"),
    ({"a": {"b": [0, 1.5]}}, r"^\$\.a\.b\[1\]: float"),
    ({"a": float("nan")}, r"^\$\.a: float"),
    ({"a": float("inf")}, r"^\$\.a: float"),
    ({"a": [2**53]}, r"^\$\.a\[0\]: integer beyond"),
    ({"a": -(2**53)}, r"^\$\.a: integer beyond"),
    ({"a": 2**64}, r"^\$\.a: integer beyond"),
    ({"a": 10**400}, r"^\$\.a: integer beyond"),
    ({"a": {"é": 1}}, r"^\$\.a: member name '\\xe9' is not ASCII"),
    ({"aé\\b": 1}, r"^\$: member name"),
    ({1: 2}, r"^\$: member name is int"),
    ({"a": {None: 2}}, r"^\$\.a: member name is NoneType"),
    ({"a": "x\ud800"}, r"^\$\.a: lone surrogate at character 1"),
    ({"a": {"\udc00": 1}}, r"^\$\.a: member name"),
    ({"a": b"bytes"}, r"^\$\.a: bytes has no canonical form"),
    ({"a": {1, 2}}, r"^\$\.a: set"),
    ({"a": datetime.date(2026, 1, 1)}, r"^\$\.a: date"),
    ({"a": [Decimal(1)]}, r"^\$\.a\[0\]: Decimal"),
    ({"a": [Markup("b")]}, r"^\$\.a\[0\]: Markup has no canonical form, convert it"),
    ({"a": Id(1)}, r"^\$\.a: Id has no canonical form, convert it"),
    ({"a": object()}, r"^\$\.a: object"),
    ([1], r"^\$: an entry is one object, not list"),
    ("text", r"^\$: an entry is one object, not str"),
    ({"a": "x" * canonical.MAX_ENTRY}, r"^\$: entry has 65543 bytes"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_has_no_canonical_form_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        canonical.encode(value)


@pytest.mark.parametrize("value", [value for value, _ in REFUSED if isinstance(value, dict)][:-1])
def test_check_alone_refuses_the_same(value: Any) -> None:
    with pytest.raises(RecordError):
        canonical.check(value)


@given(OBJECTS, st.lists(st.sampled_from(["a", "b"]), max_size=3), st.floats() | st.integers(min_value=2**53))
def test_one_bad_number_anywhere_is_found(value: dict[str, Any], path: list[str], bad: float) -> None:
    inner: Any = bad
    for name in path:
        inner = {name: inner} if name == "a" else [inner]
    with pytest.raises(RecordError, match=r"^\$\.bad"):
        canonical.encode({**value, "bad": inner})


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize("levels", [canonical.MAX_DEPTH, canonical.MAX_DEPTH - 1])
def test_nesting_up_to_the_limit(levels: int) -> None:
    value = {"": nested(levels - 1)}
    assert canonical.decode(canonical.encode(value)) == value


def test_the_limit_counts_levels_and_not_containers() -> None:
    # More containers than levels allowed, so that the walk has to count.
    value = {"": nested(canonical.MAX_DEPTH - 1), "wide": [[] for _ in range(100)]}
    assert canonical.decode(canonical.encode(value)) == value
    with pytest.raises(RecordError, match="nested deeper than 64 levels"):
        canonical.encode({**value, "": nested(canonical.MAX_DEPTH)})


@pytest.mark.parametrize("levels", [canonical.MAX_DEPTH + 1, 2_000, 20_000])
def test_nesting_beyond_the_limit(levels: int) -> None:
    with pytest.raises(RecordError, match="nested"):
        canonical.encode({"": nested(levels - 1)})
    data = b'{"":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
    with pytest.raises(RecordError, match="nested"):
        canonical.decode(data)


def test_a_record_that_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = [value]
    with pytest.raises(RecordError, match="nested"):
        canonical.encode(value)


def test_the_size_limit_is_met_exactly() -> None:
    data = canonical.encode({"a": "x" * (canonical.MAX_ENTRY - len('{"a":""}'))})
    assert len(data) == canonical.MAX_ENTRY
    assert canonical.encode(canonical.decode(data)) == data
    with pytest.raises(RecordError, match="65536 bytes"):
        canonical.decode(data.replace(b"x", b"xx", 1))


def test_trusted_encoding_still_refuses_what_cannot_be_written() -> None:
    for value in ({"a": object()}, {"a": "\ud800"}, {1: 1}):
        with pytest.raises(RecordError):
            canonical.encode_trusted(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"{} ",
        b" {}",
        b"{}{}",
        b"{}\n",
        b"\xef\xbb\xbf{}",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":18446744073709551616}',
        b'{"a":123456789012345678901234567890}',
        b'{"a":NaN}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\/"}',
        b'{"a":"\\u001F"}',
        b'{"a":"\\u000a"}',
        b'{"a":"\\u00e9"}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        '{"é":1}'.encode(),
        '{"a":{"xéy\\nz":"é"}}'.encode(),
        b"{'a':1}",
        b'{"a":1,}',
    ],
)
def test_everything_but_the_canonical_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        canonical.decode(data)


@given(OBJECTS, st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300)
def test_changed_bytes_decode_to_something_else_or_not_at_all(value: dict[str, Any], place: int, mask: int) -> None:
    data = bytearray(canonical.encode(value))
    data[place % len(data)] ^= mask
    try:
        decoded = canonical.decode(bytes(data))
    except RecordError:
        return
    assert decoded != value
    assert canonical.encode(decoded) == data


@given(st.binary(max_size=40) | TEXTS.map(str.encode) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_input_escapes_as_another_error(data: bytes) -> None:
    with contextlib.suppress(RecordError):
        assert canonical.encode(canonical.decode(data)) == data


def test_the_first_difference_is_named() -> None:
    for data, place in ((b'{"a": 1}', 5), (b'{"b":1,"a":1}', 2), (b'{"a":1,"a":1}', 6), (b"{}\n", 2)):
        with pytest.raises(RecordError, match=f"first difference at byte {place}$"):
            canonical.decode(data)


class Proxy:
    """A lazy object that passes for a dictionary, as local proxies of web frameworks do."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return dict

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def items(self) -> tuple[()]:
        return ()


def test_what_only_passes_for_a_dictionary_is_refused() -> None:
    with pytest.raises(RecordError, match="cannot be encoded: TypeError"):
        canonical.encode({"a": Proxy()})


def test_long_names_are_cut_in_paths() -> None:
    with pytest.raises(RecordError, match=r"^\$\.a{40}\.b{40}: float"):
        canonical.encode({"a" * 50: {"b" * 50: 1.5}})
    with pytest.raises(RecordError) as caught:
        canonical.encode({"a" * 40: {"b" * 40: {"c" * 40: {"d" * 40: {"e" * 40: {"f" * 40: 1.5}}}}}})
    assert len(str(caught.value)) < 250


def test_errors_do_not_repeat_content() -> None:
    with pytest.raises(RecordError) as caught:
        canonical.decode(b'{"a":"hunter2\xff"}')
    assert "hunter2" not in str(caught.value)


def test_searching_names_takes_linear_time() -> None:
    # 21,000 three-byte characters in one value: a search that starts over at each of them would take minutes.
    data = canonical.encode({"a": "\N{EURO SIGN}" * 21_000})
    assert canonical.decode(data) == {"a": "\N{EURO SIGN}" * 21_000}


# --- what our own code has built ---------------------------------------------------------------------------------


def outcome(made: Any, *arguments: Any) -> tuple[str, Any]:
    """The bytes, or the error's text."""
    try:
        return "bytes", made(*arguments)
    except RecordError as error:
        return "refused", str(error)


@given(OBJECTS, OBJECTS, VALUES)
def test_a_value_that_we_have_built_has_the_same_bytes(ours: dict[str, Any], part: dict[str, Any], other: Any) -> None:
    value = {"ours": ours, "extra": part, "impact": other}
    assert canonical.encode_built(value, (part, other)) == canonical.encode(value)


@pytest.mark.parametrize(
    "part", [one for one, _ in REFUSED if isinstance(one, dict)] + [nested(64), nested(2000), [10**17], "x" * 10**5]
)
@pytest.mark.parametrize("place", [lambda one: one, lambda one: [one], lambda one: {"a": one, "b": "text"}])
def test_what_is_wrong_with_a_foreign_part_is_told_as_always(part: Any, place: Any) -> None:
    value = {"ours": {"a": [1, None]}, "extra": place(part)}
    found = outcome(canonical.encode_built, value, (value["extra"],))
    assert found == outcome(canonical.encode, value)
    assert found[0] == "refused"


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=3) | st.integers(2**52, 2**54) | st.floats(), max_size=3))
@example({"é": "a"})
@example({"a": "\ud800"})
@example({"a": 2**53})
def test_a_foreign_part_of_any_kind(part: dict[str, Any]) -> None:
    value = {"ours": "1" * 16, "extra": part}
    assert outcome(canonical.encode_built, value, (part,)) == outcome(canonical.encode, value)


@pytest.mark.parametrize("wrong", [{"é": "a"}, {"é": {}}, {"a": "\ud800"}, {"a": Markup("b")}, {"a": "x" * 70_000}])
def test_names_texts_and_size_are_looked_at_everywhere(wrong: dict[str, Any]) -> None:
    """Whatever our own code may have let through."""
    assert outcome(canonical.encode_built, wrong, ()) == outcome(canonical.encode, wrong)
    assert outcome(canonical.encode_built, wrong, ())[0] == "refused"


class Built(msgspec.Struct):
    """A value of our own, its members in order."""

    extra: Any
    known: msgspec.Raw
    ours: Any


def unfolded(value: Built) -> dict[str, Any]:
    return {"extra": value.extra, "known": msgspec.json.decode(value.known), "ours": value.ours}


@given(OBJECTS, VALUES)
@example({"a": 1}, {"b": 2**53})
@example({"é": 1}, {"b": 2})
@example({"a": "\ud800"}, {})
@example({"a": "x" * 70_000}, {})
def test_structs_have_the_bytes_and_the_errors_of_dictionaries(ours: dict[str, Any], part: Any) -> None:
    value = Built(part, msgspec.Raw(b'{"a":[1,null]}'), ours)
    found = outcome(canonical.encode_built, value, (part,), unfolded)
    assert found == outcome(canonical.encode, unfolded(value))
