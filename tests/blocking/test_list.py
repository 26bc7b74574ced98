"""The list of blocks: whom it finds, when an entry ends, and what stands in the file."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from audit_middleware.context import clean
from audit_middleware.detectors import blocklist
from audit_middleware.detectors.blocklist import LONGEST_S, MAX_BYTES, BlockList, Listing
from audit_middleware.errors import BlocksError
from audit_middleware.model import NOBODY, Subject
from audit_middleware.pipeline.blocks import MAX_FLAGS, Blocks, Standing, recorded_id
from audit_middleware.wiring import blocking
from audit_middleware.wiring.blocking import Blocking
from tests.blocking.support import HOSTILE, SECOND, blocks_of, entry, put
from tests.control.support import until
from tests.kit import ORIGIN, Log


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000 * SECOND
        self.monotonic = 1_000.0

    def pass_(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.monotonic += seconds


def standing(blocks: Blocks, clocks: Clocks, who: str = "ann") -> Standing | None:
    return blocks.standing(Subject(who), None, clocks.wall)


def started(clocks: Clocks, seconds: float = 900, **changes: Any) -> tuple[Blocks, Any]:
    held = entry(since_ns=clocks.wall, until_ns=clocks.wall + int(seconds * SECOND), **changes)
    blocks = Blocks(lambda: clocks.monotonic)
    blocks.adopt([held], clocks.wall)
    return blocks, held


def test_nobody_on_the_list_is_no_table() -> None:
    blocks = Blocks()
    assert blocks.table is None
    blocks.adopt([entry()], time.time_ns())
    assert blocks.table is not None
    blocks.adopt([], time.time_ns())
    assert blocks.table is None
    blocks.adopt([entry(since_ns=0, until_ns=5)], time.time_ns())
    assert blocks.table is None, "it had ended when it was read"


@pytest.mark.parametrize("who", HOSTILE, ids=range(len(HOSTILE)))
def test_a_caller_is_found_by_the_id_that_records_have(who: str, log: Log) -> None:
    put(log, entry(recorded_id(who)))
    blocks = Blocks()
    blocks.adopt(blocks_of(log).read().entries, time.time_ns())
    found = blocks.standing(Subject(who), "192.0.2.1", time.time_ns())
    assert found is not None
    assert found.block is not None
    assert found.block.who == clean(who, 256)
    for other in ("bob", "toString", who[:-1] or "a", " " + who):
        if recorded_id(other) != recorded_id(who):
            assert blocks.standing(Subject(other), "192.0.2.1", time.time_ns()) is None
    assert blocks.standing(NOBODY, "192.0.2.1", time.time_ns()) is None


def test_an_address_is_blocked_for_those_only_whom_nobody_knows() -> None:
    blocks = Blocks()
    blocks.adopt([entry("192.0.2.1", kind="address")], time.time_ns())
    assert blocks.standing(NOBODY, "192.0.2.1", time.time_ns()) is not None
    for subject, address in ((NOBODY, "192.0.2.2"), (NOBODY, None), (Subject("ann"), "192.0.2.1")):
        assert blocks.standing(subject, address, time.time_ns()) is None
    assert blocks.standing(Subject("192.0.2.1"), "192.0.2.9", time.time_ns()) is None, "a user of that name"


def test_an_entry_ends_by_the_wall_clock() -> None:
    clocks = Clocks()
    blocks, _ = started(clocks, 900)
    clocks.pass_(899)
    found = standing(blocks, clocks)
    assert found is not None
    assert 0.5 < found.left_s <= 1
    assert not blocks.stale()
    clocks.pass_(1)
    assert standing(blocks, clocks) is None
    assert blocks.stale()


def test_a_clock_that_is_put_forward_ends_it() -> None:
    clocks = Clocks()
    blocks, _ = started(clocks, 900)
    clocks.wall += 900 * SECOND
    assert standing(blocks, clocks) is None


def test_a_clock_that_is_put_back_prolongs_nothing() -> None:
    clocks = Clocks()
    blocks, held = started(clocks, 900)
    clocks.pass_(100)
    clocks.wall -= 86_400 * SECOND
    found = standing(blocks, clocks)
    assert found is not None
    assert found.left_s <= 800
    blocks.adopt([held, entry("bob")], clocks.wall)  # the file was replaced meanwhile
    clocks.pass_(799)
    assert standing(blocks, clocks) is not None
    clocks.pass_(2)
    assert standing(blocks, clocks) is None
    assert blocks.stale()
    for who in ("eve", "mallory"):  # the file still has the entry, and changes again and again
        blocks.adopt([held, entry(who)], clocks.wall)
        assert standing(blocks, clocks) is None, "it came back"
        assert not blocks.stale()
    fresh = Blocks(lambda: clocks.monotonic)
    fresh.adopt([held], clocks.wall)  # a process that starts with the wrong clock
    clocks.pass_(901)
    assert standing(fresh, clocks) is None, "never longer than it was meant to be"


def test_of_several_entries_the_last_block_counts_and_flags_are_bounded() -> None:
    now = time.time_ns()
    many = [entry(rule=f"rule-{n}", finding_id=str(n), block=n in (3, 5), seconds=60 + n) for n in range(20)]
    blocks = Blocks()
    blocks.adopt(many, now)
    found = blocks.standing(Subject("ann"), None, now)
    assert found is not None
    assert found.block == many[5]
    assert len(found.rules) == MAX_FLAGS
    blocks.adopt([replace(one, block=False) for one in many], now)
    found = blocks.standing(Subject("ann"), None, now)
    assert found is not None
    assert found.block is None


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_file_is_the_owners_alone_and_comes_back_as_it_was(log: Log) -> None:
    held = [entry("ann"), entry("192.0.2.1", kind="address", block=False)]
    put(log, *held)
    source = blocks_of(log)
    assert source.read() == Listing(tuple(held))
    assert source.path.stat().st_mode & 0o777 == 0o600
    before = source.signature()
    put(log, held[0])
    assert source.signature() == before, "nothing new, nothing written"
    put(log, entry("eve"))
    assert source.signature() != before


def test_what_was_lifted_does_not_come_back_with_the_same_finding(log: Log) -> None:
    held = entry("ann")
    put(log, held)
    source = blocks_of(log)
    source.change(lambda listing: listing.lift("user", "ann"), time.time_ns())
    put(log, held)
    assert source.read().entries == ()
    put(log, replace(held, finding_id="another"))
    assert len(source.read().entries) == 1
    source.change(lambda listing: listing, held.until_ns)
    assert source.read() == Listing(), "it ends, and what was lifted is forgotten with it"


def test_the_list_is_bounded_and_flags_give_way_first(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocklist, "MAX_ENTRIES", 10)
    put(log, *(entry(f"flag-{n}", block=False, seconds=5_000) for n in range(10)))
    put(log, *(entry(f"block-{n}", seconds=100 + n) for n in range(12)))
    kept = blocks_of(log).read().entries
    assert sorted(one.who for one in kept) == sorted(f"block-{n}" for n in range(2, 12))


def test_one_callers_storm_lets_no_other_in(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that each request of one caller satisfies, before the first block is in force."""
    monkeypatch.setattr(blocklist, "MAX_ENTRIES", 20)
    put(log, entry("bob", seconds=60), entry("bob", seconds=30, finding_id="f"), entry("carl", block=False))
    put(log, *(entry("ann", seconds=900 + n, finding_id=f"storm-{n}") for n in range(50)))
    kept = blocks_of(log).read().entries
    assert len(kept) == 20
    assert {one.who for one in kept} == {"ann", "bob", "carl"}
    assert max(one.until_ns for one in kept) == max(one.until_ns for one in kept if one.finding_id == "storm-49")


def test_many_writers_lose_nothing(log: Log) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: put(log, entry(f"user-{n}")), range(40)))
    assert {one.who for one in blocks_of(log).read().entries} == {f"user-{n}" for n in range(40)}


def test_a_change_leaves_no_descriptor_open(log: Log) -> None:
    put(log, entry("ann"))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        put(log, entry(f"user-{number}"))
        blocks_of(log).read()
    assert len(os.listdir("/proc/self/fd")) <= before


def good(log: Log) -> dict[str, Any]:
    put(log, entry())
    return dict(json.loads(blocks_of(log).path.read_bytes()))


def edited(**changes: Any) -> Callable[[Log, Path], None]:
    """Replaces members; those of the entry, if they are."""

    def damage(log: Log, path: Path) -> None:
        values = good(log)
        for name, value in changes.items():
            (values if name in values else values["entries"][0])[name] = value
        path.write_text(json.dumps(values))

    return damage


def written(data: bytes) -> Callable[[Log, Path], None]:
    def damage(log: Log, path: Path) -> None:
        path.write_bytes(data)
        path.chmod(0o600)

    return damage


def torn(log: Log, path: Path) -> None:
    good(log)
    path.write_bytes(path.read_bytes()[:-20])


def linked(log: Log, path: Path) -> None:
    good(log)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def piped(log: Log, path: Path) -> None:
    os.mkfifo(path, 0o600)


def open_to_all(log: Log, path: Path) -> None:
    good(log)
    path.chmod(0o666)


DAMAGE = [
    (torn, "is damaged"), (written(b""), "is damaged"), (written(b"[]"), "is damaged"),
    (written(b"\xff"), "is damaged"),
    (written(b"[" * 100_000), "is damaged"), (written(b'{"format":2}'), "has format 2"),
    (written(b" " * (MAX_BYTES + 1)), "is larger"), (edited(origin="example.com/other"), "is the list of the log"),
    (edited(kind="everybody"), "is damaged"), (edited(who=""), "is damaged"), (edited(who=7), "is damaged"),
    (edited(who="x" * 70_000), "is damaged"), (edited(block=1), "is damaged"),
    (edited(rule="\ud800"), "is damaged"), (edited(until_ns=1.5), "is damaged"),
    (edited(until_ns=True), "is damaged"), (edited(until_ns=2**70), "is damaged"), (edited(since_ns=0), "is damaged"),
    (edited(since_ns=2**62, until_ns=2**62), "is damaged"), (edited(entries=None), "is damaged"),
    (edited(lifted=[{}]), "is damaged"), (linked, "is a link"), (piped, "is not a regular file"),
    (open_to_all, "may be written by others"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_or_foreign_list_is_refused_with_the_remedy(
    damage: Callable[[Log, Path], None], said: str, log: Log
) -> None:
    source = blocks_of(log)
    damage(log, source.path)
    with pytest.raises(BlocksError) as caught:
        source.read()
    assert said in str(caught.value)
    assert f"audit-middleware blocks rebuild {log.path}" in str(caught.value)
    with pytest.raises(BlocksError):
        put(log, entry("eve"))


def test_no_entry_lasts_longer_than_the_longest(log: Log) -> None:
    put(log, entry(seconds=LONGEST_S))
    assert len(blocks_of(log).read().entries) == 1
    with pytest.raises(BlocksError):
        put(log, entry("bob", seconds=LONGEST_S + 1))
    assert [one.who for one in blocks_of(log).read().entries] == ["ann"], "and the list is as it was"


# --- the thread that looks at it --------------------------------------------------------------------------------------


def watched(log: Log) -> tuple[Blocking, Blocks, list[str]]:
    told: list[str] = []
    blocks = Blocks()
    return Blocking(blocks_of(log), blocks, told.append, 0.01), blocks, told


def is_blocked(blocks: Blocks, who: str = "ann") -> bool:
    return blocks.standing(Subject(who), None, time.time_ns()) is not None


def test_a_list_that_is_damaged_or_gone_changes_nothing_and_is_told_once(log: Log) -> None:
    put(log, entry("ann"))
    watch, blocks, told = watched(log)
    path = blocks_of(log).path
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:-9]), path.unlink):
        damage()
        for _ in range(3):
            watch.look()
        assert is_blocked(blocks)
        assert watch.state()["problem"] is not None
    assert len(told) == 2
    assert "is damaged" in told[0]
    assert "has disappeared" in told[1]
    put(log, entry("eve"))
    watch.look()
    assert (is_blocked(blocks), is_blocked(blocks, "eve")) == (False, True)
    assert watch.state() == {"entries": 1, "blocked": 1, "not_in_force": 0, "problem": None}


def test_a_file_that_cannot_be_looked_at_is_told_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    put(log, entry("ann"))
    watch, blocks, told = watched(log)

    def refused(_: BlockList) -> Any:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(BlockList, "signature", refused)
        for _ in range(3):
            watch.look()
    assert len(told) == 1
    assert "cannot be looked at: Permission denied" in told[0]
    assert is_blocked(blocks)


def test_a_list_that_is_put_right_or_could_not_be_read_for_a_moment_comes_into_force(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong may pass without a change of the file's content: a wrong mode, no descriptor left."""
    put(log, entry("ann"))
    watch, blocks, told = watched(log)
    path = blocks_of(log).path
    put(log, entry("bob"))
    path.chmod(0o666)
    watch.look()
    path.chmod(0o600)
    watch.look()
    assert is_blocked(blocks, "bob")

    def none_left(_: BlockList) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(blocking, "_AGAIN_S", 0.2)
    put(log, entry("eve"))
    with monkeypatch.context() as patch:
        patch.setattr(BlockList, "_bytes", none_left)
        watch.look()
        watch.look()
    assert len(told) == 2, "each of them once"
    assert watch.state()["problem"] is not None

    def looked() -> bool:
        watch.look()
        return is_blocked(blocks, "eve")

    until(looked, "the block")
    assert watch.state()["problem"] is None


def test_a_look_without_a_change_reads_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    put(log, entry("ann"))
    watch, blocks, _ = watched(log)

    def read(_: BlockList) -> Listing:
        raise AssertionError("read")

    monkeypatch.setattr(BlockList, "read", read)
    watch.look()
    assert is_blocked(blocks)


def test_the_table_empties_when_the_last_entry_ends(log: Log) -> None:
    put(log, entry("ann", seconds=0.05))
    watch, blocks, _ = watched(log)
    time.sleep(0.06)
    watch.look()
    assert blocks.table is None


def test_the_first_list_must_be_readable(log: Log) -> None:
    blocks_of(log).path.write_bytes(b"{}")
    with pytest.raises(BlocksError):
        watched(log)
    assert BlockList(log.path, ORIGIN) == blocks_of(log)
