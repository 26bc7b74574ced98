"""What a power cut may leave: nothing is named before its bytes are on disk, and the checkpoint comes last."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.publish.support import numbered, publish
from tests.stores.samples import SEAL, new_journal

Event = tuple[str, str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What was done to the disk, in order: ("fsync" | "link" | "rename" | "unlink" | "mkdir", path)."""
    seen: list[Event] = []
    listen(monkeypatch, seen, "fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    for name in ("link", "rename"):
        listen(monkeypatch, seen, name, lambda source, target: f"{source} {target}")
    for name in ("unlink", "mkdir"):
        listen(monkeypatch, seen, name, lambda path, *_: str(path))
    return seen


def listen(monkeypatch: pytest.MonkeyPatch, seen: list[Event], name: str, about: Callable[..., str]) -> None:
    call = getattr(os, name)

    def run(*args: Any, **options: Any) -> Any:
        what = about(*args)
        result = call(*args, **options)
        seen.append((name, what))
        return result

    monkeypatch.setattr(os, name, run)


def test_the_order_of_a_publication(tmp_path: Path, events: list[Event]) -> None:
    store = new_journal(tmp_path / "log", numbered(0, 300))
    root = tmp_path / "dir"
    publish(store, root)
    check_order(events, root, checkpoints=1)
    events.clear()
    store.append(numbered(300, 600), SEAL)
    publish(store, root)
    check_order(events, root, checkpoints=1)
    renamed = next(at for at, (name, _) in enumerate(events) if name == "rename")
    removed = [at for at, (name, what) in enumerate(events) if name == "unlink" and ".p/" in what]
    assert removed, "a partial file was not removed"
    assert min(removed) > renamed, "a partial file went before the checkpoint that does without it"


def check_order(events: list[Event], root: Path, checkpoints: int) -> None:
    synced: set[str] = set()
    unsynced_directories: set[str] = set()
    seen = 0
    for at, (name, what) in enumerate(events):
        if name == "fsync":
            synced.add(what)
            unsynced_directories.discard(what)
        elif name == "mkdir":
            unsynced_directories.add(str(Path(what).parent))
        elif name in ("link", "rename"):
            source, target = what.split(" ")
            assert source in synced, f"{target} was named before its bytes were on disk"
            if target == str(root / "checkpoint"):
                below = {one for one in unsynced_directories if one.startswith(str(root)) and ".state" not in one}
                assert not below, "the checkpoint was published before the names of its files were on disk"
                assert ("fsync", str(root)) in events[at + 1 :], "the checkpoint's name was not made durable"
                seen += 1
            else:
                unsynced_directories.add(str(Path(target).parent))
    assert seen == checkpoints
