"""Publishing: what is written, what is refused, and that it continues where it ended."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import LogDamaged, LogForked
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.published import open_published, tile_getter, verify_published
from audit_middleware.ledger import tiles, tree
from audit_middleware.ledger.tiles import hash_reader, new_bundles, new_tiles
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.journal import JournalStore
from tests.ledger.conftest import load, vectors
from tests.publish.support import ListStore, files, numbered, publish, read_back
from tests.stores.samples import CREATED, ORIGIN, SEAL, SIGNER, VERIFIERS, VKEY, new_journal, segments_of, small

__all__ = ["load", "vectors"]


@pytest.mark.parametrize("size", [1, 3, 255, 256, 257, 512, 700])
def test_the_layout_is_that_of_the_size(tmp_path: Path, size: int) -> None:
    entries = numbered(0, size)
    store = new_journal(tmp_path / "log", entries)
    published, written = publish(store, tmp_path / "dir")
    wanted = {"checkpoint", *(one.path for one in new_tiles(0, size)), *(one.path for one in new_bundles(0, size))}
    assert set(files(tmp_path / "dir")) == wanted
    assert written == len(wanted)
    checkpoint, found = read_back(tmp_path / "dir")
    assert found == entries
    assert checkpoint == published.checkpoint
    assert (tmp_path / "dir" / "checkpoint").read_bytes() == store.head().checkpoint
    assert verify_published(Folder(tmp_path / "dir"), ORIGIN, VERIFIERS) == checkpoint


def test_golden_tiles(tmp_path: Path, load: Callable[[str], Any]) -> None:
    """70,000 entries whose tiles and roots were computed by golang.org/x/mod/sumdb/tlog."""
    golden = load("golden/entry_i.json")
    store = ListStore([b"entry-%d" % number for number in range(70_000)], 5000)
    published, _ = publish(store, tmp_path, stride=30_000)
    assert published.checkpoint.root.hex() == golden["roots_hex_by_size"]["70000"]
    listed = golden["tile_sha256_at_size_70000_by_level/index/width"]
    for name, digest in listed.items():
        level, n, width = map(int, name.split("/"))
        assert sha256((tmp_path / tiles.tile_path(level, n, width)).read_bytes()).hexdigest() == digest, name
    read = hash_reader(70_000, tile_getter(Folder(tmp_path)))
    for case in golden["inclusion"]:
        if case["Size"] == 70_000:
            proof = tree.inclusion_proof(case["Index"], 70_000, read)
            tree.verify_inclusion(
                tree.leaf_hash(b"entry-%d" % case["Index"]), case["Index"], 70_000, proof, published.checkpoint.root
            )
    assert verify_published(Folder(tmp_path), ORIGIN, VERIFIERS).size == 70_000


def test_growing_step_by_step_gives_the_same_files(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log")
    sizes = [1, 2, 200, 256, 256 + 17, 600, 1025]
    at = 0
    for size in sizes:
        store.append(numbered(at, size), SEAL)
        at = size
        publish(store, tmp_path / "step")
        assert read_back(tmp_path / "step")[1] == numbered(0, size)
        assert verify_published(Folder(tmp_path / "step"), ORIGIN, VERIFIERS).size == size
    publish(store, tmp_path / "once")
    step, once = files(tmp_path / "step"), files(tmp_path / "once")
    assert {name: step[name] for name in once} == once
    # What is left over are partial files of sizes that were published and are not full yet.
    assert all(".p/" in name for name in set(step) - set(once))
    for name in step:
        if ".p/" in name:
            assert name.split(".p/")[0] not in step, "a partial file beside its full one"


def test_partial_files_stay_until_the_full_one_is_there(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    publish(store, tmp_path / "dir")
    store.append(numbered(10, 20), SEAL)
    publish(store, tmp_path / "dir")
    assert {"tile/0/000.p/10", "tile/0/000.p/20", "tile/entries/000.p/10"} <= set(files(tmp_path / "dir"))
    store.append(numbered(20, 256), SEAL)
    publish(store, tmp_path / "dir")
    assert set(files(tmp_path / "dir")) == {"tile/0/000", "tile/1/000.p/1", "tile/entries/000", "checkpoint"}
    assert not (tmp_path / "dir" / "tile" / "0" / "000.p").exists()


def test_a_full_file_beyond_the_published_size_does_not_replace_the_partial_one(tmp_path: Path) -> None:
    """What a run leaves that was killed before it could publish its checkpoint."""
    short, long = ListStore(numbered(0, 10), 10), ListStore(numbered(0, 300), 10)
    publish(short, tmp_path / "dir")
    publish(long, tmp_path / "ahead")
    for name, data in files(tmp_path / "ahead").items():
        if ".p/" not in name and name != "checkpoint":
            (tmp_path / "dir" / name).write_bytes(data)
    publish(short, tmp_path / "dir")
    assert {"tile/0/000.p/10", "tile/0/000", "tile/entries/000.p/10"} <= set(files(tmp_path / "dir"))
    publish(long, tmp_path / "dir")
    assert files(tmp_path / "dir") == files(tmp_path / "ahead")


def test_publishing_again_touches_nothing(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 300))
    publish(store, tmp_path / "dir")
    before = {name: os.stat(tmp_path / "dir" / name).st_ino for name in files(tmp_path / "dir")}
    assert publish(store, tmp_path / "dir")[1] == 0
    assert {name: os.stat(tmp_path / "dir" / name).st_ino for name in files(tmp_path / "dir")} == before


def test_an_empty_log_publishes_nothing(tmp_path: Path) -> None:
    published, written = publish(new_journal(tmp_path / "log"), tmp_path / "dir")
    assert (published.checkpoint.size, written, files(tmp_path / "dir")) == (0, 0, {})


def test_a_long_log_publishes_checkpoints_on_the_way(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", *(numbered(at, at + 50) for at in range(0, 1000, 50)))
    seen: list[int] = []
    folder = Folder(tmp_path / "dir")
    with folder.exclusive():
        Publisher(store, folder, VERIFIERS, stride=300).catch_up(seen.append)
    assert seen == [300, 600, 900, 1000]
    assert read_back(tmp_path / "dir")[1] == numbered(0, 1000)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_more_than_the_log_is_refused(tmp_path: Path) -> None:
    long = new_journal(tmp_path / "long", numbered(0, 10), numbered(10, 20))
    short = new_journal(tmp_path / "short", numbered(0, 10))
    publish(long, tmp_path / "dir")
    before = files(tmp_path / "dir")
    with pytest.raises(LogForked, match="only 10"):
        publish(short, tmp_path / "dir")
    assert files(tmp_path / "dir") == before


@pytest.mark.parametrize("more", [0, 5, 400])
def test_another_history_is_refused_before_anything_is_written(tmp_path: Path, more: int) -> None:
    publish(new_journal(tmp_path / "a", numbered(0, 300)), tmp_path / "dir")
    forked = [*numbered(0, 299), small(999)]
    other = new_journal(tmp_path / "b", forked, *([numbered(300, 300 + more)] if more else []))
    before = files(tmp_path / "dir")
    with pytest.raises(LogForked):
        publish(other, tmp_path / "dir")
    assert files(tmp_path / "dir") == before


def test_another_history_within_a_commit_is_refused(tmp_path: Path) -> None:
    publish(new_journal(tmp_path / "a", numbered(0, 10)), tmp_path / "dir")
    with pytest.raises(LogForked, match=r"none that ends at the size 10 that .* has a checkpoint of"):
        publish(new_journal(tmp_path / "b", numbered(0, 20)), tmp_path / "dir")


def test_another_log_is_refused(tmp_path: Path) -> None:
    signer = Ed25519Signer("example.com/other", bytes(32))
    JournalStore.create(tmp_path / "other", signer.name, [VKEY], CREATED).close()
    store = JournalStore.open(tmp_path / "other")
    store.append(numbered(0, 3), make_sealer(signer.name, [signer]))
    publish(new_journal(tmp_path / "log", numbered(0, 3)), tmp_path / "dir")
    with pytest.raises(LogForked, match="another log"):
        publish(store, tmp_path / "dir")


def test_a_checkpoint_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 3))
    publish(store, tmp_path / "dir")
    path = tmp_path / "dir" / "checkpoint"
    stranger = Ed25519Signer(ORIGIN, b"\7" * 32)
    head = make_sealer(ORIGIN, [stranger])(type(store.head())(), numbered(0, 3))
    path.write_bytes(head.checkpoint)
    with pytest.raises(LogDamaged, match="checkpoint"):
        publish(store, tmp_path / "dir")


def test_entries_altered_in_the_journal_are_not_published(tmp_path: Path) -> None:
    """Whoever can write the journal but not sign: the frame's own hash is right again, the signed root is not."""
    from audit_middleware.stores.frames import encode_frame

    store = new_journal(tmp_path / "log", numbered(0, 300), numbered(300, 600))
    frames = list(store.frames())
    forged = [*numbered(0, 250), small(10**6), *numbered(251, 300)]
    data = encode_frame(0, forged, frames[0].head) + encode_frame(300, frames[1].entries, frames[1].head)
    segments_of(tmp_path / "log")[0].write_bytes(data)
    with pytest.raises(LogForked, match="do not lead to the root"):
        publish(JournalStore.open(tmp_path / "log", writable=False), tmp_path / "dir")
    assert files(tmp_path / "dir") == {}


@pytest.mark.parametrize("name", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
@pytest.mark.parametrize("harm", ["flip", "gone", "cut"])
def test_a_damaged_end_is_not_built_upon(tmp_path: Path, name: str, harm: str) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 300), numbered(300, 310))
    partial = ListStore(numbered(0, 300), 300)
    publish(partial, tmp_path / "dir")
    path = tmp_path / "dir" / name
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if harm == "flip" else b""))
    with pytest.raises(LogDamaged):
        publish(store, tmp_path / "dir")
    path.write_bytes(data)
    publish(store, tmp_path / "dir")
    assert read_back(tmp_path / "dir")[1] == numbered(0, 310)


def test_a_full_tile_with_other_bytes_stops_it_and_is_named(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 300))
    path = tmp_path / "dir" / "tile" / "0" / "000"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(LogDamaged, match="tile/0/000"):
        publish(store, tmp_path / "dir")
    assert path.read_bytes() == b"something else"
    assert not (tmp_path / "dir" / "checkpoint").exists()


# --- in the log's own directory, and following -----------------------------------------------------------------------


def test_published_in_place_it_shows_a_rollback_at_the_next_start(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 5))
    segment = segments_of(tmp_path / "log")[0]
    old = segment.read_bytes()
    store.append(numbered(5, 9), SEAL)
    publish(store, tmp_path / "log")
    assert read_back(tmp_path / "log")[1] == numbered(0, 9)
    store.close()
    JournalStore.open(tmp_path / "log").close()
    segment.write_bytes(old)
    with pytest.raises(LogDamaged, match="size 9 was published"):
        JournalStore.open(tmp_path / "log")


def test_following_publishes_what_is_appended(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 3))
    folder, stop = Folder(tmp_path / "dir"), threading.Event()
    seen: list[int] = []
    changed = threading.Condition()

    def notify(published: Any) -> None:
        with changed:
            seen.append(published.checkpoint.size)
            changed.notify_all()

    reader = JournalStore.open(tmp_path / "log", writable=False)
    with folder.exclusive():
        thread = threading.Thread(
            target=Publisher(reader, folder, VERIFIERS).follow, args=(stop, 0.005, notify), daemon=True
        )
        thread.start()
        for size in (10, 300, 301):
            with changed:
                assert changed.wait_for(lambda: bool(seen) and seen[-1] == reader.head().size, 10)
            store.append(numbered(store.head().size, size), SEAL)
        with changed:
            assert changed.wait_for(lambda: seen[-1] == 301, 10)
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert seen == [3, 10, 300, 301]
    assert read_back(tmp_path / "dir")[1] == numbered(0, 301)


def test_after_an_error_the_next_call_starts_from_what_is_there(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 10))
    folder = Folder(tmp_path / "dir")
    with folder.exclusive():
        publisher = Publisher(store, folder, VERIFIERS)
        publisher.catch_up()
        store.append(numbered(10, 300), SEAL)
        obstacle = tmp_path / "dir" / "tile" / "0" / "000"
        obstacle.write_bytes(b"x")
        with pytest.raises(LogDamaged):
            publisher.catch_up()
        obstacle.unlink()
        assert publisher.catch_up().checkpoint.size == 300
    publish(store, tmp_path / "once")
    assert files(tmp_path / "dir") == files(tmp_path / "once")


# --- a reader that verifies ----------------------------------------------------------------------------------------


def test_every_byte_of_every_published_file_matters(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 2))
    publish(store, tmp_path / "dir")
    store.append(numbered(2, 5), SEAL)
    publish(store, tmp_path / "dir")
    assert_every_byte_matters(tmp_path / "dir", 1)


@pytest.mark.parametrize("step", [997, pytest.param(41, marks=pytest.mark.slow)])
def test_bytes_of_full_tiles_matter(tmp_path: Path, step: int) -> None:
    publish(new_journal(tmp_path / "log", numbered(0, 300)), tmp_path / "dir")
    assert_every_byte_matters(tmp_path / "dir", step)


def assert_every_byte_matters(root: Path, step: int) -> None:
    folder = Folder(root)
    verify_published(folder, ORIGIN, VERIFIERS)
    count = 0
    for name, data in files(root).items():
        for at in range(0, len(data), step):
            (root / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises((LogDamaged, LogForked)):
                verify_published(folder, ORIGIN, VERIFIERS)
            count += 1
        (root / name).write_bytes(data)
    verify_published(folder, ORIGIN, VERIFIERS)
    assert count > 50 or step > 1


def test_a_missing_full_file_is_named(tmp_path: Path) -> None:
    publish(new_journal(tmp_path / "log", numbered(0, 600)), tmp_path / "dir")
    (tmp_path / "dir" / "tile" / "entries" / "001").unlink()
    with pytest.raises(LogDamaged, match="tile/entries/001"):
        verify_published(Folder(tmp_path / "dir"), ORIGIN, VERIFIERS)


def test_open_published_wants_the_right_key(tmp_path: Path) -> None:
    publish(new_journal(tmp_path / "log", numbered(0, 3)), tmp_path / "dir")
    assert open_published(Folder(tmp_path / "dir"), ORIGIN, VERIFIERS).checkpoint.size == 3
    with pytest.raises(LogForked):
        open_published(Folder(tmp_path / "dir"), "example.com/elsewhere", VERIFIERS)


def test_config_is_untouched(tmp_path: Path) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 3))
    before = json.loads((tmp_path / "log" / "config.json").read_text())
    publish(store, tmp_path / "log")
    assert json.loads((tmp_path / "log" / "config.json").read_text()) == before
    assert SIGNER.name == before["origin"]
