"""Checks 11 and 12: checkpoints from outside, witnesses and quorum."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.ledger import tree
from audit_middleware.ledger.anchors import Anchor, AnchorKind, Anchors, Outside
from audit_middleware.ledger.examine import examine
from audit_middleware.ledger.report import Report
from audit_middleware.ledger.trust import parse_policy
from audit_middleware.ledger.verify import fold_examined, verify
from audit_middleware.ledger.witnessed import weigh
from audit_middleware.stores.frames import RawFrame
from audit_middleware.stores.journal import JournalStore
from tests.ledger_verify.witnesses import TIME, WHEN, cosign, heads_of, outside, trust_text
from tests.stores.samples import (
    ORIGIN,
    VERIFIERS,
    assert_holds,
    batches,
    new_journal,
    report_on,
    small,
)

GROUPS = batches(2, 3, 1, 4)
HEADS = heads_of(GROUPS)
SIZES = [head.size for head in HEADS]


@pytest.fixture
def log(tmp_path: Path) -> JournalStore:
    """Ten records in four commits."""
    return new_journal(tmp_path / "log", *GROUPS)


def errors(report: Report) -> list[tuple[int, str, int | None]]:
    return [(one.check, one.cause, one.index) for one in report.findings if one.level == "error"]


# --- a list of anchors -------------------------------------------------------------------------------------------


def test_anchors_are_met_in_one_pass_wherever_they_lie() -> None:
    """At commits, between them, twice at one size, in any order: each is compared, and only wrong ones are told."""
    rng = random.Random(20260101)
    leaves = [tree.leaf_hash(small(n)) for n in range(60)]
    roots = [tree.root(tree.append(0, (), leaves[:size])[1]) for size in range(61)]
    for _ in range(40):
        sizes = [rng.randrange(0, 61) for _ in range(rng.randrange(1, 30))]
        anchors = [Anchor(size, roots[size], f"anchor {number}") for number, size in enumerate(sizes)]
        wrong = {anchor.label for anchor in anchors if anchor.size and rng.random() < 0.2}
        given = [Anchor(one.size, bytes(32) if one.label in wrong else one.root, one.label) for one in anchors]
        rng.shuffle(given)
        checked, size, peaks, told = Anchors.of(given), 0, tuple[bytes, ...](), list[str]()
        while size < 60:
            step = leaves[size : size + rng.randrange(1, 20)]
            told += [anchor.label for anchor in checked.meet(size, peaks, step)]
            size, peaks = tree.append(size, peaks, step)
        assert sorted(told) == sorted(wrong)
        assert not checked.due
        assert sum(one.count for one in checked.agreed.values()) + len(told) == sum(size > 0 for size in sizes)


def test_each_anchor_that_contradicts_is_named(log: JournalStore) -> None:
    other = heads_of([[small(n) for n in range(5)], [small(n) for n in range(5, 12)]])
    anchors = (
        Anchor(2, tree.root(HEADS[0].peaks), "kept elsewhere"),
        Anchor(5, tree.root(other[0].peaks), "time-stamped at noon", "time-stamped"),
        Anchor(12, tree.root(other[1].peaks), "archived in /mnt/a", "archived"),
    )
    report = report_on(log, outside=Outside(anchors))
    assert errors(report) == [(11, "forked", None), (11, "truncated", 10)]
    assert "the checkpoint time-stamped at noon" in report.findings[0].text
    assert "size 12 was archived in /mnt/a" in report.findings[1].text
    assert report.claims == ()
    assert report.claim.startswith("none")


def test_anchors_among_damaged_entries_are_said_not_to_be_compared(log: JournalStore) -> None:
    frames = list(log.raw_frames())
    frames[1] = RawFrame("x", [small(9), *frames[1].entries[1:]], frames[1].commit)
    anchors = tuple(
        Anchor(size, tree.root(head.peaks), "archived in A", "archived")
        for size, head in zip(SIZES, HEADS, strict=True)
    )

    class Store:
        def raw_frames(self) -> list[RawFrame]:
            return frames

    report = report_on(Store(), outside=Outside(anchors))
    assert [cause for _, cause, _ in errors(report)] == ["altered"]
    assert any("checkpoint archived in A (size 5)" in text for text in report.not_checked)


def test_claims_name_what_each_kind_of_evidence_proves(log: JournalStore) -> None:
    def anchor(number: int, label: str, kind: AnchorKind, **more: Any) -> Anchor:
        head = HEADS[number]
        return Anchor(head.size, tree.root(head.peaks), label, kind, **more)

    report = assert_holds(
        log,
        outside=Outside(
            (
                anchor(3, "archived in A", "archived"),
                anchor(1, "archived in A", "archived"),
                anchor(0, "archived in B", "archived"),
                anchor(2, "time-stamped at x", "time-stamped", time=TIME),
                anchor(1, "kept elsewhere", "kept elsewhere"),
                anchor(0, "cosigned by a, b", "witnessed", by=("a", "b"), time=TIME),
                anchor(3, "found in here", "beside the log"),
            ),
            limits=("whether A is immutable",),
        ),
    )
    assert [(claim.kind, claim.size) for claim in report.claims] == [
        ("locally consistent", 10),
        ("kept elsewhere", 5),
        ("archived", 2),
        ("archived", 10),
        ("time-stamped", 6),
        ("witnessed", 2),
    ]
    texts = [claim.text for claim in report.claims]
    assert "archived in B: agrees with 1 checkpoint there" in texts[2]
    assert "archived in A: agrees with 2 checkpoints there, up to size 10" in texts[3]
    assert f"the first 6 entries existed at {WHEN}" in texts[4]
    assert texts[5] == f"witnessed by 2 (a, b), up to size 2 of 10, newest cosignature at {WHEN}"
    assert (report.claims[5].by, report.claims[5].time) == (("a", "b"), WHEN)
    assert report.claim == texts[5]
    assert "whether A is immutable" in report.not_checked
    assert "after entry 9 were cut off" in report.not_checked[0]


# --- witnesses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quorum", "names", "reached"),
    [
        ("any a b c", "b", True),
        ("any a b c", "", False),
        ("all a b c", "abc", True),
        ("all a b c", "ab", False),
        ("2 a b c", "ac", True),
        ("2 a b c", "a", False),
        ("none", "", True),
        ("none", "c", True),
    ],
)
def test_the_quorum_decides(log: JournalStore, quorum: str, names: str, reached: bool) -> None:
    report = report_on(log, outside=outside(quorum, cosign(HEADS[2].checkpoint, *names)))
    assert report.holds == reached
    if reached:
        witnessed = [claim.by for claim in report.claims if claim.kind == "witnessed"]
        assert witnessed == ([tuple(names)] if names else [])
    else:
        assert errors(report) == [(12, "not witnessed", None)]
        assert report.cause == "not witnessed"
        assert "quorum 'q'" in report.findings[0].text
        assert [claim.kind for claim in report.claims] == ["locally consistent"]
        assert report.claim.startswith("none: the quorum")
        assert report.state is None


def test_nothing_is_no_evidence_and_the_reason_is_said(log: JournalStore) -> None:
    report = report_on(log, outside=outside("any a b c"))
    assert report.cause == "not witnessed"
    assert "no checkpoint with a cosignature" in report.findings[0].text


def test_cosignatures_of_one_checkpoint_in_several_notes_count_together(log: JournalStore) -> None:
    notes = cosign(HEADS[2].checkpoint, "a"), cosign(HEADS[2].checkpoint, "b", time=TIME + 60)
    report = assert_holds(log, outside=outside("all a b", *notes))
    assert report.claims[-1].text.startswith("witnessed by 2 (a, b), up to size 6 of 10, newest cosignature")
    assert report.claims[-1].time == "2027-01-15T08:01:00Z"
    apart = cosign(HEADS[2].checkpoint, "a"), cosign(HEADS[1].checkpoint, "b")
    assert report_on(log, outside=outside("all a b", *apart)).cause == "not witnessed"


def test_the_newest_quorum_counts_not_the_newest_note(log: JournalStore) -> None:
    notes = [
        cosign(HEADS[0].checkpoint, "a", "b"),
        cosign(HEADS[1].checkpoint, "b", "c"),
        cosign(HEADS[3].checkpoint, "a"),
    ]
    report = assert_holds(log, outside=outside("2 a b c", *notes))
    assert (report.claims[-1].size, report.claims[-1].by) == (5, ("b", "c"))


def test_an_empty_log_needs_no_witness(tmp_path: Path) -> None:
    assert assert_holds(new_journal(tmp_path / "log"), outside=outside("all a b c")).size == 0


def test_an_unknown_witness_is_nobody(log: JournalStore) -> None:
    report = report_on(log, outside=outside("any a b c", cosign(HEADS[2].checkpoint, "stranger")))
    assert report.cause == "not witnessed"
    assert not [one for one in report.findings if one.cause == "not counted"]
    assert assert_holds(log, outside=outside("any a b c", cosign(HEADS[2].checkpoint, "stranger", "b"))).claims[
        -1
    ].by == ("b",)


def test_every_byte_of_a_cosigned_checkpoint_counts(log: JournalStore) -> None:
    """A forged line, text or name: nothing of such a note counts, or it names nobody."""
    good = cosign(HEADS[2].checkpoint, "a")
    assert report_on(log, outside=outside("any a b c", good)).holds
    for offset in range(len(good)):
        forged = bytearray(good)
        forged[offset] ^= 1
        report = report_on(log, outside=outside("any a b c", bytes(forged)))
        assert not report.holds, (offset, bytes(forged))
        assert report.cause in ("not witnessed", "truncated"), report.findings


def test_a_forged_cosignature_is_named_and_spoils_only_its_note(log: JournalStore) -> None:
    line = cosign(HEADS[1].checkpoint, "b").splitlines(keepends=True)[-1]
    forged = cosign(HEADS[2].checkpoint, "a") + line  # b's line, but of another checkpoint
    report = report_on(log, outside=outside("any a b c", forged))
    assert report.cause == "not witnessed"
    (told,) = (one for one in report.findings if one.cause == "not counted")
    assert (told.level, told.where) == ("note", "note 0")
    assert "witness.example/b" in told.text
    assert (
        assert_holds(log, outside=outside("any a b c", forged, cosign(HEADS[0].checkpoint, "c"))).claims[-1].size == 2
    )


def test_cosignatures_under_an_unknown_log_key_count_for_nothing(log: JournalStore) -> None:
    text = HEADS[2].checkpoint.partition(b"\n\n")[0] + b"\n\n"
    bare = text + cosign(HEADS[2].checkpoint, "a").splitlines(keepends=True)[-1]
    report = report_on(log, outside=outside("any a b c", bare))
    assert report.cause == "not witnessed"
    assert "not signed by a trusted key of the log" in report.findings[-1].text + report.findings[0].text


def test_a_cosigned_checkpoint_newer_than_the_log_is_a_rollback(tmp_path: Path) -> None:
    older = new_journal(tmp_path / "log", *GROUPS[:2])
    notes = [cosign(head.checkpoint, "a") for head in HEADS]
    report = report_on(older, outside=outside("any a b c", *notes))
    assert not report.holds
    assert (report.cause, report.index) == ("truncated", 5)
    assert "was cosigned by a" in report.findings[-1].text
    assert assert_holds(older).holds, "without what the witness holds nobody can know"


def test_a_log_written_anew_and_signed_again(tmp_path: Path) -> None:
    """Only what others hold shows it, and each kind of it does."""
    changed = [list(group) for group in GROUPS]
    changed[1][0] = changed[1][0].replace(b"user-2", b"user-9")
    rewritten = new_journal(tmp_path / "log", *changed)
    alone = assert_holds(rewritten)
    assert "written anew and signed again" in alone.not_checked[0]
    assert [claim.kind for claim in alone.claims] == ["locally consistent"]
    root = tree.root(HEADS[2].peaks)
    for evidence in (
        outside("any a b c", cosign(HEADS[2].checkpoint, "a")),
        outside("none", cosign(HEADS[2].checkpoint, "a")),
        outside("none", HEADS[2].checkpoint),  # signed by the log alone: two histories under one key
        Outside((Anchor(6, root, "archived in A", "archived"),)),
        Outside((Anchor(6, root, "time-stamped at noon", "time-stamped"),)),
    ):
        report = report_on(rewritten, outside=evidence)
        assert (report.holds, report.cause) == (False, "forked"), report.findings
    assert report_on(rewritten, since=HEADS[3].checkpoint).cause == "forked"
    assert assert_holds(rewritten, since=HEADS[0].checkpoint), "what was kept before the change cannot know of it"


def test_evidence_of_a_later_part_does_not_hide_a_fork_before(log: JournalStore) -> None:
    """A quorum for this history and one for another: both are compared."""
    other = heads_of([[small(n) for n in range(5)]])
    notes = [cosign(HEADS[3].checkpoint, "a", "b"), cosign(other[0].checkpoint, "c")]
    report = report_on(log, outside=outside("2 a b c", *notes))
    assert (report.holds, report.cause) == (False, "forked")
    assert "cosigned by c" in report.findings[0].text


def test_a_witness_whose_name_is_no_text(log: JournalStore) -> None:
    """Names are octets that mean nothing outside the trust file; a report is text."""
    data = (
        trust_text("any a b c").encode().replace(b"witness a ", b"witness \xff\xfe ").replace(b"any a", b"any \xff\xfe")
    )
    found = weigh([("n", cosign(HEADS[2].checkpoint, "a"))], parse_policy(data), ORIGIN)
    report = assert_holds(log, outside=found)
    assert report.claims[-1].by == (r"\xff\xfe",)
    json.dumps(report.to_dict(), ensure_ascii=False).encode()


def test_many_anchors_cost_little(log: JournalStore) -> None:
    """Of one size or beyond the log: sorted once, met once, and findings stay bounded."""
    root = tree.root(HEADS[1].peaks)
    anchors = tuple(Anchor(5, root, "archived in A", "archived") for _ in range(50_000))
    report = assert_holds(log, outside=Outside(anchors))
    assert "agrees with 50000 checkpoints there" in report.claims[1].text
    beyond = tuple(Anchor(11 + number, root, "archived in A", "archived") for number in range(5_000))
    report = report_on(log, outside=Outside(beyond), limit=3)
    assert (report.cause, len(report.findings), report.more) == ("truncated", 3, 4_997)


def test_frames_that_were_examined_elsewhere(log: JournalStore) -> None:
    """What a pool of processes does: the fold sees frames only as they were examined."""
    examined = [pickle.loads(pickle.dumps(examine(raw, ORIGIN, VERIFIERS))) for raw in log.raw_frames()]
    evidence = outside("any a b c", cosign(HEADS[2].checkpoint, "a"))
    report = fold_examined(iter(examined), ORIGIN, VERIFIERS, entries_checked=False, outside=evidence)
    assert report == report_on(log, outside=evidence)
    assert report.holds


def test_anchors_behind_the_last_sound_commit(log: JournalStore) -> None:
    """The log is long enough, but what leads there is damaged: neither agreement nor contradiction."""
    frames = list(log.raw_frames())
    last = RawFrame("x", [small(9), *frames[3].entries[1:]], frames[3].commit, "other bytes")
    evidence = outside("any a b c", cosign(HEADS[3].checkpoint, "a"))
    report = verify([*frames[:3], last], ORIGIN, VERIFIERS, outside=evidence)
    assert [cause for _, cause, _ in errors(report)] == ["not witnessed", "altered"]
    assert any("checkpoint cosigned by a (size 10): entries below it are damaged" in one for one in report.not_checked)


def test_a_time_beyond_all_calendars(log: JournalStore) -> None:
    report = assert_holds(log, outside=outside("any a b c", cosign(HEADS[3].checkpoint, "a", time=2**62)))
    assert report.claims[-1].time == f"POSIX time {2**62}"
