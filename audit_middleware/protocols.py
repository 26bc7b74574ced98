"""The seams: what a driver must promise to take part. Each says atomicity, durability, concurrency and retry.

No driver inherits from these; structural typing is enough, and one conformance suite runs over all drivers of a seam:
for a log store it is public, `testing.stores`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any, Protocol, runtime_checkable

from .model import Found, Frame, Head, Refusal, Stored, Subject
from .persons import Person, SubjectKey

Scope = MutableMapping[str, Any]
"""An ASGI connection scope (ASGI 3.0)."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Sealer = Callable[[Head, Sequence[bytes]], Head]
"""Given the head a batch follows and the batch's entries, returns the head after it, with checkpoint and sums.

Pure but for the signature. A store calls it while it holds the log's lock, exactly once per attempt; what it returns
may leave the process only after the store made the batch durable.
"""


@runtime_checkable
class SealsAhead(Protocol):
    """A sealer with work that needs no head, such as hashing the entries: others need not wait for it."""

    def ahead(self, entries: Sequence[bytes]) -> Sealer:
        """Returns the sealer for this very batch, the work done."""
        ...


Clock = Callable[[], int]
"""Nanoseconds since the epoch, UTC; may jump. Order in the log never depends on it."""

Identifier = Callable[[Scope], "Awaitable[Subject | None] | Subject | None"]
"""Who is calling? ``None`` is nobody.

Raises `IdentityError` for a credential that does not verify (401) and `IdentityUnavailable` when it could not be
checked (503). Anything else it raises denies with cause ``error``. Called once per decision; must be safe to call from
several event loops at once. It must not read the request's body.
"""


class LogStore(Protocol):
    """A durable, append-only sequence of entries under one origin.

    *Atomicity*: a batch is appended whole or not at all; after a crash the log ends with a whole batch.
    *Durability*: when `append` returns, the batch and the checkpoint over it survive a power cut.
    *Concurrency*: any number of processes and threads may append to one log; sequencing is a compare-and-swap on
    the head under the store's lock, so indexes are dense and no two batches share one.
    *Retry*: after `append` raised, the caller does not know whether the batch is there; it must re-open the store and
    look its records up by ``action_id`` before it sends them again. Duplicates are harmless, losses are not.
    """

    @property
    def origin(self) -> str:
        """The log's name: a schema-less URL, fixed when the log was created."""
        ...

    def append(self, entries: Sequence[bytes], seal: Sealer) -> Head:
        """Appends a batch and returns the head after it. ``entries[i]`` got index ``head.size - len(entries) + i``.

        Raises `LogBusy`, `LogUnavailable`, `LogDamaged`; each entry must be 1 to 65,535 bytes of one JSON object.
        """
        ...

    def head(self) -> Head:
        """The newest committed head. Cheap: does not read entries."""
        ...

    @property
    def base(self) -> Head:
        """The head below which entries were pruned; ``Head()`` if none were. It only grows."""
        ...

    def frames(self, start: int | None = None, stop: int | None = None) -> Iterator[Frame]:
        """The commits that overlap ``[start, stop)``, whole and in order; streams, memory does not grow.

        Default: from the base to the head. Raises `EntriesPruned` for a ``start`` below the base.
        """
        ...

    def close(self) -> None:
        """Releases descriptors. Never loses a batch whose `append` returned."""
        ...


@runtime_checkable
class KnowsCommits(Protocol):
    """A log store that can say whether a commit is there without reading its entries, which a writer may be refused."""

    def has_commit(self, head: Head) -> bool:
        """Whether the log holds the commit that ended with this head, or has pruned it. Raises `StoreError`."""
        ...


class Archive(Protocol):
    """Immutable objects outside of the log's machine. Names are as of `archives.local.Folder`: ``tile/0/x001/234``.

    *Atomicity*: an object appears whole or not at all. *Durability*: when `put` returns, the object survives whatever
    the archive promises to survive. *Concurrency*: any number of readers and writers; of two that put the same name
    each makes a version of its own, or the second one finds the first. *Retry*: putting the same bytes again is
    allowed and makes no second object. *Time*: every call is bounded. Everything raises `ArchiveError`, whose text
    holds no secret; a name that no object may have is a `ValueError`.
    """

    @property
    def place(self) -> str:
        """What it is called in messages: a URL or path without secrets."""
        ...

    def put(self, name: str, data: bytes, until: float | None) -> Stored:
        """Stores an object, locked until then (seconds since the epoch) where the archive can lock, and reads it back.

        One that is there already with the same bytes is left as it is; a lock that ends earlier is made longer.
        Returns its first version. Raises `ArchiveConflict` when that one holds other bytes; nothing was changed.
        """
        ...

    def get(self, name: str, version: str | None = None) -> bytes | None:
        """An object's bytes, of its current version or the one named; ``None`` when there is none."""
        ...

    def versions(self, name: str) -> Sequence[Stored]:
        """Every version there is of one object, the oldest first. A delete marker is none."""
        ...

    def names(self, prefix: str) -> Iterator[str]:
        """The names of all objects below a prefix, in order, also those hidden by a delete marker; streams.

        A prefix is a name, too, and is followed by ``/``; ``""`` is the whole archive. What has a name that no object
        may have is somebody else's and is left out.
        """
        ...


class SubjectKeys(Protocol):
    """The keys of persons, apart from the log: who reads both without the master key can tie no token to a person.

    *Atomicity*: of two callers that ask for the key of one new person, both get the same one. *Durability*: new keys
    survive a power cut once `commit` returned, so it must be called before anything is appended that needs them; after
    `erase` no copy of the key, the salt or the person's name is left in any file of the store. *Concurrency*: any
    number of processes; one object is used by one thread at a time, and not after a fork. *Retry*: every call may be
    repeated. *Time*: every call is bounded. Everything raises `SubjectKeysError`, whose text names no person.
    """

    @property
    def origin(self) -> str:
        """The log that these keys belong to."""
        ...

    def of(self, person: Person) -> SubjectKey:
        """A person's key, made where there is none. One that was erased is made anew, under another token."""
        ...

    def commit(self) -> None:
        """Makes the keys durable that `of` has made."""
        ...

    def find(self, person: Person) -> SubjectKey | None:
        """A person's key, if there is one."""
        ...

    def named(self, token: str) -> tuple[Person, SubjectKey] | None:
        """Whom a token stands for, if the key is there."""
        ...

    def told(self, tokens: Sequence[str]) -> None:
        """The log holds the commitments of these keys."""
        ...

    def restrict(self, token: str, restricted: bool) -> None:
        """Forbids or allows to erase a key."""
        ...

    def erase(self, tokens: Sequence[str]) -> int:
        """Destroys keys, salts and names for good; how many there were. Raises `SubjectRestricted` and erases none."""
        ...

    def generation(self) -> int:
        """Grows with every erasure, whoever did it: what was kept of keys in memory is to be forgotten. Cheap."""
        ...

    def erased_to(self, size: int | None = None) -> int:
        """The size of the log up to which its erasures were carried out here; given one, sets it."""
        ...

    def close(self) -> None:
        """Releases descriptors; what was not committed may be gone."""
        ...


class MasterKey(Protocol):
    """Wraps the key of a store of persons' keys: a file, the environment, a KMS. Safe to call from any thread."""

    @property
    def name(self) -> str:
        """What it is called in messages and beside what it wrapped; no secret."""
        ...

    def wrap(self, key: bytes) -> bytes:
        """Wraps 32 bytes. Raises `MasterKeyError`, or `SubjectKeysError` when a KMS cannot be reached."""
        ...

    def unwrap(self, wrapped: bytes) -> bytes:
        """The 32 bytes. Raises `MasterKeyError` where this is not the key that wrapped them, and as `wrap` does."""
        ...


class Signer(Protocol):
    """Signs checkpoints (Ed25519, C2SP signed-note type 0x01). Safe to call from any thread. Not retried."""

    @property
    def name(self) -> str:
        """The key's name; for a log key, the origin."""
        ...

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature over exactly these bytes."""
        ...


class Gate(Protocol):
    """What stands behind every guarded router: told what the router will do, it admits the request or refuses it.

    Called on the event loop, once per router level, before the router's match loop runs. Admitting means that the
    router may run exactly what was found; the guard holds it to that.
    """

    replay: Receive | None
    """Set by an `admit` that read the body: what the router must receive from instead. Taken by the guard."""

    async def admit(self, scope: Scope, receive: Receive, found: Found) -> Refusal | None:
        """Decides over what this router found; ``None`` admits."""
        ...

    def selected(self, found: Found, endpoint: Any) -> bool:
        """The router selected this endpoint: ``False`` when it is not the one found, and the guard must refuse."""
        ...


class LimitStore(Protocol):
    """What counts limits: requests in a window of time, and places that are taken while a request runs.

    *Atomicity*: each call is one step; two callers never both get the last place or the last request of a window.
    *Concurrency*: safe from any task and event loop of a process; whether other processes count together is the
    driver's to say. *Durability*: none; what is lost begins anew. *Retry*: never by the caller. *Time*: no driver
    relies on the wall clock of the process.
    """

    async def hit(self, key: str, count: int, seconds: int) -> float:
        """Counts one request against ``count`` in any ``seconds``; 0, or in how many seconds one may be counted.

        Raises `LimitUnavailable`; then it is not known whether the request was counted.
        """
        ...

    async def take(self, key: str, lease: str, places: int) -> bool:
        """Takes one of ``places`` under the name ``lease``; ``False`` when all are taken.

        Raises `LimitUnavailable`; then, as after a cancellation, the place may be taken: `give_back` it.
        """
        ...

    def give_back(self, key: str, lease: str) -> None:
        """Frees a place; never raises, never waits, and does nothing for a lease that holds none."""
        ...

    async def close(self) -> None:
        """Releases connections."""
        ...
