"""Logs to publish, and a published log read independently of the code that wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from audit_middleware.archives.local import Folder
from audit_middleware.evidence.publish import Publisher
from audit_middleware.evidence.published import Published
from audit_middleware.ledger import tree
from audit_middleware.ledger.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.ledger.tiles import decode_bundle, entries_path, tile_width
from audit_middleware.model import Frame, Head
from audit_middleware.protocols import LogStore, Sealer
from tests.stores.samples import ORIGIN, SEAL, VERIFIERS, small


class ListStore:
    """A log of any bytes, in frames of one size; reads only."""

    def __init__(self, entries: Sequence[bytes], per_frame: int) -> None:
        self.origin = ORIGIN
        self._frames: list[Frame] = []
        head = Head()
        for first in range(0, len(entries), per_frame):
            batch = tuple(entries[first : first + per_frame])
            head = SEAL(head, batch)
            self._frames.append(Frame(first, batch, head, f"list:{first}"))

    def head(self) -> Head:
        return self._frames[-1].head

    @property
    def base(self) -> Head:
        return Head()

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        start = start or 0
        for frame in self._frames:
            if frame.head.size > start and (stop is None or frame.first < stop):
                yield frame

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        raise NotImplementedError

    def close(self) -> None:
        pass


def numbered(start: int, stop: int) -> list[bytes]:
    return [small(number) for number in range(start, stop)]


def publish(store: LogStore, root: Path, stride: int = 2**17) -> tuple[Published, int]:
    """Publishes everything; returns what is published and how many files were new."""
    folder = Folder(root)
    with folder.exclusive():
        publisher = Publisher(store, folder, VERIFIERS, stride=stride)
        return publisher.catch_up(), publisher.written


def read_back(root: Path) -> tuple[Checkpoint, list[bytes]]:
    """Checkpoint and entries of a published log, by its files alone; the entries lead to the root."""
    checkpoint, _ = open_checkpoint((root / "checkpoint").read_bytes(), ORIGIN, VERIFIERS)
    entries: list[bytes] = []
    for n in range(-(-checkpoint.size // 256)):
        width = tile_width(0, n, checkpoint.size)
        path = root / entries_path(n, width)
        entries += decode_bundle((path if path.exists() else root / entries_path(n)).read_bytes())[:width]
    _, peaks = tree.append(0, (), map(tree.leaf_hash, entries))
    assert tree.root(peaks) == checkpoint.root
    return checkpoint, entries


def files(root: Path) -> dict[str, bytes]:
    """Every published file by name."""
    found = [path for path in root.rglob("*") if path.is_file() and ".state" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
