"""A log to read, made from its archive: the entries, and the archived checkpoints as the ends of its commits.

What is restored is a journal that verifies by itself. It has the entries up to the newest checkpoint that the archived
bundles reach, in fewer commits than the log had, and no signing key: it is a copy for readers. Going on with it would
sign a second history, which the archive itself shows at the next start (`heads`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import msgspec

from ..errors import ArchiveError, FormatError, LogDamaged
from ..ledger import tiles, tree
from ..ledger.note import Verifier, parse_vkey
from ..ledger.tiles import TILE_WIDTH, Bundle
from ..model import Head
from ..protocols import Archive
from ..stores.frames import MAX_FRAME
from ..stores.journal import JournalStore
from .archive_objects import CHECKPOINTS, TRUST, Archived, open_archived, pick, size_in


def archived_origins(archive: Archive) -> dict[str, list[str]]:
    """The logs whose ``config.json`` an archive holds, each with the verifier keys in it. Nobody vouches for them."""
    found: dict[str, list[str]] = {}
    for name in archive.names(TRUST):
        picked = pick(archive, name, lambda data: _config(data) is not None)
        config = _config(picked.data) if picked is not None else None
        if config is not None:
            found[config.origin] = list(dict.fromkeys([*found.get(config.origin, []), *config.vkeys]))
    return found


class _Config(msgspec.Struct):
    origin: str
    vkeys: list[str]


def _config(data: bytes) -> _Config | None:
    try:
        config = msgspec.json.decode(data, type=_Config)
        for text in config.vkeys:
            parse_vkey(text)
    except (msgspec.DecodeError, UnicodeDecodeError, FormatError):
        return None
    return config


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of an archive: a log of this ``size``, where the ``newest`` archived checkpoint is of that size.

    ``missing`` is the object without which it could not go on; ``None``: it reached the newest checkpoint.
    """

    size: int
    newest: int
    missing: str | None = None

    @property
    def whole(self) -> bool:
        """Nothing is left out but what an archive may lack: the entries after the last full bundle."""
        return self.missing is None or self.missing == Bundle(self.newest // TILE_WIDTH).path


def restore(
    archive: Archive,
    origin: str,
    verifiers: Sequence[Verifier],
    log: Path,
    progress: Callable[[int], None] | None = None,
) -> Restored:
    """Makes a journal from an archive. Each commit is checked against its checkpoint first.

    If we die here: a shorter log, which verifies; remove it and begin again.

    Raises:
        LogExists: Something is there already.
        LogDamaged: The archived entries do not lead to the archived checkpoints.
        ArchiveError: The archive cannot be read, or holds nothing that can be restored.
    """
    found = (open_archived(archive, name, origin, verifiers) for name in archive.names(CHECKPOINTS) if size_in(name))
    checkpoints = (one for one in found if one is not None)
    first = next(checkpoints, None)
    if first is None:
        raise ArchiveError(f"{archive.place}: holds no checkpoint of {origin}: there is nothing to restore")
    entries, head, newest = _Entries(archive), Head(), 0
    with contextlib.ExitStack() as stack:
        store: JournalStore | None = None
        for one in chain((first,), checkpoints):
            newest = one.checkpoint.size
            fresh = entries.take(one.checkpoint.size - head.size)
            if fresh is None:
                break
            sealed = _sealed(archive.place, head, fresh, one)
            store = store or _create(stack, log, origin, verifiers)
            head = store.append(fresh, lambda before, batch, sealed=sealed: sealed)  # type: ignore[misc]
            if progress is not None:
                progress(head.size)
    if not head.size:
        lacks = entries.missing or Bundle(0).path
        raise ArchiveError(
            f"{archive.place}: there is no whole {lacks}, so the bundles do not reach the smallest checkpoint (size "
            f"{first.checkpoint.size}), and nothing can be restored. Short logs are archived with --partial; a log "
            "whose first bundles are gone cannot be restored from its archive"
        )
    for one in checkpoints:
        newest = one.checkpoint.size
    return Restored(head.size, newest, entries.missing)


def _create(stack: contextlib.ExitStack, log: Path, origin: str, verifiers: Sequence[Verifier]) -> JournalStore:
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    JournalStore.create(log, origin, [key.vkey for key in verifiers], created).close()
    return stack.enter_context(contextlib.closing(JournalStore.open(log)))


def _sealed(place: str, head: Head, fresh: Sequence[bytes], one: Archived) -> Head:
    """The head after these entries; it is the archived checkpoint's. Raises `LogDamaged`."""
    leaves = tree.leaf_hashes(fresh)
    size, peaks = tree.append(head.size, head.peaks, leaves)
    if (size, tree.root(peaks)) != (one.checkpoint.size, one.checkpoint.root):
        raise LogDamaged(
            f"{place}: the entries {head.size} to {size - 1} do not lead to the checkpoint of size {size}. Restored "
            f"are the {head.size} before them; audit-middleware archive verify says what is wrong"
        )
    return Head(size, peaks, one.note, tree.sums(leaves))


class _Entries:
    """The archived entries in order: of full bundles, then of the largest partial one."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._n = 0
        self._used = 0
        self._held: list[bytes] = []
        self.missing: str | None = None

    def take(self, count: int) -> list[bytes] | None:
        """The next ones; ``None`` if there are not so many: ``missing`` is the bundle that does not have them.

        Raises:
            ArchiveError: They are more than a commit may have.
        """
        taken: list[bytes] = []
        volume = 0
        while len(taken) < count:
            if self._used >= len(self._held) and not self._more():
                self.missing = Bundle(self._n).path
                return None
            part = self._held[self._used : self._used + count - len(taken)]
            taken += part
            self._used += len(part)
            volume += sum(map(len, part))
            if volume > MAX_FRAME:
                raise ArchiveError(
                    f"{self._archive.place}: between two checkpoints are more than {MAX_FRAME} bytes of entries, more "
                    "than a commit of a log may have. Restored is what was before them"
                )
        return taken

    def _more(self) -> bool:
        before = self._held if len(self._held) < TILE_WIDTH else []
        n = self._n
        full = pick(self._archive, Bundle(n).path, lambda data: len(_decoded(data)) == TILE_WIDTH)
        if full is not None:
            self._held, self._used, self._n = _decoded(full.data), 0, n + 1
            return True
        widths = [tiles.parse_path(name).width for name in self._archive.names(f"{Bundle(n).path}.p")]
        for width in sorted(widths, reverse=True):
            found = pick(self._archive, Bundle(n, width).path, lambda data, width=width: len(_decoded(data)) == width)  # type: ignore[misc]
            if found is not None and width > len(before):
                self._held, self._used = _decoded(found.data), len(before)
                return True
        return False


def _decoded(data: bytes) -> list[bytes]:
    try:
        return tiles.decode_bundle(data)
    except FormatError:
        return []
