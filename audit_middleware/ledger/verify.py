"""Full verification of a log: every entry is hashed, every checkpoint opened. Pure; streams; memory does not grow.

The checks, by number. An *error* means that the log does not hold; a *note* is worth knowing.

 1. **Frames.** The bytes of each commit are what was written: its own hash, its commit line's form and its count hold.
    (The store that reads the frames does this and says so in ``problem``.) Note: a torn write at the very end.
 2. **Entries.** Each entry is what the caller's ``check_entry`` accepts: canonical bytes, the record's schema.
 3. **Indexes.** Each commit starts where the one before it ended; the first starts with entry 0.
 4. **Tree.** The leaf hashes of all entries up to a commit lead to the peaks in its commit line and to the root in its
    checkpoint (RFC 6962).
 5. **Signatures.** Every checkpoint is a signed note that a trusted key of this log signed, and no trusted key's line
    in it is bad (C2SP signed-note).
 6. **Growth.** Every checkpoint names this origin and exactly the size after its commit, so sizes only grow; together
    with 4, every checkpoint extends the one before it.
 7. **Counters.** The ``sequence`` numbers of each process are dense from 0.
 8. **Clock.** ``recorded_at`` never goes back within a process.
 9. **Repetitions.** Note: an ``action_id`` that stands in the log more than once (sent again after a failure).
10. **Index.** The search index says of each entry what the entry says (the caller's ``check_index``).
11. **Anchors.** Each checkpoint from outside (kept by the auditor, cosigned, archived, time-stamped) is one of this
    log's: it is not longer than the log, and the log's entries up to its size lead to its root. The same goes for what
    an earlier verification remembers (``resume``).
12. **Witnesses.** Where the trust file demands a quorum, one of the checkpoints it cosigned is among those of check 11.
    Note: a checkpoint or time stamp that was offered and counts for nothing.
13. **Signs of life.** Notes: a process that promised one every ``interval_s`` seconds (``audit.heartbeat``) recorded
    nothing for more than twice that and 5 seconds, or fell silent before others did and did not say that it stopped.
14. **Gaps.** Notes: the log says that records could not be kept (``audit.gap``).
15. **Pruning.** What stands where the pruned part ends (``base``) is signed, and leads to what follows; a record in the
    rest of the log (``audit.pruned``) names a minimum index not below it; a retention rule (``audit.retention_set``)
    was recorded before the first pruning.
16. **Clocks.** Notes: the log says that a clock jumped (``audit.clock_jump``); and, by check 8, processes whose clocks
    differ by more than a minute.

Keys that sign out of their time, by the log's own records of rotation, are for whoever reads the frames: see
`evidence.keywatch`; it reports under check 5.

What no check can see without an anchor: that the log was cut after some commit, or that whoever holds the signing key
wrote it all anew. The report says so.

After a bad commit the verification goes on from the peaks that the bad commit's own checkpoint signs, if it is signed
by a trusted key. So one damaged entry is one finding, and everything else is still checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..model import Head
from .anchors import Outside, anchor_of
from .checkpoint import open_checkpoint
from .examine import CheckEntry, Examined, RawFrame, examine
from .fold import CheckIndex, Fold
from .note import Verifier
from .report import Report
from .start import find_start
from .state import State

__all__ = ["CheckEntry", "CheckIndex", "RawFrame", "Report", "fold_examined", "verify"]

_NOTHING_BEFORE = Head()
_NOTHING_OUTSIDE = Outside()


def verify(
    frames: Iterable[RawFrame],
    origin: str,
    verifiers: Sequence[Verifier],
    *,
    check_entry: CheckEntry | None = None,
    check_index: CheckIndex | None = None,
    since: bytes | None = None,
    outside: Outside = _NOTHING_OUTSIDE,
    base: Head = _NOTHING_BEFORE,
    resume: State | None = None,
    progress: Callable[[int], None] | None = None,
    limit: int = 100,
) -> Report:
    """Verifies a log from its first entry on, or from where a pruning or an earlier verification ended.

    Args:
        frames: Everything the store holds, in its order; a store's ``raw_frames()``. With ``resume``, from
            ``resume.size - 1`` on suffices: the frame that ends there is compared, those before it are passed over.
        origin: The log's name.
        verifiers: The keys trusted to sign for this log.
        check_entry: For check 2.
        check_index: For check 10.
        since: For check 11: a signed checkpoint of this log that was kept elsewhere.
        outside: For checks 11 and 12: what else is known of the log from elsewhere.
        base: For check 15: size, peaks and signed checkpoint where the pruned part ends; size 0 without one.
        resume: What an earlier verification remembers. One of a size below ``base`` only serves as an anchor.
        progress: Called with the number of entries read so far, once per frame.
        limit: How many errors, and how many notes, the report holds at most.

    Raises:
        NoteError, FormatError: ``since`` itself is no checkpoint of this log signed by a trusted key, or ``resume``
            does not belong to what this log signed.
    """
    return fold_examined(
        (examine(frame, origin, verifiers, check_entry) for frame in frames),
        origin,
        verifiers,
        entries_checked=check_entry is not None,
        check_index=check_index,
        since=since,
        outside=outside,
        base=base,
        resume=resume,
        progress=progress,
        limit=limit,
    )


def fold_examined(
    examined: Iterable[Examined],
    origin: str,
    verifiers: Sequence[Verifier],
    *,
    entries_checked: bool,
    check_index: CheckIndex | None = None,
    since: bytes | None = None,
    outside: Outside = _NOTHING_OUTSIDE,
    base: Head = _NOTHING_BEFORE,
    resume: State | None = None,
    progress: Callable[[int], None] | None = None,
    limit: int = 100,
) -> Report:
    """Verifies frames that were examined elsewhere, in other processes perhaps, and come in the log's order.

    ``entries_checked`` says whether that did check 2; check 10 needs frames with their entries. The rest is as for
    `verify`.
    """
    if since is not None:
        outside += Outside((anchor_of(open_checkpoint(since, origin, verifiers)[0], "kept elsewhere"),))
    start = find_start(origin, verifiers, base, resume)
    if resume is not None and start.resume is None:
        outside += Outside((anchor_of(resume.open(origin, verifiers), "remembered by an earlier verification"),))
    fold = Fold(origin, start, outside, check_index, limit)
    for one in examined:
        fold.add(one)
        if progress is not None:
            progress(fold.entries)
    return fold.report(entries_checked)
