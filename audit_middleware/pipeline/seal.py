"""What turns a batch into the next head; a store calls it while it holds the log's lock."""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger import checkpoint, tree
from ..model import Head
from ..protocols import Sealer, Signer


def make_sealer(origin: str, signers: Sequence[Signer]) -> Sealer:
    """Returns what turns a batch into the next head: leaf hashes, the grown tree, one signed checkpoint."""

    def seal(head: Head, entries: Sequence[bytes]) -> Head:
        leaves = tree.leaf_hashes(entries)
        size, peaks = tree.append(head.size, head.peaks, leaves)
        return Head(size, peaks, checkpoint.sign_checkpoint(origin, size, peaks, signers), tree.sums(leaves))

    return seal
