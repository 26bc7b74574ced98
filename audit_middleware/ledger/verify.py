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
11. **Anchor.** The checkpoint kept by the auditor (``since``) is one of this log's: it is not longer than the log, and
    the log's entries up to its size lead to its root.

What no check can see without an anchor: that the log was cut after some commit, or that whoever holds the signing key
wrote it all anew. The report says so.

After a bad commit the verification goes on from the peaks that the bad commit's own checkpoint signs, if it is signed
by a trusted key. So one damaged entry is one finding, and everything else is still checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .checkpoint import open_checkpoint
from .examine import CheckEntry, RawFrame, examine
from .fold import CheckIndex, Fold
from .note import Verifier
from .report import Report

__all__ = ["CheckEntry", "CheckIndex", "RawFrame", "Report", "verify"]


def verify(
    frames: Iterable[RawFrame],
    origin: str,
    verifiers: Sequence[Verifier],
    *,
    check_entry: CheckEntry | None = None,
    check_index: CheckIndex | None = None,
    since: bytes | None = None,
    progress: Callable[[int], None] | None = None,
    limit: int = 100,
) -> Report:
    """Verifies a log from its first entry on.

    Args:
        frames: Everything the store holds, in its order; a store's ``raw_frames()``.
        origin: The log's name.
        verifiers: The keys trusted to sign for this log.
        check_entry: For check 2.
        check_index: For check 10.
        since: For check 11: a signed checkpoint of this log that was kept elsewhere.
        progress: Called with the number of entries read so far, once per frame.
        limit: How many errors, and how many notes, the report holds at most.

    Raises:
        NoteError, FormatError: ``since`` itself is no checkpoint of this log signed by a trusted key.
    """
    anchor = open_checkpoint(since, origin, verifiers)[0] if since is not None else None
    fold = Fold(origin, anchor, check_index, limit)
    for frame in frames:
        fold.add(examine(frame, origin, verifiers, check_entry))
        if progress is not None:
            progress(fold.entries)
    return fold.report(check_entry is not None)
