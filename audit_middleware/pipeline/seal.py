"""What turns a batch into the next head; a store calls it while it holds the log's lock.

A signature says that the log of this size is the one that was signed before, and grown. So nothing is signed on a head
that somebody else put there unless that head is signed, too: who can write to the log's place but has no key (the
administrator of a database, a role that may append) would otherwise borrow ours for a history of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import FormatError, LogDamaged
from ..ledger import checkpoint, tree
from ..ledger.note import Verifier, format_vkey, parse_vkey
from ..model import Head
from ..protocols import Sealer, Signer

_EMPTY = Head()


def make_sealer(origin: str, signers: Sequence[Signer], trusted: Iterable[Verifier] = ()) -> Sealer:
    """Returns what turns a batch into the next head: leaf hashes (`SealsAhead`), the grown tree, one signed checkpoint.

    What it returned last it knows again; any other head must be signed by a key of ``signers`` or ``trusted``. Not by
    any key that the log lists: that list is kept where the head is.

    Raises, when it is called:
        LogDamaged: The head is not signed so, or its peaks are not those of its checkpoint. Nothing was signed.
    """
    return _Sealer(origin, signers, trusted)


class _Sealer:
    def __init__(self, origin: str, signers: Sequence[Signer], trusted: Iterable[Verifier]) -> None:
        self._origin = origin
        self._signers = signers
        self._trusted = trusted
        self._verifiers: list[Verifier] = []
        self._known = _EMPTY

    def __call__(self, head: Head, entries: Sequence[bytes]) -> Head:
        return self._sealed(head, tree.leaf_hashes(entries))

    def ahead(self, entries: Sequence[bytes]) -> Sealer:
        leaves = tree.leaf_hashes(entries)
        return lambda head, _: self._sealed(head, leaves)

    def _sealed(self, head: Head, leaves: Sequence[bytes]) -> Head:
        if head not in (self._known, _EMPTY):
            if not self._verifiers:
                own = (parse_vkey(format_vkey(one.name, one.public_key)) for one in self._signers)
                self._verifiers = [*own, *self._trusted]
            check_head(head, self._origin, self._verifiers)
        size, peaks = tree.append(head.size, head.peaks, leaves)
        note = checkpoint.sign_checkpoint(self._origin, size, peaks, self._signers)
        self._known = Head(size, peaks, note, tree.sums(leaves))
        return self._known


def check_head(head: Head, origin: str, verifiers: Iterable[Verifier]) -> None:
    """Raises `LogDamaged` unless one of these keys signed this head."""
    try:
        signed = checkpoint.open_checkpoint(head.checkpoint, origin, verifiers)[0]
    except FormatError as error:
        raise LogDamaged(
            f"{origin}: the log's newest commit, at size {head.size}, is not signed by a key of this process "
            f"({error}): verify the log. Nothing is written until then. If the log's key was changed: services start "
            "with the old key and the new one before the old one goes, see keys retire"
        ) from error
    if (signed.size, signed.root) != (head.size, tree.root(head.peaks)):
        raise LogDamaged(
            f"{origin}: the log's newest commit, at size {head.size}, does not lead to its checkpoint: verify the log. "
            "Nothing is written until then"
        )
