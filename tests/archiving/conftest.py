"""The archives of the drivers' tests: a folder, removable again afterwards, and a real S3 server."""

from __future__ import annotations

from itertools import count

import pytest

from tests.archives.conftest import _aws, folder, proxy, shared_s3
from tests.archives.serving import Server, make_bucket

__all__ = ["_aws", "folder", "place", "proxy", "shared_s3", "url"]

_numbers = count()


@pytest.fixture
def url(shared_s3: Server) -> str:
    """A bucket with Object Lock."""
    return make_bucket(shared_s3.url, f"log-{next(_numbers)}")


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    """What a setting would say, for both drivers."""
    return str(request.getfixturevalue("folder" if request.param == "folder" else "url"))
