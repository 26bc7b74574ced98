"""The persons' keys in the hands of who runs for long: erasures that the log tells of count from then on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..privacy.sealed import Mark
from ..protocols import LogStore, SubjectKeys
from .erasures import told_of

__all__ = ["LogPersons", "persons_of"]


class LogPersons:
    """See `followers.showing.Persons`; reads what the log tells of keys, from its beginning."""

    def __init__(self, store: LogStore, keys: SubjectKeys) -> None:
        """Takes over the keys. Raises `StoreError`."""
        from ..privacy.opening import Opener  # here: it needs the ciphers, and most who follow a log open nothing

        self._store, self._keys = store, keys
        self._size = store.head().size
        self._told = told_of(store, 0, self._size)
        self._opener = Opener(keys, store.origin, self._told.erased, self._told.commitments)

    def begin(self) -> None:
        """Takes note of erasures since. Raises `SubjectKeysError`, `StoreError`."""
        size = self._store.head().size
        if size > self._size:
            told = told_of(self._store, self._size, size)
            self._told.erased |= told.erased
            for token, commitment in told.commitments.items():
                self._told.commitments.setdefault(token, commitment)
            self._size = size
        self._opener.begin()

    def opened(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """See `privacy.opening.Opener.opened`."""
        return self._opener.opened(record)

    def name_of(self, token: str) -> str | None:
        """Whom a token stands for."""
        try:
            return str(self._opener.value(Mark("token", token), "", ""))
        except LookupError:
            return None

    def close(self) -> None:
        """Releases the keys."""
        self._keys.close()


def persons_of(place: str | Path, master: str) -> Callable[[LogStore], LogPersons]:
    """Opens the keys of the persons in a log: ``place`` and ``master`` as `privacy.keys` and `privacy.masters` have it.

    What it returns raises `SubjectKeysError`, `MasterKeyError`, `ConfigError`, `StoreError`.
    """

    def opened(store: LogStore) -> LogPersons:
        from ..privacy.keys import open_keys
        from ..privacy.masters import open_master

        keys = open_keys(place, store.origin, open_master(master, store.origin))
        try:
            return LogPersons(store, keys)
        except BaseException:
            keys.close()
            raise

    return opened
