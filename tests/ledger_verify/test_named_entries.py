"""Which entries of a large commit were changed: the report names each, and lies in the sums change no verdict."""

from __future__ import annotations

import random
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.ledger import alignment, tree
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Head
from audit_middleware.stores import frames
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, entry, small

BEFORE = [small(n) for n in range(3)]
COUNT = 50


class Log:
    """Two commits; the second, of 50 entries, is the patient."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.first = SEAL(Head(), BEFORE)
        self.entries = list(entries)
        self.head = SEAL(self.first, self.entries)
        self.start = frames.encode_frame(0, BEFORE, self.first)
        self.frame = frames.encode_frame(3, self.entries, self.head)
        self.line = self.frame[self.frame.rindex(frames.MARK) + 1 :]

    def report(self, frame: bytes) -> Report:
        raw = [frames.read_raw(data, "here") for data in (self.start, frame)]
        return verify(raw, ORIGIN, VERIFIERS)

    def with_entries(self, entries: Sequence[bytes], *, rehash: bool = True, sums: bytes | None = None) -> Report:
        """The commit over other entries; ``rehash`` and ``sums``: as somebody who can compute SHA-256."""
        line = self.line
        if sums is not None:
            line = line.replace(b64encode(self.head.sums), b64encode(sums))
        if not rehash:
            return self.report(b"".join(one + b"\n" for one in entries) + line)
        hashed = b"\n".join([*entries, line[: -frames.TRAILER]])
        return self.report(hashed + b',"sha256":"%b"}\n' % sha256(hashed).hexdigest().encode())


@pytest.fixture(scope="module")
def plain() -> Log:
    return Log([small(1000 + n) for n in range(COUNT)])


@pytest.fixture(scope="module")
def records() -> Log:
    return Log([entry(n) for n in range(COUNT)])


def errors(report: Report) -> list[tuple[str, int | None]]:
    assert not report.holds
    return [(one.cause, one.index) for one in report.findings if one.level == "error"]


def damaged_everywhere(log: Log, bits: Sequence[int], step: int) -> None:
    offset = 0
    for position, one in enumerate(log.entries):
        for at in range(0, len(one), step):
            for bit in bits:
                changed = bytearray(log.frame)
                changed[offset + at] ^= bit
                found = errors(log.report(bytes(changed)))
                assert found == [("altered", 3 + position)], (position, at, bit, found)
        offset += len(one) + 1


def test_every_byte_of_every_entry_names_its_entry(plain: Log) -> None:
    damaged_everywhere(plain, (0x01, 0x80), 1)


def test_bytes_of_records_name_their_entry(records: Log) -> None:
    damaged_everywhere(records, (0x01,), 97)


@pytest.mark.slow
def test_every_byte_of_every_record_names_its_entry(records: Log) -> None:
    damaged_everywhere(records, (0x01,), 1)


def test_a_counter_that_was_altered_blames_no_other_entry(records: Log) -> None:
    changed = [entry(1), *records.entries[1:]]
    assert errors(records.with_entries(changed)) == [("altered", 3)]
    changed = [entry(9), *records.entries[1:]]
    assert errors(records.with_entries(changed)) == [("altered", 3)]


@pytest.mark.parametrize(
    "other",
    [
        entry(900),
        entry(3),
        entry(10, "process-2"),
        entry(10, recorded_at="2030-01-01T00:00:00.000000Z"),
        entry(10, recorded_at="2020-01-01T00:00:00.000000Z"),
        small(1),
        b"{",
    ],
)
@pytest.mark.parametrize("position", [0, 10, 49])
def test_what_an_altered_entry_says_of_itself_is_not_held_against_later_ones(
    records: Log, other: bytes, position: int
) -> None:
    after = [entry(50 + n) for n in range(3)]
    last = frames.encode_frame(53, after, SEAL(records.head, after))
    changed = [*records.entries[:position], other, *records.entries[position + 1 :]]
    hashed = b"\n".join([*changed, records.line[: -frames.TRAILER]])
    frame = hashed + b',"sha256":"%b"}\n' % sha256(hashed).hexdigest().encode()
    report = verify([frames.read_raw(data, "") for data in (records.start, frame, last)], ORIGIN, VERIFIERS)
    assert errors(report) == [("altered", 3 + position)]


@pytest.mark.parametrize("rehash", [False, True])
def test_each_altered_entry_is_a_finding(records: Log, rehash: bool) -> None:
    changed = list(records.entries)
    for position in (4, 5, 31):
        changed[position] = changed[position].replace(b"curl", b"wget")
    assert errors(records.with_entries(changed, rehash=rehash)) == [("altered", 7), ("altered", 8), ("altered", 34)]


@pytest.mark.parametrize("rehash", [False, True])
def test_missing_inserted_and_repeated_entries(plain: Log, rehash: bool) -> None:
    ones = plain.entries
    new = small(7)
    for changed, expected in (
        (ones[:9] + ones[10:], [("missing", 12)]),
        (ones[:9] + ones[10:20] + ones[22:], [("missing", 12), ("missing", 23), ("missing", 24)]),
        (ones[:-1], [("missing", 52)]),
        (ones[1:], [("missing", 3)]),
        ([*ones[:9], new, *ones[9:]], [("altered", 12)]),
        ([*ones[:9], new, *ones[10:]], [("altered", 12)]),
        ([*ones[:9], ones[8], *ones[9:]], [("duplicated", 12)]),
        ([*ones, ones[0]], [("duplicated", 53)]),
        ([*ones[:9], ones[10], ones[9], *ones[11:]], [("reordered", 12)]),
        (ones[::-1], [("reordered", 3)]),
        ([*ones[1:], ones[0]], [("reordered", 3)]),
        ([*ones[:9], ones[30], *ones[10:]], [("altered", 12)]),
        ([new, *ones[1:20], *ones[21:]], [("altered", 3), ("missing", 23)]),
    ):
        assert errors(plain.with_entries(changed, rehash=rehash)) == expected


def test_sums_that_lie_change_no_verdict(plain: Log) -> None:
    leaves = list(map(tree.leaf_hash, plain.entries))
    for sums in (bytes(200), plain.head.sums[::-1], tree.sums(leaves[::-1])):
        assert plain.with_entries(plain.entries, sums=sums).holds  # the signed root holds: nothing was changed
    changed = [*plain.entries[:20], small(7), *plain.entries[21:]]
    for sums in (bytes(200), tree.sums(map(tree.leaf_hash, changed)), tree.sums(leaves[::-1])):
        found = errors(plain.with_entries(changed, sums=sums))
        assert found
        assert all(index is not None and 3 <= index < 53 for _, index in found)


def test_sums_that_were_made_to_fit_are_not_believed(plain: Log) -> None:
    """Entries exchanged, and sums that tell of another exchange: undoing that does not lead to the root."""
    ones = plain.entries
    changed = [ones[1], ones[0], *ones[2:]]
    lie = [tree.leaf_hash(one)[:4] for one in changed]
    lie[30], lie[40] = lie[40], lie[30]
    assert errors(plain.with_entries(changed, sums=b"".join(lie))) == [("reordered", 3)]


def test_sums_of_another_length_are_refused(plain: Log) -> None:
    text = plain.line.replace(b64encode(plain.head.sums), b64encode(plain.head.sums[:-4]))
    assert frames.read_raw(text, "").commit is None
    assert b64decode(b64encode(plain.head.sums)) == plain.head.sums
    assert frames.SUM_SIZE == tree.SUM_SIZE


@given(st.lists(st.integers(0, 30), max_size=40), st.lists(st.integers(0, 30), max_size=40))
def test_differences_account_for_every_entry(one: list[int], other: list[int]) -> None:
    """Whatever the two lists are: equal lists have none, others have some, and the counts add up."""
    signed, found = [bytes([n]) for n in one], [bytes([n]) for n in other]
    differences = list(alignment.differences(signed, found))
    assert (not differences) == (signed == found)
    kinds = [difference.kind for difference in differences]
    assert len(found) - len(signed) == kinds.count("extra") - kinds.count("missing")
    assert all(0 <= d.position <= len(signed) and 0 <= d.at <= len(found) for d in differences)


def test_an_exchange_of_many_is_found_in_one_pass() -> None:
    signed = [n.to_bytes(4, "big") for n in range(200_000)]
    found = random.Random(1).sample(signed, len(signed))
    assert {difference.kind for difference in alignment.differences(signed, found)} == {"moved"}
