"""A log's time stamps: getting one for the newest checkpoint, and checking all that are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..errors import FormatError, LogDamaged, StoreError
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Verifier
from ..protocols import LogStore
from ..stores.opening import Place
from .anchors import keep_stamp, stamp_path, stamped_notes
from .prove import Prover
from .timestamps import check_stamp


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time stamp that is kept beside a log, and what became of checking it.

    Attributes:
        where: The file.
        size: Of the stamped checkpoint; ``None`` if it is none of this log.
        time: UTC; ``None`` if the stamp does not hold.
        problem: Why it does not hold.
    """

    where: str
    size: int | None
    time: datetime | None
    problem: str | None = None


def stamp_newest(
    store: LogStore, log: Place, ask: Callable[[bytes], bytes], roots: Sequence[bytes] = ()
) -> tuple[Checkpoint, bool] | None:
    """Has the newest checkpoint stamped and keeps the stamp, once per size; ``None`` while the log is empty.

    If we die here: nothing is kept, or all of it (`anchors.keep_stamp`).

    Args:
        store: The log.
        log: Its directory.
        ask: Gets the stamp of some bytes; `timestamps.request_stamp` with an authority's URL.
        roots: If given, the stamp must hold under them, or it is not kept.

    Returns:
        The checkpoint, and whether it is newly stamped.

    Raises:
        AnchorUnavailable, TimestampError: As ``ask``, and as `timestamps.check_stamp`.
        StoreError: The log cannot be read, or the stamp cannot be kept.
    """
    head = store.head()
    if not head.size:
        return None
    checkpoint = Prover(store, ()).checkpoint_at(head.size)
    if checkpoint is None:
        raise LogDamaged(f"{store.origin}: no commit ends at its size {head.size}")
    if stamp_path(log, head.size).exists():
        return checkpoint, False
    response = ask(head.checkpoint)
    if roots:
        check_stamp(head.checkpoint, response, roots)
    return checkpoint, keep_stamp(log, head.size, head.checkpoint, response)


def check_stamps(store: LogStore, log: Place, verifiers: Sequence[Verifier], roots: Sequence[bytes]) -> Iterator[Stamp]:
    """Checks every time stamp kept beside a log, oldest first.

    1. What is stamped is a checkpoint that a key of the log signed.
    2. The log leads to it: it has that size and that root there.
    3. The stamp holds (`timestamps.check_stamp`).

    Raises:
        ConfigError: The extra is missing, or ``roots`` are none.
    """
    prover = Prover(store, verifiers)
    for kept in stamped_notes(log):
        size = None
        try:
            found, _ = open_checkpoint(kept.note, store.origin, verifiers)
            size = found.size
            time = check_stamp(kept.note, kept.response, roots)
            yield Stamp(kept.where, size, time, _other_history(prover, found))
        except (FormatError, StoreError) as problem:
            yield Stamp(kept.where, size, None, str(problem))


def _other_history(prover: Prover, stamped: Checkpoint) -> str | None:
    """Why the log does not lead to a checkpoint; ``None`` if it does."""
    size = prover.store.head().size
    if stamped.size > size:
        return f"size {stamped.size} was stamped, but the log ends at {size}: it was rolled back or truncated"
    ours = prover.checkpoint_at(stamped.size)
    if ours is None or ours.root != stamped.root:
        return f"the log does not lead to the checkpoint of size {stamped.size} that was stamped: it was forked"
    return None
