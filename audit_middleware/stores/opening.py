"""Where a log is, and opening it: the only place that tells a directory from a database.

A `Place` is the path of a journal, or a `Database`: a URL, and a folder of this host for what a journal's directory
holds beside the entries (locks, cursors, cosigned checkpoints, time stamps, the list of blocks). Both are shown by
``str`` in messages; that of a database holds neither user nor password.

Whoever may do something only once at a time takes `exclusive`: a lock file beside a journal, an advisory lock in a
database, which the server frees when its holder is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

from ..errors import ConfigError, LogUnavailable
from ..protocols import LogStore
from ..urls import UNREADABLE, is_plain, shown_url
from .filesystem import make_directory
from .frames import RawFrame
from .journal import LOCK_TIMEOUT, JournalStore
from .layout import Layout, read_config
from .lock import ProcessLock
from .shelf import Folder, SharedShelf, Shelf
from .tail import Repair
from .waiting import Polling, Watch

if TYPE_CHECKING:  # only who searches needs columns
    from .columns import Filters

STATE = "AUDIT_STATE"
"""Environment: the folder of this host for a log in a database."""

_SCHEMES = ("postgresql://", "postgres://")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//|(?=/[^/]*@))")


@dataclass(frozen=True, slots=True)
class Database:
    """A log in PostgreSQL.

    Attributes:
        url: With everything that is needed to connect; perhaps a password.
        folder: Of this host, with the layout of a journal's directory; made when something is written there.
    """

    url: str = field(repr=False)
    folder: Path

    def __str__(self) -> str:
        return shown_url(self.url)


Place = Path | Database


class Store(LogStore, Protocol):
    """What both kinds of store promise beyond `LogStore`."""

    @property
    def vkeys(self) -> tuple[str, ...]:
        """The verifier keys of all keys that ever signed, as they were listed when the store was opened."""
        ...

    @property
    def place(self) -> str:
        """What the log is called in messages."""
        ...

    @property
    def folder(self) -> Path:
        """The folder of this host for what stands beside the log."""
        ...

    def raw_frames(self, start: int | None = None) -> Iterator[RawFrame]:
        """What stands there, damaged or not; for verifiers."""
        ...

    def pruned_by(self) -> int | None:
        """Which entry is said to be the record of the log's base: a hint."""
        ...

    def close(self) -> None:
        """Releases descriptors or connections."""
        ...

    def prune(self, base: int, record: int, at: str) -> int:
        """Makes the log begin at a commit boundary; returns the bytes that this freed."""
        ...

    def described(self) -> bytes:
        """The log's origin, keys and time of creation, as a journal's ``config.json`` has them."""
        ...

    def list_vkey(self, vkey: str) -> None:
        """Adds a verifier key to those of the log, unless it is there."""
        ...


class Index(Protocol):
    """The search index of a log; see `SearchIndex`."""

    def catch_up(self) -> int:
        """Returns the log's size up to which it reaches."""
        ...

    def find(self, filters: Filters, *, newest_first: bool = True, limit: int | None = None) -> Iterator[int]:
        """Indexes of the entries that match."""
        ...

    def unfinished(self) -> Iterator[int]:
        """Indexes of intents without an outcome."""
        ...

    def with_action_id(self, action_id: str) -> list[int]:
        """Indexes of all entries with this action id."""
        ...

    def read(self, indexes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """These entries with their indexes, read from the log and checked against it."""
        ...

    def check(self, first: int, entries: Sequence[bytes]) -> Iterator[tuple[int, str]]:
        """What the index has wrong."""
        ...

    def close(self) -> None:
        """Closes it."""
        ...


# --- places ----------------------------------------------------------------------------------------------------------


def is_url(text: str) -> bool:
    """Whether this names a log in a database and not a directory."""
    return text.startswith(_SCHEMES)


def place_of(text: str, state: Path | None = None) -> Place:
    """Returns what a setting or argument means.

    Args:
        text: The path of a journal, or ``postgresql://...``.
        state: The folder of a log in a database; default: that of the environment, or one of this user's for this URL.

    Raises:
        ConfigError: It is a URL of something else.
    """
    if is_url(text):
        if not is_plain(text):
            raise ConfigError(f"the log: {UNREADABLE}")
        named = os.environ.get(STATE)
        return Database(text, state or (Path(named) if named else _folder(text)))
    found = _SCHEME.match(text)
    if found is not None:
        # Also what is a URL but for a slip: as a path it would be shown in messages, with the password in it.
        raise ConfigError(f"a log is a directory or postgresql://user@host/database, not {found[1]}:{found[2]}...")
    return Path(text)


def as_place(log: Place | str) -> Place:
    """Returns what a program says of a log: a place, or the text of one."""
    return place_of(log) if isinstance(log, str) else log


def _folder(url: str) -> Path:
    """A folder of this user's, the same for every user and password of one log."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    parts = urlsplit(url)
    known = parse_qs(parts.query)
    which = [known.get(name, [""])[0] for name in ("host", "port", "dbname", "schema", "origin")]
    digest = hashlib.sha256("\0".join([parts.netloc.rpartition("@")[2], parts.path, *which]).encode()).hexdigest()
    return home / "audit-middleware" / digest[:16]


def folder_of(place: Place) -> Path:
    """The folder of this host for what stands beside the log: a journal's own directory."""
    return place.folder if isinstance(place, Database) else place


def state_of(place: Place) -> Path:
    """Where locks, cursors and hints are; of a database it is made where it is missing."""
    state = Layout(folder_of(place)).state
    if isinstance(place, Database):
        try:
            place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_directory(state)
        except OSError as error:
            raise LogUnavailable(
                f"{state}: {error.strerror}; a log in a database needs a folder on each host: set {STATE}"
            ) from error
    return state


def key_of(place: Place) -> Path:
    """Where the log's signing key is by default."""
    return place.folder / "signing.key" if isinstance(place, Database) else Path(f"{place}.key")


def subject_keys_of(place: Place) -> Path:
    """Where the keys of the persons in the log are by default."""
    return place.folder / "subjects" if isinstance(place, Database) else Path(f"{place}.subjects")


def master_key_of(place: Place) -> Path:
    """Where the file of the key over them is by default."""
    return place.folder / "master" if isinstance(place, Database) else Path(f"{place}.master")


# --- opening ---------------------------------------------------------------------------------------------------------


def open_log(
    place: Place,
    *,
    writable: bool = False,
    lock_timeout: float | None = LOCK_TIMEOUT,
    repaired: Callable[[Repair], None] | None = None,
) -> Store:
    """Opens a log; see `JournalStore.open` and `PostgresStore.open`, which also say what is raised."""
    if isinstance(place, Database):
        from .postgres import PostgresStore  # here: it needs psycopg

        state_of(place)
        return PostgresStore.open(place.url, writable=writable, lock_timeout=lock_timeout, folder=place.folder)
    return JournalStore.open(place, writable=writable, lock_timeout=lock_timeout, repaired=repaired)


def open_index(store: Store) -> Index:
    """The search index of an opened log."""
    if isinstance(store, JournalStore):
        from .index import SearchIndex  # here: a service that only writes needs no SQLite

        return SearchIndex(store.layout.index, store)
    from .postgres import PostgresIndex, PostgresStore

    if not isinstance(store, PostgresStore):
        raise TypeError(f"{store.place}: has no search index")
    return PostgresIndex(store)


def open_watch(store: Store) -> Watch:
    """Waits for an opened log to grow: a journal tells nobody, a database does."""
    if isinstance(store, JournalStore):
        return Polling()
    from .postgres import PostgresStore

    return store.watch() if isinstance(store, PostgresStore) else Polling()


def open_shelf(store: Store, folder: Path, room: str) -> Shelf:
    """Small values beside an opened log: of a journal in a folder of this host, which exists; of a database there."""
    return Folder(folder) if (shared := shared_shelf(store, room)) is None else shared


def shared_shelf(store: Store, room: str = "") -> SharedShelf | None:
    """The values beside an opened log that all hosts share; ``None`` of a journal, which is one host's."""
    if isinstance(store, JournalStore):
        return None
    from .postgres import PostgresStore

    return store.shelf(room) if isinstance(store, PostgresStore) else None


def origin_of(place: Place) -> str:
    """The log's name. Raises `LogNotFound` or another `StoreError`: a check that there is a log."""
    return origin_and_vkeys(place)[0]


def origin_and_vkeys(place: Place) -> tuple[str, tuple[str, ...]]:
    """The log's name and the verifier keys that it lists. Raises as `origin_of`."""
    if isinstance(place, Database):
        with contextlib.closing(open_log(place)) as store:
            return store.origin, store.vkeys
    config = read_config(Layout(place))
    return config.origin, tuple(config.vkeys)


@contextlib.contextmanager
def elected(place: Place, lock: ProcessLock, *names: str) -> Iterator[threading.Event]:
    """Holds a lock of this host and, for a database, those of the names among all; waits for none.

    Yields and raises as `exclusive`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.held(0))
        if isinstance(place, Database):
            yield stack.enter_context(_locked(place, names, 0))
        else:
            yield threading.Event()


@contextlib.contextmanager
def exclusive(place: Place, name: str, timeout: float) -> Iterator[threading.Event]:
    """Holds the lock of this name: of a journal among the processes of this host, of a database among all.

    Yields an event that is set if the lock is lost: a database frees that of a connection which broke.

    Raises:
        LogBusy: It did not come free within ``timeout`` seconds.
        StoreError: There is no log, or its place cannot be used.
    """
    if isinstance(place, Database):
        with _locked(place, [name], timeout) as lost:
            yield lost
        return
    lock = ProcessLock(state_of(place) / f"{name}.lock")
    try:
        with lock.held(timeout):
            yield threading.Event()
    finally:
        lock.forget()


def _locked(place: Database, names: Sequence[str], timeout: float) -> AbstractContextManager[threading.Event]:
    from .postgres import advisory_lock

    return advisory_lock(place.url, names, timeout)
