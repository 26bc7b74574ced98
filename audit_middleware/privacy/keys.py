"""Making and opening a store of persons' keys: a folder of this host, or ``postgresql://...`` for many hosts."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..protocols import MasterKey
from .key_rows import Rows
from .key_store import KeyStore, first_meta

__all__ = ["create_keys", "open_keys", "renew", "rotate_master"]


def create_keys(place: str | Path, origin: str, master: MasterKey) -> None:
    """Makes an empty store for the persons of one log.

    Raises:
        SubjectKeysError: There is one, or its place cannot be written.
        MasterKeyError: The master key cannot wrap.
        ConfigError: The place is no such URL, or psycopg is missing.
    """
    meta = first_meta(_shown(place), origin, master)
    if _in_database(place):
        from .keys_postgres import PostgresRows  # here: it needs psycopg

        PostgresRows.create(str(place), meta)
        return
    from .keys_sqlite import SqliteRows

    SqliteRows.create(Path(place), meta)


def open_keys(place: str | Path, origin: str, master: MasterKey) -> KeyStore:
    """Opens a log's store, as `protocols.SubjectKeys`.

    Raises:
        SubjectKeysError: There is none, it is another log's, damaged, or cannot be reached.
        MasterKeyError: Another master key wrapped its key.
        ConfigError: The place is no such URL, or psycopg is missing.
    """
    rows = _rows(place)
    try:
        return KeyStore(rows, origin, master)
    except BaseException:
        rows.close()
        raise


def rotate_master(keys: KeyStore, new: MasterKey) -> None:
    """Wraps the store key anew; no person's row changes. Running services need the new one at their next start only.

    Raises:
        MasterKeyError, SubjectKeysError: The old one stays, unless the error says that only copies are left.
    """
    keys.rewrap(new)


def renew(keys: KeyStore) -> int:
    """Makes a new store key and encrypts all rows anew; returns how many. Running services notice by themselves.

    Raises `MasterKeyError`, `SubjectKeysError`.
    """
    return keys.renew()


def _rows(place: str | Path) -> Rows:
    if _in_database(place):
        from .keys_postgres import PostgresRows

        return PostgresRows(str(place))
    from .keys_sqlite import SqliteRows

    return SqliteRows(Path(place))


def _in_database(place: str | Path) -> bool:
    if isinstance(place, Path) or "://" not in place:
        return False
    scheme = place.partition("://")[0]
    if scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"persons' keys are in a folder or in postgresql://user@host/database, not in {scheme}://")
    return True


def _shown(place: str | Path) -> str:
    return "persons' keys" if _in_database(place) else str(place)
