"""Check 15: a log whose beginning was pruned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import LogDamaged
from audit_middleware.ledger import tree
from audit_middleware.ledger.anchors import Anchor, Outside
from audit_middleware.ledger.verify import verify
from audit_middleware.model import Head
from audit_middleware.stores.frames import read_raw
from audit_middleware.stores.journal import JournalStore
from tests.ledger_verify.test_resume import HEADS, remembered
from tests.ledger_verify.witnesses import cosign, heads_of, outside
from tests.stores.samples import (
    ORIGIN,
    SEAL,
    VERIFIERS,
    assert_holds,
    batches,
    entry,
    new_journal,
    report_on,
    segments_of,
    small,
)


def control(sequence: int, action: str, extra: dict[str, Any], **more: Any) -> bytes:
    return entry(sequence, kind="control", action=action, extra=extra, **more)


def pruning(sequence: int, minimum: int, previous: int = 0) -> bytes:
    note = HEADS[1].checkpoint.decode()
    return control(sequence, "audit.pruned", {"minimum": minimum, "previous": previous, "checkpoint": note})


def prune(folder: Path, groups: Sequence[Sequence[bytes]], kept: int) -> JournalStore:
    """A journal of one commit per segment, without the first ``kept`` ones, and with the base that says so."""
    new_journal(folder, *groups, segment_bytes=1).close()
    gone = segments_of(folder)[:kept]
    line = gone[-1].read_bytes().splitlines(keepends=True)[-1]
    commit = read_raw(gone[-1].read_bytes(), "").commit
    assert commit is not None
    (folder / "journal" / f"{commit.size:020d}.base").write_bytes(line)
    for path in gone:
        path.unlink()
    return JournalStore.open(folder, writable=False)


RULED = [*batches(2), [control(2, "audit.retention_set", {"months": 12})], *[[entry(n)] for n in (3, 4)]]


def test_a_pruned_log_holds_and_says_what_is_gone(tmp_path: Path) -> None:
    store = prune(tmp_path / "log", [*RULED, [pruning(5, 4), entry(6)]], 3)
    assert store.base.size == 4
    report = assert_holds(store, base=store.base)
    assert (report.start, report.pruned, report.entries, report.size) == (4, 4, 3, 7)
    assert report.not_checked[0].startswith("entries 0 to 3: they were pruned, as entry 5 says")
    assert any("1 process whose first records were pruned" in text for text in report.not_checked)
    assert any("whether a retention rule was set before entry 5" in text for text in report.not_checked)
    assert "continue the 4 entries that were pruned" in report.claim
    assert report_on(store).cause == "missing", "without its base it is a log without its beginning"


def test_a_pruning_carries_the_rule_that_it_prunes(tmp_path: Path) -> None:
    for number, (carried, decided) in enumerate(
        (
            ([{"action": "audit.retention_set", "index": 2, "extra": {"months": 12}}], True),
            ([{"action": "audit.retention_set", "index": 9}], False),
            ([{"action": "audit.hold_placed", "index": 2}, "?", {"action": "audit.retention_set"}], False),
            ("?", False),
        )
    ):
        record = control(5, "audit.pruned", {"minimum": 4, "carried": carried})
        store = prune(tmp_path / str(number), [*RULED, [record]], 3)
        report = assert_holds(store, base=store.base)
        assert any("whether a retention rule was set" in text for text in report.not_checked) is not decided
    whole = new_journal(
        tmp_path / "whole",
        *batches(2),
        [control(2, "audit.pruned", {"minimum": 1, "carried": [{"action": "audit.retention_set", "index": 0}]})],
    )
    assert report_on(whole).cause == "unexplained", "where nothing is gone, the rule itself has to be there"


def test_a_base_that_no_record_explains(tmp_path: Path) -> None:
    for number, records in enumerate(
        ([entry(5)], [pruning(5, 3)], [entry(5, action="audit.pruned", extra={"minimum": 9})])
    ):
        store = prune(tmp_path / str(number), [*RULED, records], 3)
        report = report_on(store, base=store.base)
        assert (report.holds, report.cause, report.index) == (False, "missing", 0), report.findings
        assert "no record in the rest of the log explains it" in report.findings[0].text
    store = prune(tmp_path / "all", RULED, len(RULED))
    assert report_on(store, base=store.base).cause == "missing"


def test_a_base_that_the_log_did_not_sign(tmp_path: Path) -> None:
    store = prune(tmp_path / "log", [*RULED, [pruning(5, 4), entry(6)]], 3)
    base = store.base
    other = SEAL(Head(), [small(n) for n in range(4)])
    for bad, cause in (
        (Head(4, other.peaks, other.checkpoint), "altered"),  # signed, but not what the rest continues
        (Head(4, other.peaks, base.checkpoint), "altered"),
        (Head(4, (), base.checkpoint), "altered"),
        (Head(4, base.peaks, b""), "unsigned"),
        (Head(4, base.peaks, base.checkpoint.replace(b"\n4\n", b"\n5\n")), "unsigned"),
    ):
        report = report_on(store, base=bad)
        assert (report.holds, report.cause) == (False, cause), report.findings


def test_a_hole_after_the_base_is_missing(tmp_path: Path) -> None:
    store = prune(tmp_path / "log", [*RULED, [entry(5)], [pruning(6, 4)]], 3)
    segments_of(tmp_path / "log")[0].unlink()
    report = report_on(store, base=store.base)
    assert (report.cause, report.index) == ("missing", 4)


def test_what_a_crash_during_a_pruning_leaves_is_passed_over(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *RULED, [pruning(5, 4), entry(6)], segment_bytes=1)
    first = segments_of(tmp_path / "log")[2]
    line = first.read_bytes().splitlines(keepends=True)[-1]
    (tmp_path / "log" / "journal" / f"{4:020d}.base").write_bytes(line)
    report = assert_holds(store, base=store.base)
    assert (report.start, report.entries) == (4, 3)


def test_anchors_below_the_base_cannot_be_compared(tmp_path: Path) -> None:
    groups = [*RULED, [pruning(5, 4), entry(6)]]
    heads = heads_of(groups)
    store = prune(tmp_path / "log", groups, 3)
    anchors = [Anchor(head.size, tree.root(head.peaks), "archived in A", "archived") for head in heads]
    report = assert_holds(store, base=store.base, outside=Outside(tuple(anchors)))
    assert report.claims[-1].text.startswith("archived in A: agrees with 3 checkpoints")
    assert any(text.startswith("2 checkpoints, the largest archived in A (size 3)") for text in report.not_checked)
    below = report_on(store, base=store.base, outside=outside("any a b c", cosign(heads[1].checkpoint, "a")))
    assert below.cause == "not witnessed", "nobody can compare what was cosigned with what is gone"


def test_a_pruned_log_is_resumed(tmp_path: Path) -> None:
    groups = [*RULED, [pruning(5, 4), entry(6)]]
    before = remembered(groups[:4], tmp_path / "whole")
    store = prune(tmp_path / "log", groups, 3)
    report = verify(store.raw_frames(before.size - 1), ORIGIN, VERIFIERS, resume=before, base=store.base)
    assert (report.holds, report.start, report.entries) == (True, 5, 2), report.findings
    assert report.not_checked[0].startswith("entries 4 to 4: they were not read again")
    assert report.not_checked[1].startswith("entries 0 to 3: they were pruned, as entry 5 says")
    state = assert_holds(store, base=store.base).state
    assert state is not None
    assert not state.whole
    grown = prune(tmp_path / "more", [*groups, [pruning(7, 5, 4), entry(5, "process-2")]], 4)
    report = verify(grown.raw_frames(state.size - 1), ORIGIN, VERIFIERS, resume=state, base=grown.base)
    assert report.holds, report.findings
    early = remembered(groups[:1], tmp_path / "early")
    report = verify(store.raw_frames(), ORIGIN, VERIFIERS, resume=early, base=store.base)
    assert (report.holds, report.start) == (True, 4)
    assert any("remembered by an earlier verification (size 2)" in text for text in report.not_checked)


def test_a_pruning_without_a_retention_rule(tmp_path: Path) -> None:
    report = report_on(new_journal(tmp_path / "a", *batches(2), [pruning(2, 1)]))
    assert [(one.check, one.cause, one.index) for one in report.findings] == [(15, "unexplained", 2)]
    assert_holds(new_journal(tmp_path / "b", *RULED, [pruning(5, 2)]))
    for number, minimum in enumerate((None, -1, True, 7)):
        bad = control(5, "audit.pruned", {"minimum": minimum})
        report = report_on(new_journal(tmp_path / f"c{number}", *RULED, [bad]))
        assert (report.cause, report.index) == ("unexplained", 5)


def test_bases_that_are_no_commit_line(tmp_path: Path) -> None:
    store = prune(tmp_path / "log", [*RULED, [pruning(5, 4)]], 3)
    path = tmp_path / "log" / "journal" / f"{4:020d}.base"
    good = path.read_bytes()
    for bad in (b"", good[:-20], b"{}"):
        path.write_bytes(bad)
        with pytest.raises(LogDamaged, match=r"\.base"):
            _ = store.base
    path.write_bytes(good)
    path.rename(path.with_name(f"{5:020d}.base"))
    with pytest.raises(LogDamaged, match=r"\.base"):
        _ = store.base
