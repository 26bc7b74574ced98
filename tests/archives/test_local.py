"""The folder of immutable objects."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from audit_middleware.archives.local import Folder
from audit_middleware.errors import LogBusy, LogDamaged, LogUnavailable
from tests.stores.children import fork


def test_an_object_is_there_once_it_was_put(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b")
    with folder.exclusive():
        assert folder.put_new("tile/0/000", b"one")
        assert not folder.put_new("tile/0/000", b"one"), "the second time it was there already"
        assert folder.put_all([("tile/0/000", b"one"), ("tile/0/001", b"two")]) == 1
        folder.sync()
    assert folder.get("tile/0/000") == b"one"
    assert folder.has("tile/0/001")
    assert not folder.has("tile/0")
    assert folder.get("tile/0") is None
    assert folder.get("tile/0/000/x") is None
    assert sorted(folder.names("tile")) == ["tile/0/000", "tile/0/001"]


def test_another_content_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.exclusive():
        folder.put_new("x/y", b"one")
        for data in (b"two", b"on", b"onee", b""):
            with pytest.raises(LogDamaged, match="x/y"):
                folder.put_new("x/y", data)
            assert folder.get("x/y") == b"one"
        with pytest.raises(LogDamaged, match="x/y"):
            folder.put_all([*((f"x/{n}", b"n") for n in range(20)), ("x/y", b"two")])
    assert not list((tmp_path / ".state").glob("put-*"))


def test_an_object_made_between_look_and_link_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    link = os.link

    def race(source: Path, target: Path) -> None:
        target.write_bytes(b"theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", race)
    with folder.exclusive(), pytest.raises(LogDamaged):
        folder.put_new("x", b"ours")
    assert folder.get("x") == b"theirs"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", ".state/x", "a\n", "ä"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path)
    for use in (folder.get, folder.has, folder.remove, lambda one: folder.put_new(one, b"")):
        with pytest.raises(ValueError, match="not the name"):
            use(name)


def test_replace_and_remove(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.exclusive():
        folder.replace("checkpoint", b"1")
        folder.replace("checkpoint", b"2")
        folder.put_new("p/1", b"1")
        folder.put_new("p/2", b"2")
        folder.remove("p/1")
        assert list(folder.names("p")) == ["p/2"]
        folder.remove("p/2")
        folder.remove("p/2")
        assert not (tmp_path / "p").exists()
        folder.put_new("p/3", b"3")
        folder.sync()
    assert folder.get("checkpoint") == b"2"
    assert folder.get("p/3") == b"3"


def test_one_writer_at_a_time_and_its_rubbish_is_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)

    def second(tell: object) -> None:
        with pytest.raises(LogBusy), Folder(tmp_path).exclusive():
            pass

    with folder.exclusive():
        assert fork(second).wait() == 0
        (tmp_path / ".state" / "put-7").write_bytes(b"half")
    with folder.exclusive():
        assert not list((tmp_path / ".state").glob("put-*"))


@pytest.mark.parametrize(("given", "directory", "file"), [(None, 0o700, 0o600), (0o755, 0o755, 0o644)])
def test_permissions_are_those_of_the_folder(tmp_path: Path, given: int | None, directory: int, file: int) -> None:
    root = tmp_path / "folder"
    if given is not None:
        root.mkdir()
        root.chmod(given)
    folder = Folder(root)
    with folder.exclusive():
        folder.put_new("tile/0/000", b"x")
        folder.replace("checkpoint", b"x")
    assert stat.S_IMODE((root / "tile" / "0").stat().st_mode) == directory
    assert stat.S_IMODE((root / "tile" / "0" / "000").stat().st_mode) == file
    assert stat.S_IMODE((root / "checkpoint").stat().st_mode) == file


def test_a_refusing_disk_leaves_no_half_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with folder.exclusive():
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(LogUnavailable, match="No space left"):
            folder.put_new("x/y", b"data")
        with pytest.raises(LogUnavailable, match="No space left"):
            folder.replace("checkpoint", b"data")
        monkeypatch.undo()
        assert folder.get("x/y") is None
        assert folder.get("checkpoint") is None
        assert folder.put_new("x/y", b"data")
