"""Any sequence of appends, crashes, failures, restarts, prunes, publishing and rotations of keys, against a list.

The list is what was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from audit_middleware.archives.local import Folder
from audit_middleware.errors import EntriesPruned, LogUnavailable
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.published import verify_published
from audit_middleware.pipeline.append import make_sealer
from audit_middleware.protocols import Sealer
from audit_middleware.signing import Ed25519Signer
from audit_middleware.stores.index import Filters, SearchIndex
from audit_middleware.stores.journal import JournalStore
from tests.retention.support import assert_holds_from_base
from tests.stores.samples import ORIGIN, SIGNER, VERIFIERS, assert_holds, entries_of, new_journal, segments_of, small

STORES = 2
OTHER = Ed25519Signer(ORIGIN, bytes(range(1, 33)))


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
        self.base = 0
        self.signers = [SIGNER]
        self.published = 0

    @property
    def seal(self) -> Sealer:
        """Signs with all keys that are active."""
        return make_sealer(ORIGIN, self.signers)

    def fresh(self, count: int) -> list[bytes]:
        """Entries that were never used before."""
        self.number += count
        return [small(number) for number in range(self.number - count, self.number)]

    def settle(self) -> None:
        """After a failure: the batch in question is there whole, or not at all."""
        found = entries_of(JournalStore.open(self.path, writable=False))
        assert found in (self.left(), self.left() + self.maybe)
        self.certain, self.maybe = self.certain[: self.base] + found, []

    def left(self) -> list[bytes]:
        """What was acknowledged and not pruned."""
        return self.certain[self.base :]

    @rule(who=st.integers(0, STORES - 1), count=st.integers(1, 6))
    def append(self, who: int, count: int) -> None:
        batch = self.fresh(count)
        head = self.stores[who].append(batch, self.seal)
        self.certain += batch
        assert head.size == len(self.certain)

    @rule(who=st.integers(0, STORES - 1))
    def restart(self, who: int) -> None:
        self.stores[who].close()
        self.stores[who] = JournalStore.open(self.path, **self.options)

    @rule(who=st.integers(0, STORES - 1), share=st.floats(0, 0.999))
    def die_while_writing(self, who: int, share: float) -> None:
        """Another process got so far with its write, and was killed."""
        other = JournalStore.open(self.path, segment_bytes=2**30)  # cuts off what another one left, so before we look
        path = segments_of(self.path)[-1]
        before = path.read_bytes()
        other.append(self.fresh(2), self.seal)
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
                self.stores[who].append(batch, self.seal)
            self.certain += batch
        except LogUnavailable:
            self.maybe = batch
            self.settle()
            if self.stores[who]._appender._failures > 1:  # type: ignore[union-attr]
                self.restart(who)

    @rule()
    def search(self) -> None:
        assert self.index.catch_up() == len(self.certain)
        assert list(self.index.find(Filters(), newest_first=False)) == list(range(self.base, len(self.certain)))
        assert list(self.index.check(self.base, self.left())) == []
        assert list(self.index.check(len(self.certain), [])) == []

    @rule()
    def keep_a_checkpoint(self) -> None:
        self.kept = self.stores[0].head().checkpoint

    @rule(
        who=st.integers(0, STORES - 1),
        share=st.floats(0, 1),
        dies=st.sampled_from(["", "", "unlink", "replace", "fsync"]),
        times=st.integers(0, 3),
    )
    def prune(self, who: int, share: float, dies: str, times: int) -> None:
        """Down to some commit, perhaps killed on the way; what entries say of their age is not the store's business."""
        store = self.stores[who]
        # The record of a prune comes before it; here any entry will do.
        batch = self.fresh(1)
        ends = [frame.head.size for frame in store.frames() if frame.head.size >= self.base]
        store.append(batch, self.seal)
        self.certain += batch
        if not ends:
            return
        base = ends[int(share * (len(ends) - 1))]
        real, seen = getattr(os, dies or "close"), list[int]()

        def dying(*arguments: Any, **options: Any) -> Any:
            if len(seen) == times:
                raise KeyboardInterrupt
            seen.append(1)
            return real(*arguments, **options)

        with mock.patch.object(os, dies or "close", dying if dies else real), contextlib.suppress(KeyboardInterrupt):
            store.prune(base, len(self.certain) - 1, "2026-01-01")
        found = JournalStore.open(self.path, writable=False).base.size
        assert found in ((self.base, base) if dies else (base,))
        self.base = found
        with pytest.raises(EntriesPruned) if found else contextlib.nullcontext():
            list(self.stores[1 - who].frames(0))

    @rule()
    def rotate(self) -> None:
        """Another key signs beside the first, or it does not any more."""
        self.signers = [SIGNER, OTHER] if len(self.signers) == 1 else [SIGNER]

    @rule()
    def publish(self) -> None:
        folder = Folder(self.folder / "dir")
        with folder.exclusive():
            publisher = Publisher(self.stores[0], folder, VERIFIERS)
            if self.published < self.base:
                with pytest.raises(EntriesPruned):
                    publisher.catch_up()
            else:
                self.published = publisher.catch_up().checkpoint.size
                assert self.published == len(self.certain)
                assert verify_published(folder, ORIGIN, VERIFIERS).size == self.published

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "path"):
            return
        reader = JournalStore.open(self.path, writable=False)
        assert entries_of(reader) == self.left()
        assert assert_holds_from_base(reader, VERIFIERS, ORIGIN) == len(self.certain)
        if not self.base:
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
