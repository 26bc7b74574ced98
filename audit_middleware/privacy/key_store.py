"""The store of persons' keys: what is the same in a file and in a database; see `protocols.SubjectKeys`.

* `of` opens a transaction when it makes a key, and `commit` ends it: so a key that anyone else can see is durable. It
  holds the store's only write lock; others who make keys wait for it, others who find keys do not.
* When such a transaction is lost (the disk is full, the connection broke), the keys that it made are void. The call
  that meets this raises, and the *generation grows*, so that whoever keeps keys in memory forgets them.
* An erasure first deletes the rows, then has the files rewritten without them. If we die between the two, `cleaned`
  is behind the generation, and the next `open_keys` or `erase` rewrites them.
* When another process has renewed the store key, the epoch that comes with each row says so, and the keys are read
  again.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from ..errors import MasterKeyError, SubjectKeysError, SubjectRestricted
from ..persons import Person, SubjectKey
from ..protocols import Clock, MasterKey
from .key_rows import VERSION, Found, Meta, Rows
from .wrapping import KEY_SIZE, Row, Wrapping, new_token

_TRIES = 5
_PAGE = 1000
_log = logging.getLogger(__name__)


class KeyStore:
    """The keys of one log's persons."""

    def __init__(self, rows: Rows, origin: str, master: MasterKey, *, clock: Clock = time.time_ns) -> None:
        """Opens what is there, and completes an erasure that was cut short.

        Raises:
            SubjectKeysError: It is another log's, of another version, damaged, or cannot be read.
            MasterKeyError: Another master key wrapped its key.
        """
        self._rows = rows
        self._master = master
        self._clock = clock
        self._made = False  # keys that are not committed
        self._lost = 0  # transactions in which keys were made
        meta = rows.meta()
        check(meta, rows.place, origin)
        self._origin = origin
        self._read_keys(meta)
        if meta.cleaned < meta.generation:
            try:
                self._clean()
            except SubjectKeysError as problem:  # the next one tries again
                _log.warning("%s", problem)

    @property
    def origin(self) -> str:
        """The log that these keys belong to."""
        return self._origin

    @property
    def place(self) -> str:
        """What the store is called in messages."""
        return self._rows.place

    @property
    def master(self) -> str:
        """The name of the master key that it was opened with."""
        return self._master.name

    # --- one person ----------------------------------------------------------------------------------------------

    def of(self, person: Person) -> SubjectKey:
        """A person's key, made where there is none."""
        with self._whole():
            row = self._find(person)
            if row is None and not self._rows.writing:
                self._begin()
                row = self._find(person)  # another process may have made it until we had the lock
                if row is not None:
                    self._rows.roll_back()
            if row is not None:
                return self._wrapping.key_of(row)
            key = SubjectKey(new_token(), secrets.token_bytes(KEY_SIZE), secrets.token_bytes(KEY_SIZE), told=False)
            self._rows.insert(self._wrapping.row(person, key, self._today()))
            self._made = True
            return key

    def commit(self) -> None:
        """Makes the keys durable that `of` has made."""
        if not self._made:
            return
        with self._whole():
            if not self._rows.writing:
                raise SubjectKeysError(
                    f"{self.place}: keys that were made here were not committed by the process that made them"
                )
            self._rows.commit()
            self._made = False

    def find(self, person: Person) -> SubjectKey | None:
        """A person's key, if there is one."""
        with self._whole():
            row = self._find(person)
            return None if row is None else self._wrapping.key_of(row)

    def named(self, token: str) -> tuple[Person, SubjectKey] | None:
        """Whom a token stands for, if the key is there."""
        with self._whole():
            row = self._current(lambda: self._rows.by_token(token))
            return None if row is None else (self._wrapping.person_of(row), self._wrapping.key_of(row))

    def since(self, token: str) -> str | None:
        """The day on which a key was made, ``2026-11-23``; ``None`` where there is none."""
        with self._whole():
            row = self._current(lambda: self._rows.by_token(token))
            return None if row is None else row.created

    # --- what is known of keys -----------------------------------------------------------------------------------

    def told(self, tokens: Sequence[str]) -> None:
        """The log holds the commitments of these keys. Lost in a power cut, they are told once more."""
        if not tokens:
            return
        with self._whole():
            if self._rows.writing:
                self._rows.set_told(tokens)
                return
            self._rows.begin(durable=False)
            self._rows.set_told(tokens)
            self._rows.commit()

    def restrict(self, token: str, restricted: bool) -> None:
        """Forbids or allows to erase a key. Raises `SubjectKeysError` where there is none."""
        self.commit()
        with self._whole():
            self._begin()
            if not self._rows.set_restricted(token, restricted):
                raise SubjectKeysError(f"{self.place}: there is no key {token}")
            self._rows.commit()

    def erase(self, tokens: Sequence[str]) -> int:
        """Destroys keys, salts and names for good; how many there were. One call for many is much quicker."""
        self.commit()
        with self._whole():
            meta = self._begin()
            gone, held = self._rows.delete(sorted(set(tokens)))
            if held:
                raise SubjectRestricted(f"{self.place}: {held} of these keys must not be erased; none was")
            if gone:
                self._rows.set_meta(meta._replace(generation=meta.generation + 1))
                self._rows.commit()
            else:
                self._rows.roll_back()
        if gone or meta.cleaned < meta.generation:
            self._clean()
        return gone

    def generation(self) -> int:
        """Grows with every erasure, and when keys were lost before they were committed."""
        with self._whole():
            stored = self._rows.generation()
        return stored + self._lost

    def erased_to(self, size: int | None = None) -> int:
        """The size of the log up to which its erasures were carried out here; given one, sets it."""
        if size is None:
            with self._whole():
                return self._rows.meta().erased_to
        self.commit()
        with self._whole():
            self._rows.set_meta(self._begin()._replace(erased_to=size))
            self._rows.commit()
        return size

    def close(self) -> None:
        """Releases descriptors; what was not committed is gone."""
        self._rows.close()

    # --- the key over them ---------------------------------------------------------------------------------------

    def rewrap(self, master: MasterKey) -> None:
        """Puts the store key under another master key; no row changes. Raises `MasterKeyError`, `SubjectKeysError`."""
        self.commit()
        with self._whole():
            meta = self._begin()
            store_key = self._master.unwrap(meta.wrapped)
            wrapped = wrapped_by(master, store_key)
            self._rows.set_meta(
                meta._replace(master=master.name, wrapped=wrapped, generation=meta.generation + 1),
            )
            self._rows.commit()
        self._master = master
        self._clean()

    def check_other(self, master: MasterKey) -> None:
        """Raises `MasterKeyError` for a master key that is in force, or one that cannot wrap and unwrap."""
        meta = self._rows.meta()
        try:
            master.unwrap(meta.wrapped)
        except MasterKeyError:
            wrapped_by(master, secrets.token_bytes(KEY_SIZE))
            return
        raise MasterKeyError(f"master key {master.name}: is the one in force already")

    def renew(self) -> int:
        """Makes a new store key and encrypts every row anew, in one transaction; returns how many there are."""
        self.commit()
        with self._whole():
            meta = self._begin()
            new, store_key, lookup_key = Wrapping.new(self.place, self._origin)
            wrapped = wrapped_by(self._master, store_key)
            count, after = 0, ""
            while page := self._rows.page(after, _PAGE):
                self._rows.replace([self._again(row, new) for row in page])
                count, after = count + len(page), page[-1].token
            self._rows.set_meta(
                meta._replace(
                    master=self._master.name,
                    wrapped=wrapped,
                    lookup_key=lookup_key,
                    epoch=meta.epoch + 1,
                    generation=meta.generation + 1,
                )
            )
            self._rows.commit()
        self._wrapping, self._epoch = new, meta.epoch + 1
        self._clean()
        return count

    def _again(self, row: Row, new: Wrapping) -> Row:
        return new.row(self._wrapping.person_of(row), self._wrapping.key_of(row), row.created)

    # --- inside --------------------------------------------------------------------------------------------------

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around every call: after an error nothing is half done."""
        try:
            yield
        except BaseException:
            self._rows.roll_back()
            if self._made:
                self._made = False
                self._lost += 1
            raise

    def _find(self, person: Person) -> Row | None:
        return self._current(lambda: self._rows.by_lookup(self._wrapping.lookup(person)))

    def _current(self, look: Callable[[], Found]) -> Row | None:
        """What is found while the keys that we hold are the store's."""
        for _ in range(_TRIES):
            found = look()
            if found.epoch == self._epoch:
                return found.row
            self._read_again(self._rows.meta())
        raise SubjectKeysError(f"{self.place}: its key was renewed all the time")

    def _begin(self) -> Meta:
        meta = self._rows.begin()
        if meta.epoch != self._epoch:
            self._read_again(meta)
        return meta

    def _read_again(self, meta: Meta) -> None:
        """After another process renewed the store key."""
        try:
            check(meta, self.place, self._origin)
            self._read_keys(meta)
        except MasterKeyError as problem:
            raise SubjectKeysError(
                f"{self.place}: its key was renewed under the master key {meta.master}, and this process has "
                f"{self._master.name}: restart it with the new setting ({problem})"
            ) from None

    def _read_keys(self, meta: Meta) -> None:
        store_key = self._master.unwrap(meta.wrapped)
        self._wrapping = Wrapping.opened(self.place, self._origin, store_key, meta.lookup_key)
        self._epoch = meta.epoch

    def _clean(self) -> None:
        """Rewrites the files. If we die here: `cleaned` stays behind, and the next one begins again."""
        reached = self._rows.meta().generation
        try:
            self._rows.scrub()
            with self._whole():
                meta = self._rows.begin()
                self._rows.set_meta(meta._replace(cleaned=max(meta.cleaned, reached)))
                self._rows.commit()
        except SubjectKeysError as problem:
            raise SubjectKeysError(
                f"{self.place}: what was to go is deleted, but copies may be left in the store's files: repeat the "
                f"command ({problem})"
            ) from None

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock() // 1_000_000_000, UTC).date().isoformat()


def check(meta: Meta, place: str, origin: str) -> None:
    """Raises `SubjectKeysError` unless the store is this log's and of a version that is known here."""
    if meta.version != VERSION:
        raise SubjectKeysError(
            f"{place}: its layout is of version {meta.version}, and this package knows {VERSION}: install a newer one"
        )
    if meta.origin != origin:
        raise SubjectKeysError(
            f"{place}: holds the keys of the persons in the log {meta.origin}, not of {origin}; give each log a store "
            "of its own (in a database: another ?schema=)"
        )


def first_meta(place: str, origin: str, master: MasterKey) -> Meta:
    """What a new store says of itself. Raises `MasterKeyError`, `SubjectKeysError`."""
    _, store_key, lookup_key = Wrapping.new(place, origin)
    return Meta(VERSION, origin, master.name, wrapped_by(master, store_key), lookup_key, 1, 0, 0, 0)


def wrapped_by(master: MasterKey, store_key: bytes) -> bytes:
    """The store key under a master key, which was asked whether it opens it again: a role may encrypt only."""
    wrapped = master.wrap(store_key)
    if master.unwrap(wrapped) != store_key:
        raise MasterKeyError(f"master key {master.name}: does not give back what it wrapped")
    return wrapped
