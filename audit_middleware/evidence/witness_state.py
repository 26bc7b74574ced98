"""What a witness remembers: for each log the newest checkpoint that it cosigned, one file each.

``<state>/<lowercase hex SHA-256 of the origin>`` is a note: the checkpoint, the log's own lines that were verified, and
the witness's cosignatures. ``<state>/.lock`` is what processes exclude one another with.

*Atomicity*: a file is replaced whole. *Durability*: `put` returns when the file and its name are on disk.
*Concurrency*: compare and put under `held`; any number of processes and threads. *Retry*: putting again is allowed.

A witness that forgets can be made to cosign a second history, so a state is made once, by hand (`create`), and never
taken for empty because a path was mistyped or a volume is not mounted. For the same reason it is never restored from
a backup.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..errors import LogExists, LogNotFound, LogUnavailable
from ..stores.filesystem import check_filesystem, make_directory, replace_file, write_new_file
from ..stores.lock import ProcessLock

_PATIENCE = 10.0
"""Seconds that a request waits for others; holding the lock takes milliseconds."""


class WitnessState:
    """A witness's memory in one directory."""

    def __init__(self, root: Path) -> None:
        """Opens a state. Raises `LogNotFound` unless there is one."""
        self.root = root
        if not (root / ".lock").is_file():
            raise LogNotFound(
                f"{root}: there is no witness's state here. If this witness never ran, make one with --new. If it did, "
                "find the directory again: a witness that forgets what it cosigned is none"
            )
        self.warnings = check_filesystem(root, force=False)
        self._lock = ProcessLock(root / ".lock")

    @classmethod
    def create(cls, root: Path) -> WitnessState:
        """Makes a state. Raises `LogExists` if there is one, or anything else."""
        root.parent.mkdir(parents=True, exist_ok=True)
        make_directory(root)
        if any(root.iterdir()):
            raise LogExists(f"{root}: is not empty; a witness's state is made once, in a directory of its own")
        write_new_file(root / ".lock", b"")
        return cls(root)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Excludes every other process and thread. Raises `LogBusy`, `LogUnavailable`."""
        with self._lock.held(_PATIENCE):
            yield

    def get(self, name: str) -> bytes | None:
        """Returns the note kept under an origin's hash; ``None`` if there is none. Raises `LogUnavailable`."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogUnavailable(f"{self.root / name}: {error.strerror}") from error

    def put(self, name: str, note: bytes) -> None:
        """Keeps a note durably. Raises `LogUnavailable`; then either note may be the one that is kept."""
        try:
            replace_file(self.root / name, note)
        except OSError as error:
            raise LogUnavailable(f"{self.root / name}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Lets go of the lock file."""
        self._lock.forget()
