"""Fixtures: a real S3 server with Object Lock, one whose lock does not hold, and both drivers of an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from audit_middleware.archives.folder import FolderArchive
from audit_middleware.archives.s3 import S3Archive
from audit_middleware.protocols import Archive
from tests.archives.flags import unlock
from tests.archives.serving import ENVIRONMENT, NO_SERVER, Proxy, Server, make_bucket, moto_server, s3_python, s3_server

_numbers = count()


@pytest.fixture(scope="session")
def shared_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not kill it; their buckets differ."""
    if s3_python() is None:
        pytest.skip(NO_SERVER)
    server = s3_server(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def shared_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One moto for all tests; their buckets differ."""
    server = moto_server(tmp_path_factory.mktemp("moto")).start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that no message may show, and nothing of a developer's own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(shared_s3: Server) -> str:
    """The URL of an archive in a bucket with Object Lock."""
    return make_bucket(shared_s3.url, f"bucket-{next(_numbers)}")


@pytest.fixture
def s3(bucket: str) -> S3Archive:
    """An archive in a bucket of its own."""
    return S3Archive.open(bucket)


@pytest.fixture
def proxy(shared_s3: Server) -> Iterator[Proxy]:
    """In front of the server."""
    with Proxy(shared_s3.port).running() as running:
        yield running


@pytest.fixture
def behind(bucket: str, shared_s3: Server, proxy: Proxy) -> S3Archive:
    """The same as `s3`, seen through the proxy; gives up soon."""
    return S3Archive.open(bucket.replace(shared_s3.url, proxy.url), tries=2)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory for an archive, removable again afterwards."""
    made = tmp_path / "archive"
    made.mkdir(mode=0o700)
    yield made
    unlock(made)


@pytest.fixture(params=["folder", "s3"])
def reopen(request: pytest.FixtureRequest) -> Callable[[], Archive]:
    """Opens one archive, each time anew; for both drivers."""
    if request.param == "folder":
        place: Path = request.getfixturevalue("folder")
        return lambda: FolderArchive.open(place)
    url: str = request.getfixturevalue("bucket")
    return lambda: S3Archive.open(url)


@pytest.fixture
def archive(reopen: Callable[[], Archive]) -> Archive:
    """An empty archive, of both drivers."""
    return reopen()
