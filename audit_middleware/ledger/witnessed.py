"""Cosigned checkpoints under a trust file: which of them count, and for whom. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FormatError
from .anchors import Anchor, AnchorKind, Outside
from .report import Finding
from .trust import NONE, Opened, Policy

_LIMIT = 100  # refused notes that are named

_Seen = tuple[frozenset[str], int | None, str]
"""Who cosigned, when last, and where the first such note was found."""


def weigh(notes: Iterable[tuple[str, bytes]], policy: Policy, origin: str) -> Outside:
    """Returns what cosigned checkpoints say of a log.

    Each note that a trusted key of the log signed becomes an anchor. Cosignatures of one checkpoint may stand in
    several notes: they are put together. A note with a bad line of a listed key, or of another log, counts for nothing.

    Args:
        notes: Where each was found, and its bytes.
        policy: The trust file.
        origin: The log.
    """
    seen: dict[tuple[int, bytes], _Seen] = {}
    findings, refused = [], 0
    for where, note in notes:
        try:
            opened = policy.look(note, origin)
        except FormatError as error:
            refused += 1
            if refused <= _LIMIT:
                findings.append(Finding(12, "not counted", None, str(error), where, "note"))
            continue
        key = opened.checkpoint.size, opened.checkpoint.root
        seen[key] = _together(seen.get(key), opened, where)
    anchors = tuple(_anchor(policy, size, root, found) for (size, root), found in seen.items())
    wanted = None if policy.quorum == NONE else policy.quorum
    return Outside(anchors, tuple(findings), wanted, _in_words(anchors, refused))


def _together(before: _Seen | None, opened: Opened, where: str) -> _Seen:
    if before is None:
        return opened.witnesses, opened.time, where
    names, time, first = before
    times = [one for one in (time, opened.time) if one is not None]
    return names | opened.witnesses, max(times, default=None), first


def _anchor(policy: Policy, size: int, root: bytes, found: _Seen) -> Anchor:
    names, time, where = found
    by = tuple(sorted(map(_readable, names)))
    if not by:
        return Anchor(size, root, f"found in {where}", "beside the log")
    kind: AnchorKind = "witnessed" if policy.satisfied_by(names) else "cosigned"
    return Anchor(size, root, f"cosigned by {', '.join(by)}", kind, by, time)


def _readable(name: str) -> str:
    """A witness's name as text: in the trust file it may be any octets."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _in_words(anchors: tuple[Anchor, ...], refused: int) -> str:
    cosigned = [anchor for anchor in anchors if anchor.by]
    ignored = f"; {refused} more count for nothing" if refused else ""
    if not cosigned:
        return f"no checkpoint with a cosignature of a witness in the trust file was found{ignored}"
    best = max(cosigned, key=lambda anchor: anchor.size)
    were = "checkpoint was" if len(cosigned) == 1 else "checkpoints were"
    return f"{len(cosigned)} cosigned {were} found, the newest of size {best.size} {best.label}{ignored}"
