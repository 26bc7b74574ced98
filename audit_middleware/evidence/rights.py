"""The rights of persons, as records of the log: erasure (GDPR Art. 17), restriction (Art. 18).

``audit.subject_erased`` (``tokens``, ``basis``, ``because``, ``records``, ``in_clear``, ``by``) is written first, then
keys, salts and names are destroyed. *If we die in between*: whoever opens the store of keys next, a service or a
command, carries out what the log tells; the same command run again does so and says it. *If we die within the
destruction*: the store completes it when it is opened next.

``audit.subject_restricted`` and ``audit.subject_released`` (``tokens``, ``because``, ``by``): nobody's key is destroyed
in between. A restriction is set in the store of keys before it is told, and told to be over before it is lifted there;
if we die in between, the person is held, and the same command run again does the rest.

A running service that still has the key may seal records that it is just writing, which nobody can read then; with its
next batch it forgets the key, and who was erased gets another token.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..context import clean
from ..errors import ConfigError, SubjectRestricted
from ..model import Json
from ..privacy.key_store import KeyStore
from ..privacy.keys import open_keys
from ..privacy.masters import open_master
from ..protocols import Clock
from ..signing import Ed25519Signer
from ..stores.opening import Place, Store, open_log
from .changes import append_control, changing
from .control import as_owner
from .erasures import ERASED, erasures_of, replay_erasures
from .holdings import Chosen, Holdings, holdings
from .masters import LOCK
from .retention import Hold, retention_of, writing
from .standing import RESTRICTED, UNRESTRICTED, Standing, read_standings

__all__ = ["Change", "Erased", "check_text", "erase", "holds_of", "reading_keys", "refusal", "release", "restrict"]

_PER_RECORD = 200  # tokens
_TEXT = 1000  # bytes


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did.

    Attributes:
        tokens: Whose keys were destroyed.
        entries: The records that tell it; of an erasure that was cut short, those that were there.
        completed: It had been recorded before, and only the rest was done.
        found: What the log held when it was recorded; ``None`` if it had been recorded before.
    """

    tokens: tuple[str, ...]
    entries: tuple[int, ...]
    completed: bool
    found: Holdings | None


@dataclass(frozen=True, slots=True)
class Change:
    """A restriction or its end: whose, and the entry that tells it; ``None``: all was so already."""

    tokens: tuple[str, ...]
    entry: int | None


@contextlib.contextmanager
def reading_keys(log: Place, place: str, master: str) -> Iterator[tuple[Store, KeyStore]]:
    """Opens a log to read and the keys of its persons.

    Raises:
        StoreError, SubjectKeysError, MasterKeyError, ConfigError: One of them cannot be opened.
    """
    with (
        as_owner(log),
        contextlib.closing(open_log(log)) as store,
        contextlib.closing(_keys(store, place, master)) as keys,
    ):
        yield store, keys


def erase(
    log: Place,
    key_file: Path,
    place: str,
    master: str,
    chosen: Chosen,
    basis: str,
    because: str,
    by: str,
    *,
    clock: Clock = time.time_ns,
    progress: Callable[[int], object] | None = None,
) -> Erased:
    """Records an erasure, and destroys the keys of these persons.

    Args:
        log: The log.
        key_file: Its signing key.
        place: Where the keys of its persons are.
        master: The URL of the master key.
        chosen: Whose.
        basis: The legal basis: ``Art. 17(1)(b)``.
        because: Why; the number of a case. It stays in the log.
        by: Who.
        clock: The time.
        progress: Called with sizes of the log while it is read.

    Raises:
        SubjectRestricted: One of them is restricted, or under a legal hold; nothing was changed.
        ConfigError: A text is missing or names the person, or the signing key is another log's.
        KeyFileError, NoteError, StoreError: The log cannot be read or written; nothing was changed.
        SubjectKeysError: The keys could not be destroyed; the record is there perhaps: run it again.
    """
    basis, because = check_text(basis, chosen, "--basis"), check_text(because, chosen, "--because")
    with _changing(log, key_file, place, master) as (store, signers, keys):
        told = erasures_of(store, chosen.tokens)
        replay_erasures(store, keys)
        tokens = [token for token in chosen.tokens if token not in told and keys.named(token) is not None]
        if not tokens:
            return Erased(tuple(told), tuple(sorted(set(told.values()))), True, None)
        restrictions, holds = _standings(store)
        found = holdings(store, chosen, None, _ranges(holds), progress)
        problem = refusal(log, chosen, found, restrictions, _restricted(keys, tokens), holds)
        if problem is not None:
            raise SubjectRestricted(problem)
        entries = []
        for at in range(0, len(tokens), _PER_RECORD):
            extra: dict[str, Json] = {
                "tokens": [*tokens[at : at + _PER_RECORD]], "basis": basis, "because": because,
                "records": found.records, "in_clear": found.in_clear, "by": by,
            }  # fmt: skip
            entries.append(append_control(store, signers, ERASED, extra, clock) - 1)
        keys.erase(tokens)
        return Erased(tuple(tokens), tuple(entries), False, found)


def restrict(
    log: Place, key_file: Path, place: str, master: str, chosen: Chosen, because: str, by: str,
    *, clock: Clock = time.time_ns,
) -> Change:  # fmt: skip
    """Forbids to erase these persons, and records it. Raises as `erase`."""
    because = check_text(because, chosen, "--because")
    with _changing(log, key_file, place, master) as (store, signers, keys):
        there = _there(keys, chosen)
        told = read_standings(store).restrictions
        for token in there:
            keys.restrict(token, True)
        untold = [token for token in there if token not in told]
        return Change(there, _tell(store, signers, RESTRICTED, untold, because, by, clock))


def release(
    log: Place, key_file: Path, place: str, master: str, chosen: Chosen, because: str, by: str,
    *, clock: Clock = time.time_ns,
) -> Change:  # fmt: skip
    """Ends that. Raises as `erase`."""
    because = check_text(because, chosen, "--because")
    with _changing(log, key_file, place, master) as (store, signers, keys):
        there = _there(keys, chosen)
        told = read_standings(store).restrictions
        entry = _tell(store, signers, UNRESTRICTED, [one for one in there if one in told], because, by, clock)
        for token in there:
            keys.restrict(token, False)
        return Change(there, entry)


# --- what forbids it -------------------------------------------------------------------------------------------------


def refusal(
    log: Place,
    chosen: Chosen,
    found: Holdings,
    restrictions: Mapping[str, Standing],
    restricted: Collection[str],
    holds: Sequence[Hold],
) -> str | None:
    """Why these persons must not be erased now; ``None``: they may be."""
    for token in chosen.tokens:
        told = restrictions.get(token)
        if told is not None or token in restricted:
            why = "" if told is None else f", says entry {told.index} ({told.extra.get('because')})"
            return (
                f"token.v1.{token} is restricted{why}: nothing was erased; when that is over: audit-middleware subject "
                f"release {log} --token {token} --because TEXT"
            )
    for hold in holds:
        if found.held.get(hold.name):
            return (
                f"{found.held[hold.name]} of these records are under the legal hold {hold.name} ({hold.reason}, entry "
                f"{hold.record}): nothing was erased; when that is over: audit-middleware hold release {log} "
                f"{hold.name} --reason TEXT"
            )
    return None


def holds_of(store: Store) -> tuple[Mapping[str, Standing], tuple[Hold, ...], Mapping[str, tuple[int, int | None]]]:
    """What the log tells of restrictions, by token; of legal holds; and these as `holdings` takes them."""
    restrictions, holds = _standings(store)
    return restrictions, holds, _ranges(holds)


def check_text(text: str, chosen: Chosen, option: str) -> str:
    """A text that stays in the log for ever. Raises `ConfigError` for none, and for one that names the person."""
    if not text.strip():
        raise ConfigError(f"{option}: say it in words; it goes into the log")
    for person in chosen.persons:
        names = {person.id, person.id.partition("/")[2] or person.id} if person.kind != "day" else set()
        if any(len(name) > 2 and name.casefold() in text.casefold() for name in names):
            raise ConfigError(f"{option}: names the person, and would stay in the log for ever; name a case instead")
    return clean(text, _TEXT)


# --- inside ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _changing(
    log: Place, key_file: Path, place: str, master: str
) -> Iterator[tuple[Store, tuple[Ed25519Signer, ...], KeyStore]]:
    """One change at a time: of persons' keys, and of what holds them."""
    with (
        writing(log, key_file) as (store, signers),
        changing(log, LOCK),
        contextlib.closing(_keys(store, place, master)) as keys,
    ):
        yield store, signers, keys


def _keys(store: Store, place: str, master: str) -> KeyStore:
    return open_keys(place, store.origin, open_master(master, store.origin))


def _there(keys: KeyStore, chosen: Chosen) -> tuple[str, ...]:
    return tuple(token for token in chosen.held if keys.named(token) is not None)


def _restricted(keys: KeyStore, tokens: Sequence[str]) -> set[str]:
    found = ((token, keys.named(token)) for token in tokens)
    return {token for token, one in found if one is not None and one[1].restricted}


def _standings(store: Store) -> tuple[Mapping[str, Standing], tuple[Hold, ...]]:
    found = read_standings(store)
    return found.restrictions, retention_of(store, found).holds


def _ranges(holds: Sequence[Hold]) -> dict[str, tuple[int, int | None]]:
    return {one.name: (one.first, one.last) for one in holds}


def _tell(
    store: Store, signers: tuple[Ed25519Signer, ...], action: str, tokens: Sequence[str], because: str, by: str,
    clock: Clock,
) -> int | None:  # fmt: skip
    if not tokens:
        return None
    extra: dict[str, Json] = {"tokens": [*tokens], "because": because, "by": by}
    return append_control(store, signers, action, extra, clock) - 1
