"""Any sequence of appends, crashes, failures and restarts, against a list of what was acknowledged."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from audit_middleware.errors import LogUnavailable
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from tests.stores.samples import SEAL, assert_holds, entries_of, new_journal, report_on, segments_of, small

STORES = 2


class Journal(RuleBasedStateMachine):
    """Two stores on one journal; ``certain`` is what must be there, in this order, ``maybe`` what may follow it."""

    @initialize(segment_bytes=st.sampled_from([1, 2000, 2**26]))
    def start(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="journal-"))
        self.path = self.folder / "log"
        self.options: dict[str, Any] = {"segment_bytes": segment_bytes}
        new_journal(self.path).close()
        self.stores = [JournalStore.open(self.path, **self.options) for _ in range(STORES)]
        self.index = SearchIndex(self.path / "index.sqlite", self.stores[0])
        self.number = 0
        self.certain: list[bytes] = []
        self.maybe: list[bytes] = []
        self.kept = b""

    def fresh(self, count: int) -> list[bytes]:
        """Entries that were never used before."""
        self.number += count
        return [small(number) for number in range(self.number - count, self.number)]

    def settle(self) -> None:
        """After a failure: the batch in question is there whole, or not at all."""
        found = entries_of(JournalStore.open(self.path, writable=False))
        assert found in (self.certain, self.certain + self.maybe)
        self.certain, self.maybe = found, []

    @rule(who=st.integers(0, STORES - 1), count=st.integers(1, 6))
    def append(self, who: int, count: int) -> None:
        batch = self.fresh(count)
        head = self.stores[who].append(batch, SEAL)
        self.certain += batch
        assert head.size == len(self.certain)

    @rule(who=st.integers(0, STORES - 1))
    def restart(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = JournalStore.open(self.path, **self.options)

    @rule(who=st.integers(0, STORES - 1), share=st.floats(0, 0.999))
    def die_while_writing(self, who: int, share: float) -> None:
        """Another process got so far with its write, and was killed."""
        path = segments_of(self.path)[-1]
        before = path.read_bytes()
        other = JournalStore.open(self.path, segment_bytes=2**30)
        other.append(self.fresh(2), SEAL)
        other.close()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(before) + int((len(whole) - len(before)) * share)])

    @rule(
        who=st.integers(0, STORES - 1),
        call=st.sampled_from(["write", "fdatasync", "fsync", "fstat", "open", "pread"]),
        code=st.sampled_from([errno.EIO, errno.ENOSPC]),
        after=st.booleans(),
    )
    def fail(self, who: int, call: str, code: int, after: bool) -> None:
        real = getattr(os, call)
        seen: list[int] = []

        def broken(*arguments: Any, **options: Any) -> Any:
            if seen:
                return real(*arguments, **options)
            seen.append(1)
            if after:
                result = real(*arguments, **options)
                if call == "open":
                    os.close(result)
            raise OSError(code, os.strerror(code))

        batch = self.fresh(2)
        try:
            with mock.patch.object(os, call, broken):
                self.stores[who].append(batch, SEAL)
            self.certain += batch
        except LogUnavailable:
            self.maybe = batch
            self.settle()
            if self.stores[who]._appender._failures > 1:  # type: ignore[union-attr]
                self.restart(who)

    @rule()
    def search(self) -> None:
        assert self.index.catch_up() == len(self.certain)
        assert list(self.index.find(Filters(), newest_first=False)) == list(range(len(self.certain)))
        assert report_on(self.stores[0], check_index=self.index.check).holds

    @rule()
    def keep_a_checkpoint(self) -> None:
        self.kept = self.stores[0].head().checkpoint

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "path"):
            return
        reader = JournalStore.open(self.path, writable=False)
        assert entries_of(reader) == self.certain
        assert_holds(reader, since=self.kept or None)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for store in self.stores:
                store.close()
            self.index.close()
            shutil.rmtree(self.folder)


Journal.TestCase.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJournal = Journal.TestCase
