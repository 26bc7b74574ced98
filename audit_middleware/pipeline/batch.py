"""The batch of the writer's thread: entries of the commit being prepared or repeated, with their waiters.

Entries leave it only when the store has acknowledged them; what is sent again is sent byte for byte. Sequence numbers
are dense over what was ever put into a batch, so that a reader can see a record of this process missing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ..errors import RecordError
from ..model import Receipt
from ..protocols import Clock
from ..stores.frames import check_entry
from .waiting import Waiter, refuse

LONGEST = 1024
"""Most records in one commit: bounds how long the thread holds the interpreter while it encodes."""

Encode = Callable[[Any, int, int], bytes]
"""``encode(item, sequence, recorded_at_ns)`` returns the entry. Called in the writer's thread."""

Fallback = Callable[[Any, Exception, int, int], bytes]
"""``on_unencodable(item, error, sequence, recorded_at_ns)`` returns an entry that stands in the item's place."""

MakeGap = Callable[[int, int, int, str], Any]
"""``make_gap(count, first_ns, last_ns, cause)`` returns the item that records a loss."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that were lost: how many, when the first and the last, why."""

    count: int
    first_ns: int
    last_ns: int
    causes: tuple[str, ...]

    def grown(self, count: int, now: int, cause: str) -> Gap:
        """The gap with more records that were lost now."""
        causes = self.causes if cause in self.causes else (*self.causes, cause)
        return Gap(self.count + count, min(self.first_ns, now), max(self.last_ns, now), causes)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a writer has done in this process. ``failed`` and ``batches`` count commits, the others records."""

    written: int = 0
    failed: int = 0
    dropped: int = 0
    batches: int = 0
    spooled: int = 0


class _Identity(msgspec.Struct, gc=False):
    action_id: str = ""


_read_identity = msgspec.json.Decoder(_Identity)


class Batch:
    """Used by one thread; others only ask for its length."""

    def __init__(
        self,
        encode: Encode,
        on_unencodable: Fallback | None,
        make_gap: MakeGap | None,
        clock: Clock,
        max_bytes: int,
        lost: Callable[[str], None],
    ) -> None:
        """``lost(cause)`` is called for each item for which there is no entry at all."""
        self._encode = encode
        self._on_unencodable = on_unencodable
        self._make_gap = make_gap
        self._clock = clock
        self._max_bytes = max_bytes
        self._lost = lost
        self._sequence = 0
        self._recorded_at = 0
        self._size = 0
        self.entries: list[bytes] = []
        self.waiters: list[Waiter | None] = []

    def __len__(self) -> int:
        return len(self.entries)

    def fill(self, waiting: deque[tuple[Any, Waiter | None]], gap: Gap | None) -> None:
        """Takes items from the left of the queue; a gap comes behind what was kept and before what is new."""
        now = self._recorded_at = max(self._recorded_at, self._clock())
        if gap is not None:
            self._add_gap(gap, now)
        while waiting and len(self.entries) < LONGEST and self._size < self._max_bytes:
            # Encoded before it leaves the queue: seen from outside, a record is always in one of the two.
            item, waiter = waiting[0]
            self._add(item, waiter, now)
            waiting.popleft()

    def _add(self, item: Any, waiter: Waiter | None, now: int) -> None:
        # Broad on purpose, twice: whatever is wrong with one item, the others of the batch must reach the log.
        try:
            entry = self._encode(item, self._sequence, now)
            check_entry(entry)
        except Exception as error:
            _log.warning("a record cannot be encoded: %s", error)
            try:
                entry = self._stand_in(item, error, now)
            except Exception as again:
                _log.error("a record is lost: %s", again)
                self._lost("unencodable")
                refuse([waiter], RecordError(f"the record cannot be encoded: {error}"))
                return
        self._put(entry, waiter)

    def _stand_in(self, item: Any, error: Exception, now: int) -> bytes:
        if self._on_unencodable is None:
            raise error
        entry = self._on_unencodable(item, error, self._sequence, now)
        check_entry(entry)
        return entry

    def _add_gap(self, gap: Gap, now: int) -> None:
        if self._make_gap is None:
            return
        try:
            item = self._make_gap(gap.count, gap.first_ns, gap.last_ns, ", ".join(gap.causes))
            entry = self._encode(item, self._sequence, now)
            check_entry(entry)
        except Exception as error:  # broad: see `_add`; trying again would fail again
            _log.error("%d records were lost, and the gap record cannot be encoded: %s", gap.count, error)
            return
        self._put(entry, None)

    def _put(self, entry: bytes, waiter: Waiter | None) -> None:
        self._sequence += 1
        self._size += len(entry)
        self.entries.append(entry)
        self.waiters.append(waiter)

    def give_up_waiters(self) -> list[Waiter | None]:
        """Returns the waiters and forgets them; the entries are kept."""
        waiters, self.waiters = self.waiters, [None] * len(self.entries)
        return waiters

    def receipts(self, origin: str, first: int) -> Iterator[tuple[Waiter, Receipt]]:
        """Yields what each waiter gets, given the log index of the batch's first entry."""
        for index, (entry, waiter) in enumerate(zip(self.entries, self.waiters, strict=True), first):
            if waiter is not None:
                yield waiter, Receipt(origin, index, _action_id(entry))

    def clear(self) -> None:
        """Forgets entries that were acknowledged."""
        self.entries, self.waiters, self._size = [], [], 0


def _action_id(entry: bytes) -> str:
    try:
        return _read_identity.decode(entry).action_id
    except msgspec.DecodeError:
        return ""  # not a record of ours; the receipt's index still identifies it
