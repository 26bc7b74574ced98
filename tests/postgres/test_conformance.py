"""The public conformance suite over the PostgreSQL driver; and reading in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from audit_middleware.protocols import LogStore
from audit_middleware.stores.postgres import PostgresStore, initialise
from audit_middleware.testing.stores import StoreConformance
from tests.postgres.conftest import Database
from tests.stores.samples import CREATED, SEAL


class TestPostgres(StoreConformance):
    """A log in a database of its own."""

    @pytest.fixture(autouse=True)
    def _place(self, database: Database) -> Iterator[None]:
        self.url = f"{database.url}?origin={self.origin}"
        self.opened: list[PostgresStore] = []
        yield
        for store in self.opened:
            store.close()

    def make(self, tmp_path: Path) -> LogStore:
        initialise(self.url, self.origin, [self.vkey], CREATED)
        return self.reopen(tmp_path)

    def reopen(self, tmp_path: Path) -> LogStore:
        self.opened.append(PostgresStore.open(self.url))
        return self.opened[-1]


def test_reading_holds_a_few_megabytes_only(database: Database) -> None:
    """60 MB of entries, read whole, for a reader and for a verifier."""
    with closing(database.store()) as store:
        for turn in range(60):
            store.append([b'{"n":%d,"x":"%b"}' % (turn * 20 + one, b"x" * 50_000) for one in range(20)], SEAL)
        for reading in (store.frames, store.raw_frames):
            tracemalloc.start()
            try:
                assert sum(len(frame.entries) for frame in reading()) == 1200
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 30 * 2**20
