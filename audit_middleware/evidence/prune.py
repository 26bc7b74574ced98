"""Pruning: entries whose retention ended leave the log, and the log says so itself.

The rule: the *minimum* is the first entry younger than the retention, rounded down to a multiple of 256 (C2SP
tlog-tiles), never beyond the lowest legal hold, never beyond the newest cosigned checkpoint kept beside the log, never
beyond what the named copies hold, never beyond the last commit.
The *base* is the last commit boundary at or below the minimum: entries in between share a commit with kept ones and
stay readable. What is about to go is verified first: entries that do not lead to the signed roots are not pruned.

The steps, and what a crash at each leaves:

0. The archived policies that decisions at or after the base need, and that would go, are written again: see
   `policies.restate`. *If we die here*: they are in the log twice.
1. The record ``audit.pruned`` is committed: ``previous`` and new ``minimum``, the ``checkpoint`` at the base, and every
   older control record that still stands (`standing`). *If we die here*: a record of a prune that removed nothing yet.
   The next run uses it if it comes to the same minimum, and else writes another.
2. The base file, then the segments: see `stores.base`. *If we die here*: the log begins at the old base or at the new
   one, and is whole either way. What is left over is removed by the next run.
3. The search index drops its rows. *If we die here*: the next query does.
4. Each published folder is brought up to date, so that it holds the record, and loses its bundles and tiles of level 0
   below the minimum: see `published.prune_published`. *If we die here*: the next run that names it.

One prune at a time, and no change of holds meanwhile; writers and readers go on. A folder's publisher must be stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..archives.local import Folder
from ..errors import ConfigError, EntriesPruned, FormatError, LogDamaged, LogForked
from ..ledger import tree
from ..ledger.checkpoint import CHECKPOINT, open_checkpoint
from ..ledger.note import Verifier, parse_vkey
from ..ledger.tiles import TILE_WIDTH
from ..model import Head, Json
from ..protocols import Archive, Clock, LogStore
from ..signing import Ed25519Signer
from ..stores.index import SearchIndex
from ..stores.journal import JournalStore
from ..stores.opening import Place, Store, folder_of
from .anchors import newest_cosigned
from .archiving import archived_size
from .changes import append_control
from .policies import restate
from .publish import Publisher
from .published import open_published, prune_published
from .retention import Retention, months_before, retention_of, times, writing
from .standing import PRUNED, Standing, Standings, read_standings

Copy = Folder | Archive
"""What may hold what a log loses: a published folder, or an archive."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a prune would do.

    Attributes:
        months: The retention.
        limit: What is older than this may go; RFC 3339.
        previous: The minimum as it is.
        minimum: The new one; the same if nothing is to be removed.
        begins: The log's base as it is.
        base: The new one, with the checkpoint that the record will name.
        stopped_by: Why not more.
    """

    months: int
    limit: str
    previous: int
    minimum: int
    begins: int
    base: Head
    stopped_by: str

    @property
    def entries(self) -> int:
        """How many entries would go."""
        return self.base.size - self.begins


@dataclass(frozen=True, slots=True)
class Done:
    """What a prune did: the plan, the record's index (``None``: nothing was ever pruned), bytes and files removed."""

    plan: Plan
    record: int | None
    freed: int
    files: int


def plan_prune(
    store: Store,
    copies: Sequence[Copy] = (),
    *,
    before: str | None = None,
    now_ns: int | None = None,
) -> Plan:
    """Says what a prune would do, without changing anything.

    Args:
        store: The log.
        copies: Published folders, and archives; nothing is removed that one of them does not hold.
        before: Remove only what is older than this moment, as records write it.
        now_ns: The time, nanoseconds since the epoch; default: now.

    Raises:
        ConfigError: The log has no retention, or ``before`` is younger than it allows.
        EntriesPruned: A copy lacks entries that are gone already.
        LogDamaged: What would go does not verify, a copy is damaged, or no record explains the log's base.
        LogForked: A copy is of another log or another history.
        ArchiveError: An archive cannot be reached.
    """
    return _plan(store, read_standings(store), copies, before, time.time_ns() if now_ns is None else now_ns)


def prune(
    log: Place,
    key_file: Path,
    by: str,
    *,
    published: Sequence[Folder] = (),
    archived: Sequence[Copy] = (),
    before: str | None = None,
    clock: Clock = time.time_ns,
) -> Done:
    """Prunes a log and the folders it is published in; completes what an earlier prune left.

    Args:
        log: The log. If it is published in place, that is pruned, too.
        key_file: Its signing key.
        by: Who.
        published: Folders to prune along with it.
        archived: Folders and archives that must hold what goes, and stay as they are.
        before: Remove only what is older than this moment, as records write it.
        clock: The time.

    Raises:
        LogBusy: Another prune, a change of holds, or a publisher of one of the folders is at work.
        KeyFileError, NoteError: The key cannot be used.
        LogUnavailable: The disk refuses; run it again.
        ConfigError, EntriesPruned, LogDamaged, LogForked, ArchiveError: As `plan_prune`; nothing was changed.
    """
    with contextlib.ExitStack() as stack:
        store, signers = stack.enter_context(writing(log, key_file))
        folders = published_with(log, published)
        for folder in folders:
            stack.enter_context(folder.exclusive())
        found, now = read_standings(store), clock()
        plan = _plan(store, found, [*folders, *archived], before, now)
        record = retention_of(store, found).explained
        if plan.entries:
            # In a segment of its own where the base is in the last one, which writers append to: see `stores.base`.
            if isinstance(store, JournalStore):
                store.close_segment_at(plan.base.size)
            if in_force := found.in_force():  # else no policy was ever in force here
                restate(store, signers, plan.base.size, in_force, clock)
            record = _record(store, signers, plan, found, by, now)
        if record is None:
            return Done(plan, None, 0, 0)
        freed = store.prune(plan.base.size, record, plan_time(now))
        if isinstance(store, JournalStore) and store.layout.index.exists():
            with contextlib.closing(SearchIndex(store.layout.index, store)) as index:
                index.catch_up()
        files = sum(_prune_folder(store, folder, plan.minimum) for folder in folders)
        return Done(plan, record, freed, files)


def published_with(log: Place, folders: Sequence[Folder]) -> list[Folder]:
    """Returns these folders and the log's own, if it is published in place; each once."""
    beside = Folder(folder_of(log))
    own = [beside] if beside.has(CHECKPOINT) else []
    return list({folder.root.resolve(): folder for folder in (*own, *folders)}.values())


def plan_time(now_ns: int) -> str:
    """Returns a moment as records write it."""
    return months_before(now_ns, 0)


# --- the plan --------------------------------------------------------------------------------------------------------


def _plan(store: Store, found: Standings, copies: Sequence[Copy], before: str | None, now_ns: int) -> Plan:
    retention = retention_of(store, found)
    if retention.base and retention.explained is None:
        raise LogDamaged(
            f"{store.place}: begins at entry {retention.base}, but no record of the log says that anything was pruned. "
            "Nothing was changed; verify the log and restore what is missing"
        )
    if retention.months is None:
        raise ConfigError(
            f"{store.place}: no retention was ever set, so every entry is kept. Set one first: "
            f"audit-middleware retention set {store.place} --months 12"
        )
    limit = months_before(now_ns, retention.months)
    if before is not None and before > limit:
        raise ConfigError(f"before {before}: the retention of {retention.months} months keeps everything since {limit}")
    limit = min(limit, before or limit)
    verifiers = [parse_vkey(text) for text in store.vkeys]
    end, why = min(_bounds(store, retention, copies, verifiers))
    young = _first_young(store, limit, end)
    if young is not None:
        end, why = young
    minimum = end // TILE_WIDTH * TILE_WIDTH
    base = _checked_head(store, minimum, verifiers) if minimum > retention.base else store.base
    if base.size == retention.base:
        minimum = retention.minimum
    return Plan(retention.months, limit, retention.minimum, minimum, retention.base, base, why)


def _bounds(
    store: Store, retention: Retention, copies: Sequence[Copy], verifiers: Sequence[Verifier]
) -> Iterator[tuple[int, str]]:
    """How far a prune may go at most, and why not further."""
    yield store.head().size, "the log ends there"
    for hold in retention.holds:
        yield hold.first, f"the hold {hold.name} begins at entry {hold.first}"
    size = _cosigned(store, verifiers)
    if size is not None:
        # A witness asks for a proof from what it cosigned last; nobody could give it one across what is gone.
        yield size, f"witnesses have cosigned {size} entries only; have the log cosigned first"
    for copy in copies:
        if isinstance(copy, Folder):
            size = _covered(store, copy, verifiers)
            yield size, f"{copy.root} holds only {size} entries"
        else:
            size = archived_size(store, copy, verifiers)
            yield size, f"the archive {copy.place} holds only {size} entries in full bundles"


def _cosigned(store: Store, verifiers: Sequence[Verifier]) -> int | None:
    """The size of the newest cosigned checkpoint beside the log, if the log's key signed it."""
    note = newest_cosigned(store.folder)
    try:
        return None if note is None else open_checkpoint(note, store.origin, verifiers)[0].size
    except FormatError:
        return None


def _covered(store: Store, folder: Folder, verifiers: Sequence[Verifier]) -> int:
    """The size up to which a folder holds this log, and no other history of it."""
    checkpoint = open_published(folder, store.origin, verifiers).checkpoint
    size, base = checkpoint.size, store.base
    if size < base.size:
        raise EntriesPruned(
            f"{folder.root}: holds {size} entries, but the log begins at entry {base.size}: it can neither serve as a "
            "copy nor be brought up to date"
        )
    head = base
    for frame in store.frames(size - 1, size) if size > base.size else ():
        head = frame.head
    if (head.size, tree.root(head.peaks)) != (size, checkpoint.root):
        raise LogForked(f"{folder.root}: its checkpoint of size {size} is not one of this log. Nothing was changed")
    return size


def _first_young(store: LogStore, limit: str, stop: int) -> tuple[int, str] | None:
    for index, _, latest in times(store, None, stop):
        if index >= stop:
            return None
        if not latest:
            return index, f"entry {index} does not say how old it is"
        if latest >= limit:
            return index, f"entry {index} is of {latest}, which is not older than {limit}"
    return None


def _checked_head(store: LogStore, minimum: int, verifiers: Sequence[Verifier]) -> Head:
    """The last head at or below the minimum, after checking that the entries lead to what was signed there."""
    base = head = store.base
    size, peaks = base.size, base.peaks
    for frame in store.frames(base.size, minimum):
        if frame.head.size > minimum:
            break
        size, peaks = tree.append(size, peaks, map(tree.leaf_hash, frame.entries))
        head = frame.head
        if (size, peaks) != (head.size, head.peaks):
            raise LogDamaged(
                f"{frame.where}: these entries are not what was signed. Nothing was changed; verify the log"
            )
    if head is not base:
        try:
            checkpoint, _ = open_checkpoint(head.checkpoint, store.origin, verifiers)
        except FormatError as error:
            raise LogDamaged(f"the log's checkpoint at size {head.size} does not open: {error}") from error
        if (checkpoint.size, checkpoint.root) != (size, tree.root(peaks)):
            raise LogDamaged(f"the log's entries up to {size} are not what was signed. Nothing was changed; verify it")
    return head


# --- the steps -------------------------------------------------------------------------------------------------------


def _record(store: Store, signers: Sequence[Ed25519Signer], plan: Plan, found: Standings, by: str, now: int) -> int:
    """Step 1: the index of the record, which an earlier run may have left."""
    for left in reversed(found.pruned):
        if _is_of(left, plan):
            return left.index
    extra: dict[str, Json] = {
        "minimum": plan.minimum,
        "previous": plan.previous,
        "checkpoint": plan.base.checkpoint.decode(),
        "months": plan.months,
        "limit": plan.limit,
        "by": by,
        "carried": [one.to_json() for one in found.below(plan.base.size)],
    }
    return append_control(store, signers, PRUNED, extra, lambda: now) - 1


def _is_of(record: Standing, plan: Plan) -> bool:
    said = (record.extra.get("minimum"), record.extra.get("checkpoint"))
    return said == (plan.minimum, plan.base.checkpoint.decode())


def _prune_folder(store: Store, folder: Folder, minimum: int) -> int:
    Publisher(store, folder, [parse_vkey(text) for text in store.vkeys]).catch_up()
    return prune_published(folder, minimum)
