"""What every archive promises, over every driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.archives.s3 import S3Archive
from audit_middleware.errors import ArchiveConflict, ArchiveError
from audit_middleware.model import Stored
from audit_middleware.protocols import Archive
from tests.archives.serving import Asked, Proxy, Server

Reopen = Callable[[], Archive]
BAD_NAMES = ["", ".", "..", "../x", "a/../b", "/a", "a//b", "a/", ".state/x", "a\n", "ä", "a b", "a?b", "a%2fb", "a\\b"]


def soon() -> float:
    """When a lock may end: after the test, and not much later."""
    return time.time() + 120


def test_an_object_is_there_once_it_was_put(archive: Archive, reopen: Reopen) -> None:
    data = bytes(range(256)) * 4097
    stored = archive.put("tile/0/x001/234", data, soon())
    assert (stored.name, stored.size) == ("tile/0/x001/234", len(data))
    for opened in (archive, reopen()):
        assert opened.get("tile/0/x001/234") == data
        assert opened.get("tile/0/x001/234", stored.version) == data
        assert list(opened.versions("tile/0/x001/234")) == [stored]
        assert list(opened.names("tile")) == ["tile/0/x001/234"]
    assert stored.stored_at is not None
    assert abs(stored.stored_at - time.time()) < 3600


def test_an_empty_object_is_one(archive: Archive) -> None:
    archive.put("empty", b"", None)
    assert archive.get("empty") == b""
    assert list(archive.names("")) == ["empty"]
    with pytest.raises(ArchiveConflict):
        archive.put("empty", b"x", None)


def test_what_is_not_there(archive: Archive) -> None:
    archive.put("tile/0/000", b"x", None)
    for name in ("tile", "tile/0", "tile/0/0", "tile/0/0000", "tile/0/000.p", "tile/0/000/x", "other"):
        assert archive.get(name) is None, name
        assert list(archive.versions(name)) == [], name
    assert list(archive.names("tile/1")) == []
    assert list(archive.names("til")) == [], "a prefix is a whole name"
    assert list(archive.names("tile/0/000")) == []


def test_the_same_bytes_again_make_no_second_object(archive: Archive, reopen: Reopen) -> None:
    first = archive.put("x/y", b"one", soon())
    for opened in (archive, reopen()):
        again = opened.put("x/y", b"one", None)
        assert (again.version, again.stored_at, again.size) == (first.version, first.stored_at, 3)
        assert len(opened.versions("x/y")) == 1


@pytest.mark.parametrize("until", [None, 120.0])
def test_other_bytes_are_a_conflict_and_change_nothing(archive: Archive, until: float | None) -> None:
    end = None if until is None else time.time() + until
    stored = archive.put("x/y", b"one", end)
    for data in (b"two", b"on", b"onee", b""):
        with pytest.raises(ArchiveConflict, match="x/y"):
            archive.put("x/y", data, end)
        assert archive.get("x/y") == b"one"
        assert list(archive.versions("x/y")) == [stored]


def test_names_come_in_order_and_below_their_prefix(archive: Archive) -> None:
    names = ["a", "b-c/1", "b.c", "b/1", "b/1.p/2", "b/10", "b/2", "b/B", "b/x001/000", "b_c", "c/d/e/f"]
    for name in reversed(names):
        archive.put(name, name.encode(), None)
    assert list(archive.names("")) == names == sorted(names)
    assert list(archive.names("b")) == [name for name in names if name.startswith("b/")]
    assert list(archive.names("b/1.p")) == ["b/1.p/2"]
    assert list(archive.names("c/d")) == ["c/d/e/f"]


def test_names_that_are_none(archive: Archive) -> None:
    for name in BAD_NAMES:
        for use in (archive.get, archive.versions, lambda one: archive.put(one, b"", None)):
            with pytest.raises(ValueError, match="not the name"):
                use(name)
        if name:
            with pytest.raises(ValueError, match="not the name"):
                list(archive.names(name))
    assert list(archive.names("")) == []


@pytest.fixture(params=["folder", "s3", "s3 without If-None-Match"])
def meeting(request: pytest.FixtureRequest) -> Iterator[Reopen]:
    """Archives for writers that meet; requests to the server that the tests have reach it in turn: see `Proxy`."""
    if request.param == "folder":
        place: Path = request.getfixturevalue("folder")
        yield lambda: FolderArchive.open(place)
        return
    server: Server = request.getfixturevalue("shared_s3")
    url: str = request.getfixturevalue("bucket")

    def rule(asked: Asked) -> None:
        if request.param != "s3":
            del asked.headers["If-None-Match"]

    with Proxy(server.port, rule, in_turn=True).running() as proxy:
        yield lambda: S3Archive.open(url.replace(server.url, proxy.url))


def test_of_writers_at_the_same_time_the_first_one_counts(meeting: Reopen) -> None:
    """Those with its bytes all get its version, the others a conflict; each has an archive of its own."""
    results: list[tuple[bytes, Stored | None]] = []
    barrier = threading.Barrier(6)

    def write(data: bytes) -> None:
        opened = meeting()
        barrier.wait(600)
        try:
            results.append((data, opened.put("race/1", data, soon())))
        except ArchiveConflict:
            results.append((data, None))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(write, b"ab"[n % 2 : n % 2 + 1]) for n in range(6)]:
            done.result()
    opened = meeting()
    first = opened.versions("race/1")[0]
    winner = opened.get("race/1", first.version)
    assert sorted(data for data, _ in results) == [b"a"] * 3 + [b"b"] * 3
    for data, stored in results:
        assert (stored.version if stored else None) == (first.version if data == winner else None)
        assert (stored is not None) == (data == winner)


def test_one_archive_serves_many_threads(archive: Archive) -> None:
    names = [f"tile/{n % 3}/{n:03}" for n in range(24)]
    with ThreadPoolExecutor(6) as pool:
        stored = list(pool.map(lambda name: archive.put(name, name.encode(), soon()), names))
        found = list(pool.map(archive.get, names))
    assert [one.name for one in stored] == names
    assert found == [name.encode() for name in names]
    assert list(archive.names("")) == sorted(names)


def test_what_is_too_large_or_gone_is_an_error_of_an_archive(archive: Archive) -> None:
    """Not of the driver's library: a name longer than any file system and S3 know."""
    with pytest.raises(ArchiveError) as raised:
        archive.put("x" * 2000, b"x", None)
    assert archive.place in str(raised.value)
