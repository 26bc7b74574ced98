"""`plain` and `clean`: whatever goes in, what comes out can be recorded."""

from __future__ import annotations

import enum
import hashlib
import json
import threading
from collections import UserDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, HttpUrl, SecretStr

from audit_middleware.context import clean, plain

SAFE = 2**53 - 1


def check(value: Any) -> None:
    """The value is what the canonical form takes: no floats, no big integers, no surrogates, ASCII names."""
    if isinstance(value, dict):
        for name, member in value.items():
            assert type(name) is str
            assert name.isascii()
            assert len(name) <= 128 + 16
            check(member)
    elif isinstance(value, list):
        for item in value:
            check(item)
    elif isinstance(value, str):
        assert type(value) is str
        value.encode()
    elif type(value) is int:
        assert abs(value) <= SAFE
    else:
        assert value is None or value is True or value is False, type(value)


class Raising:
    """Raises from every place a copier could touch."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__

    def __len__(self) -> int:
        raise RuntimeError

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError


class HidesItsName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]  # this is the point
        raise RuntimeError


class Nameless(metaclass=HidesItsName):
    pass


class RaisingMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError

    def __iter__(self) -> Iterator[str]:
        yield "a"
        raise RuntimeError

    def __len__(self) -> int:
        return 2


class LyingInt(int):
    def __repr__(self) -> str:
        return "a lie"

    def __pos__(self) -> int:
        raise RuntimeError

    def __abs__(self) -> int:
        raise RuntimeError


class LyingText(str):
    def __str__(self) -> str:
        return LyingText("\ud800")


class Colour(enum.Enum):
    RED = 1.5


class Word(enum.StrEnum):
    ONE = "one"


@dataclass
class Point:
    x: float
    tags: set[str]


class Customer(BaseModel):
    name: str
    secret: SecretStr
    site: HttpUrl
    born: date


MAKERS = (Raising, Nameless, RaisingMapping, lambda: Raising, object)
HOSTILE = st.integers(0, len(MAKERS) - 1).map(lambda n: MAKERS[n]())  # hypothesis must not look at them either
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=50)
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.sampled_from(list(Colour))
    | st.sampled_from(list(Word))
    | st.builds(LyingInt, st.integers())
    | st.builds(LyingText, st.text())
    | st.ip_addresses()
    | st.complex_numbers()
    | HOSTILE
)
KEYS = (
    st.text(st.characters(exclude_categories=()))
    | st.integers()
    | st.none()
    | st.floats()
    | st.binary()
    | st.booleans()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(KEYS, inner, max_size=8)
        | st.tuples(inner, inner)
        | st.builds(deque, st.lists(inner, max_size=3))
        | st.builds(UserDict, st.dictionaries(st.text(), inner, max_size=3))
        | st.builds(Point, st.floats(), st.sets(st.text(), max_size=3))
        | st.sets(st.integers() | st.text(), max_size=5)
    ),
    max_leaves=30,
)


@given(VALUES)
@settings(max_examples=400)
def test_any_value_becomes_encodable_json_within_its_limit(value: Any) -> None:
    copy = plain(value, limit=4096)
    check(copy)
    encoded = msgspec.json.encode(copy)
    assert len(encoded) <= 4096
    assert json.loads(encoded) == copy


@given(VALUES, st.integers(64, 300))
@settings(max_examples=400)
def test_a_small_limit_holds_exactly(value: Any, limit: int) -> None:
    copy = plain(value, limit=limit)
    check(copy)
    assert len(msgspec.json.encode(copy)) <= limit


@given(VALUES)
def test_a_copy_of_a_copy_is_itself(value: Any) -> None:
    copy = plain(value, limit=100_000)
    assert plain(copy, limit=100_000) == copy


CONVERSIONS: list[tuple[object, object]] = [
    (1.0, "1.0"),
    (0.1, "0.1"),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
    (Decimal("1.50"), "1.50"),
    (SAFE, SAFE),
    (-SAFE, -SAFE),
    (SAFE + 1, str(SAFE + 1)),
    (True, True),
    (LyingInt(7), 7),
    (10**5000, "<int>"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006Z"),
    (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:00:00Z"),
    (datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (timedelta(seconds=90), "0:01:30"),
    (ip_address("2001:db8::1"), "2001:db8::1"),
    (Path("/a/b"), "/a/b"),
    (Colour.RED, "1.5"),
    (Word.ONE, "one"),
    ("\ud800x", "\ufffdx"),
    ("\ud83d\ude00", "\U0001f600"),
    ("tab\tline\n\x00", "tab\tline\n\x00"),
    (b"abc", {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3}),
    (bytearray(b"abc"), {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3}),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ((1, "x"), [1, "x"]),
    (range(3), [0, 1, 2]),
    ({1: "a", None: "b", 1.5: "c", (1, 2): "d"}, {"1": "a", "null": "b", "1.5": "c", "[1,2]": "d"}),
    ({"é…": 1}, {"\\xe9\\u2026": 1}),
    ({1: "a", "1": "b"}, {"1": "a", "1~": "b"}),
    (Point(0.5, {"b", "a"}), {"x": "0.5", "tags": ["a", "b"]}),
    (object(), "<object>"),
    (Point, "<type>"),
    (Raising(), "<Raising>"),
    (Nameless(), "<Nameless>"),
    (RaisingMapping(), "<RaisingMapping>"),
    (iter([1]), "<list_iterator>"),
    (1j, "<complex>"),
]


@pytest.mark.parametrize("at", range(len(CONVERSIONS)))  # by number: some of these break what prints them
def test_conversions(at: int) -> None:
    value, expected = CONVERSIONS[at]
    copy = plain(value)
    assert copy == expected
    assert type(copy) is type(expected)


def test_a_pydantic_model_is_dumped_and_its_secret_is_not() -> None:
    customer = Customer(
        name="A", secret=SecretStr("hunter2"), site=HttpUrl("https://a.example/"), born=date(2000, 1, 1)
    )
    assert plain(customer) == {"name": "A", "secret": "<SecretStr>", "site": "https://a.example/", "born": "2000-01-01"}


def test_what_contains_itself_ends() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    assert plain(ring) == [1, "<list>"]
    table: dict[str, Any] = {}
    table["self"] = [table]
    assert plain(table) == {"self": ["<dict>"]}


def test_depth_ends_at_16() -> None:
    value: Any = "bottom"
    for _ in range(40):
        value = [value]
    assert json.dumps(plain(value)) == "[" * 16 + '"<list>"' + "]" * 16


def test_a_tree_that_branches_without_end_is_bounded() -> None:
    value: Any = [1, 2]
    for _ in range(60):
        value = [value, value, value]
    assert len(msgspec.json.encode(plain(value, limit=5000))) <= 5000


def test_cuts_are_marked() -> None:
    assert plain("x" * 100, limit=64) == "x" * 59 + "…"
    assert plain(list(range(1000)), limit=100) == [0, 1, 2, 3, 4, 5, 6, "<993 more>"]
    assert plain({str(n): n for n in range(10)}, limit=100)["..."].endswith(" more>")
    assert plain(range(5000), limit=1_000_000)[-1] == "<4000 more>"
    assert plain({"n" * 500: 1}) == {"n" * 125 + "...": 1}


def test_the_copy_does_not_follow_later_changes() -> None:
    inner = [1]
    copy = plain({"a": inner})
    inner.append(2)
    assert copy == {"a": [1]}


def test_a_dict_may_change_in_another_thread_meanwhile() -> None:
    table = {str(n): n for n in range(500)}
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            table[f"new{n % 50}"] = n
            table.pop(f"new{(n + 25) % 50}", None)
            n += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(200):
            copy = plain(table, limit=100_000)
            assert isinstance(copy, dict), copy
            assert copy["7"] == 7
    finally:
        stop.set()
        thread.join()


@given(st.text(st.characters(exclude_categories=())) | st.binary(), st.integers(3, 40))
def test_clean_is_valid_bounded_and_marked(text: str | bytes, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned.encode()) <= limit
    whole = clean(text, 10_000)
    assert cleaned == whole or (cleaned.endswith("…") and whole.startswith(cleaned[:-1]))


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "…"),
        ("abcdef", 5, "ab…"),
        ("ééé", 6, "ééé"),
        ("éééé", 6, "é…"),
        ("\U0001f600\U0001f600", 7, "\U0001f600…"),
        (b"caf\xc3\xa9", 10, "café"),
        (b"\xff\xfe", 10, "\ufffd\ufffd"),
        (b"a\nb\x00", 10, "a\nb\x00"),
        ("\ud800", 10, "\ufffd"),
        ("", 3, ""),
    ],
)
def test_clean_cuts_at_a_character(text: str | bytes, limit: int, expected: str) -> None:
    assert clean(text, limit) == expected


def test_a_subclass_of_text_becomes_text() -> None:
    class Markup(str):
        def __str__(self) -> str:
            return "another"

    for text in ("abc", "\u00e9", "x" * 300):
        cleaned = clean(Markup(text), 64)
        assert type(cleaned) is str
        assert cleaned == clean(text, 64)
