"""The journal's directory: making it, opening it, refusing what is not right, never creating by accident."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.errors import ConfigError, LogBusy, LogDamaged, LogExists, LogForked, LogNotFound, LogUnavailable
from audit_middleware.ledger import checkpoint
from audit_middleware.model import Head
from audit_middleware.protocols import LogStore
from audit_middleware.stores import filesystem
from audit_middleware.stores.journal import JournalStore
from tests.stores.samples import (
    CREATED,
    ORIGIN,
    SEAL,
    SIGNER,
    VKEY,
    assert_holds,
    batches,
    entries_of,
    new_journal,
    segments_of,
    small,
)


def test_create(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "log"
    store: LogStore = JournalStore.create(path, ORIGIN, [VKEY], CREATED)
    assert json.loads((path / "config.json").read_bytes()) == {
        "created": CREATED,
        "format": 1,
        "origin": ORIGIN,
        "vkeys": [VKEY],
    }
    store.append([small(1)], SEAL)
    store.close()
    again = JournalStore.open(path)
    assert (again.origin, again.path, again.config.vkeys, again.config.created) == (ORIGIN, path, (VKEY,), CREATED)
    assert_holds(again)


def test_only_the_owner_has_access(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "log"
        new_journal(path, [small(1)])
    finally:
        os.umask(before)
    for found in [path, *path.rglob("*")]:
        wanted = 0o700 if found.is_dir() else 0o600
        assert stat.S_IMODE(found.stat().st_mode) == wanted, found


def test_create_twice(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [small(1)])
    with pytest.raises(LogExists):
        JournalStore.create(tmp_path / "log", ORIGIN, [VKEY], CREATED)
    assert_holds(store)


def test_create_in_someone_elses_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(LogExists, match=r"thesis\.tex"):
        JournalStore.create(tmp_path, ORIGIN, [VKEY], CREATED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]


def test_create_over_segments_without_config(tmp_path: Path) -> None:
    new_journal(tmp_path / "log", [small(1)]).close()
    (tmp_path / "log" / "config.json").unlink()
    with pytest.raises(LogExists, match="restore"):
        JournalStore.create(tmp_path / "log", ORIGIN, [VKEY], CREATED)


def test_create_completes_what_a_crash_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for step in ("mkdir", "link"):
        monkeypatch.setattr(Path if step == "mkdir" else os, step, die)
        with pytest.raises(KeyboardInterrupt):
            JournalStore.create(tmp_path / "log", ORIGIN, [VKEY], CREATED)
        monkeypatch.undo()
        with pytest.raises(LogNotFound):
            JournalStore.open(tmp_path / "log")
    assert_holds(JournalStore.create(tmp_path / "log", ORIGIN, [VKEY], CREATED))


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb"])
def test_an_origin_that_is_none(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ConfigError, match="origin"):
        JournalStore.create(tmp_path / "log", origin, [VKEY], CREATED)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("writable", [True, False])
def test_nothing_is_created_by_opening(tmp_path: Path, writable: bool) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path / "typo", empty, file, file / "below"):
        with pytest.raises(LogNotFound) as caught:
            JournalStore.open(path, writable=writable)
        assert f"audit-middleware init {path} --origin ORIGIN" in str(caught.value)
    assert not (tmp_path / "typo").exists()
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"format": 1, "origin": "x"}', '{"format": 2}', "\xff", "[" * 100_000]
)
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    new_journal(tmp_path / "log").close()
    (tmp_path / "log" / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(LogDamaged, match="config"):
        JournalStore.open(tmp_path / "log")


def test_the_directory_of_segments_is_gone(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log")
    store.close()
    segments_of(tmp_path / "log")[0].unlink()
    store.layout.journal.rmdir()
    with pytest.raises(LogDamaged, match="segments"):
        JournalStore.open(tmp_path / "log")


def test_reading_changes_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2, 3)).close()
    (path / ".state" / "lock").unlink()
    segment = segments_of(path)[0]
    segment.write_bytes(segment.read_bytes() + b'{"half')
    before = {found: found.stat().st_mtime_ns for found in path.rglob("*")}
    store = JournalStore.open(path, writable=False)
    assert len(entries_of(store)) == 5
    assert store.head().size == 5
    assert [finding.cause for finding in assert_holds(store).findings] == ["torn"]
    with pytest.raises(LogUnavailable, match="reading"):
        store.append([small(1)], SEAL)
    store.close()
    assert before == {found: found.stat().st_mtime_ns for found in path.rglob("*")}


def test_a_reader_sees_what_others_append(tmp_path: Path) -> None:
    writer = new_journal(tmp_path / "log", segment_bytes=2000)
    reader = JournalStore.open(tmp_path / "log", writable=False)
    second = JournalStore.open(tmp_path / "log", segment_bytes=2000)
    assert reader.head() == Head()
    for group in batches(1, 2, 3, 1, 1):
        for store in (writer, second):
            head = store.append(group, SEAL)
            assert reader.head() == head == writer.head() == second.head()
    assert len(segments_of(tmp_path / "log")) > 3
    assert_holds(reader)


def test_segments_begin_where_they_should(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(3, 3, 3, 3), segment_bytes=5000)
    names = [int(path.stem) for path in segments_of(tmp_path / "log")]
    assert names[0] == 0
    assert len(names) > 1
    for number, path in enumerate(segments_of(tmp_path / "log")):
        assert next(iter(store.frames(names[number]))).where == f"{path}:0"
    other = JournalStore.open(tmp_path / "log")  # another idea of how large a segment is
    other.append([small(1)], SEAL)
    store.append([small(2)], SEAL)
    other.append([small(3)], SEAL)
    assert_holds(store)


def test_an_empty_last_segment(tmp_path: Path) -> None:
    """A crash right after the next segment was created."""
    path = tmp_path / "log"
    store = new_journal(path, *batches(2, 2), segment_bytes=1)
    (path / "journal" / f"{4:020d}.jsonl").touch(0o600)
    assert store.head().size == 4
    assert len(entries_of(store)) == 4
    assert_holds(store)
    assert JournalStore.open(path).append([small(1)], SEAL).size == 5
    assert store.append([small(2)], SEAL).size == 6
    assert_holds(store)


def test_a_torn_last_segment(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2, 2), segment_bytes=1)
    (path / "journal" / f"{4:020d}.jsonl").write_bytes(b'{"half')
    assert store.head().size == 4
    assert store.append([small(1)], SEAL).size == 5
    assert [(repair.offset, repair.size) for repair in store.repairs] == [(0, 6)]
    assert_holds(store)


def test_a_gap_before_the_last_segment_stops_writing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2, 2, 2), segment_bytes=1).close()
    one, two, three = segments_of(path)
    three.write_bytes(b"")
    content = two.read_bytes()
    two.write_bytes(content[:-1])
    with pytest.raises(LogDamaged):
        JournalStore.open(path)
    two.unlink()
    with pytest.raises(LogDamaged):
        JournalStore.open(path)
    one.unlink()
    with pytest.raises(LogDamaged):
        JournalStore.open(path)


def test_frames_names_file_and_offset_of_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2, 2, 2))
    offset = int(list(store.frames())[1].where.rpartition(":")[2])
    segment = segments_of(path)[0]
    data = bytearray(segment.read_bytes())
    data[offset + 5] ^= 1
    segment.write_bytes(data)
    reading = store.frames()
    assert next(reading).first == 0
    with pytest.raises(LogDamaged, match=f"{segment}:{offset}: .*sha256"):
        next(reading)
    assert [frame.first for frame in store.frames(4)] == [4]
    data = bytearray(segment.read_bytes())
    data[data.index(b'{"commit":', offset)] ^= 1  # and now its commit line as well
    segment.write_bytes(data)
    with pytest.raises(LogDamaged, match=f"{segment}:{offset}"):
        list(store.frames(2))


def test_frames_of_a_log_with_a_segment_missing(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 2, 2), segment_bytes=1)
    segments_of(tmp_path / "log")[1].unlink()
    assert [frame.first for frame in store.frames(0, 2)] == [0]
    with pytest.raises(LogDamaged, match="2"):
        list(store.frames())
    with pytest.raises(LogDamaged, match="2"):
        list(store.frames(2, 4))
    assert [frame.first for frame in store.frames(4)] == [4]


def test_locating_in_a_large_segment(tmp_path: Path) -> None:
    pad = "x" * 300
    groups = [[b'{"n":%d,"pad":"%b"}' % (g * 10 + n, pad.encode()) for n in range(10)] for g in range(200)]
    store = new_journal(tmp_path / "log", *groups)
    assert segments_of(tmp_path / "log")[0].stat().st_size > 2 * 2**18
    for index in range(0, 2000, 37):
        frame = next(iter(store.frames(index, index + 1)))
        assert frame.entries[index - frame.first].startswith(b'{"n":%d,' % index)
    assert_holds(store)


# --- the published checkpoint ------------------------------------------------------------------------------------


def test_a_published_checkpoint_is_a_lower_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2, 3))
    (path / "checkpoint").write_bytes(store.head().checkpoint)
    store.append([small(1)], SEAL)
    JournalStore.open(path).close()
    segment = segments_of(path)[0]
    frames = list(store.frames())
    cut = int(frames[1].where.rpartition(":")[2])
    torn = segment.read_bytes()[: cut + 50]
    segment.write_bytes(torn)
    with pytest.raises(LogDamaged, match="size 5 was published"):
        JournalStore.open(path)
    assert segment.read_bytes() == torn  # nothing below what was published is cut, not even a torn write
    assert JournalStore.open(path, writable=False).head().size == 2
    with pytest.raises(LogDamaged):
        store.append([small(2)], SEAL)


def test_a_published_checkpoint_of_another_history(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2, 3)).close()
    other = SEAL(Head(), [small(n) for n in range(5)])
    (path / "checkpoint").write_bytes(other.checkpoint)
    with pytest.raises(LogForked, match="another root"):
        JournalStore.open(path)
    (path / "checkpoint").write_bytes(checkpoint.sign_checkpoint("other.example", 1, (bytes(32),), [SIGNER]))
    with pytest.raises(LogForked, match="another log"):
        JournalStore.open(path)


@pytest.mark.parametrize("text", [b"", b"x\n", b"x\ny\nz\n", b"x\n99999999999999999999\nz\n"])
def test_a_published_checkpoint_that_is_none(tmp_path: Path, text: bytes) -> None:
    new_journal(tmp_path / "log").close()
    (tmp_path / "log" / "checkpoint").write_bytes(text)
    with pytest.raises(LogDamaged, match="no checkpoint"):
        JournalStore.open(tmp_path / "log")


# --- the log changes under an open store -------------------------------------------------------------------------


def test_the_log_is_cut_while_in_use(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 3))
    segment = segments_of(tmp_path / "log")[0]
    content = segment.read_bytes()
    segment.write_bytes(content[: int(list(store.frames())[1].where.rpartition(":")[2])])
    for _ in range(3):
        with pytest.raises(LogDamaged, match="seen size 5"):
            store.append([small(1)], SEAL)
    segment.write_bytes(content)
    assert store.append([small(1)], SEAL).size == 6
    assert_holds(store)


def test_the_log_is_replaced_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2, 3))
    segment = segments_of(path)[0]
    copy = segment.read_bytes()
    segment.unlink()
    segment.write_bytes(copy)
    assert store.append([small(1)], SEAL).size == 6
    assert len(entries_of(store)) == 6
    assert_holds(store)


def test_the_log_is_replaced_by_an_older_copy_while_in_use(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *batches(2, 3))
    cut = int(list(store.frames())[1].where.rpartition(":")[2])
    segment = segments_of(tmp_path / "log")[0]
    content = segment.read_bytes()
    segment.unlink()
    segment.write_bytes(content[:cut])
    with pytest.raises(LogDamaged, match="older copy"):
        store.append([small(1)], SEAL)
    segment.write_bytes(content)
    assert store.append([small(1)], SEAL).size == 6
    assert_holds(store)


def test_the_log_is_deleted_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2))
    path.rename(tmp_path / "gone")
    with pytest.raises(LogUnavailable):
        store.append([small(1)], SEAL)
    (tmp_path / "gone").rename(path)
    assert JournalStore.open(path).append([small(1)], SEAL).size == 3
    assert_holds(store)


def test_the_lock_file_is_replaced_while_in_use(tmp_path: Path) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2), lock_timeout=0.2)
    (path / ".state" / "lock").unlink()
    other = JournalStore.open(path)
    assert other._appender is not None
    with other._appender._lock.held(1), pytest.raises(LogBusy):
        store.append([small(1)], SEAL)
    store.append([small(1)], SEAL)
    assert_holds(store)


# --- file systems ------------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 0:21 / / rw - overlay overlay rw
23 22 8:1 / /data rw - ext4 /dev/sda1 rw
24 23 0:50 / /data/share rw - nfs4 server:/x rw
25 22 0:51 / /mnt/my\\040disk rw - fuse.sshfs me@host rw
26 22 0:52 / /mnt/win rw - cifs //server/share rw
27 22 0:53 / /run rw - tmpfs tmpfs rw
28 23 0:54 / /data/over rw - ext4 /dev/sdb1 rw
29 23 0:55 / /data/over rw - xfs /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/log", "overlay"),
        ("/data", "ext4"),
        ("/data/log", "ext4"),
        ("/data/share/log", "nfs4"),
        ("/data/shared", "ext4"),
        ("/mnt/my disk/log", "fuse.sshfs"),
        ("/mnt/win", "cifs"),
        ("/data/over/x", "xfs"),
    ],
)
def test_which_file_system_a_path_is_on(path: str, kind: str) -> None:
    assert filesystem.type_from_mounts(MOUNTS, path) == kind


def test_network_file_systems_are_refused_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_journal(tmp_path / "log").close()
    for kind in ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse", "9p", "ceph", "virtiofs"):
        monkeypatch.setattr(filesystem, "filesystem_type", lambda path, kind=kind: kind)
        with pytest.raises(Exception, match=f"{kind}, where locks and fsync"):
            JournalStore.open(tmp_path / "log")
        with pytest.raises(Exception, match="PostgreSQL"):
            JournalStore.create(tmp_path / "new", ORIGIN, [VKEY], CREATED)
        JournalStore.open(tmp_path / "log", force=True).close()
        JournalStore.open(tmp_path / "log", writable=False).close()
    assert not (tmp_path / "new").exists()


def test_container_and_memory_file_systems_are_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    new_journal(tmp_path / "log").close()
    for kind, word in (("overlay", "container"), ("tmpfs", "reboot")):
        monkeypatch.setattr(filesystem, "filesystem_type", lambda path, kind=kind: kind)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = JournalStore.open(tmp_path / "log")
        assert word in store.warnings[0]
        assert word in caplog.text
    for kind in ("ext4", "xfs", "btrfs", "zfs", "fuseblk", ""):
        monkeypatch.setattr(filesystem, "filesystem_type", lambda path, kind=kind: kind)
        assert JournalStore.open(tmp_path / "log").warnings == ()


def test_headroom(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log")
    assert 0 < store.headroom() < 2**60


def test_locating_among_entries_of_very_different_sizes(tmp_path: Path) -> None:
    groups = []
    for number in range(120):
        size = 60_000 if number % 40 < 3 else 10
        groups.append([b'{"n":%d,"pad":"%b"}' % (number * 10 + one, b"x" * size) for one in range(10)])
    store = new_journal(tmp_path / "log", *groups)
    for index in [*range(0, 1200, 7), 1199]:
        frame = next(iter(store.frames(index, index + 1)))
        assert frame.entries[index - frame.first].startswith(b'{"n":%d,' % index)
    assert_holds(store)


def test_locating_beyond_damage(tmp_path: Path) -> None:
    """Damage elsewhere does not keep a reader from what it asks for, wherever the damage is."""
    pad = b"x" * 1000
    store = new_journal(tmp_path / "log", *[[b'{"n":%d,"pad":"%b"}' % (number, pad)] for number in range(600)])
    segment = segments_of(tmp_path / "log")[0]
    healthy = segment.read_bytes()
    chance = random.Random(5)
    for _ in range(60):
        at = chance.randrange(len(healthy) - 2000)
        damaged = bytearray(healthy)
        damaged[at] ^= 1
        segment.write_bytes(damaged)
        hit = healthy.count(b'{"commit":', 0, at)
        for index in (chance.randrange(600), max(0, hit - 2), min(599, hit + 2)):
            if abs(index - hit) > 1:
                (frame,) = store.frames(index, index + 1)
                assert frame.entries[0].startswith(b'{"n":%d,' % index)
    segment.write_bytes(healthy)
    assert_holds(store)


def test_reading_fails(tmp_path: Path) -> None:
    path = tmp_path / "log"
    new_journal(path, *batches(2)).close()
    reader = JournalStore.open(path, writable=False)
    path.rename(tmp_path / "gone")
    for ask in (reader.head, lambda: list(reader.frames()), lambda: list(reader.raw_frames())):
        with pytest.raises(LogUnavailable, match="reading failed"):
            ask()
    (tmp_path / "gone").rename(path)
    assert_holds(reader)


def test_a_lock_file_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    store = new_journal(path, *batches(2))
    real = os.fstat

    def broken(descriptor: int) -> os.stat_result:
        monkeypatch.undo()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fstat", broken)
    with pytest.raises(LogUnavailable, match=r"lock: Input/output error"):
        store.append([small(1)], SEAL)
    assert os.fstat is real
    JournalStore.open(path, lock_timeout=0.1).append([small(2)], SEAL)  # the lock was not left behind
    store.append([small(3)], SEAL)
    assert_holds(store)


def test_a_journal_without_any_segment_can_be_read(tmp_path: Path) -> None:
    new_journal(tmp_path / "log", *batches(2)).close()
    for path in segments_of(tmp_path / "log"):
        path.unlink()
    store = JournalStore.open(tmp_path / "log", writable=False)
    assert list(store.raw_frames()) == []
    assert list(store.frames()) == []


@pytest.mark.parametrize("what", ["pipe", "link to nowhere", "links in a circle"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "cosigned.jsonl", f"journal/{9:020d}.jsonl", f"journal/{9:020d}.base", f"timestamps/{9:020d}.tsr"],
)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, what: str, name: str) -> None:
    new_journal(tmp_path / "log", [small(1)]).close()
    place = tmp_path / "log" / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("nowhere" if what == "link to nowhere" else place)
    for writable in (True, False):
        with pytest.raises(LogDamaged, match=rf"{place.name}: is neither a file nor a folder"):
            JournalStore.open(tmp_path / "log", writable=writable)


def test_a_link_to_a_file_elsewhere_is_a_file(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [small(1)], [small(2)], segment_bytes=1)
    first = segments_of(tmp_path / "log")[0]
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    assert_holds(JournalStore.open(tmp_path / "log"))
    store.close()


def test_a_base_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", [small(1)])
    (tmp_path / "log" / "journal" / f"{1:020d}.base").symlink_to("nowhere")
    with pytest.raises(LogDamaged, match="link to nowhere"):
        _ = store.base


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("others", [0, 1, 2, 3])
def test_an_older_copy_put_back_under_an_open_store(tmp_path: Path, in_place: bool, others: int) -> None:
    """And continued by others, until it is as long as what this store has seen, or longer."""
    path = tmp_path / "log"
    new_journal(path, [small(0)]).close()
    segment = segments_of(path)[0]
    backup = segment.read_bytes()
    store = JournalStore.open(path)
    store.append([small(1)], SEAL)
    store.append([small(2)], SEAL)
    if not in_place:
        segment.unlink()
    segment.write_bytes(backup)
    with contextlib.closing(JournalStore.open(path)) as other:
        for number in range(others):
            other.append([small(10 + number)], SEAL)
    before = segment.read_bytes()
    with pytest.raises(LogDamaged if others < 2 else LogForked, match="older copy"):
        store.append([small(3)], SEAL)
    assert segment.read_bytes() == before
