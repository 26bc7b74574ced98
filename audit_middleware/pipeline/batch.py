"""The batch of the writer's thread: entries of the commit being prepared or repeated, with their waiters.

Entries leave it only when the store has acknowledged them; what is sent again is sent byte for byte. Sequence numbers
are dense over what was ever put into a batch, so that a reader can see a record of this process missing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..errors import RecordError
from ..model import Receipt
from ..privacy.guarding import KEY_ERRORS
from ..protocols import Clock
from ..stores.frames import check_entry
from .custody import Custody
from .waiting import Waiter, parted, refuse

LONGEST = 1024
"""Most records in one commit: bounds how long the thread holds the interpreter while it encodes."""

SLICE = 64
"""So many records are made before event loops get a turn: about a millisecond that the interpreter is ours. Each turn
costs two changes of threads, whose caches are cold then: with slices of 16 a request took some 4 to 7 us more of the
processor, and the slowest ones were no quicker."""

Encode = Callable[[Any, int, int], bytes]
"""``encode(item, sequence, recorded_at_ns)`` returns the entry. Called in the writer's thread."""

Fallback = Callable[[Any, Exception, int, int], bytes]
"""``on_unencodable(item, error, sequence, recorded_at_ns)`` returns an entry that stands in the item's place."""

MakeGap = Callable[[int, int, int, str], Any]
"""``make_gap(count, first_ns, last_ns, cause)`` returns the item that records a loss."""

_log = logging.getLogger(__name__)


class Gap(msgspec.Struct, frozen=True):
    """Records that were lost: how many, when the first and the last, why."""

    count: int
    first_ns: int
    last_ns: int
    causes: tuple[str, ...]

    def grown(self, count: int, now: int, cause: str) -> Gap:
        """The gap with more records that were lost now."""
        causes = self.causes if cause in self.causes else (*self.causes, cause)
        return Gap(self.count + count, min(self.first_ns, now), max(self.last_ns, now), causes)


class Counters(msgspec.Struct, frozen=True):
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
        custody: Custody | None = None,
    ) -> None:
        """``lost(cause)`` is called for each item for which there is no entry at all; ``custody`` keeps the keys that
        ``encode`` needs."""
        self._encode = encode
        self._on_unencodable = on_unencodable
        self._make_gap = make_gap
        self._clock = clock
        self._max_bytes = max_bytes
        self._lost = lost
        self._custody = custody
        self._sequence = 0
        self._recorded_at = 0
        self._size = 0
        self.entries: list[bytes] = []
        # Of the few entries that somebody waits for, by position: who, and the action id where the item tells it.
        self._awaited: dict[int, tuple[Waiter, str | None]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def waiters(self) -> list[Waiter]:
        """Who waits for entries of this batch. May be asked from any thread."""
        return [waiter for waiter, _ in list(self._awaited.values())]

    def fill(
        self,
        waiting: deque[Any],
        gap: Gap | None,
        *,
        withholds: bool = False,
        turn: Callable[[], None] | None = None,
    ) -> None:
        """Takes what is in the queue, from the left; a gap comes behind what was kept and before what is new.

        ``withholds``: personal fields are dropped. ``turn`` is called now and then, never while keys are not durable.

        Raises:
            SubjectKeysError, MasterKeyError: a record needs keys that are not to be had, or not durable. All items are
                in the queue again, in their order.
        """
        now = self._recorded_at = max(self._recorded_at, self._clock())
        if gap is not None:
            self._add_gap(gap, now)
        if self._custody is None:
            self._take(waiting, now, turn)
            return
        kept, sequence, size = len(self.entries), self._sequence, self._size
        taken: list[Any] = []
        try:
            self._custody.begin(withholds=withholds)
            self._take(waiting, now, turn, taken)
            for told in self._custody.settle():
                self._add(told, None, now)
        except KEY_ERRORS:
            self._custody.drop()
            waiting.extendleft(reversed(taken))
            del self.entries[kept:]
            self._awaited = {at: one for at, one in self._awaited.items() if at < kept}
            self._sequence, self._size = sequence, size
            raise

    def acknowledged(self) -> None:
        """The log has all that this batch and those before it held."""
        if self._custody is not None:
            self._custody.acknowledged()

    def close(self) -> None:
        """Releases what was needed to encode."""
        if self._custody is not None:
            self._custody.close()

    def _take(
        self,
        waiting: deque[Any],
        now: int,
        turn: Callable[[], None] | None,
        taken: list[Any] | None = None,
    ) -> None:
        """``taken`` gets the items that have an entry now."""
        for left in range(len(waiting), 0, -1):
            if len(self.entries) >= LONGEST or self._size >= self._max_bytes:
                return
            if turn is not None and left % SLICE == 0 and not (self._custody and self._custody.owing):
                turn()
            # Encoded before it leaves the queue: seen from outside, a record is always in one of the two.
            queued = waiting[0]
            item, waiter = parted(queued)
            count = len(self.entries)
            self._add(item, waiter, now)
            waiting.popleft()
            if taken is not None and len(self.entries) > count:
                taken.append(queued)

    def _add(self, item: Any, waiter: Waiter | None, now: int) -> None:
        # Broad on purpose, twice: whatever is wrong with one item, the others of the batch must reach the log.
        try:
            entry = self._encode(item, self._sequence, now)
            check_entry(entry)
        except KEY_ERRORS:
            raise
        except Exception as error:
            _log.warning("a record cannot be encoded: %s", error)
            try:
                entry = self._stand_in(item, error, now)
            except Exception as again:
                _log.error("a record is lost: %s", again)
                self._lost("unencodable")
                refuse([waiter], RecordError(f"the record cannot be encoded: {error}"))
                return
        self._put(entry, waiter, item)

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
        self._put(entry, None, item)

    def _put(self, entry: bytes, waiter: Waiter | None, item: Any) -> None:
        self._sequence += 1
        self._size += len(entry)
        if waiter is not None:
            # The id is asked of the item as long as we have it: to read it back from the entry takes longer.
            self._awaited[len(self.entries)] = waiter, getattr(item, "action_id", None)
        self.entries.append(entry)

    def give_up_waiters(self) -> list[Waiter]:
        """Returns the waiters and forgets them; the entries are kept."""
        waiters, self._awaited = self.waiters, {}
        return waiters

    def receipts(self, origin: str, first: int) -> Iterator[tuple[Waiter, Receipt]]:
        """Yields what each waiter gets, given the log index of the batch's first entry."""
        for at, (waiter, action_id) in self._awaited.items():
            yield waiter, Receipt(origin, first + at, action_id or _action_id(self.entries[at]))

    def clear(self) -> None:
        """Forgets entries that were acknowledged."""
        self.entries, self._awaited, self._size = [], {}, 0


def _action_id(entry: bytes) -> str:
    try:
        return _read_identity.decode(entry).action_id
    except msgspec.DecodeError:
        return ""  # not a record of ours; the receipt's index still identifies it
