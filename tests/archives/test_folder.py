"""An archive in a folder: what makes its objects immutable, and what does not."""

from __future__ import annotations

import os
import select
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.archives.local import Folder
from audit_middleware.archives.opening import open_archive
from audit_middleware.errors import ArchiveConflict, ArchiveError, ConfigError
from tests.archives.flags import APPEND_ONLY, IMMUTABLE, can_lock, flags, set_flags
from tests.stores.children import fork

UNTIL = 2_000_000_000.0


@pytest.fixture
def flagless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that lets us read flags and set none, as without CAP_LINUX_IMMUTABLE."""
    import fcntl

    real = fcntl.ioctl

    def refuse(descriptor: int, number: int, word: bytes | bytearray) -> object:
        if isinstance(word, bytes):
            raise PermissionError(1, "Operation not permitted")
        return real(descriptor, number, word)

    monkeypatch.setattr("audit_middleware.archives.folder.fcntl.ioctl", refuse)


def test_locked_is_what_the_kernel_shows(folder: Path) -> None:
    """Where flags may be set, nothing can be done to an object; where not, it is not called locked."""
    possible = can_lock(folder)
    archive = FolderArchive.open(folder)
    stored = archive.put("tile/0/000", b"one", UNTIL)
    path = folder / "tile" / "0" / "000"
    assert stored.locked is possible
    assert stored.until is None, "flags have no end"
    assert bool(flags(path) & IMMUTABLE) is possible
    for directory in (folder, folder / "tile", folder / "tile" / "0"):
        assert bool(flags(directory) & APPEND_ONLY) is possible
    attacks: list[Callable[[], object]] = [
        path.unlink,
        lambda: path.write_bytes(b"two"),
        lambda: path.chmod(0o600),
        lambda: path.rename(folder / "elsewhere"),
        lambda: (folder / "tile").rename(folder / "away"),
        lambda: os.utime(path, (0, 0)),
    ]
    if possible:
        for attack in attacks:
            with pytest.raises(PermissionError):
                attack()
    assert archive.get("tile/0/000") == b"one"
    assert archive.put("tile/0/001", b"two", UNTIL).locked is possible, "beside it, others can be made"


@pytest.mark.usefixtures("flagless")
def test_without_permission_to_lock_it_is_read_only_and_not_called_locked(folder: Path) -> None:
    archive = FolderArchive.open(folder)
    assert not archive.put("x/y", b"one", UNTIL).locked
    assert stat.S_IMODE((folder / "x" / "y").stat().st_mode) == 0o400
    assert [one.locked for one in archive.versions("x/y")] == [False]
    assert not archive.put("x/y", b"one", UNTIL).locked


def test_one_flag_less_is_not_locked(folder: Path) -> None:
    if not can_lock(folder):
        assert not FolderArchive.open(folder).put("x/y", b"one", UNTIL).locked
        return
    archive = FolderArchive.open(folder)
    assert archive.put("x/y", b"one", UNTIL).locked
    for path in (folder / "x" / "y", folder / "x", folder):
        before = flags(path)
        set_flags(path, before & ~(IMMUTABLE | APPEND_ONLY))
        assert [one.locked for one in archive.versions("x/y")] == [False], path
        assert archive.put("x/y", b"one", UNTIL).locked, "putting it again sets what is missing"


def test_what_a_dead_writer_left_is_completed(folder: Path) -> None:
    """It died between giving the name and setting the flags, and another one in the middle of the bytes."""
    with Folder(folder).exclusive():
        Folder(folder)._make_directory(folder / "x")
    (folder / "x" / "y").write_bytes(b"one")
    (folder / ".state" / "put-3").write_bytes(b"hal")
    archive = FolderArchive.open(folder)
    assert list(archive.names("")) == ["x/y"]
    stored = archive.put("x/y", b"one", UNTIL)
    assert stored.locked is can_lock(folder / ".state")
    assert not (folder / "x" / "y").stat().st_mode & 0o222
    assert not list((folder / ".state").glob("put-*"))


def test_a_writer_waits_for_the_others_and_not_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_r, held_w = os.pipe()
    go_r, go_w = os.pipe()

    def hold(tell: object) -> None:
        os.close(go_w)
        with Folder(folder).exclusive():
            os.write(held_w, b"x")
            os.read(go_r, 1)

    child = fork(hold)
    os.close(go_r)
    os.read(held_r, 1)
    archive = FolderArchive.open(folder)
    monkeypatch.setattr("audit_middleware.archives.folder._WAIT", 0.1)
    with pytest.raises(ArchiveError, match="directory of its own"):
        archive.put("x", b"x", None)
    monkeypatch.setattr("audit_middleware.archives.folder._WAIT", 60.0)
    os.close(go_w)
    assert archive.put("x", b"x", None).size == 1
    assert child.wait() == 0
    os.close(held_r)
    os.close(held_w)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="mkdir -m 700"):
        FolderArchive.open(tmp_path / "unmounted")
    assert not (tmp_path / "unmounted").exists()


def test_a_disk_that_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    archive = FolderArchive.open(folder)
    monkeypatch.setattr("audit_middleware.archives.local.os.fsync", refuse)
    with pytest.raises(ArchiveError, match="No space left"):
        archive.put("x/y", b"data", None)
    monkeypatch.undo()
    assert archive.get("x/y") is None
    assert list(archive.names("")) == []


def test_somebody_elses_files_are_left_out(folder: Path) -> None:
    FolderArchive.open(folder).put("a", b"a", None)
    (folder / "tile").mkdir()
    (folder / "tile" / "with blank").touch()
    (folder / "tile" / ".hidden").touch()
    assert list(FolderArchive.open(folder).names("")) == ["a"]


def test_it_is_opened_by_path_or_url(folder: Path) -> None:
    FolderArchive.open(folder).put("a", b"a", None)
    for place in (str(folder), f"file://{folder}", f"file://localhost{folder}"):
        opened = open_archive(place)
        assert opened.get("a") == b"a"
        assert opened.place == str(folder)
    for wrong in ("file://elsewhere/x", "file://", "ftp://x/y", f"file://{folder}?x=1"):
        with pytest.raises(ConfigError, match="archive"):
            open_archive(wrong)


def test_where_no_lock_is_asked_for_there_is_none(folder: Path) -> None:
    """So that who made it can remove it."""
    archive = FolderArchive.open(folder)
    assert not archive.put("x/y", b"one", None).locked
    assert not flags(folder / "x" / "y") & IMMUTABLE
    assert not flags(folder / "x") & APPEND_ONLY
    assert not (folder / "x" / "y").stat().st_mode & 0o222


# --- what somebody else put there ------------------------------------------------------------------------------------


def in_time(work: Callable[[], object]) -> None:
    """Fails instead of waiting for ever for a pipe that nobody writes to."""

    def run(tell: Callable[[bytes], int]) -> None:
        work()
        tell(b"done")

    child = fork(run)
    try:
        waiting = select.poll()  # not `select`, which knows the first 1024 descriptors of a process only
        waiting.register(child.pipe, select.POLLIN)
        assert waiting.poll(60_000), "it waits for ever"
        assert child.read() == b"done"
    finally:
        child.kill()
        child.wait()


def unknown(path: Path, kind: str) -> None:
    """Makes something that is no regular file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        (path.parent / "target").write_bytes(b"one")
        path.symlink_to("target")


@pytest.mark.parametrize("kind", ["pipe", "directory", "endless", "dangling", "link"])
def test_only_regular_files_are_objects(folder: Path, kind: str) -> None:
    unknown(folder / "x" / "y", kind)
    archive = FolderArchive.open(folder)

    def look() -> None:
        assert archive.get("x/y") is None
        assert archive.versions("x/y") == []
        if kind == "directory":
            return
        assert "x/y" in archive.names("")
        with pytest.raises(ArchiveError, match="x/y"):
            archive.put("x/y", b"one", None)

    try:
        in_time(look)
    finally:
        if kind == "pipe":
            (folder / "x" / "y").unlink()
    assert not (folder / "x" / "nowhere").exists()


@pytest.mark.parametrize("name", ["tile", "tile/0", ".state"])
def test_nothing_is_written_through_a_symbolic_link(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "put-0").write_bytes(b"somebody's")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside)
    with pytest.raises(ArchiveConflict, match=f"{name}: is a symbolic link"):
        FolderArchive.open(folder).put("tile/0/000", b"one", None)
    assert [one.name for one in outside.iterdir()] == ["put-0"]
    assert flags(outside) & (IMMUTABLE | APPEND_ONLY) == 0


def test_the_folder_itself_may_be_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    FolderArchive.open(tmp_path / "link").put("tile/0/000", b"one", None)
    assert FolderArchive.open(folder).get("tile/0/000") == b"one"


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    with (folder / "x").open("wb") as file:
        file.truncate(2**40)
    archive = FolderArchive.open(folder)
    with pytest.raises(ArchiveError, match="no object of a log"):
        archive.get("x")
    with pytest.raises(ArchiveConflict):
        archive.put("x", b"one", None)


def test_directories_of_any_depth_are_listed(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    try:
        FolderArchive.open(folder).put("e", b"one", None)
        assert list(FolderArchive.open(folder).names("")) == ["e"]
    finally:
        set_flags(folder, flags(folder) & ~APPEND_ONLY)
        subprocess.run(["/bin/rm", "-rf", folder / "d"], check=True)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_working_directory(name: str) -> None:
    with pytest.raises(ConfigError, match="its name is empty"):
        open_archive(name)
