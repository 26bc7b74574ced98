"""What tests of persons' keys share: a log's name, masters, a store of each kind, and what its files hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from audit_middleware.persons import Person
from audit_middleware.privacy.key_store import KeyStore
from audit_middleware.privacy.keys import create_keys, open_keys
from audit_middleware.privacy.masters import HeldMaster
from audit_middleware.privacy.wrapping import Row
from audit_middleware.protocols import MasterKey

ORIGIN = "audit.example.com/keys"
SEED = 20261123


def master(number: int = 1, origin: str = ORIGIN) -> HeldMaster:
    """A master key held in memory; the same for the same number."""
    return HeldMaster(f"env:MASTER_{number}", bytes([number]) * 32, origin)


def user(number: int) -> Person:
    return Person("user", f"user-{number}")


@dataclass
class Place:
    """A store of one kind."""

    kind: str
    where: str
    _opened: list[KeyStore] = field(default_factory=list)

    def make(self, key: MasterKey | None = None) -> Place:
        create_keys(self.where, ORIGIN, key or master())
        return self

    def open(self, key: MasterKey | None = None) -> KeyStore:
        """One more connection; closed when the test ends."""
        made = open_keys(self.where, ORIGIN, key or master())
        self._opened.append(made)
        return made

    def close(self) -> None:
        for one in self._opened:
            one.close()


Make = Callable[[], Place]


def row_of(keys: KeyStore, person: Person) -> Row:
    """A person's row as it is stored; it is looked up behind the store's back."""
    row = keys._rows.by_lookup(keys._wrapping.lookup(person)).row
    assert row is not None
    return row


def found_in(folder: Path, pieces: list[bytes]) -> list[str]:
    """The files below a folder that hold any of these."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(piece in data for data in [path.read_bytes()] for piece in pieces)
    ]
