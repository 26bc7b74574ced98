"""Receipts: the proof that the record of one action is in the log, for whoever it concerns.

A receipt is a C2SP tlog-proof under the checkpoint of the record's own commit, so it costs one commit to read, however
long the log is. Its ``extra`` line holds the leaf hash (32 bytes) or, on request, the entry itself:

* with the leaf hash, the receipt tells nothing of the record but commits the operator to it: whoever holds the entry
  can check that it is the one;
* with the entry, the receipt is complete evidence and as confidential as the record.

``extra`` is authenticated by nothing: what makes it believable is that its hash leads to the signed root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..archives.local import Folder
from ..ledger import tree
from ..ledger.note import Verifier
from ..ledger.proof import Proof, format_proof
from ..protocols import LogStore
from .prove import Prover

IndexLookup = Callable[[str], Sequence[int]]
"""Log indexes of the entries with an action id, oldest first; `stores.index.SearchIndex.with_action_id`."""


def receipt(
    store: LogStore,
    index_lookup: IndexLookup,
    action_id: str,
    verifiers: Sequence[Verifier],
    *,
    note: bytes | None = None,
    folder: Folder | None = None,
    entry: bool = False,
) -> bytes | None:
    """Returns the ``.tlog-proof`` of an action's record; ``None`` if the log has no such record (yet).

    A record that was sent twice after a failure is proved where it stands first.

    Args:
        store: The log.
        index_lookup: Caught up with the log.
        action_id: What a response carried as ``Audit-ID``.
        verifiers: The log's keys; a proof that does not hold under them is never handed out.
        note: The signed checkpoint to prove it under; default: that of the record's own commit.
        folder: Where the log is published; saves work under a ``note``.
        entry: Put the record itself into the receipt.

    Raises:
        StoreError, FormatError: As `prove.Prover.inclusion`.
    """
    found = index_lookup(action_id)
    if not found:
        return None
    return format_proof(proof_of(Prover(store, verifiers, folder), found[0], note, entry=entry))


def proof_of(prover: Prover, index: int, note: bytes | None = None, *, entry: bool) -> Proof:
    """Returns the proof of one entry, with the entry or its leaf hash in ``extra``."""
    content = prover.entry(index)
    return prover.inclusion(index, note, content if entry else tree.leaf_hash(content))


def leaf_in(proof: Proof) -> tuple[bytes, bytes | None] | None:
    """Returns the leaf hash that a proof's ``extra`` stands for, and the entry if that is what it holds.

    ``None`` if it holds neither. Nothing is verified yet: see `ledger.proof.verify_proof`.
    """
    if len(proof.extra) == tree.HASH_SIZE:
        return proof.extra, None
    if proof.extra.startswith(b"{"):
        return tree.leaf_hash(proof.extra), proof.extra
    return None
