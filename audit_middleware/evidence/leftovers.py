"""Files beside a log that name a person in so many words: what waits in the spool, followers' state, dead letters.

They hold what records hold, so of sealed data only tokens and ciphertext. A name stands there where the policy leaves
it clear, where it was written before the policy declared it, or where a follower opens what it sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..ledger.canonical import encode_trusted
from ..persons import Person
from ..stores.layout import Layout
from ..stores.opening import Database, Place, folder_of

__all__ = ["leftovers"]

_CHUNK = 2**20


def leftovers(log: Place, persons: Iterable[Person]) -> list[Path]:
    """The files, in order. An id is looked for as a whole JSON string. Raises `OSError`."""
    names = [one.id if one.kind == "user" else one.id.partition("/")[2] for one in persons if one.kind != "day"]
    wanted = [encode_trusted(name) for name in names if name]
    if not wanted:
        return []
    folder = folder_of(log)
    spool = folder / "spool" if isinstance(log, Database) else Path(f"{log}.spool")
    places = (Layout(folder).state, spool)
    files = sorted(path for place in places if place.is_dir() for path in place.rglob("*") if path.is_file())
    return [path for path in files if _holds(path, wanted)]


def _holds(path: Path, wanted: list[bytes]) -> bool:
    overlap = max(map(len, wanted))
    kept = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            data = kept + chunk
            if any(one in data for one in wanted):
                return True
            kept = data[-overlap:]
    return False
