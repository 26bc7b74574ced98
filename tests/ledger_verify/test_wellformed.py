"""The quick check of an entry: takes every valid record, and nothing that the schema and the canonical form refuse."""

from __future__ import annotations

import copy
import json
import re
import uuid
from array import array
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from audit_middleware.errors import RecordError
from audit_middleware.evidence import wellformed
from audit_middleware.evidence.wellformed import check_record
from audit_middleware.ledger import canonical
from audit_middleware.ledger.counters import ActionIds, Counters, Facts, last_bits
from audit_middleware.ledger.examine import examine
from audit_middleware.ledger.told import Collector, Told, facts_of
from audit_middleware.schema import Record
from audit_middleware.stores.frames import RawFrame
from tests.stores.samples import batches, entry, record, small


def plain(value: Any) -> bytes:
    """Sorted JSON without white space, whatever the canonical form thinks of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def valid(data: bytes) -> bool:
    """The canonical form and the published models, and nothing else."""
    try:
        Record.model_validate(canonical.decode(data))
    except (RecordError, ValidationError):
        return False
    return True


def assert_agrees(data: bytes) -> bool:
    """Returns whether the bytes are a valid record, after making sure that `check_record` says the same."""
    expected = valid(data)
    assert wellformed.read_records([data]) is None or expected, data[:200]
    if expected:
        check_record(data)
    else:
        with pytest.raises(RecordError):
            check_record(data)
    return expected


def places(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in value.items():
        yield (*path, name)
        if isinstance(inner, dict):
            yield from places(inner, (*path, name))


def changed(path: Sequence[str], value: Any) -> dict[str, Any]:
    result = full()
    target = result
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return result


def full() -> dict[str, Any]:
    """A record in which every part is there."""
    body = {"content": {"a": [1, "x", None]}, "content_type": "application/json", "size": 9, "truncated": False}
    values = copy.deepcopy(record(3))
    values["impact"] = {"before": {"a": 1}, "after": [2], "count": 3}
    values["request"] |= {"body": dict(body), "headers": {"accept": "*/*"}, "path_params": {"id": "7"}}
    values["response"] |= {"body": dict(body)}
    return values


HOSTILE: list[Any] = [
    None, True, 0, -1, 1.5, 2**53 - 1, 2**53, 2**64, 10**30, "", "x", "ä", "x" * 2048, "ä" * 2048, "x" * 2049, "\n", [],
    ["x"], ["x" * 2049], [1], [None], {}, {"x": 1}, {"ä": 1}, {"x": "y"}, {"ä": "y"}, {"x": "y" * 2049}, {"x": 2**53},
    {"x": [1.0]}, {"x": None}, "allow", "outcome", "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:00.000000Z\n",
    "٢٠٢٦-01-01T00:00:00.000000Z", "019b76da-a800-7000-8000-0000000000ab", "019B76DA-a800-7000-8000-0000000000ab",
    "sealed.v1." + "x" * 3000, "sealed.v1." + "x" * 16_490, "sealed.v1." + "x" * 16_491,
]  # fmt: skip


def test_every_place_takes_the_same_values() -> None:
    assert assert_agrees(plain(full()))
    taken = refused = 0
    for path in places(full()):
        for value in HOSTILE:
            if assert_agrees(plain(changed(path, value))):
                taken += 1
            else:
                refused += 1
    assert taken > 300
    assert refused > 1000


def test_members_that_are_missing_or_too_many() -> None:
    for path in places(full()):
        values = full()
        target = values
        for name in path[:-1]:
            target = target[name]
        del target[path[-1]]
        assert_agrees(plain(values))
        assert_agrees(plain(changed((*path[:-1], "zz"), 1)))


def test_other_spellings_are_refused() -> None:
    good = plain(full())
    for spelling in (
        good + b" ",
        b" " + good,
        good.replace(b":", b": ", 1),
        good.replace(b'"duration_us":1500', b'"duration_us":1500.0'),
        good.replace(b'"duration_us":1500', b'"duration_us":15e2'),
        good.replace(b'"duration_us":1500', b'"duration_us":-0'),
        good.replace(b'"clerk"', b'"\\u0063lerk"'),
        good.replace(b'"flags":[]', b'"flags":[],"flags":[]'),
        good.replace(b'"action":"invoice.delete",', b"") [:-1] + b',"action":"invoice.delete"}',
        good[:-1],
        b"\xef\xbb\xbf" + good,
        good.replace(b"curl/8", b"curl/\xff"),
        good.replace(b'"a":[', b'"a":' + b"[" * 70).replace(b",null]", b",null]" + b"]" * 69),
        b"{}", b"", b"[]", b"null",
    ):  # fmt: skip
        assert spelling != good
        assert not assert_agrees(spelling)


def test_too_large() -> None:
    values = full() | {"extra": {"x": "y" * 65_000}}
    assert not assert_agrees(plain(values))


def test_valid_records_take_the_quick_way() -> None:
    """Else it would be of no use: also with ids full of digits, names of headers and free values."""
    for values in (
        record(1), full(), record(2, extra={"digest": "1" * 64, "n": 3}), record(3, reason="käse"),
        record(4, trace=record(4)["trace"] | {"trace_id": "1" * 32}),
    ):  # fmt: skip
        assert wellformed.read_records([canonical.encode(values)]) is not None


def test_many_are_read_as_each_is() -> None:
    good = [canonical.encode(values) for values in (record(1), full(), record(2, extra={"n": 3}), record(3))]
    found = wellformed.read_records(good)
    assert found is not None
    assert [one.sequence for one in found] == [json.loads(one)["sequence"] for one in good]
    assert wellformed.read_records([]) == []
    large = record(4, extra={"x": [{"n": 2**53}]})
    for bad in (b"{}", b"", b"[]", plain(large), plain(full() | {"extra": {"x": "y" * 65_000}})):
        for at in range(len(good) + 1):
            assert wellformed.read_records([*good[:at], bad, *good[at:]]) is None


def test_entries_that_are_records_only_together() -> None:
    """What is read at once must be, line by line, what the entries are."""
    one, two = canonical.encode(record(1)), canonical.encode(record(2))
    whole = canonical.encode(record(3, extra={"a": [{"b": 1}, {"c": 2}]}))
    begin, end = whole.split(b"},{")
    for entries in (
        [one + b"\n" + two],
        [one + b"\n" + two, b""],
        [one + two],
        [one, two + b"\n"],
        [one[:100], one[100:]],
        [one + begin + b"}", b"{" + end],
        [one + b"\n" + begin + b"},", b"{" + end],
        [b"\n" + one],
        [one, b" ", two],
    ):
        assert wellformed.read_records(entries) is None, entries


def test_patterned_texts_do_not_make_up_for_each_other() -> None:
    values = record(1)
    recorded = f"{values['recorded_at']}\n{values['timestamp']}\n{values['action_id']}\n{values['recorded_at']}"
    for at in range(3):
        entries = [
            plain(record(number, recorded_at=recorded) if number == at else record(number)) for number in range(3)
        ]
        assert wellformed.read_records(entries) is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flip_is_judged_alike(data: st.DataObject) -> None:
    good = bytearray(plain(full()))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.sampled_from(list(b'"{}[]:,.-0123456789eEax \\\x00\x80\xff')))
    assert_agrees(bytes(good))


class Odd(BaseModel):
    """A model that the quick check has no word for."""

    at: float


class Loose(BaseModel):
    """A member that may be absent."""

    at: int = 0


class Inner(BaseModel):
    """A pattern below the record itself."""

    at: Annotated[str, Field(pattern="^x$")]


class Outer(BaseModel):
    """Has one."""

    inner: Inner


@pytest.mark.parametrize("model", [Odd, Loose, Outer])
def test_a_schema_it_cannot_follow_is_an_error_and_no_guess(model: type[BaseModel]) -> None:
    with pytest.raises(TypeError):
        wellformed._derive(model)


# --- the quick way and the slow way over a whole frame -------------------------------------------------------------


def spoilt() -> dict[str, bytes]:
    """Entries with something wrong in each of the ways that only the bytes tell, or only the values."""
    good = plain(full())

    def swapped(old: bytes, new: bytes) -> bytes:
        assert good.count(old) >= 1
        return good.replace(old, new, 1)

    def extra(value: bytes) -> bytes:
        return swapped(b'"extra":{}', b'"extra":{"x":' + value + b"}")

    return {
        "space": swapped(b":", b": "),
        "space between members": swapped(b',"', b', "'),
        "tab": swapped(b",", b",\t"),
        "space before": b" " + good,
        "space behind": good + b" ",
        "carriage return": good + b"\r",
        "order": b'{"user_id":"user-3",' + swapped(b',"user_id":"user-3"', b"")[1:],
        "order inside": swapped(b'"name":"billing","version":"1.0"', b'"version":"1.0","name":"billing"'),
        "order of free names": extra(b'{"b":1,"a":2}'),
        "twice": swapped(b'"flags":[]', b'"flags":[],"flags":[]'),
        "twice in free JSON": extra(b'{"a":1,"a":1}'),
        "fraction": swapped(b'"duration_us":1500', b'"duration_us":1500.0'),
        "exponent": swapped(b'"duration_us":1500', b'"duration_us":15e2'),
        "minus zero": swapped(b'"duration_us":1500', b'"duration_us":-0'),
        "leading zero": swapped(b'"duration_us":1500', b'"duration_us":01500'),
        "plus": swapped(b'"duration_us":1500', b'"duration_us":+1500'),
        "number as text": swapped(b'"duration_us":1500', b'"duration_us":"1500"'),
        "large number": swapped(b'"duration_us":1500', b'"duration_us":9007199254740992'),
        "escape": swapped(b'"clerk"', b'"\\u0063lerk"'),
        "escaped slash": swapped(b"curl/8", b"curl\\/8"),
        "escape in upper case": swapped(b"curl/8", b"curl\\u001F"),
        "short escape as a long one": swapped(b"curl/8", b"curl\\u000a"),
        "escaped name": swapped(b'"flags"', b'"\\u0066lags"'),
        "lone surrogate": swapped(b"curl/8", b"curl\\ud800"),
        "no UTF-8": swapped(b"curl/8", b"curl\xff"),
        "surrogate in UTF-8": swapped(b"curl/8", b"curl\xed\xa0\x80"),
        "overlong UTF-8": swapped(b"curl/8", b"curl\xc0\xaf"),
        "control character": swapped(b"curl/8", b"curl\x01"),
        "zero byte": swapped(b"curl/8", b"curl\x00"),
        "free fraction": extra(b"1.5"),
        "free whole fraction": extra(b"1.0"),
        "free exponent": extra(b"[1e3]"),
        "free large number": extra(b"[[9007199254740992]]"),
        "free huge number": extra(b'{"a":' + b"9" * 40 + b"}"),
        "free small number": extra(b"-9007199254740992"),
        "free name that is not ASCII": extra('{"ä":1}'.encode()),
        "the same deep down": extra(b"[" * 20 + '{"ä":1}'.encode() + b"]" * 20),
        "deep large number": extra(b"[" * 20 + b"9007199254740992" + b"]" * 20),
        "too deep": extra(b"[" * 63 + b"]" * 63),
        "far too deep": extra(b"[" * 20_000 + b"]" * 20_000),
        "too large": extra(b'"' + b"y" * 65_000 + b'"'),
        "text too long": swapped(b"curl/8", b"c" * 2049),
        "name of headers that is not ASCII": swapped(b'"headers":{', '"headers":{"ä":"x",'.encode()),
        "pattern": swapped(b'"recorded_at":"2026', b'"recorded_at":"x026'),
        "newline at the end of a pattern": swapped(b'.000000Z"', b'.000000Z\\n"'),
        "no such member": swapped(b'"flags":[]', b'"flags":[],"flagz":1'),
        "member missing": swapped(b'"flags":[],', b""),
        "other type": swapped(b'"flags":[]', b'"flags":{}'),
        "another array": b"[" + good + b"]",
        "comma behind": good + b",",
        "bracket behind": good + b"]",
        "brackets between": good + b"],[" + good,
        "two": good + b"," + good,
        "two without a comma": good + good,
        "cut": good[:-1],
        "cut in the middle": good[: len(good) // 2],
        "the rest of one": good[len(good) // 2 :],
        "byte order mark": b"\xef\xbb\xbf" + good,
        "nothing": b"",
        "no object": b"null",
        "empty object": b"{}",
        "array": b"[]",
        "text": b'"x"',
    }


SPOILT = spoilt()


def looked_at(entries: Sequence[bytes]) -> tuple[Any, ...]:
    """All that is said of a frame, in a form that can be compared."""
    found = examine(RawFrame("x", entries, None), "x", [], wellformed.check_record, wellformed.read_records)
    assert isinstance(found.facts, Told)
    return list(found.malformed), found.leaves, list(found.facts), found.facts.ids, found.facts.run, found.controls


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("at", [0, 9, 15, 16, 19])
def test_one_bad_entry_is_found_wherever_it_stands(name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of the slow way, and nothing else said of the others. 16 entries are read together."""
    entries = [entry(number) for number in range(20)]
    entries[3] = entry(3, kind="control", action="audit.gap", extra={"count": 1})
    healthy = looked_at(entries)
    assert healthy[0] == []
    entries[at] = SPOILT[name]
    quick = looked_at(entries)
    monkeypatch.setattr(wellformed, "read_records", lambda _: None)
    assert looked_at(entries) == quick
    assert [position for position, _ in quick[0]] == [at]


def test_good_entries_of_every_kind_are_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = {"a": [7, None, "ä"]}
    for _ in range(40):
        deep = [deep]
    entries = [
        *(entry(number) for number in range(10)),
        entry(10, user_id="käse"),
        entry(11, extra={"deep": deep}),
        entry(12, extra={"n": -(2**53) + 1, "text": '"ä":1', "\x7f": "\u2028\x00\n"}),
        entry(13, kind="control", action="audit.gap", extra={"count": 1}),
        plain(full() | {"sequence": 14}),
    ]
    quick = looked_at(entries)
    assert quick[0] == []
    for some in (entries[:11], entries[:12], entries[12:]):  # the largest number beside the deepest is looked at twice
        assert wellformed.read_records(some) is not None
    monkeypatch.setattr(wellformed, "read_records", lambda _: None)
    assert looked_at(entries) == quick


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 39), st.sampled_from(sorted(SPOILT))), max_size=4))
def test_several_bad_entries_are_found_alike(bad: list[tuple[int, str]]) -> None:
    entries = [entry(number) for number in range(40)]
    for at, name in bad:
        entries[at] = SPOILT[name]
    quick = looked_at(entries)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(wellformed, "read_records", lambda _: None)
        assert looked_at(entries) == quick
    assert [position for position, _ in quick[0]] == sorted({at for at, _ in bad})


# --- what the records of a frame tell ------------------------------------------------------------------------------


def told(entries: Sequence[bytes]) -> Told:
    collector = Collector()
    for one in entries:
        collector.add(facts_of(one))
    return collector.told(entries)


def test_a_frame_of_one_process_is_summed_up() -> None:
    entries = batches(5)[0]
    found = told(entries)
    assert found.run is not None
    assert found.run[:2] == ("process-1", 0)
    assert list(found) == [facts_of(one) for one in entries]
    assert found[1:3] == [facts_of(one) for one in entries[1:3]]
    assert found[4] == facts_of(entries[4])
    assert found.ids == array("Q", [last_bits(record(n)["action_id"]) for n in range(5)])


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [small(1)],
        [entry(0), small(1)],
        [entry(0), entry(2)],
        [entry(1), entry(0)],
        [entry(0), entry(1, "process-2")],
        [entry(0), entry(1, recorded_at="2025-01-01T00:00:00.000000Z")],
        [b"{", b"{}"],
    ],
)
def test_a_frame_that_is_not(entries: list[bytes]) -> None:
    assert told(entries).run is None
    assert list(told(entries)) == [facts_of(one) for one in entries]


@given(st.lists(st.uuids(version=4), max_size=6))
def test_ids_of_records_are_the_same_in_one_go(ids: list[uuid.UUID]) -> None:
    collector = Collector()
    collector.extend([Facts(action_id=str(one)) for one in ids])
    assert list(collector.told([b"{}"] * len(ids)).ids) == [last_bits(str(one)) for one in ids]


IDS = st.text("0123456789abcdefABCDEF-_ +x\n", min_size=36, max_size=36) | st.text(max_size=40)


@given(st.lists(IDS, max_size=6))
def test_ids_are_the_same_in_one_go(ids: list[str]) -> None:
    entries = [msgspec.json.encode({"action_id": one}) for one in ids]
    assert list(told(entries).ids) == [last_bits(one) for one in ids]


def test_counters_and_ids_say_the_same_of_sums_and_of_facts() -> None:
    frames = [batches(4)[0], [entry(4), entry(5)], [entry(7)], [entry(7)], [entry(8, "process-2")], [entry(8)]]
    results = []
    for summed in (True, False):
        counters, ids, found, first = Counters(), ActionIds(), [], 0
        for entries in frames:
            facts: Sequence[Facts | None] = told(entries) if summed else [facts_of(one) for one in entries]
            found += list(counters.add(first, facts))
            ids.add(first, facts)
            first += len(entries)
        results.append((found, list(counters.finish(ids.repeated())), ids.repeated()))
    assert results[0] == results[1]
    assert [finding.index for finding in results[0][0]] == [6, 8]
    assert results[0][2] == {7: 6}


def test_messages_of_the_slow_way_repeat_no_content() -> None:
    with pytest.raises(RecordError, match=re.escape("severity")) as caught:
        check_record(entry(1, severity="secret"))
    assert "secret" not in str(caught.value)
