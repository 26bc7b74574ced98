"""Pruning: what goes, what stays, what is said about it, and how all else copes with a log that begins later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import ConfigError, EntriesPruned, LogBusy, LogDamaged, LogForked, StoreError
from audit_middleware.evidence.anchors import keep_cosigned
from audit_middleware.evidence.keys import key_history, new_key, retire, rotate
from audit_middleware.evidence.prove import Prover
from audit_middleware.evidence.prune import plan_prune, prune
from audit_middleware.evidence.published import prune_published, read_minimum, verify_published
from audit_middleware.evidence.receipts import proof_of
from audit_middleware.evidence.retention import place_hold, read_retention, release_hold, set_retention
from audit_middleware.evidence.signers import signers_of, vkey_of
from audit_middleware.evidence.standing import explanation, read_standings
from audit_middleware.ledger import tree
from audit_middleware.ledger.canonical import decode
from audit_middleware.ledger.checkpoint import open_checkpoint
from audit_middleware.ledger.proof import format_proof, parse_proof, verify_proof
from audit_middleware.ledger.tiles import entries_path, tile_path
from audit_middleware.model import Head
from audit_middleware.signing import read_key_file
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from tests.kit import ORIGIN, Log
from tests.publish.support import files
from tests.retention.support import (
    DAY_90,
    aged,
    assert_holds_from_base,
    clock,
    dated,
    fill,
    key_of,
    moment,
    prune_at,
    publish_log,
    sealer,
    text,
    verifiers,
)


def tree_of(path: Path) -> dict[str, bytes]:
    """Every file, by name."""
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


# --- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "begins"), [(300, 252), (256, 256), (255, 0), (600, 511)])
def test_witnesses_can_follow_the_log_across_a_prune(log: Log, size: int, begins: int) -> None:
    """They ask for a proof from what they cosigned last."""
    fill(log, 0, size)
    cosigned = JournalStore.open(log.path, writable=False).head().checkpoint
    keep_cosigned(log.path, cosigned)
    store = fill(log, size, 700)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    done = prune_at(log, 365)
    assert (store.base.size, done.plan.stopped_by.startswith(f"witnesses have cosigned {size} entries only")) == (
        begins,
        True,
    )
    before, _ = open_checkpoint(cosigned, ORIGIN, verifiers(log))
    after, _ = open_checkpoint(store.head().checkpoint, ORIGIN, verifiers(log))
    proof = Prover(store, verifiers(log)).consistency(before, after)
    tree.verify_consistency(before.size, before.root, after.size, after.root, proof)


def test_what_others_signed_beside_the_log_stops_no_prune(log: Log) -> None:
    store = aged(log)
    keep_cosigned(log.path, b"nothing of ours\n")
    assert prune_at(log, 365).plan.stopped_by == "the log ends there"
    assert store.base.size == 511


def test_without_a_retention_nothing_goes_and_the_message_names_the_command(log: Log) -> None:
    fill(log, 0, 300)
    before = tree_of(log.path)
    with pytest.raises(ConfigError, match=r"audit-middleware retention set .* --months 12"):
        prune_at(log, 1000)
    after = tree_of(log.path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {".state/retention.lock"}


def test_the_minimum_is_the_first_young_entry_rounded_down_to_256(log: Log) -> None:
    store = aged(log)
    # One month before day 90 (1 April) is 1 March, day 59: entry 590 is the first that is not older.
    plan = plan_prune(store, now_ns=clock(DAY_90))
    assert plan.limit == text(moment(59))
    assert "entry 590" in plan.stopped_by
    assert (plan.previous, plan.minimum) == (0, 512)
    # The last commit at or below it: commits have 7 entries.
    assert plan.base.size == 511
    for day, minimum in ((31 + 25.5, 0), (31 + 28 + 25.5, 512), (1000, 512), (31 + 25.7, 256)):
        assert plan_prune(store, now_ns=clock(day)).minimum == minimum, day


def test_before_goes_less_far_and_never_further_than_the_retention(log: Log) -> None:
    store = aged(log)
    plan = plan_prune(store, before=text(moment(30)), now_ns=clock(DAY_90))
    assert (plan.minimum, plan.limit) == (256, text(moment(30)))
    with pytest.raises(ConfigError, match="keeps everything since"):
        plan_prune(store, before=text(moment(60)), now_ns=clock(DAY_90))


def test_an_entry_that_does_not_say_how_old_it_is_stays(log: Log) -> None:
    store = fill(log, 0, 300)
    store.append([b'{"n":1}'], sealer(log))
    fill(log, 301, 700)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    plan = plan_prune(store, now_ns=clock(1000))
    assert plan.minimum == 256
    assert "entry 300 does not say" in plan.stopped_by


def test_entries_younger_by_either_of_their_times_stay(log: Log) -> None:
    store = fill(log, 0, 300)
    old, young = text(moment(1)), text(moment(89))
    for times in ({"timestamp": young, "recorded_at": old}, {"timestamp": old, "recorded_at": young}):
        number = store.head().size
        store.append(
            [json.dumps(decode(dated(number)) | times, separators=(",", ":"), sort_keys=True).encode()], sealer(log)
        )
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    assert "entry 300 is of" in plan_prune(store, now_ns=clock(DAY_90)).stopped_by


def test_a_dry_run_changes_nothing(log: Log, tmp_path: Path) -> None:
    store = aged(log)
    publish_log(log, store, tmp_path / "dir")
    before = tree_of(tmp_path)
    reader = JournalStore.open(log.path, writable=False)
    assert plan_prune(reader, [Folder(tmp_path / "dir")], now_ns=clock(DAY_90)).entries == 511
    assert tree_of(tmp_path) == before


# --- what is left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment_bytes", [1, 100_000, 2**26])
def test_what_is_left_begins_at_the_base_and_verifies_from_it(log: Log, segment_bytes: int) -> None:
    store = aged(log, segment_bytes=segment_bytes)
    reader = JournalStore.open(log.path, writable=False)
    whole = {frame.first: frame for frame in store.frames()}
    head = store.head()
    line = json.dumps(base64_peaks(whole[504].head), separators=(",", ":"))
    done = prune_at(log, DAY_90)
    assert (done.plan.minimum, done.plan.base.size, done.record) == (512, 511, 701)
    assert done.freed > 0
    for one in (store, reader, JournalStore.open(log.path)):
        assert one.base == whole[504].head
        assert assert_holds_from_base(one, log) == head.size + 1
        left = list(one.frames())
        assert [(frame.first, frame.entries, frame.head) for frame in left[:-1]] == [
            (frame.first, frame.entries, frame.head) for frame in whole.values() if frame.first >= 511
        ]
    text_of_base = (log.path / "journal" / f"{511:020d}.base").read_text()
    assert line in text_of_base
    assert text_of_base.endswith("\n")
    assert not [path for path in (log.path / "journal").glob("*.jsonl") if int(path.stem) < 511]
    # A writer that was open all the time goes on, and one that is opened now.
    store.append([dated(800)], sealer(log))
    fill(log, 801, 820)
    assert assert_holds_from_base(reader, log) == head.size + 1 + 1 + 19


def base64_peaks(head: Head) -> list[str]:
    from base64 import b64encode

    return [b64encode(peak).decode() for peak in head.peaks]


@pytest.mark.parametrize("segment_bytes", [30_000, 2**26])
def test_the_base_counts_before_anything_is_removed(
    log: Log, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
) -> None:
    """A crash between the two: the base is in the middle of a segment, and older ones are there."""
    store = aged(log, segment_bytes=segment_bytes)
    names = sorted(path.name for path in (log.path / "journal").glob("*.jsonl"))
    monkeypatch.setattr("audit_middleware.stores.journal.drop_below", lambda *_: 0)
    prune_at(log, DAY_90)
    assert set(names) <= {path.name for path in (log.path / "journal").glob("*.jsonl")}
    assert f"{511:020d}.jsonl" not in names
    for one in (store, JournalStore.open(log.path), JournalStore.open(log.path, writable=False)):
        assert assert_holds_from_base(one, log) == 702
        assert next(iter(one.frames())).first == 511
        with pytest.raises(EntriesPruned):
            list(one.frames(510))
    store.append([dated(702)], sealer(log))
    monkeypatch.undo()
    prune_at(log, DAY_90)
    assert assert_holds_from_base(store, log) == 703
    assert min(int(path.stem) for path in (log.path / "journal").glob("*.jsonl")) == 511


def test_everything_may_be_old(log: Log) -> None:
    """Then only the control record is left, and the log goes on."""
    store = aged(log, 512, months=1)  # entry 512 is the retention itself
    done = prune_at(log, 10_000)
    assert done.plan.minimum == 512
    assert [decode(one)["action"] for frame in store.frames() for one in frame.entries][-2:] == [
        "audit.retention_set",
        "audit.pruned",
    ]
    fill(log, 600, 800)
    done = prune_at(log, 20_000)
    assert done.plan.previous == 512
    assert done.plan.minimum == 512  # 714 entries: not yet another 256
    fill(log, 800, 900)
    done = prune_at(log, 20_000)
    assert (done.plan.previous, done.plan.minimum) == (512, 768)
    assert read_retention(log.path).months == 1
    assert_holds_from_base(store, log)


def test_pruned_entries_are_a_clear_error(log: Log) -> None:
    store = aged(log)
    prune_at(log, DAY_90)
    for start in (0, 100, 510):
        with pytest.raises(EntriesPruned) as caught:
            list(store.frames(start))
        assert f"entry {start} was pruned at 2025-04-01" in str(caught.value)
        assert "entry 701 of the log is the record of it" in str(caught.value)
    (log.path / "journal" / f"{511:020d}.pruned").unlink()
    with pytest.raises(EntriesPruned, match=r"entry 3 was pruned\. The log begins at entry 511"):
        list(store.frames(3, 4))
    assert issubclass(EntriesPruned, StoreError)
    assert next(iter(store.frames(511))).first == 511


def test_the_record_explains_the_base(log: Log) -> None:
    store = aged(log)
    prune_at(log, DAY_90)
    record = explanation(store)
    assert record is not None
    assert record.extra["minimum"] == 512
    assert record.extra["previous"] == 0
    assert record.extra["checkpoint"] == store.base.checkpoint.decode()
    assert record.extra["by"] == "tester"
    # Also without the note, and when the note is wrong.
    note = log.path / "journal" / f"{511:020d}.pruned"
    for content in ('{"at":"","record":600}', '{"at":"","record":5}', '{"at":"","record":99999}', "{", None):
        note.unlink()
        if content is not None:
            note.write_text(content)
        assert explanation(JournalStore.open(log.path, writable=False)) == record
        assert read_retention(log.path).explained == record.index
        note.touch()


def test_a_log_whose_segment_was_simply_deleted(log: Log) -> None:
    """No base file: the entries are missing, not pruned. A base file without a record: unexplained, and told apart."""
    store = aged(log, segment_bytes=30_000)
    first, second = sorted((log.path / "journal").glob("*.jsonl"))[:2]
    kept = store.base
    base = int(second.stem)
    line = next(frame for frame in store.frames() if frame.head.size == base)
    data = first.read_bytes()
    first.unlink()
    assert store.base == kept == Head()
    with pytest.raises(LogDamaged, match=f"entry {base} where 0 should follow"):
        list(store.frames())
    with pytest.raises(LogDamaged):
        SearchIndex(log.path / "index.sqlite", store).catch_up()
    (log.path / "journal" / f"{base:020d}.base").write_bytes(data[data.rfind(b"\n", 0, -1) + 1 :])
    assert store.base == line.head
    assert explanation(store) is None
    found = read_retention(log.path)
    assert (found.base, found.explained) == (base, None)
    with pytest.raises(LogDamaged, match="no record of the log says that anything was pruned"):
        prune_at(log, DAY_90)


@pytest.mark.parametrize("content", [b"", b"{}\n", b'{"commit":1}\n'])
def test_a_damaged_base_file(log: Log, content: bytes) -> None:
    store = aged(log)
    prune_at(log, DAY_90)
    path = log.path / "journal" / f"{511:020d}.base"
    good = path.read_bytes()
    for bad in (content, good[:-1], good + good, good.replace(b'"size":511', b'"size":512')):
        path.write_bytes(bad)
        with pytest.raises(LogDamaged, match=r"\.base"):
            _ = store.base
        with pytest.raises(LogDamaged):
            JournalStore.open(log.path)
    path.write_bytes(good)
    assert_holds_from_base(JournalStore.open(log.path), log)


def test_a_pruned_log_whose_segments_are_gone_is_not_begun_anew(log: Log) -> None:
    aged(log).close()
    prune_at(log, DAY_90)
    for path in (log.path / "journal").glob("*.jsonl"):
        path.unlink()
    for writable in (True, False):
        with pytest.raises(LogDamaged, match="pruned to begin at entry 511"):
            JournalStore.open(log.path, writable=writable).head()


def test_what_does_not_verify_is_not_pruned(log: Log) -> None:
    aged(log).close()
    (segment,) = (log.path / "journal").glob("*.jsonl")
    good = segment.read_bytes()
    segment.write_bytes(good.replace(b'"user_id":"user-3"', b'"user_id":"user-4"', 1))
    with pytest.raises(LogDamaged):
        prune_at(log, DAY_90)
    assert segment.exists()
    assert JournalStore.open(log.path, writable=False).base == Head()


# --- holds -------------------------------------------------------------------------------------------------------


def hold(log: Log, name: str, first: int | str, last: int | str | None = None, day: float = 70) -> Any:
    return place_hold(log.path, key_of(log), name, first, last, "CASE-1", "tester", clock=lambda: clock(day))


def release(log: Log, name: str) -> int:
    return release_hold(log.path, key_of(log), name, "closed", "tester", clock=lambda: clock(71))


def test_nothing_is_pruned_from_the_lowest_hold_on(log: Log) -> None:
    store = aged(log)
    hold(log, "b", 400, 410)
    hold(log, "a", 300, 320)
    plan = plan_prune(store, now_ns=clock(DAY_90))
    assert plan.minimum == 256
    assert plan.stopped_by == "the hold a begins at entry 300"
    prune_at(log, DAY_90)
    assert prune_at(log, DAY_90).plan.entries == 0
    release(log, "a")
    assert plan_prune(store, now_ns=clock(DAY_90)).stopped_by == "the hold b begins at entry 400"
    release(log, "b")
    done = prune_at(log, DAY_90)
    assert (done.plan.previous, done.plan.minimum) == (256, 512)
    assert_holds_from_base(store, log)


def test_holds_and_their_refusals(log: Log) -> None:
    aged(log)
    assert hold(log, "x", 5).last is None
    for name, first, last, words in (
        ("x", 1, 2, "placed already"),
        ("y", 20, 10, "no range"),
        ("y", 900, None, "no range"),
        ("no spaces", 1, 2, "a name has"),
        ("", 1, 2, "a name has"),
    ):
        with pytest.raises(ConfigError, match=words):
            hold(log, name, first, last)
    with pytest.raises(ConfigError, match="reason"):
        place_hold(log.path, key_of(log), "y", 1, 2, " ", "tester")
    with pytest.raises(ConfigError, match="none of this name"):
        release(log, "z")
    with pytest.raises(ConfigError, match="reason"):
        release_hold(log.path, key_of(log), "x", "", "tester")
    release(log, "x")
    hold(log, "x", 7, 8)
    assert [(one.name, one.first, one.last) for one in read_retention(log.path).holds] == [("x", 7, 8)]


def test_holds_by_time(log: Log) -> None:
    aged(log)
    by_time = hold(log, "t", text(moment(30)), text(moment(31)))
    assert (by_time.first, by_time.last) == (300, 309)
    assert hold(log, "u", text(moment(30)), text(moment(400))).last is None  # yet to come: no end
    with pytest.raises(ConfigError, match="no range"):
        hold(log, "v", text(moment(30)), text(moment(-1)))


def test_a_hold_on_what_is_pruned_is_refused(log: Log) -> None:
    aged(log)
    prune_at(log, DAY_90)
    with pytest.raises(EntriesPruned, match="entry 100 was pruned"):
        hold(log, "late", 100)
    assert hold(log, "later", text(moment(1))).first == 511


def test_retention_is_a_number_of_months(log: Log) -> None:
    for months in (0, -1, 1201):
        with pytest.raises(ConfigError, match="1 to 1200"):
            set_retention(log.path, key_of(log), months, "tester")
    assert read_retention(log.path).months is None
    set_retention(log.path, key_of(log), 12, "tester")
    set_retention(log.path, key_of(log), 24, "tester")
    assert (read_retention(log.path).months, read_retention(log.path).record) == (24, 1)


def test_the_key_of_another_log_is_refused(log: Log, tmp_path: Path) -> None:
    new_key("example.com/other", tmp_path / "other.key")
    with pytest.raises(ConfigError, match="is for"):
        set_retention(log.path, tmp_path / "other.key", 12, "tester")
    assert JournalStore.open(log.path).head().size == 0


# --- what still stands --------------------------------------------------------------------------------------------


def test_control_records_that_still_stand_are_carried(log: Log, tmp_path: Path) -> None:
    """Retention, an open hold, keys: their entries go, what they say stays, over several prunes."""
    old = vkey_of(signers_of(read_key_file(key_of(log)))[0])
    new_key(ORIGIN, tmp_path / "new.key")
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(0))
    rotate(log.path, key_of(log), tmp_path / "new.key", clock=lambda: clock(0))
    retire(log.path, key_of(log), old, clock=lambda: clock(0))
    hold(log, "closed", 0, day=0)
    release_hold(log.path, key_of(log), "closed", "done", "tester", clock=lambda: clock(0))
    vkeys = JournalStore.open(log.path, writable=False).config.vkeys
    fill(log, 5, 705)
    hold(log, "open", 600)
    keys = key_history(log.path)
    done = prune_at(log, 85)
    assert done.plan.minimum == 512
    store = JournalStore.open(log.path, writable=False)
    extra = read_standings(store).pruned[-1].extra
    assert [one["action"] for one in extra["carried"]] == [
        "audit.retention_set",
        "audit.key_rotated",
        "audit.key_retired",
    ]
    again = key_history(log.path)
    assert (again.since, again.retired, again.findings) == (keys.since, keys.retired, [])
    assert again.retired == {old: 2}
    found = read_retention(log.path)
    assert (found.months, found.record) == (1, 0)
    assert [one.name for one in found.holds] == ["open"]
    # A second prune, which takes the record of the first with it.
    release(log, "open")
    fill(log, 800, 1400)
    hold(log, "next", 1300, day=141)
    assert prune_at(log, 200).plan.minimum == 1280
    assert read_standings(store).pruned[0].extra["previous"] == 512
    again = key_history(log.path)
    assert (again.since, again.retired, again.findings) == (keys.since, keys.retired, [])
    assert read_retention(log.path).months == 1
    assert [one.first for one in read_retention(log.path).holds] == [1300]
    assert vkeys == store.config.vkeys


def test_a_retired_key_is_still_reported_after_its_record_was_pruned(log: Log, tmp_path: Path) -> None:
    old = signers_of(read_key_file(key_of(log)))
    new_key(ORIGIN, tmp_path / "new.key")
    rotate(log.path, key_of(log), tmp_path / "new.key", clock=lambda: clock(0))
    retire(log.path, key_of(log), vkey_of(old[0]), clock=lambda: clock(0))
    fill(log, 2, 702)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    prune_at(log, DAY_90)
    assert not key_history(log.path).findings
    from audit_middleware.ledger.note import parse_vkey
    from audit_middleware.pipeline.append import make_sealer

    store = JournalStore.open(log.path)
    store.append([dated(900)], make_sealer(ORIGIN, old, map(parse_vkey, store.vkeys)))
    assert "which entry 1 retired" in key_history(log.path).findings[0].text
    with pytest.raises(ConfigError, match="was retired"):
        rotate(log.path, key_of(log), write_key(tmp_path, old), clock=lambda: clock(91))


def write_key(folder: Path, signers: Any) -> Path:
    """The key file that these signers were read from, as it was at the log's creation."""
    from audit_middleware.ledger.note import format_signer_key
    from audit_middleware.signing import write_key_file

    path = folder / "old.key"
    seed = signers[0]._key[:32]
    write_key_file(path, format_signer_key(ORIGIN, seed))
    return path


# --- proofs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 100])
def test_proofs_of_what_is_left_are_byte_for_byte_what_they_were(log: Log, tmp_path: Path, step: int) -> None:
    store = fill(log, 0, 700, step)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    publish_log(log, store, tmp_path / "dir")
    notes = {frame.head.size: frame.head.checkpoint for frame in store.frames()}
    prover = Prover(store, verifiers(log))
    tiled = Prover(store, verifiers(log), Folder(tmp_path / "dir"))
    plan = plan_prune(store, now_ns=clock(DAY_90))
    wanted = [index for index in (plan.base.size, 512, 513, 600, 666, 699, 700) if index >= plan.base.size]
    under = [*sorted(size for size in notes if size > 512)[:: max(1, 100 // step)], 701]
    before = {
        (index, size): format_proof(proof_of(prover, index, notes[size], entry=True))
        for index in wanted
        for size in under
        if index < size
    }
    growth = {
        (old, new): prover.consistency(
            *(open_checkpoint(notes[size], ORIGIN, verifiers(log))[0] for size in (old, new))
        )
        for old in (plan.base.size, under[0], under[-2])
        for new in under
        if old <= new
    }
    kept = format_proof(proof_of(prover, 5, notes[701], entry=True))
    prune_at(log, DAY_90, Folder(tmp_path / "dir"))
    assert store.base.size == plan.base.size > 256
    for one in (prover, tiled, Prover(JournalStore.open(log.path, writable=False), verifiers(log))):
        for (index, size), proof in before.items():
            assert format_proof(proof_of(one, index, notes[size], entry=True)) == proof, (index, size)
        for (old, new), hashes in growth.items():
            points = [open_checkpoint(notes[size], ORIGIN, verifiers(log))[0] for size in (old, new)]
            assert one.consistency(*points) == hashes, (old, new)
        with pytest.raises(EntriesPruned, match=r"entry 5 was pruned .*\.tlog-proof"):
            one.inclusion(5, notes[701])
    # Who kept a proof has it.
    old_proof = parse_proof(kept)
    assert verify_proof(old_proof, tree.leaf_hash(old_proof.extra), ORIGIN, verifiers(log)).size == 701


def test_consistency_with_a_checkpoint_from_below_the_base(log: Log, tmp_path: Path) -> None:
    """The hashes are gone, but for multiples of 256, which the tiles of level 1 still have."""
    store = fill(log, 0, 700, 64)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    publish_log(log, store, tmp_path / "dir")
    notes = {frame.head.size: frame.head.checkpoint for frame in store.frames()}
    at = {size: open_checkpoint(note, ORIGIN, verifiers(log))[0] for size, note in notes.items()}
    whole = Prover(store, verifiers(log)).consistency(at[256], at[701])
    prune_at(log, DAY_90, Folder(tmp_path / "dir"))
    tiled = Prover(store, verifiers(log), Folder(tmp_path / "dir"))
    assert tiled.consistency(at[256], at[701]) == whole
    for prover, size in ((tiled, 320), (Prover(store, verifiers(log)), 256), (Prover(store, verifiers(log)), 320)):
        with pytest.raises(EntriesPruned):
            prover.consistency(at[size], at[701])


# --- published folders --------------------------------------------------------------------------------------------


def test_a_published_folder_keeps_what_proofs_need(log: Log, tmp_path: Path) -> None:
    store = aged(log)
    root = tmp_path / "dir"
    publish_log(log, store, root)
    before = files(root)
    done = prune_at(log, DAY_90, Folder(root))
    after = files(root)
    gone = {tile_path(0, n) for n in (0, 1)} | {entries_path(n) for n in (0, 1)}
    assert gone <= set(before)
    assert not gone & set(after)
    assert done.files == 4
    assert tile_path(1, 0, 2) in after
    assert after["minimum"] == b"512\n"
    # The checkpoint covers the record of the prune, so the folder explains itself.
    assert verify_published(Folder(root), ORIGIN, verifiers(log)).size == 702
    # It goes on being published.
    fill(log, 702, 1100)
    publish_log(log, store, root)
    assert verify_published(Folder(root), ORIGIN, verifiers(log)).size == 1100
    assert prune_at(log, 85, Folder(root)).files == 0


def test_a_large_published_folder(log: Log, tmp_path: Path) -> None:
    """More than one tile of level 1: 66,000 entries, 256 a commit."""
    store = JournalStore.open(log.path)
    seal, days = sealer(log), [text(moment(day)) for day in range(300)]
    for first in range(0, 66_000, 256):
        store.append(
            [
                b'{"n":%d,"recorded_at":"%b","timestamp":"%b"}' % (n, days[n // 250].encode(), days[n // 250].encode())
                for n in range(first, first + 256)
            ],
            seal,
        )
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(264))
    root = tmp_path / "dir"
    publish_log(log, store, root)
    notes = store.head().checkpoint
    proofs = {index: Prover(store, verifiers(log), Folder(root)).inclusion(index, notes) for index in (65_800, 66_000)}
    done = prune_at(log, 294, Folder(root))
    assert done.plan.minimum == done.plan.base.size == 65_792
    assert done.files == 2 * 257
    assert verify_published(Folder(root), ORIGIN, verifiers(log)).size == 66_050
    for index, proof in proofs.items():
        assert Prover(store, verifiers(log), Folder(root)).inclusion(index, notes) == proof
        assert Prover(store, verifiers(log)).inclusion(index, notes) == proof
    # Damage to the left of what is there still shows: in a tile that no proof of a later entry uses, too.
    tile = root / tile_path(1, 0)
    data = bytearray(tile.read_bytes())
    data[5] ^= 1
    tile.write_bytes(data)
    with pytest.raises(LogDamaged):
        verify_published(Folder(root), ORIGIN, verifiers(log))


def test_a_folder_that_was_pruned_without_a_record_does_not_verify(log: Log, tmp_path: Path) -> None:
    store = aged(log)
    root = tmp_path / "dir"
    publish_log(log, store, root)
    folder = Folder(root)
    with folder.exclusive():
        assert prune_published(folder, 256) == 2
        assert prune_published(folder, 256) == 0
    assert read_minimum(folder) == 256
    with pytest.raises(LogDamaged, match="entries below 256 are missing, and no record"):
        verify_published(folder, ORIGIN, verifiers(log))
    for text_of_it, words in (
        ("0256\n", "leading zeros"),
        ("255\n", "multiple"),
        ("", "decimal"),
        ("1024\n", "beyond"),
    ):
        (root / "minimum").write_text(text_of_it)
        with pytest.raises(LogDamaged, match=words):
            verify_published(folder, ORIGIN, verifiers(log))
    (root / "minimum").unlink()
    with pytest.raises(LogDamaged, match="is missing"):
        verify_published(folder, ORIGIN, verifiers(log))


def test_a_log_published_in_place_is_pruned_there_too(log: Log) -> None:
    store = aged(log)
    publish_log(log, store, log.path)
    assert prune_at(log, DAY_90).files == 4
    assert verify_published(Folder(log.path), ORIGIN, verifiers(log)).size == 702
    assert not (log.path / entries_path(0)).exists()


def test_nothing_goes_that_a_copy_does_not_hold(log: Log, tmp_path: Path) -> None:
    store = fill(log, 0, 300)
    publish_log(log, store, tmp_path / "dir")
    shutil.copytree(tmp_path / "dir", tmp_path / "archive")
    fill(log, 300, 700)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    assert plan_prune(store, [Folder(tmp_path / "dir")], now_ns=clock(DAY_90)).minimum == 256
    before = tree_of(tmp_path / "archive")
    done = prune(log.path, key_of(log), "tester", archived=[Folder(tmp_path / "archive")], clock=lambda: clock(DAY_90))
    assert done.plan.minimum == 256
    assert done.plan.stopped_by == f"{tmp_path / 'archive'} holds only 300 entries"
    assert tree_of(tmp_path / "archive") == before
    (tmp_path / "dir" / "checkpoint").write_text(f"{ORIGIN}\n")
    with pytest.raises(LogDamaged, match="no checkpoint"):
        plan_prune(store, [Folder(tmp_path / "dir")], now_ns=clock(DAY_90))
    assert plan_prune(store, [], now_ns=clock(DAY_90)).minimum == 512
    # An empty folder holds nothing, so nothing may go; once something went, it is no copy any more.
    with pytest.raises(EntriesPruned, match="neither serve as a copy"):
        plan_prune(store, [Folder(tmp_path / "nothing")], now_ns=clock(DAY_90))


def test_a_folder_of_another_history_is_refused(log: Log, tmp_path: Path) -> None:
    other = make_log_like(log, tmp_path / "other")
    fork = fill(other, 1, 701)
    publish_log(other, fork, tmp_path / "dir")
    aged(log)
    with pytest.raises(LogForked, match="is not one of this log"):
        prune_at(log, DAY_90, Folder(tmp_path / "dir"))
    assert JournalStore.open(log.path, writable=False).base == Head()


def make_log_like(log: Log, folder: Path) -> Log:
    """An empty log with the same key."""
    folder.mkdir()
    from audit_middleware.evidence.keys import create_log

    shutil.copy(key_of(log), folder / "audit.key")
    return Log(folder / "audit", create_log(folder / "audit", ORIGIN, folder / "audit.key"))


def test_a_running_publisher_stops_the_prune_before_anything_is_changed(log: Log, tmp_path: Path) -> None:
    store = aged(log)
    publish_log(log, store, tmp_path / "dir")
    size = store.head().size
    with Folder(tmp_path / "dir").exclusive(), pytest.raises(LogBusy, match="publishes there"):
        prune_at(log, DAY_90, Folder(tmp_path / "dir"))
    assert (store.base, store.head().size) == (Head(), size)


def test_a_new_folder_cannot_be_published_from_a_pruned_log(log: Log, tmp_path: Path) -> None:
    store = aged(log)
    publish_log(log, store, tmp_path / "dir")
    prune_at(log, DAY_90, Folder(tmp_path / "dir"))
    with pytest.raises(EntriesPruned, match="Copy a folder that was published before"):
        publish_log(log, store, tmp_path / "new")
    # The advice works.
    shutil.copytree(tmp_path / "dir" / "tile", tmp_path / "new" / "tile")
    for name in ("checkpoint", "minimum"):
        shutil.copy(tmp_path / "dir" / name, tmp_path / "new" / name)
    fill(log, 702, 1000)
    publish_log(log, store, tmp_path / "new")
    assert verify_published(Folder(tmp_path / "new"), ORIGIN, verifiers(log)).size == 1000


# --- the search index ---------------------------------------------------------------------------------------------


def test_the_search_index_forgets_what_was_pruned(log: Log) -> None:
    store = aged(log, 1500)
    path = log.path / "index.sqlite"
    index = SearchIndex(path, store)
    assert index.catch_up() == 1501
    assert index.with_action_id(decode(dated(5))["action_id"]) == [5]
    prune_at(log, 31 + 130)
    base = store.base.size
    assert base > 1024
    for one in (index, SearchIndex(path, store)):
        assert one.catch_up() == 1502
        assert list(one.find(Filters(), newest_first=False)) == list(range(base, 1502))
        assert one.with_action_id(decode(dated(5))["action_id"]) == []
        since = text(moment(128))
        assert next(one.find(Filters(since=since), newest_first=False)) == 1280
        assert list(one.check(1502, [])) == []
    SearchIndex.remove(path)
    fresh = SearchIndex(path, store)
    assert fresh.catch_up() == 1502
    assert list(fresh.find(Filters(), newest_first=False)) == list(range(base, 1502))
    assert [one for frame in store.frames() for one in fresh.check(frame.first, frame.entries)] == []


def test_what_is_left_is_still_read_by_its_lines(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    store = aged(log, 1500)
    index = SearchIndex(log.path / "index.sqlite", store)
    index.catch_up()
    prune_at(log, 31 + 130)
    index.catch_up()
    base, left = store.base.size, [one for frame in store.frames() for one in frame.entries]
    assert base

    def frames(*_: object) -> None:
        raise AssertionError("a commit was read as a whole")

    monkeypatch.setattr(JournalStore, "frames", frames)
    assert list(index.read(range(base, base + len(left)))) == list(enumerate(left, base))
    monkeypatch.undo()
    with pytest.raises(EntriesPruned):
        list(index.read([base - 1]))


def test_what_was_pruned_is_not_left_in_the_indexs_file(log: Log) -> None:
    store = fill(log, 0, 300)
    store.append([dated(300).replace(b'"user_id":"user-6"', b'"user_id":"wanda-the-forgotten"')], sealer(log))
    fill(log, 301, 700)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    index = SearchIndex(log.path / "index.sqlite", store)
    index.catch_up()
    index.close()
    assert any(b"wanda-the-forgotten" in path.read_bytes() for path in log.path.glob("index.sqlite*"))
    prune_at(log, DAY_90)
    assert not [path for path in log.path.rglob("*") if path.is_file() and b"wanda-the-forgotten" in path.read_bytes()]


def test_a_row_below_the_base_is_reported(log: Log) -> None:
    import sqlite3

    store = aged(log)
    index = SearchIndex(log.path / "index.sqlite", store)
    index.catch_up()
    prune_at(log, DAY_90)
    index.catch_up()
    with sqlite3.connect(log.path / "index.sqlite") as database:
        database.execute("INSERT INTO entry (idx, user_id) VALUES (7, 'ghost')")
    assert any("not in the log" in words for _, words in index.check(store.head().size, []))


def test_an_index_that_ends_below_the_base_is_made_anew(log: Log) -> None:
    store = fill(log, 0, 200)
    index = SearchIndex(log.path / "index.sqlite", store)
    index.catch_up()
    kept = tree_of(log.path)
    index.close()
    fill(log, 200, 700)
    set_retention(log.path, key_of(log), 1, "tester", clock=lambda: clock(70))
    prune_at(log, DAY_90)
    SearchIndex.remove(log.path / "index.sqlite")
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        if name in kept:
            (log.path / name).write_bytes(kept[name])
    index = SearchIndex(log.path / "index.sqlite", store)
    assert index.catch_up() == 702
    assert list(index.find(Filters(), newest_first=False)) == list(range(store.base.size, 702))
