"""What of personal data one destination sees: tokens, what the log holds, or what is behind it.

================  ====================================================================================================
``tokens``        a token in the place of a person, and nothing of what else is sealed; see `privacy.outgoing`
``sealed``        the entry as the log has it, with its ciphertexts: for formats that send the log's own text
``open``          opened with the persons' keys, for a reason that the log is told before the first record is opened
``names``         tokens; and the names behind them at the moment in which something is sent, for notifications
================  ====================================================================================================

What is opened is in memory only: a dead letter, a cursor and an error never hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal, Protocol

from ..errors import FollowerError
from ..persons import MARK
from ..privacy.outgoing import outgoing
from ..privacy.sealed import parse
from ..protocols import LogStore
from .sink import Item, Tell

__all__ = ["OPENED", "OpenPersons", "Personal", "Persons", "Showing"]

Personal = Literal["tokens", "sealed", "open", "names"]

OPENED = "audit.personal_opened"
_MARK = b".v1."  # every mark has it; few entries without one do


class Persons(Protocol):
    """Who can open the records of one log. Used by one thread."""

    def begin(self) -> None:
        """Forgets who was erased since. Raises `SubjectKeysError`, `StoreError`."""
        ...

    def opened(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with values in the place of marks; what does not open says so. Raises `SubjectKeysError`."""
        ...

    def name_of(self, token: str) -> str | None:
        """Whom a token stands for; ``None`` if that cannot be told. Raises `SubjectKeysError`."""
        ...

    def close(self) -> None:
        """Releases the keys."""
        ...


OpenPersons = Callable[[LogStore], Persons]
"""Opens the persons' keys of the log that a store holds. Raises `SubjectKeysError`, `ConfigError`, `StoreError`."""


class Showing:
    """Makes the items of one follower. Used by one thread; `close` ends it."""

    def __init__(
        self,
        name: str,
        personal: Personal,
        because: str | None,
        store: LogStore,
        tell: Tell,
        open_persons: OpenPersons | None,
    ) -> None:
        """Opens nothing before the first record."""
        self._name, self._because, self._store, self._tell = name, because, store, tell
        self._open = open_persons
        self._persons: Persons | None = None
        self._told = False
        self._opens = personal in ("open", "names")
        self._show = {"tokens": outgoing, "names": outgoing, "open": self._opened}.get(personal)

    def item(self, index: int, entry: bytes) -> Item:
        """An entry, as the destination is to see it."""
        return Item(index, entry, self._show if _MARK in entry else None)

    def begin(self) -> None:
        """Before items are shown: the keys are there, the log knows that they are used, and erasures are known.

        Raises:
            FollowerError, SubjectKeysError, ConfigError, StoreError: to be tried again.
        """
        if self._opens:
            self._ready().begin()

    def named(self, text: str) -> str:
        """A text with names in the place of the tokens in it; a token of which nothing is known stays."""
        if not self._opens or "token.v1." not in text:
            return text
        self.begin()
        return MARK.sub(partial(_name, self._ready()), text)

    def close(self) -> None:
        """Releases the keys; the next record would open them again."""
        persons, self._persons = self._persons, None
        if persons is not None:
            persons.close()

    def _opened(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found = self._ready().opened(record)
        # Systems that take addresses take nothing else: what cannot be opened is unknown to them.
        if parse(record.get("initiator_ip")) is not None and not _is_address(found.get("initiator_ip")):
            found["initiator_ip"] = None
        return found

    def _ready(self) -> Persons:
        if self._persons is None:
            if self._open is None:
                raise FollowerError(
                    f"{self._name}: personal: open needs the persons' keys of this log, and none are known here"
                )
            persons = self._open(self._store)
            try:
                if not self._told:  # what the log cannot be told of is not opened
                    self._tell(OPENED, {"follower": self._name, "because": self._because})
                    self._told = True
            except BaseException:
                persons.close()
                raise
            self._persons = persons
        return self._persons


def _name(persons: Persons, found: Any) -> str:
    mark = parse(found[0])
    name = persons.name_of(mark.token) if mark is not None and mark.kind == "token" else None
    return str(found[0]) if name is None else name


def _is_address(text: object) -> bool:
    try:
        return isinstance(text, str) and ip_address(text.partition("%")[0]) is not None
    except ValueError:
        return False
