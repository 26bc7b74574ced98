"""The Merkle tree of RFC 6962: hashing, appending, inclusion and consistency proofs.

::

    leaf hash          SHA-256(0x00 || entry)
    node hash          SHA-256(0x01 || left || right)
    root of no entry   SHA-256("")
    root of n entries  n = 1: the leaf hash; else node(root of the first k, root of the rest),
                       k = the largest power of two smaller than n

*Peaks* are the roots of the complete subtrees a log of some size consists of, one per set bit of the size, largest
first. Size and peaks (at most 64 x 32 bytes) are all one needs to append and to compute the root.

``read(level, index)`` in this module returns the hash of the complete subtree over the leaves
``[index * 2^level, (index + 1) * 2^level)``; proofs only ask for subtrees that lie within the tree.

Sources: RFC 6962 section 2.1, RFC 9162 sections 2.1.3 to 2.1.4; subtrees: draft-ietf-plants-merkle-tree-certs
section 4, C2SP tlog-cosignature v1.1.0-rc.1. SHA-256 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from ..errors import ProofError

EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree of size 0."""

HASH_SIZE = 32

SUM_SIZE = 4
"""Bytes of each entry's leaf hash that a commit keeps: enough to tell entries apart, not to prove anything."""

_LEAF, _NODE = sha256(b"\0"), sha256(b"\1")  # only ever copied

Read = Callable[[int, int], bytes]
"""``read(level, index)``: the hash of a complete subtree."""


def leaf_hash(entry: bytes) -> bytes:
    """Returns SHA-256(0x00 || entry)."""
    return sha256(b"\0" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Returns the leaf hash of each entry; a third quicker than one call for each."""
    hashes, start = [], _LEAF.copy  # less than to begin anew and to put the byte in front of each
    for entry in entries:
        state = start()
        state.update(entry)
        hashes.append(state.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


def sums(leaves: Iterable[bytes]) -> bytes:
    """Returns the first `SUM_SIZE` bytes of each of these leaf hashes, one after the other."""
    return b"".join([leaf[:SUM_SIZE] for leaf in leaves])


def append(size: int, peaks: Sequence[bytes], leaves: Iterable[bytes]) -> tuple[int, tuple[bytes, ...]]:
    """Returns size and peaks of the tree after appending these leaf hashes.

    Works level by level over the whole batch: one node hash per leaf and no Python stack per leaf. Raises `ValueError`
    if there is not one peak per set bit of the size.
    """
    if len(peaks) != size.bit_count():
        raise ValueError(f"a tree of size {size} has {size.bit_count()} peaks, not {len(peaks)}")
    hashes = list(leaves)
    grown = size + len(hashes)
    kept = list(peaks)
    fresh: list[bytes] = []
    level = 0
    while hashes:
        if size >> level & 1:
            hashes.insert(0, kept.pop())
        if len(hashes) & 1:
            fresh.append(hashes.pop())
        hashes = parents(hashes)
        level += 1
    return grown, (*kept, *reversed(fresh))


def parents(hashes: Sequence[bytes]) -> list[bytes]:
    """Returns the node hashes of neighbouring pairs; an odd last hash is left out."""
    nodes, pairs, start = [], iter(hashes), _NODE.copy
    for left, right in zip(pairs, pairs, strict=False):
        state = start()
        state.update(left + right)
        nodes.append(state.digest())
    return nodes


def root(peaks: Sequence[bytes]) -> bytes:
    """Returns the root of the tree with these peaks (largest first)."""
    if not peaks:
        return EMPTY_ROOT
    result = peaks[-1]
    for peak in reversed(peaks[:-1]):
        result = node_hash(peak, result)
    return result


def peaks_of(size: int, read: Read) -> tuple[bytes, ...]:
    """Returns the peaks of the tree of ``size``, largest first, from its stored subtrees."""
    return tuple(read(level, (size >> level) - 1) for level in reversed(range(size.bit_length())) if size >> level & 1)


def range_root(start: int, end: int, read: Read) -> bytes:
    """Returns the root over the leaves ``[start, end)``; ``start`` is a multiple of a power of two >= the width."""
    peaks = []
    while start < end:
        level = (end - start).bit_length() - 1
        peaks.append(read(level, start >> level))
        start += 1 << level
    return root(peaks)


def inclusion_proof(index: int, size: int, read: Read) -> tuple[bytes, ...]:
    """Returns the hashes that prove leaf ``index`` in the tree of ``size``, bottom up."""
    if not 0 <= index < size:
        raise ProofError(f"no inclusion proof: index {index} is not below size {size}")
    return tuple(reversed(_path(index, 0, size, read)))


def _path(index: int, start: int, end: int, read: Read) -> list[bytes]:
    path = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(middle, end, read))
            end = middle
        else:
            path.append(range_root(start, middle, read))
            start = middle
    return path


def _split(width: int) -> int:
    """The largest power of two smaller than ``width``."""
    return 1 << (width - 1).bit_length() - 1


def consistency_proof(old: int, new: int, read: Read) -> tuple[bytes, ...]:
    """Returns the hashes that prove that the tree of size ``old`` is a prefix of that of size ``new``.

    Empty when ``old`` is 0 or equals ``new`` (tlog-witness asks for exactly that).
    """
    if not 0 <= old <= new:
        raise ProofError(f"no consistency proof from size {old} to size {new}")
    if old in (0, new):
        return ()
    start, end, path = 0, new, list[bytes]()
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(middle, end, read))
            end = middle
        else:
            path.append(range_root(start, middle, read))
            start = middle
    # The old tree itself is known to the verifier when it is one complete subtree from leaf 0.
    if start:
        path.append(range_root(start, end, read))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raises `ProofError` unless ``leaf`` (a leaf hash) is at ``index`` in the tree of ``size`` with this root."""
    if not 0 <= index < size:
        raise ProofError(f"inclusion proof: index {index} is not below size {size}")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    _check_hashes("inclusion proof", (leaf, *proof, root))
    if len(proof) != inner + border:
        raise ProofError(f"inclusion proof of {index} in {size} has {len(proof)} hashes, not {inner + border}")
    result = leaf
    for level, sibling in enumerate(proof):
        left = level >= inner or index >> level & 1
        result = node_hash(sibling, result) if left else node_hash(result, sibling)
    if result != root:
        raise ProofError(f"inclusion proof of {index} in {size} leads to another root")


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises `ProofError` unless the tree of ``old_size`` is a prefix of that of ``new_size``.

    Size 0 is refused: every tree extends the empty one, so such a proof says nothing and callers must not ask for it.
    """
    verify_subtree_consistency(0, old_size, new_size, proof, old_root, new_root)


def verify_subtree_inclusion(
    leaf: bytes, index: int, start: int, end: int, proof: Sequence[bytes], subtree_root: bytes
) -> None:
    """Raises `ProofError` unless ``leaf`` is at ``index`` in the subtree ``[start, end)`` with this root."""
    _check_subtree(start, end, end)
    verify_inclusion(leaf, index - start, end - start, proof, subtree_root)


def verify_subtree_consistency(
    start: int, end: int, size: int, proof: Sequence[bytes], subtree_root: bytes, root: bytes
) -> None:
    """Raises `ProofError` unless the subtree over ``[start, end)`` is part of the tree of ``size``.

    ``first``, ``last`` and ``tip`` are the positions, on the level reached so far, of the nodes above the subtree's
    first and last leaf and above the tree's last leaf.
    """
    _check_subtree(start, end, size)
    _check_hashes("consistency proof", (*proof, subtree_root, root))
    name = f"consistency proof of [{start}, {end}) in {size}"
    first, last, tip = start, end - 1, size - 1
    # Up to here the subtree's right edge is one complete node (or the tree's own edge), so no hash is needed.
    while first != last and (end == size or last & 1):
        first, last, tip = first >> 1, last >> 1, tip >> 1
    hashes = (subtree_root, *proof) if first == last else tuple(proof)
    if not hashes:
        raise ProofError(f"{name} has too few hashes")
    small = large = hashes[0]
    for sibling in hashes[1:]:
        if tip == 0:
            raise ProofError(f"{name} has too many hashes")
        if last & 1 or last == tip:
            if first < last:
                small = node_hash(sibling, small)
            large = node_hash(sibling, large)
            while not last & 1:
                first, last, tip = first >> 1, last >> 1, tip >> 1
        else:
            large = node_hash(large, sibling)
        first, last, tip = first >> 1, last >> 1, tip >> 1
    if tip:
        raise ProofError(f"{name} has too few hashes")
    if small != subtree_root:
        raise ProofError(f"{name} does not contain the old root")
    if large != root:
        raise ProofError(f"{name} leads to another root")


def _check_subtree(start: int, end: int, size: int) -> None:
    # A subtree starts at a multiple of the smallest power of two that is not below its width; [0, n) always does.
    if not 0 <= start < end <= size or start % (1 << (end - start - 1).bit_length()):
        raise ProofError(f"[{start}, {end}) is not a subtree of a tree of size {size}")


def _check_hashes(what: str, hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_SIZE for one in hashes):
        raise ProofError(f"{what}: a hash is not {HASH_SIZE} bytes")
