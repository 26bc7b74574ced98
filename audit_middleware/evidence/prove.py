"""Proofs from a log: that an entry is in it, and that one checkpoint extends another.

Where the hashes come from, cheapest first:

* peaks that a commit line holds: they are the roots of everything to the left of what is to be proved. In a pruned log
  the base has those of everything that is gone, so every entry that is left can be proved from the journal alone;
* published tiles, where a folder has them;
* the journal itself, read once and in a stream, for what neither of them covers.

So the proof of an entry under the checkpoint of its own commit needs that commit and nothing else. Tiles and commit
lines are not trusted: each proof is verified before it is handed out, and one that does not hold is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..archives.local import Folder
from ..errors import FormatError, LogDamaged, LogForked, ProofError, StoreError
from ..ledger import tiles, tree
from ..ledger.checkpoint import Checkpoint, open_checkpoint
from ..ledger.note import Verifier
from ..ledger.proof import Proof, verify_proof
from ..ledger.tree import Read
from ..model import Frame, Head
from ..protocols import LogStore
from .published import open_published, tile_getter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prover:
    """Makes proofs from one log.

    Attributes:
        store: The log.
        verifiers: Its keys.
        folder: Where it is published, if it is; only used where that is right and saves work.
    """

    store: LogStore
    verifiers: Sequence[Verifier]
    folder: Folder | None = None

    def entry(self, index: int) -> bytes:
        """Returns an entry of the log. Raises `LogDamaged` if it cannot be read, `ProofError` if there is none."""
        frame = self._frame_of(index)
        return frame.entries[index - frame.first]

    def checkpoint_at(self, size: int) -> Checkpoint | None:
        """Returns what the log says of its tree at this size; ``None`` if no commit ended there, so it signed none.

        No signature is looked at: a proof from here (`consistency`) holds under the later checkpoint or is not made.
        Raises `StoreError` if the log cannot be read.
        """
        if size == 0:
            return Checkpoint(self.store.origin, 0, tree.EMPTY_ROOT)
        if size > self.store.head().size:
            return None
        head = self._head_at(size)
        return Checkpoint(self.store.origin, size, tree.root(head.peaks)) if head.size == size else None

    def inclusion(self, index: int, note: bytes | None = None, extra: bytes = b"") -> Proof:
        """Proves that entry ``index`` is in the log.

        Args:
            index: The entry.
            note: The signed checkpoint to prove it under; default: that of the entry's own commit, the cheapest.
            extra: For the proof's ``extra`` line; authenticated by nothing.

        Raises:
            ProofError: There is no such entry, or the checkpoint is too small for it.
            EntriesPruned: The entry was pruned.
            FormatError, NoteError: ``note`` is no checkpoint of this log.
            LogForked: ``note`` is signed by this log's key but of another history.
            StoreError: The log cannot be read, or is shorter than ``note``.
        """
        frame = self._frame_of(index)
        signed = frame.head.checkpoint if note is None else note
        checkpoint, _ = open_checkpoint(signed, self.store.origin, self.verifiers)
        self._check_size(checkpoint.size)
        if index >= checkpoint.size:
            raise ProofError(f"{self.store.origin}: entry {index} is not under a checkpoint of size {checkpoint.size}")
        leaf = tree.leaf_hash(frame.entries[index - frame.first])

        def make(read: Read) -> Proof:
            proof = Proof(index, tree.inclusion_proof(index, checkpoint.size, read), signed, extra)
            verify_proof(proof, leaf, self.store.origin, self.verifiers)
            return proof

        return self._prove(make, self._head_at(frame.first), checkpoint.size)

    def consistency(self, old: Checkpoint, new: Checkpoint) -> tuple[bytes, ...]:
        """Proves that everything under ``old`` is under ``new``, too, in the same order.

        The caller has opened both; see `ledger.checkpoint.open_checkpoint`.

        Raises:
            ProofError: ``old`` is the larger one.
            EntriesPruned: Hashes that the proof needs went with the entries below the base. Published tiles may still
                have them, for checkpoints whose size is a multiple of 256.
            LogForked: They are not consistent, or not those of this log.
            StoreError: The log cannot be read, or is shorter than ``new``.
        """
        self._check_size(new.size)
        if old.size > new.size:
            raise ProofError(f"the old checkpoint has size {old.size}, the new one only {new.size}")
        if old.size in (0, new.size):
            if old.size and old.root != new.root:
                raise LogForked(f"two checkpoints of size {old.size} with different roots: the log was forked")
            return ()

        def make(read: Read) -> tuple[bytes, ...]:
            hashes = tree.consistency_proof(old.size, new.size, read)
            tree.verify_consistency(old.size, old.root, new.size, new.root, hashes)
            return hashes

        # Below the base no head is left; published tiles alone may do, and without them reading says what is missing.
        before = self._head_at(old.size) if old.size >= self.store.base.size else Head()
        return self._prove(make, before, new.size)

    # --- inside --------------------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        head = self.store.head()
        if size > head.size:
            raise LogDamaged(
                f"{self.store.origin}: the log ends at size {head.size}, but the checkpoint has size {size}: the log "
                "was rolled back or truncated"
            )

    def _frame_of(self, index: int) -> Frame:
        frame = next(iter(self.store.frames(index, index + 1)), None)
        if frame is None:
            raise ProofError(
                f"{self.store.origin}: there is no entry {index}; the log ends at {self.store.head().size}"
            )
        return frame

    def _head_at(self, size: int) -> Head:
        """The newest head of at most this size: that of a commit that ends there, or of the one before."""
        if size == 0:
            return Head()
        base = self.store.base
        if size == base.size:
            return base
        frame = self._frame_of(size - 1)
        return frame.head if frame.head.size <= size else self._head_at(frame.first)

    def _prove(self, make: Callable[[Read], T], before: Head, size: int) -> T:
        """Makes a proof that holds: first with the published tiles, then, should they be damaged, without."""
        if self.folder is not None:
            with contextlib.suppress(FormatError, StoreError):
                published = open_published(self.folder, self.store.origin, self.verifiers).checkpoint.size
                return make(_Hashes(self.store, before, published, self.folder).read)
        try:
            return make(_Hashes(self.store, before).read)
        except ProofError as error:
            raise LogForked(
                f"{self.store.origin}: the log's entries up to {size} do not lead to the root that its key signed: "
                f"another history, or entries that were altered. Verify the log ({error})"
            ) from error


class _Hashes:
    """The hashes of complete subtrees of a log, each from the cheapest place that has it."""

    def __init__(self, store: LogStore, before: Head, published: int = 0, folder: Folder | None = None) -> None:
        """``before`` is a head whose peaks are known; ``folder`` has the tiles of a log of size ``published``."""
        self._store = store
        self._peaks = _placed(before)
        self._published = published
        self._tiles = tiles.hash_reader(published, tile_getter(folder)) if folder is not None else None
        self._edges = sorted({before.size, published} - {0})
        self._last: Frame | None = None  # the frame read last: the subtrees of one commit are asked for one by one

    def read(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over ``[index << level, (index + 1) << level)``."""
        peak = self._peaks.get((level, index))
        if peak is not None:
            return peak
        start, end = index << level, index + 1 << level
        if self._tiles is not None and end <= self._published:
            return self._tiles(level, index)
        if any(start < edge < end for edge in self._edges):  # one half may be had for less
            return tree.node_hash(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))
        return self._from_entries(start, end)

    def _from_entries(self, start: int, end: int) -> bytes:
        size, peaks, last = 0, tuple[bytes, ...](), self._last
        inside = last is not None and last.first <= start and end <= last.head.size
        for frame in [last] if last is not None and inside else self._store.frames(start, end):
            self._last = frame
            wanted = frame.entries[max(0, start - frame.first) : end - frame.first]
            size, peaks = tree.append(size, peaks, map(tree.leaf_hash, wanted))
        return tree.root(peaks)


def _placed(head: Head) -> dict[tuple[int, int], bytes]:
    """The peaks of a head by level and index."""
    levels = [level for level in reversed(range(head.size.bit_length())) if head.size >> level & 1]
    return {(level, (head.size >> level) - 1): peak for level, peak in zip(levels, head.peaks, strict=True)}
